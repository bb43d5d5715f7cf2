"""Recheck: the second look at made pictures, as embeddings of picture, cut-out subject and prompt.

The cosines are the gate's to compare (`dataforge.stages.gate.judge_again`), so that no picture needs any other here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dataforge.protocols import Embedder
from dataforge.stages.blobs import Blobs, spoke
from dataforge.store import Made
from manifests.errors import Fault

__all__ = ["Recheck"]


class Recheck:
    """One input is a picture."""

    name = "recheck"

    def __init__(self, embedder: Embedder, blobs: Blobs) -> None:
        self._embedder = embedder
        self._blobs = blobs

    def prefetch(self, inputs: Sequence[dict[str, Any]]) -> None:
        """Decode what the next unit will ask for."""
        self._blobs.prefetch(inputs)

    def run(self, inputs: Sequence[dict[str, Any]]) -> list[Made | Fault]:
        """Input: photos (one), mask, prompt. Value: the embeddings picture, cutout and prompt (if any)."""
        photos = [self._blobs.photo(value["photos"][0]) for value in inputs]
        masks = [self._blobs.mask(value["mask"]) for value in inputs]
        answers = self._embedder.embed(photos, masks, [value["prompt"] for value in inputs])
        by = spoke(self._embedder)
        return [
            answer if isinstance(answer, Fault) else Made({name: list(v) for name, v in answer.items()} | {"by": by})
            for answer in answers
        ]
