"""Ground: class noun to the subject's box in each photograph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dataforge.protocols import Grounder, Grounding
from dataforge.stages.blobs import Blobs, spoke
from dataforge.store import Made
from manifests.errors import Fault

__all__ = ["Ground"]


class Ground:
    """One input is a group of photographs that the grounder wants to see together."""

    name = "ground"

    def __init__(self, grounder: Grounder, blobs: Blobs, *, min_score: float) -> None:
        self._grounder = grounder
        self._blobs = blobs
        self._min_score = min_score

    def run(self, inputs: Sequence[dict[str, Any]]) -> list[Made | Fault]:
        """Input: photos. Value: items, each `{box, score, other_boxes}` or `{fault}`."""
        if self._grounder.scope == "subject":
            return [self._group(value["photos"]) for value in inputs]
        flat = [photo for value in inputs for photo in value["photos"]]
        items = iter(self._ground(flat))
        return [
            Made({"items": [next(items) for _ in value["photos"]], "by": spoke(self._grounder)}) for value in inputs
        ]

    def _group(self, photos: list[dict[str, Any]]) -> Made:
        return Made({"items": self._ground(photos), "by": spoke(self._grounder)})

    def _ground(self, values: list[dict[str, Any]]) -> list[dict[str, Any]]:
        photos = [self._blobs.photo(value) for value in values]
        found = self._grounder.ground(photos)
        if len(found) != len(photos):
            raise ValueError(f"the grounder gave {len(found)} answers for {len(photos)} photographs")
        return [self._item(photo.image.shape, answer) for photo, answer in zip(photos, found, strict=True)]

    def _item(self, shape: tuple[int, ...], answer: Grounding | Fault) -> dict[str, Any]:
        if isinstance(answer, Grounding) and answer.score < self._min_score:
            answer = Fault("E210", f"best score {answer.score:.2f} < {self._min_score}")
        if isinstance(answer, Grounding):
            x0, y0, x1, y1 = answer.box
            if not (0 <= x0 < x1 <= shape[1] and 0 <= y0 < y1 <= shape[0]):
                answer = Fault("E211", f"box {x0},{y0},{x1},{y1} in a picture of {shape[1]}x{shape[0]}")
        if isinstance(answer, Fault):
            return {"fault": [answer.code, answer.detail]}
        return {
            "box": list(answer.box),
            "score": float(answer.score),
            "other_boxes": [list(box) for box in answer.other_boxes],
        }
