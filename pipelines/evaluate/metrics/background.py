"""The background of a composite and of its scene, with whatever was painted taken out before anything is computed.

Both pictures lose the box first and are resized then, so no number can depend on what lies inside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from manifests.pixels import ImageArray
from manifests.records import Box
from pipelines.evaluate.pairs import Pair

__all__ = ["Background", "background"]


@dataclass(frozen=True)
class Background:
    """Two float32 [1,3,h,w] in [0,1] with the box at 0, and the box in their frame, grown to hold all it touched."""

    composite: Tensor
    scene: Tensor
    box: Box

    def outside(self, margin: int = 0) -> npt.NDArray[np.bool_]:
        """bool [h,w]: what lies farther than `margin` pixels from the box."""
        outside = np.ones(self.composite.shape[-2:], bool)
        x0, y0, x1, y1 = self.box
        outside[max(y0 - margin, 0) : y1 + margin, max(x0 - margin, 0) : x1 + margin] = False
        return outside


def background(pair: Pair, side: int) -> Background | None:
    """The pair's background at side x side (Pillow bilinear); None for a pair without a scene."""
    if pair.scene is None:
        return None
    height, width = pair.frame
    across, down = side / width, side / height
    x0, y0, x1, y1 = pair.box
    # a resized pixel is mixed from neighbours as far away as the filter reaches
    reach = (0 if across == 1 else math.ceil(max(1.0, across)), 0 if down == 1 else math.ceil(max(1.0, down)))
    box = (
        max(math.floor(x0 * across) - reach[0], 0),
        max(math.floor(y0 * down) - reach[1], 0),
        min(math.ceil(x1 * across) + reach[0], side),
        min(math.ceil(y1 * down) + reach[1], side),
    )
    return Background(_without(pair.composite.image, pair.box, side), _without(pair.scene, pair.box, side), box)


def _without(image: ImageArray, box: Box, side: int) -> Tensor:
    x0, y0, x1, y1 = box
    zeroed = np.array(image)
    zeroed[y0:y1, x0:x1] = 0
    if zeroed.shape[:2] != (side, side):
        zeroed = np.array(Image.fromarray(zeroed).resize((side, side), Image.Resampling.BILINEAR))
    return torch.from_numpy(zeroed.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255))
