"""DINO: cosine of the CLS tokens of a self-supervised ViT for the composite and the subject's photographs.

`facebook/dino-vits16` holds the weights of torch hub's `facebookresearch/dino:main` `dino_vits16`. The CLS token after
the last layer norm is taken, never `pooler_output`, for which that checkpoint has no weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from pipelines.evaluate.metrics.devices import device
from pipelines.evaluate.metrics.similarity import ImageSimilarity
from pipelines.evaluate.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from pipelines.evaluate.weights import Weights, load_whole

__all__ = ["Dino", "dino"]


class Dino:
    """`__call__` gives CLS tokens, float32 [n, d]."""

    def __init__(self, weights: Weights) -> None:
        from transformers import AutoConfig, AutoModel

        config = AutoConfig.from_pretrained(weights.folder, local_files_only=True)
        options = {"add_pooling_layer": False} if config.model_type == "vit" else {}
        self.weights = weights
        self._model = load_whole(AutoModel, weights, metric="dino", **options)
        self._model.to(device())
        self.side: int = config.image_size

    @torch.inference_mode()
    def __call__(self, pixels: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        """CLS tokens of preprocessed pictures."""
        batch = torch.from_numpy(np.stack(pixels)).to(device())
        return np.asarray(self._model(pixel_values=batch).last_hidden_state[:, 0].float().cpu().numpy())


def dino(
    model: Dino,
    *,
    crops: Sequence[str],
    plain: bool = False,
    first_to: int | None = None,
    scale: float = 1.0,
    resize_references: bool = False,
) -> ImageSimilarity:
    """The metric: short side 256/224 of the model's side, centre crop, bicubic; `plain` resizes to the square."""
    short_side = None if plain else model.side * 256 // 224
    preprocessing = Preprocessing(model.side, IMAGENET_MEAN, IMAGENET_STD, short_side=short_side, first_to=first_to)
    return ImageSimilarity(
        "dino",
        model,
        preprocessing,
        model=f"{model.weights} CLS",
        crops=crops,
        scale=scale,
        resize_references=resize_references,
    )
