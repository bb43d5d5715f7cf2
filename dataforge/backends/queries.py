"""What Grounding DINO found for several queries: which box is the subject's, and which are others.

A model of this family gives every query box a probability for every token of the text `mug. spoon.`. A box counts
where its best token exceeds the box threshold, and belongs to the query whose tokens say most, as in the original.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from dataforge.protocols import Grounding
from manifests.errors import Fault
from manifests.records import Box

__all__ = ["box_iou", "caption_of", "nearest_box", "pick", "token_spans"]

FloatArray = npt.NDArray[np.float32]
# a model may draw one thing many times; boxes that overlap more than this are one thing
_SAME = 0.8
_MAX_OTHERS = 16
# 1 is kept for boxes that a person gave
_SURE = 0.999


def caption_of(noun: str, queries: Sequence[str]) -> str:
    """The text the model reads: lower case, a full stop after each query, none twice."""
    plain = (query.lower().strip().rstrip(".") for query in (noun, *queries))
    return " ".join(f"{query}." for query in dict.fromkeys(plain))


def token_spans(input_ids: Sequence[int], stop: int, special: Collection[int]) -> list[list[int]]:
    """The positions of each query's tokens in the text, full stops and special tokens left out."""
    spans: list[list[int]] = [[]]
    for position, token in enumerate(input_ids):
        if token == stop:
            spans.append([])
        elif token not in special:
            spans[-1].append(position)
    return [span for span in spans if span]


def pick(
    probabilities: FloatArray,
    boxes: FloatArray,
    spans: Sequence[Sequence[int]],
    *,
    size: tuple[int, int],
    box_threshold: float,
    text_threshold: float,
) -> Grounding | Fault:
    """The subject's box and the others, from probabilities (Q, T) and boxes (Q, 4) as centre and size in [0, 1].

    `size` is height and width of the picture; the first span is the subject's. E210 where no box exceeds the
    thresholds.
    """
    height, width = size
    said = np.stack([probabilities[:, list(span)].max(axis=1) for span in spans], axis=1)
    best = probabilities.max(axis=1)
    # stable: of equal scores the first box is taken
    order = np.argsort(-best, kind="stable")
    found = [int(index) for index in order if best[index] > box_threshold]
    placed = {index: box for index in found if (box := nearest_box(boxes[index], height, width)) is not None}
    own = [index for index in placed if said[index, 0] >= said[index].max() and said[index, 0] > text_threshold]
    if not own:
        return Fault("E210", f"best score {float(said[:, 0].max(initial=0.0)):.2f}, asked is {box_threshold}")
    subject = max(own, key=lambda index: said[index, 0])
    others: list[Box] = []
    for box in placed.values():
        if len(others) < _MAX_OTHERS and all(box_iou(box, kept) < _SAME for kept in (placed[subject], *others)):
            others.append(box)
    score = min(_SURE, float(said[subject, 0]))
    return Grounding(box=placed[subject], score=score, other_boxes=tuple(others))


def nearest_box(box: FloatArray, height: int, width: int) -> Box | None:
    """Centre and size in [0, 1] to whole pixels inside the picture; None where nothing of the box lies inside."""
    if not np.isfinite(box).all():
        return None
    x, y, w, h = (float(value) for value in box)
    x0, y0 = round((x - w / 2) * width), round((y - h / 2) * height)
    x1, y1 = round((x + w / 2) * width), round((y + h / 2) * height)
    x0, y0, x1, y1 = max(0, x0), max(0, y0), min(width, x1), min(height, y1)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def box_iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return width * height / (sum(areas) - width * height)
