"""CLIP's two encoders, once in memory however many metrics ask (OpenAI CLIP through `transformers.CLIPModel`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipelines.evaluate.metrics.devices import device
from pipelines.evaluate.preprocessing import CLIP_MEAN, CLIP_STD, Preprocessing
from pipelines.evaluate.weights import Weights, load_whole

__all__ = ["Clip", "load_clip"]

Embeddings = npt.NDArray[np.float32]


class Clip:
    """`images` and `texts` give float32 [n, d], not normalised."""

    def __init__(self, weights: Weights) -> None:
        from transformers import CLIPModel, CLIPTokenizer

        self.weights = weights
        self._model = load_whole(CLIPModel, weights, metric="clip")
        self._model.to(device())
        self._tokenizer = CLIPTokenizer.from_pretrained(weights.folder, local_files_only=True)
        self.side: int = self._model.config.vision_config.image_size

    def preprocessing(self, *, plain: bool = False, first_to: int | None = None) -> Preprocessing:
        """OpenAI's: short side, centre crop, bicubic; `plain` resizes to the square outright."""
        short_side = None if plain else self.side
        return Preprocessing(self.side, CLIP_MEAN, CLIP_STD, short_side=short_side, first_to=first_to)

    @torch.inference_mode()
    def images(self, pixels: Sequence[npt.NDArray[np.float32]]) -> Embeddings:
        """Embeddings of preprocessed pictures."""
        batch = torch.from_numpy(np.stack(pixels)).to(device())
        return _features(self._model.get_image_features(pixel_values=batch))

    @torch.inference_mode()
    def texts(self, prompts: Sequence[str]) -> Embeddings:
        """Embeddings of prompts; what lies beyond 77 tokens is cut, as CLIP's own `truncate=True` does."""
        length = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(
            list(prompts), padding=True, truncation=True, max_length=length, return_tensors="pt"
        ).to(device())
        return _features(self._model.get_text_features(**tokens))


def _features(output: Any) -> Embeddings:
    # transformers 5 wraps what 4 returned bare
    return np.asarray(getattr(output, "pooler_output", output).float().cpu().numpy())


@lru_cache(maxsize=2)
def _load(path: Path, name: str, revision: str) -> Clip:
    return Clip(Weights(name, revision, path))


def load_clip(weights: Weights) -> Clip:
    """The model of these weights, shared by every metric that asks for it."""
    return _load(weights.path, weights.name, weights.revision)
