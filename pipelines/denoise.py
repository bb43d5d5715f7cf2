"""The denoising loop: one stage of steps on one frame, with a fresh scheduler.

A fresh scheduler per stage (`set_timesteps` for all N steps, begin at step k) needs no history to be put back. A stage
of all steps equals the stock inpainting pipelines bit for bit: same draws, same order, same sums.

Names: B batch, H W pixels, h w latent cells.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from manifests.errors import UsageError
from manifests.pixels import ImageArray, MaskArray
from pipelines.backbones import Backbone, TextStates
from pipelines.settings import Painting

__all__ = ["Frame", "Outcome", "denoise", "guided", "noise_level", "prepare_frame", "to_images", "to_pixels", "x0_of"]

# what predicts: (latents as the scheduler scales them [B,4,h,w], timestep, number of the step) -> [B,4,h,w]
Predictor = Callable[[Tensor, Tensor, int], Tensor]


@dataclass(frozen=True, slots=True)
class Frame:
    """What the UNet is told of one frame: pixels [B,3,H,W] in [-1,1], mask [B,1,H,W] of 0 and 1, and their latents."""

    pixels: Tensor
    mask: Tensor
    latent_mask: Tensor  # [B,1,h,w]
    masked_latent: Tensor  # [B,4,h,w]
    noise: Tensor  # [B,4,h,w]
    clean: Tensor | None  # [B,4,h,w]: latents of the picture, where the background is kept from them


@dataclass(frozen=True, slots=True)
class Outcome:
    """Latents after the last step, and what the last step took the clean picture to be, both [B,4,h,w]."""

    latents: Tensor
    x0: Tensor


def to_pixels(images: Sequence[ImageArray], device: torch.device) -> Tensor:
    """uint8 HxWx3 pictures of one size to [B,3,H,W] in [-1,1]."""
    stacked = np.stack(images).astype(np.float32) / 255.0
    # not made contiguous: convolutions sum in another order then, and the stock pipelines do not
    return 2.0 * torch.from_numpy(stacked).permute(0, 3, 1, 2).to(device) - 1.0


def to_images(pixels: Tensor) -> list[ImageArray]:
    """[B,3,H,W] in about [-1,1] to uint8 HxWx3 pictures."""
    values = (pixels * 0.5 + 0.5).clamp(0, 1).cpu().permute(0, 2, 3, 1).float().numpy()
    return list((values * 255).round().astype(np.uint8))


def prepare_frame(
    backbone: Backbone,
    images: Sequence[ImageArray],
    masks: Sequence[MaskArray],
    generators: list[torch.Generator],
    settings: Painting,
) -> Frame:
    """The frame of pictures and masks of one size; draws in the stock pipelines' order: picture, noise, masked."""
    pixels = to_pixels(images, backbone.device)
    mask = torch.from_numpy(np.stack(masks)).to(backbone.device, torch.float32)[:, None]
    clean = None
    if backbone.channels == 4 or settings.background != "stock":
        clean = backbone.encode_image(pixels).sample(generators).contiguous()
    shape = (len(pixels), 4, pixels.shape[2] // backbone.vae_factor, pixels.shape[3] // backbone.vae_factor)
    noise = randn_tensor(shape, generator=generators, device=backbone.device, dtype=backbone.dtype)
    masked_latent = backbone.encode_image(backbone.masked_image(pixels, mask)).sample(generators)
    return Frame(pixels, mask, backbone.latent_mask(mask, settings.latent_mask), masked_latent, noise, clean)


def guided(
    backbone: Backbone,
    frame: Frame,
    text: TextStates,
    negative: TextStates,
    settings: Painting,
    *,
    attention: dict[str, Any] | None = None,
    unpatched: Any = None,
) -> Predictor:
    """Classifier-free guidance over the frame, or the condition alone (`Painting.guides`).

    `attention` goes to the attention processors; under guidance its tensors hold the unconditional half first.
    `unpatched` is the base's own UNet of 4 channels, on which the steps after `settings.patched_steps()` run.
    """
    batch, (height, width) = len(frame.pixels), frame.pixels.shape[2:]
    both = settings.guides()
    states = TextStates.cat([negative, text]) if both else text
    mask = torch.cat([frame.latent_mask] * 2) if both else frame.latent_mask
    masked_latent = torch.cat([frame.masked_latent] * 2) if both else frame.masked_latent

    def size(positive: float, other: float) -> Tensor | None:
        scales = [other] * batch * both + [positive] * batch
        rows = [(int(height * scale), int(width * scale)) for scale in scales]
        return backbone.size_condition(rows, [(0, 0)] * len(rows), [(height, width)] * len(rows))

    plain, emphasised, until = size(1, 1), None, -1
    if settings.size_emphasis is not None:
        emphasised = size(settings.size_emphasis[0], settings.size_emphasis[1])
        until = int(settings.num_inference_steps * settings.size_emphasis[2])

    def predict(latents: Tensor, timestep: Tensor, step: int) -> Tensor:
        sample = torch.cat([latents] * 2) if both else latents
        condition = emphasised if step <= until else plain
        if unpatched is not None and step >= settings.patched_steps():
            patched, backbone.unet = backbone.unet, unpatched
            try:
                prediction = backbone.predict(sample, timestep, states, condition)
            finally:
                backbone.unet = patched
        else:
            sample = backbone.unet_input(sample, mask, masked_latent)
            prediction = backbone.predict(sample, timestep, states, condition, cross_attention_kwargs=attention)
        if not both:
            return prediction
        without, with_text = prediction.chunk(2)
        return without + settings.guidance_scale * (with_text - without)

    return predict


def noise_level(scheduler: Any, step: int) -> tuple[Any, Any]:
    """(a, b) of z = a * clean + b * noise as this scheduler keeps z before that step."""
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is None:
        alpha = scheduler.alphas_cumprod[scheduler.timesteps[step].cpu()]
        return alpha**0.5, (1 - alpha) ** 0.5
    if hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
        a, b = scheduler._sigma_to_alpha_sigma_t(sigmas[step])
        return a, b
    return 1.0, sigmas[step]


def x0_of(scheduler: Any, step: int, latents: Tensor, prediction: Tensor, prediction_type: str) -> Tensor:
    """What the prediction takes the clean latents to be: the schedulers that compute it do not all give it out."""
    a, b = noise_level(scheduler, step)
    if prediction_type == "v_prediction":
        length = (a**2 + b**2) ** 0.5  # 1 except where z is kept as clean + sigma * noise
        clean: Tensor = (a / length) * (latents / length) - (b / length) * prediction
        return clean
    from_noise: Tensor = (latents - b * prediction) / a
    return from_noise


def with_background(latents: Tensor, background: Tensor, latent_mask: Tensor) -> Tensor:
    """latents inside the mask, the background's own values outside, bit for bit."""
    return torch.where(latent_mask > 0.5, latents, background)


def make_scheduler(backbone: Backbone, settings: Painting) -> Any:
    """A fresh scheduler, its N timesteps set. Raises `UsageError` E501 for one that takes several calls a step."""
    name = settings.scheduler
    if name is None and backbone.scheduler_config.get("_class_name") == "PNDMScheduler":
        name = "DDIMScheduler"  # PNDM asks for more calls than steps, and keeps what it has seen
    scheduler = backbone.make_scheduler(name, **settings.scheduler_changes)
    scheduler.set_timesteps(settings.num_inference_steps, device=backbone.device)
    if scheduler.order != 1 or len(scheduler.timesteps) != settings.num_inference_steps:
        raise UsageError(f"{type(scheduler).__name__} takes more than one call a step; use one that takes one.")
    return scheduler


@torch.no_grad()
def denoise(
    backbone: Backbone,
    frame: Frame,
    predict: Predictor,
    settings: Painting,
    generators: list[torch.Generator],
    *,
    begin: int = 0,
    end: int | None = None,
    start: Tensor | None = None,
    on_step: Callable[[], None] | None = None,
) -> Outcome:
    """Steps `begin` to `end` of the schedule on one frame.

    The stage starts from noise, or, where `start` [B,4,h,w] gives clean latents, from those at the noise of step
    `begin`; at step 0 they lie under full noise, as the release starts from its fill.
    """
    scheduler = make_scheduler(backbone, settings)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    timesteps = scheduler.timesteps
    end = len(timesteps) if end is None else end
    draws = {"generator": generators} if "generator" in inspect.signature(scheduler.step).parameters else {}

    if begin == 0:
        latents = frame.noise * scheduler.init_noise_sigma
        if start is not None:
            latents = noise_level(scheduler, 0)[0] * start + latents
    else:
        if start is None:
            raise ValueError("a stage that begins later needs the latents it begins from")
        latents = scheduler.add_noise(start, frame.noise, timesteps[begin : begin + 1])
    clean = frame.clean
    if settings.background == "clean" and clean is not None:
        latents = with_background(latents, clean, frame.latent_mask)

    x0 = latents
    for step in range(begin, end):
        timestep = timesteps[step]
        if settings.background == "fresh" and clean is not None:
            a, b = noise_level(scheduler, step)
            fresh = randn_tensor(clean.shape, generator=generators, device=clean.device, dtype=clean.dtype)
            latents = with_background(latents, a * clean + b * fresh, frame.latent_mask)
        latents = latents.to(backbone.dtype)
        prediction = predict(scheduler.scale_model_input(latents, timestep), timestep, step)
        if step == end - 1:
            x0 = x0_of(scheduler, step, latents, prediction, backbone.prediction_type)
        latents = scheduler.step(prediction, timestep, latents, **draws, return_dict=False)[0]
        if clean is not None and settings.background == "clean":
            latents = with_background(latents, clean, frame.latent_mask)
        elif clean is not None and settings.background == "stock":
            # the stock pipelines' own sum, so that a stage of all steps is theirs to the bit
            known = clean
            if step < len(timesteps) - 1:
                known = scheduler.add_noise(clean, frame.noise, timesteps[step + 1 : step + 2])
            latents = (1 - frame.latent_mask) * known + frame.latent_mask * latents
        if on_step is not None:
            on_step()
    return Outcome(latents, x0)
