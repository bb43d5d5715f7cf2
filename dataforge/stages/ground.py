"""Ground: class noun to the subject's box in each photograph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dataforge.protocols import Grounder, Grounding
from dataforge.stages.blobs import Blobs, spoke
from dataforge.stages.segment import mask_facts
from dataforge.store import Made
from manifests.errors import Fault
from manifests.pixels import encode_mask

__all__ = ["Ground"]


class Ground:
    """One input is a group of photographs that the grounder wants to see together."""

    name = "ground"

    def __init__(self, grounder: Grounder, blobs: Blobs, *, min_score: float) -> None:
        self._grounder = grounder
        self._blobs = blobs
        self._min_score = min_score

    def prefetch(self, inputs: Sequence[dict[str, Any]]) -> None:
        """Decode what the next unit will ask for."""
        self._blobs.prefetch(inputs)

    def run(self, inputs: Sequence[dict[str, Any]]) -> list[Made | Fault]:
        """Input: photos. Value: items, each `{box, score, other_boxes}` or `{fault}`.

        A grounder that sees the mask in the same look adds `segmentation` to the item, and blobs `0`, `1`, ...
        """
        if self._grounder.scope == "subject":
            return [self._made(self._ground(value["photos"])) for value in inputs]
        flat = iter(self._ground([photo for value in inputs for photo in value["photos"]]))
        return [self._made([next(flat) for _ in value["photos"]]) for value in inputs]

    def _made(self, answers: list[Grounding | Fault]) -> Made:
        items: list[dict[str, Any]] = []
        blobs: dict[str, bytes] = {}
        for number, answer in enumerate(answers):
            if isinstance(answer, Fault):
                items.append({"fault": [answer.code, answer.detail]})
                continue
            others = [list(box) for box in answer.other_boxes]
            items.append({"box": list(answer.box), "score": float(answer.score), "other_boxes": others})
            if answer.segmentation is not None and answer.segmentation.mask.any():
                items[-1]["segmentation"] = mask_facts(answer.segmentation)
                blobs[str(number)] = encode_mask(answer.segmentation.mask)
        return Made({"items": items, "by": spoke(self._grounder)}, blobs)

    def _ground(self, values: list[dict[str, Any]]) -> list[Grounding | Fault]:
        photos = [self._blobs.photo(value) for value in values]
        found = self._grounder.ground(photos)
        if len(found) != len(photos):
            raise ValueError(f"the grounder gave {len(found)} answers for {len(photos)} photographs")
        return [self._checked(photo.image.shape, answer) for photo, answer in zip(photos, found, strict=True)]

    def _checked(self, shape: tuple[int, ...], answer: Grounding | Fault) -> Grounding | Fault:
        if isinstance(answer, Grounding) and answer.score < self._min_score:
            answer = Fault("E210", f"best score {answer.score:.2f} < {self._min_score}")
        if isinstance(answer, Grounding):
            x0, y0, x1, y1 = answer.box
            if not (0 <= x0 < x1 <= shape[1] and 0 <= y0 < y1 <= shape[0]):
                answer = Fault("E211", f"box {x0},{y0},{x1},{y1} in a picture of {shape[1]}x{shape[0]}")
        return answer
