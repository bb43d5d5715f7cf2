"""Stable Diffusion 1.5, inpainting (9 channels) and text to image (4 channels): one text encoder, no size condition."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.backbones.interface import TextStates
from pipelines.backbones.latent import LatentUNet, load_part

__all__ = ["StableDiffusion"]


class StableDiffusion(LatentUNet):
    """SD 1.x or 2.x in diffusers' layout."""

    family = "sd"
    parts = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")

    def __init__(
        self, folder: Path, model: str, revision: str | None, device: torch.device, dtype: torch.dtype
    ) -> None:
        from transformers import CLIPTextModel, CLIPTokenizer

        super().__init__(folder, model, revision, device, dtype)
        self.tokenizers = (CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer", local_files_only=True),)
        self.text_encoders = (load_part(CLIPTextModel, folder, "text_encoder", dtype).to(device),)

    def encode_text(self, prompts: Sequence[str]) -> TextStates:
        """The last hidden states, after the final norm: tokens [B,77,768].

        With a gradient where an added word has one.
        """
        return TextStates(self.text_encoders[0](self._ids(self.tokenizers[0], prompts))[0])

    def unconditional(self, batch: int, negative_prompt: str | None = None) -> TextStates:
        """The negative prompt, empty by default, encoded."""
        return self.encode_text([negative_prompt or ""] * batch)

    def size_condition(
        self, original_hw: Sequence[Any], crop_top_left: Sequence[Any], target_hw: Sequence[Any]
    ) -> Tensor | None:
        """SD takes none."""
        return None
