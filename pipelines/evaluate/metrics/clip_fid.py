"""CLIP-FID: the Frechet distance over CLIP image embeddings in place of Inception's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipelines.evaluate.metrics import Column
from pipelines.evaluate.metrics.clip import Clip
from pipelines.evaluate.pairs import View, as_seen

__all__ = ["ClipFid"]


class ClipFid:
    """CLIP embeddings per picture, not normalised."""

    def __init__(self, clip: Clip, *, crop: str = "box", plain: bool = False) -> None:
        self._clip, self.crop = clip, crop
        self._preprocess = clip.preprocessing(plain=plain)
        steps = self._preprocess.describe()
        self.columns: tuple[Column, ...] = (Column(f"clip_fid_{crop}", "down", str(clip.weights), steps, crop),)

    def features(self, views: Sequence[View]) -> npt.NDArray[np.float32]:
        """float32 [n, d]."""
        seen = [pixels for view in views if (pixels := as_seen(view, self.crop)) is not None]
        assert len(seen) == len(views)
        return self._clip.images([self._preprocess(pixels) for pixels in seen])
