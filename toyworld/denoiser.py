"""What is trained, on what, and by which loss: one step of the denoiser."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextModel

from toyworld import model
from toyworld.batches import Drawn, draw, to_batch
from toyworld.settings import Settings
from toyworld.tokenizer import MAX_LENGTH, tokenizer

BATCH = 16
WARM_UP = 100  # steps
DECAY_FROM, FINAL_RATE = 0.6, 0.015  # share of the samples; share of the learning rate
SMALL_CANVAS_UNTIL = 0.78  # first on 48 px, then on 64 and now and then on 128
LARGE_CANVAS_SHARE = 0.06
EMPTY_CAPTIONS = 0.1
BACKGROUND_FROM, BACKGROUND_WEIGHT = 0.6, 2.0  # grows from nothing to this, once shapes are learned
CLEAR_BELOW = 400  # time steps at which it can be seen what is thing and what background


class Denoiser(torch.nn.Module):
    """What is trained together: text encoder and UNet."""

    def __init__(self, norm_groups: int) -> None:
        super().__init__()
        self.text: CLIPTextModel = model.text_encoder()
        self.unet = model.unet(norm_groups)

    def forward(self, noisy: torch.Tensor, time_steps: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Velocity [B, 4, h, w] of `noisy` [B, 9, h, w] at `time_steps` [B] under the words `ids` [B, 20]."""
        words = self.text(ids).last_hidden_state
        velocity: torch.Tensor = self.unet(noisy, time_steps, words).sample
        return velocity


class Sampler:
    """What one worker trains on: every draw a function of (seed, step, worker). A scene serves two steps running."""

    def __init__(self, settings: Settings, worker: int) -> None:
        self.settings, self.worker = settings, worker
        self.device = torch.device(settings.device)
        self.tokenizer = tokenizer()
        self.alphas = model.scheduler().alphas_cumprod.to(self.device)
        self.kept: tuple[tuple[int, int], Drawn] | None = None

    def loss(self, denoiser: torch.nn.Module, step: int, progress: float) -> tuple[torch.Tensor, int, int]:
        """The loss of a step, the number of samples in it and its canvas."""
        draws = torch.Generator().manual_seed((self.settings.seed * 64 + self.worker) * 2**32 + step)
        canvas, count = self._canvas(step // 2, progress), BATCH
        if canvas == 128:
            count = BATCH // 4
        drawn = self._drawn(step // 2, count, canvas)
        said = torch.rand(count, generator=draws)
        captions = [text if keep > EMPTY_CAPTIONS else "" for text, keep in zip(drawn.captions, said, strict=True)]
        ids = self.tokenizer(captions, padding="max_length", max_length=MAX_LENGTH, return_tensors="pt").input_ids
        # more of the noisy end, where shape and colour are settled
        time_steps = (1000 * torch.rand(count, generator=draws) ** 0.7).long().to(self.device)
        background = BACKGROUND_WEIGHT * max(0.0, (progress - BACKGROUND_FROM) / (1 - BACKGROUND_FROM))
        batch = to_batch(drawn, background * (time_steps < CLEAR_BELOW).float(), self.device)
        noise = torch.randn(batch.latents.shape, generator=draws).to(self.device)
        alpha = self.alphas[time_steps][:, None, None, None]
        noisy = alpha.sqrt() * batch.latents + (1 - alpha).sqrt() * noise
        velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * batch.latents
        # 256 positions at most: on a CPU the plain product is several times faster backwards than the blocked kernel
        plain = sdpa_kernel(SDPBackend.MATH) if self.device.type == "cpu" else nullcontext()
        with plain, torch.autocast(self.device.type, torch.bfloat16):
            guess = denoiser(torch.cat([noisy, batch.mask, batch.masked], 1), time_steps, ids.to(self.device))
        wrong = (guess.float() - velocity).square().mean(1, keepdim=True)
        return (wrong * batch.weight).sum((1, 2, 3)).mean(), count, canvas

    def _canvas(self, pair: int, progress: float) -> int:
        if progress < SMALL_CANVAS_UNTIL:
            return 48
        large = torch.rand(1, generator=torch.Generator().manual_seed(pair)).item() < LARGE_CANVAS_SHARE
        return 128 if large else 64

    def _drawn(self, pair: int, count: int, canvas: int) -> Drawn:
        if self.kept is None or self.kept[0] != (pair, canvas):
            first = (pair * self.settings.workers + self.worker) * BATCH
            self.kept = (pair, canvas), draw(self.settings.seed, first, count, canvas)
        return self.kept[1]


def learning_rate(settings: Settings, step: int, progress: float) -> float:
    """Warm-up, a plain, and a straight way down."""
    left = (1 - progress) / (1 - DECAY_FROM)
    return settings.learning_rate * min(1.0, (step + 1) / WARM_UP, max(left, FINAL_RATE))
