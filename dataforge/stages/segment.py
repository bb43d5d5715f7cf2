"""Segment: box to mask, with an estimate of how good the mask is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from dataforge.protocols import Grounding, Segmentation, Segmenter
from dataforge.stages.blobs import Blobs, spoke
from dataforge.store import Made
from manifests.errors import Fault
from manifests.pixels import MaskArray, box_from_mask, encode_mask

__all__ = ["Segment", "mask_facts"]


class Segment:
    """One input is a group of photographs with their boxes that the segmenter wants to see together."""

    name = "segment"

    def __init__(self, segmenter: Segmenter, blobs: Blobs) -> None:
        self._segmenter = segmenter
        self._blobs = blobs

    def prefetch(self, inputs: Sequence[dict[str, Any]]) -> None:
        """Decode what the next unit will ask for."""
        self._blobs.prefetch(inputs)

    def run(self, inputs: Sequence[dict[str, Any]]) -> list[Made | Fault]:
        """Input: photos, groundings.

        Value: items, each `{quality, scores, flags, area, box, rival}` or `{fault}`; blobs `0`, `1`, ... the masks.
        """
        groups = [value["photos"] for value in inputs]
        boxes = [value["groundings"] for value in inputs]
        if self._segmenter.scope == "subject":
            return [self._made(self._segment(photos, given)) for photos, given in zip(groups, boxes, strict=True)]
        flat = iter(self._segment([p for photos in groups for p in photos], [g for given in boxes for g in given]))
        return [self._made([next(flat) for _ in photos]) for photos in groups]

    def _segment(self, values: list[dict[str, Any]], boxes: list[dict[str, Any]]) -> list[Segmentation | Fault]:
        photos = [self._blobs.photo(value) for value in values]
        groundings = [
            Grounding(
                box=tuple(box["box"]),
                score=box["score"],
                other_boxes=tuple(tuple(other) for other in box["other_boxes"]),
            )
            for box in boxes
        ]
        answers = self._segmenter.segment(photos, groundings)
        if len(answers) != len(photos):
            raise ValueError(f"the segmenter gave {len(answers)} answers for {len(photos)} photographs")
        for photo, answer in zip(photos, answers, strict=True):
            if isinstance(answer, Segmentation) and answer.mask.shape != photo.image.shape[:2]:
                raise ValueError(f"mask {answer.mask.shape} for an image of {photo.image.shape[:2]}")
        return answers

    def _made(self, answers: list[Segmentation | Fault]) -> Made:
        items: list[dict[str, Any]] = []
        blobs: dict[str, bytes] = {}
        for number, answer in enumerate(answers):
            if isinstance(answer, Segmentation) and not answer.mask.any():
                answer = Fault("E212", "the mask is empty")
            if isinstance(answer, Fault):
                items.append({"fault": [answer.code, answer.detail]})
                continue
            blobs[str(number)] = encode_mask(answer.mask)
            items.append(mask_facts(answer))
        return Made({"items": items, "by": spoke(self._segmenter)}, blobs)


def mask_facts(answer: Segmentation) -> dict[str, Any]:
    """What is known of a mask that is not empty, as JSON values."""
    return {
        "quality": float(answer.quality),
        "scores": {score.name: float(score.value) for score in answer.scores},
        "flags": list(answer.flags),
        "area": float(answer.mask.mean()),
        "box": list(box_from_mask(answer.mask)),
        "rival": [] if answer.rival is None else _outline(answer.rival),
    }


def _outline(mask: MaskArray) -> list[int]:
    """x,y,x,y,... around the largest region of a mask, to a thousandth of the picture's diagonal; empty for none."""
    regions, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not regions:
        return []
    largest = max(regions, key=cv2.contourArea)
    points = cv2.approxPolyDP(largest, 0.001 * float(np.hypot(*mask.shape)), True)
    return [int(value) for value in points.ravel()]
