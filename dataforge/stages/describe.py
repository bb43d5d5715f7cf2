"""Describe: what words fit a subject, and what each photograph shows. All photographs of a subject go in together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dataforge.protocols import AskingDescriber, Describer, Description, Photo
from dataforge.stages.blobs import Blobs, spoke
from dataforge.store import Made
from manifests.errors import Fault
from manifests.overrides import CATEGORIES
from manifests.pixels import MaskArray
from manifests.schema import encode

__all__ = ["Describe"]


class Describe:
    """One input is a subject."""

    name = "describe"

    def __init__(self, describer: Describer | AskingDescriber, blobs: Blobs) -> None:
        self._describer = describer
        self._blobs = blobs

    def run(self, inputs: Sequence[dict[str, Any]]) -> list[Made | Fault]:
        """Input: photos, masks. Value: words (as `SubjectAttribute`), captions by photograph ID."""
        described: list[Description | Fault]
        describer: Any = self._describer
        if hasattr(describer, "describe_looks"):
            # one subject's photographs at a time in memory: what goes into a question is small
            described = describer.describe_looks([describer.look(*self._seen(value)) for value in inputs])
        else:
            described = [describer.describe(*self._seen(value)) for value in inputs]
        return [
            answer if isinstance(answer, Fault) else self._made(value, answer)
            for value, answer in zip(inputs, described, strict=True)
        ]

    def _seen(self, value: dict[str, Any]) -> tuple[list[Photo], list[MaskArray]]:
        return [self._blobs.photo(photo) for photo in value["photos"]], [self._blobs.mask(m) for m in value["masks"]]

    def _made(self, value: dict[str, Any], description: Description) -> Made:
        ids = [photo["id"] for photo in value["photos"]]
        seen: set[tuple[str, str]] = set()
        words = []
        for word in description.words:
            if (
                word.category not in CATEGORIES
                or not set(word.sample_ids) <= set(ids)
                or (word.category, word.word) in seen
            ):
                raise ValueError(f"the describer's word {word.category}={word.word!r} is foreign or doubled")
            seen.add((word.category, word.word))
            words.append(encode(word))
        captions = {name: description.captions[name] for name in ids}
        return Made({"words": words, "captions": captions, "by": spoke(self._describer)})
