"""CLIP-I: cosine of CLIP image embeddings of the composite and of the subject's photographs."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.evaluate.metrics.clip import Clip
from pipelines.evaluate.metrics.similarity import ImageSimilarity

__all__ = ["clip_image"]


def clip_image(
    clip: Clip,
    *,
    crops: Sequence[str],
    plain: bool = False,
    first_to: int | None = None,
    scale: float = 1.0,
    resize_references: bool = False,
) -> ImageSimilarity:
    """The metric over this model; `plain` and `first_to` as in `Clip.preprocessing`."""
    return ImageSimilarity(
        "clip_i",
        clip.images,
        clip.preprocessing(plain=plain, first_to=first_to),
        model=str(clip.weights),
        crops=crops,
        scale=scale,
        resize_references=resize_references,
    )
