"""SDXL, inpainting (9 channels) and text to image (4 channels): two text encoders, pooled vector, size condition."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.backbones.interface import TextStates
from pipelines.backbones.latent import LatentUNet, load_part

__all__ = ["SDXL"]


class SDXL(LatentUNet):
    """SDXL in diffusers' layout."""

    family = "sdxl"
    parts = (
        "unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler",
    )  # fmt: skip

    def __init__(
        self, folder: Path, model: str, revision: str | None, device: torch.device, dtype: torch.dtype
    ) -> None:
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

        super().__init__(folder, model, revision, device, dtype)
        self.tokenizers = tuple(
            CLIPTokenizer.from_pretrained(folder, subfolder=part, local_files_only=True)
            for part in ("tokenizer", "tokenizer_2")
        )
        self.text_encoders = (
            load_part(CLIPTextModel, folder, "text_encoder", dtype).to(device),
            load_part(CLIPTextModelWithProjection, folder, "text_encoder_2", dtype).to(device),
        )
        index = folder / "model_index.json"
        settings = json.loads(index.read_text()) if index.is_file() else {}
        self._zero_negative = bool(settings.get("force_zeros_for_empty_prompt", True))

    def encode_text(self, prompts: Sequence[str]) -> TextStates:
        """Penultimate hidden states of both encoders side by side [B,77,2048]; pooled [B,1280] of the second.

        With a gradient where an added word has one.
        """
        states, pooled = [], None
        for tokenizer, encoder in zip(self.tokenizers, self.text_encoders, strict=True):
            output = encoder(self._ids(tokenizer, prompts), output_hidden_states=True)
            states.append(output.hidden_states[-2])
            pooled = getattr(output, "text_embeds", pooled)
        return TextStates(torch.cat(states, dim=-1), pooled)

    def unconditional(self, batch: int, negative_prompt: str | None = None) -> TextStates:
        """Zeros where no negative prompt is given and the base asks for them, else the negative prompt encoded."""
        states = self.encode_text([negative_prompt or ""] * batch)
        if negative_prompt is None and self._zero_negative:
            assert states.pooled is not None
            return TextStates(torch.zeros_like(states.tokens), torch.zeros_like(states.pooled))
        return states

    def size_condition(
        self, original_hw: Sequence[Any], crop_top_left: Sequence[Any], target_hw: Sequence[Any]
    ) -> Tensor | None:
        """[B,6]: original height and width, crop top and left, target height and width."""
        columns = [
            torch.as_tensor(rows, dtype=self.dtype, device=self.device).reshape(-1, 2)
            for rows in (original_hw, crop_top_left, target_hw)
        ]
        return torch.cat(columns, dim=1)

    def _added(self, text: TextStates, size: Tensor | None) -> dict[str, Tensor] | None:
        if text.pooled is None or size is None:
            raise ValueError("SDXL predicts with pooled text states and a size condition")
        return {"text_embeds": text.pooled, "time_ids": size}
