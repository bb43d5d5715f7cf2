"""What SAM-like models share: a box in, mask logits and the model's own estimate of the mask's IoU out.

Which of several masks is taken, what belongs rather to another box, and how far the model may be believed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dataforge.backends.devices import in_batches
from dataforge.protocols import Grounding, Photo, Scope, Segmentation
from manifests.errors import Fault
from manifests.records import Box, Score

__all__ = ["BoxMasks", "Promptable", "boxes_to_ask", "choose_mask"]

FloatArray = npt.NDArray[np.float32]
# SAM's stability score: how far the mask changes between these two thresholds on its logits (arXiv 2304.02643, B)
_OFFSET = 1.0
_DOUBTFUL = 0.75


@dataclass(frozen=True, slots=True)
class BoxMasks:
    """The masks of every box asked for: logits (B, M, H, W) at the picture's size, predicted IoU (B, M)."""

    logits: FloatArray
    iou: FloatArray


def boxes_to_ask(grounding: Grounding, *, exclude_others: bool) -> list[Box]:
    """The subject's box first, then the others where they matter."""
    return [grounding.box, *(grounding.other_boxes if exclude_others else ())]


def choose_mask(masks: BoxMasks, choose: str) -> Segmentation | Fault:
    """The first box's mask: `single` and `best` take the highest predicted IoU, `largest` the largest area.

    What another box's own best mask claims more strongly is left out. Quality is predicted IoU times stability, both
    in [0, 1]; the mask that came second is the rival.
    """
    if not np.isfinite(masks.logits).all():
        return Fault("E220", "the model gave masks that are not finite")
    own, iou = masks.logits[0], masks.iou[0]
    rank = iou if choose != "largest" else (own > 0).sum(axis=(1, 2))
    order = np.argsort(-rank, kind="stable")
    best = int(order[0])
    logits = own[best]
    mask = logits > 0
    for other, believed in zip(masks.logits[1:], masks.iou[1:], strict=True):
        mask &= logits >= other[int(believed.argmax())]
    if not mask.any():
        return Fault("E212", "the mask is empty")
    predicted = float(np.clip(iou[best], 0, 1))
    wide = int((logits > -_OFFSET).sum())
    stability = int((logits > _OFFSET).sum()) / wide if wide else 0.0
    flags = [
        name for name, value in (("unsure-model", predicted), ("unstable-outline", stability)) if value < _DOUBTFUL
    ]
    return Segmentation(
        mask=mask,
        quality=predicted * stability,
        scores=(Score(name="predicted_iou", value=float(iou[best])), Score(name="stability", value=stability)),
        flags=tuple(flags),
        rival=own[int(order[1])] > 0 if len(order) > 1 else None,
    )


class Promptable(ABC):
    """A segmenter whose model is shown boxes; how it is shown them is `look`."""

    name: str
    scope: Scope = "sample"

    def __init__(self, *, batch_size: int, choose: str, exclude_others: bool) -> None:
        self._batch_size = batch_size
        self._choose, self._exclude_others = choose, exclude_others

    @abstractmethod
    def look(self, asked: Sequence[tuple[Photo, list[Box]]]) -> list[BoxMasks]:
        """The masks of each photograph's boxes; its pixels are encoded once, however many boxes there are."""

    def segment(self, photos: Sequence[Photo], groundings: Sequence[Grounding]) -> list[Segmentation | Fault]:
        """One mask per photograph."""
        asked = [
            (photo, boxes_to_ask(grounding, exclude_others=self._exclude_others))
            for photo, grounding in zip(photos, groundings, strict=True)
        ]
        found = in_batches(asked, self._batch_size, self.look, what=self.name)
        return [item if isinstance(item, Fault) else choose_mask(item, self._choose) for item in found]
