"""What the latent UNet bases share: VAE, masks, the UNet's input and call, the noise schedule."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812 the field's name for it
from torch import Tensor

from manifests.errors import UsageError
from pipelines.backbones.interface import Base, Moments, TextStates
from pipelines.backbones.places import commit_of, weights_digest

if TYPE_CHECKING:
    from pipelines.backbones.textual_inversion import AddedWord

__all__ = ["LatentUNet"]


class LatentUNet:
    """A latent diffusion UNet in diffusers' layout, frozen; see `pipelines.backbones` for shapes."""

    family: str
    parts: tuple[str, ...]

    def __init__(
        self, folder: Path, model: str, revision: str | None, device: torch.device, dtype: torch.dtype
    ) -> None:
        from diffusers import AutoencoderKL, UNet2DConditionModel

        # a branch moves: what is recorded is the commit that was read
        self.folder, self._model, self._revision = folder, model, commit_of(folder) or revision
        self.device, self.dtype = device, dtype
        self.unet: Any = load_part(UNet2DConditionModel, folder, "unet", dtype).to(device)
        config = json.loads((folder / "vae" / "config.json").read_text())
        # SDXL's VAE overflows in float16, and says so
        vae_dtype = torch.float32 if dtype == torch.float16 and config.get("force_upcast", True) else dtype
        self.vae: Any = load_part(AutoencoderKL, folder, "vae", vae_dtype).to(device)
        self.scheduler_config: dict[str, Any] = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
        self.channels: int = self.unet.config.in_channels
        self.vae_factor: int = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.text_encoders: tuple[Any, ...] = ()
        self.tokenizers: tuple[Any, ...] = ()
        self.added_word: AddedWord | None = None

    @cached_property
    def base(self) -> Base:
        """Which base it is."""
        return Base(self._model, self._revision, self.family, self.channels, self._digest())

    def _digest(self) -> str:
        return weights_digest(self.folder, self.parts)

    @property
    def pixel_multiple(self) -> int:
        """Latent sides must halve without a rest at every downsampler."""
        return int(self.vae_factor * 2 ** (len(self.unet.config.block_out_channels) - 1))

    @property
    def resolution(self) -> int:
        """The side in pixels it was trained at."""
        return int(self.unet.config.sample_size * self.vae_factor)

    # noise schedule

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """[1000] float32 on the CPU."""
        alphas: Tensor = self.make_scheduler("DDPMScheduler").alphas_cumprod
        return alphas

    @property
    def prediction_type(self) -> str:
        """`epsilon` or `v_prediction`."""
        return str(self.scheduler_config.get("prediction_type", "epsilon"))

    def make_scheduler(self, name: str | None = None, **changes: Any) -> Any:
        """A fresh scheduler with the base's betas. Raises `UsageError` E501 for a class diffusers does not have."""
        import diffusers

        kind = getattr(diffusers, name or self.scheduler_config["_class_name"], None)
        if kind is None or not hasattr(kind, "set_timesteps"):
            raise UsageError(f"{name!r} is no scheduler of diffusers; DDIMScheduler would be one.")
        return kind.from_config(_known(kind, self.scheduler_config) | changes)

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """z_t = sqrt(abar_t) clean + sqrt(1 - abar_t) noise."""
        alpha = self._alpha(clean, timesteps)
        return alpha**0.5 * clean + (1 - alpha) ** 0.5 * noise

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What `predict` should give for z_t."""
        if self.prediction_type == "epsilon":
            return noise
        alpha = self._alpha(clean, timesteps)
        return alpha**0.5 * noise - (1 - alpha) ** 0.5 * clean

    def _alpha(self, like: Tensor, timesteps: Tensor) -> Tensor:
        return self.alphas_cumprod.to(like.device, like.dtype)[timesteps].view(-1, 1, 1, 1)

    # pictures and masks

    @torch.no_grad()
    def encode_image(self, pixels: Tensor) -> Moments:
        """pixels [B,3,H,W] in [-1,1] to the posterior [B,4,h,w]."""
        posterior = self.vae.encode(pixels.to(self.device, self.vae.dtype)).latent_dist
        return Moments(
            posterior.mean.to(self.dtype), posterior.std.to(self.dtype), float(self.vae.config.scaling_factor)
        )

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents [B,4,h,w] to pixels [B,3,H,W] float32, not clamped."""
        latents = latents.to(self.device, self.vae.dtype) / self.vae.config.scaling_factor
        pixels: Tensor = self.vae.decode(latents, return_dict=False)[0]
        return pixels.float()

    def masked_image(self, pixels: Tensor, mask: Tensor) -> Tensor:
        """0 (mid grey) where the mask is at least 0.5."""
        return pixels * (mask < 0.5)

    def latent_mask(self, mask: Tensor, rule: Literal["max", "nearest"] = "max") -> Tensor:
        """[B,1,H,W] to [B,1,h,w]: with `max` a cell is 1 iff any of its pixels is (Fooocus); `nearest` as diffusers."""
        binary = (mask >= 0.5).to(self.dtype)
        if rule == "max":
            return F.max_pool2d(binary, self.vae_factor)
        height, width = mask.shape[-2] // self.vae_factor, mask.shape[-1] // self.vae_factor
        return F.interpolate(binary, size=(height, width))

    def unet_input(self, noisy: Tensor, mask: Tensor, masked_latent: Tensor) -> Tensor:
        """[z_t, mask, masked latent] with 9 channels, z_t with 4."""
        return torch.cat([noisy, mask, masked_latent], dim=1) if self.channels == 9 else noisy

    # the UNet

    def predict(
        self,
        sample: Tensor,
        timesteps: Tensor | float | int,
        text: TextStates,
        size: Tensor | None = None,
        *,
        cross_attention_kwargs: dict[str, Any] | None = None,
    ) -> Tensor:
        """The UNet's output [B,4,h,w]."""
        output: Tensor = self.unet(
            sample,
            timesteps,
            encoder_hidden_states=text.tokens,
            cross_attention_kwargs=cross_attention_kwargs,
            added_cond_kwargs=self._added(text, size),
            return_dict=False,
        )[0]
        return output

    def _added(self, text: TextStates, size: Tensor | None) -> dict[str, Tensor] | None:
        del text, size
        return None

    # text

    def token_ids(self, prompts: Sequence[str]) -> Tensor:
        """[B,T] long, of the first tokenizer."""
        return self._ids(self.tokenizers[0], prompts)

    def _ids(self, tokenizer: Any, prompts: Sequence[str]) -> Tensor:
        length = tokenizer.model_max_length
        encoded = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True).input_ids
        for prompt in prompts:
            tokens = len(self._offsets(tokenizer, prompt))
            if tokens > length - 2:
                start = prompt if len(prompt) <= 60 else f"{prompt[:57]}..."
                raise UsageError(f"prompt {start!r} has {tokens} tokens; at most {length - 2} are read.", code="E602")
        known = self.text_encoders[self.tokenizers.index(tokenizer)].get_input_embeddings().num_embeddings
        if (self.added_word is None or not self.added_word.rows) and max(map(max, encoded), default=0) >= known:
            words = ", ".join(sorted(tokenizer.added_tokens_encoder, key=tokenizer.added_tokens_encoder.get)[-1:])
            raise UsageError(f"a prompt has {words}, the trained word of an adapter that is not on.", code="E602")
        return torch.tensor(encoded, dtype=torch.long, device=self.device)

    @staticmethod
    def _offsets(tokenizer: Any, prompt: str) -> list[tuple[int, int]]:
        encoded = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [(int(first), int(last)) for first, last in encoded["offset_mapping"]]

    def token_spans(self, prompt: str) -> tuple[tuple[int, int], ...]:
        """Characters (first, after last) of the prompt behind token position 1, 2, ..."""
        spans = [tuple(self._offsets(tokenizer, prompt)) for tokenizer in self.tokenizers]
        if len(set(spans)) > 1:
            raise UsageError(f"{self._model}: its two tokenizers cut {prompt!r} differently.", code="E601")
        return spans[0]


def load_part(kind: Any, folder: Path, part: str, dtype: torch.dtype) -> Any:
    """One frozen model of a base; half precision files are taken where there are no others."""
    plain = any((folder / part).glob("*.safetensors")) and not _only_variant(folder / part)
    if not plain and not _only_variant(folder / part):
        raise UsageError(f"{folder.name}: no safetensors in {part}/; pickled weights are not loaded.", code="E601")
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = kind.from_pretrained(
            folder,
            subfolder=part,
            dtype=dtype,
            variant=None if plain else "fp16",
            use_safetensors=True,
            local_files_only=True,
        )
    finally:
        if bars:
            logging.enable_progress_bar()
    return model.requires_grad_(False).eval()


def _only_variant(place: Path) -> bool:
    names = [path.name for path in place.glob("*.safetensors")]
    return bool(names) and all(".fp16." in name for name in names)


def _known(kind: Any, config: dict[str, Any]) -> dict[str, Any]:
    # other schedulers' keys would be reported as unexpected, one line each
    import inspect

    names = inspect.signature(kind.__init__).parameters
    return {key: value for key, value in config.items() if key in names}
