"""What trainer and pipelines may ask of a base; shapes are drawn up in `pipelines.backbones`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from pipelines.records import Base

if TYPE_CHECKING:
    from pipelines.backbones.textual_inversion import AddedWord

__all__ = ["Backbone", "Base", "Generators", "Moments", "TextStates"]

Generators = torch.Generator | list[torch.Generator] | None


@dataclass(frozen=True, slots=True)
class Moments:
    """The VAE's posterior, mean and standard deviation [B,4,h,w] as the VAE gives them; latents are times `scale`."""

    mean: Tensor
    std: Tensor
    scale: float

    def sample(self, generator: Generators = None) -> Tensor:
        """Scaled latents [B,4,h,w] drawn from the posterior, as stock pipelines draw them."""
        noise = randn_tensor(self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        latents: Tensor = self.scale * (self.mean + self.std * noise)
        return latents

    def mode(self) -> Tensor:
        """Scaled latents [B,4,h,w] at the posterior's mean."""
        return self.scale * self.mean


@dataclass(frozen=True, slots=True)
class TextStates:
    """Encoded prompts: tokens [B,T,D], and SDXL's pooled vector [B,P]."""

    tokens: Tensor
    pooled: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice) -> TextStates:
        return TextStates(self.tokens[rows], None if self.pooled is None else self.pooled[rows])

    def to(self, device: torch.device, dtype: torch.dtype) -> TextStates:
        """The same states elsewhere."""
        return TextStates(self.tokens.to(device, dtype), None if self.pooled is None else self.pooled.to(device, dtype))

    @staticmethod
    def cat(states: Sequence[TextStates]) -> TextStates:
        """Several batches as one."""
        pooled = [state.pooled for state in states if state.pooled is not None]
        return TextStates(torch.cat([state.tokens for state in states]), torch.cat(pooled) if pooled else None)


class Backbone(Protocol):
    """A frozen base; every method works without gradients except `predict` (and what is differentiable by nature)."""

    unet: Any
    vae: Any
    text_encoders: tuple[Any, ...]
    tokenizers: tuple[Any, ...]
    family: str
    channels: int
    device: torch.device
    dtype: torch.dtype
    vae_factor: int
    scheduler_config: dict[str, Any]
    # a word of a trained embedding, while there is one
    added_word: AddedWord | None

    @property
    def base(self) -> Base:
        """Which base it is; its digest is computed when first asked for."""
        ...

    @property
    def pixel_multiple(self) -> int:
        """Sides of a frame are multiples of this."""
        ...

    @property
    def resolution(self) -> int:
        """The side in pixels it was trained at."""
        ...

    @property
    def alphas_cumprod(self) -> Tensor:
        """[1000] float32 on the CPU."""
        ...

    @property
    def prediction_type(self) -> str:
        """`epsilon` or `v_prediction`."""
        ...

    def make_scheduler(self, name: str | None = None, **changes: Any) -> Any:
        """A fresh scheduler: the base's own class, or the diffusers class of that name, with the base's config."""
        ...

    def encode_image(self, pixels: Tensor) -> Moments:
        """pixels [B,3,H,W] in [-1,1] to the posterior."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents [B,4,h,w] to pixels [B,3,H,W], about [-1,1], float32."""
        ...

    def masked_image(self, pixels: Tensor, mask: Tensor) -> Tensor:
        """The picture with 0 (mid grey) where the mask is at least 0.5."""
        ...

    def latent_mask(self, mask: Tensor, rule: Literal["max", "nearest"] = "max") -> Tensor:
        """[B,1,H,W] to [B,1,h,w], of 0 and 1."""
        ...

    def encode_text(self, prompts: Sequence[str]) -> TextStates:
        """Prompts to states. Raises `UsageError` E602 for a prompt that does not fit."""
        ...

    def unconditional(self, batch: int, negative_prompt: str | None = None) -> TextStates:
        """What guidance starts from, as the stock pipeline of this base makes it."""
        ...

    def token_ids(self, prompts: Sequence[str]) -> Tensor:
        """[B,T] long, of the first tokenizer."""
        ...

    def token_spans(self, prompt: str) -> tuple[tuple[int, int], ...]:
        """Characters (first, after last) of the prompt behind token position 1, 2, ..."""
        ...

    def size_condition(
        self, original_hw: Sequence[Any], crop_top_left: Sequence[Any], target_hw: Sequence[Any]
    ) -> Tensor | None:
        """Rows of pixels (height, width), (top, left), (height, width) to [B,6]; None where the base takes none."""
        ...

    def unet_input(self, noisy: Tensor, mask: Tensor, masked_latent: Tensor) -> Tensor:
        """[z_t, mask, masked latent] with 9 channels, z_t with 4."""
        ...

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
        ...

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """z_t = sqrt(abar_t) clean + sqrt(1 - abar_t) noise."""
        ...

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What `predict` should give: the noise, or v = sqrt(abar_t) noise - sqrt(1 - abar_t) clean."""
        ...
