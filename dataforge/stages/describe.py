"""Describe: what words fit a subject, and what each photograph shows. All photographs of a subject go in together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dataforge.protocols import Describer
from dataforge.stages.blobs import Blobs, spoke
from dataforge.store import Made
from manifests.errors import Fault
from manifests.overrides import CATEGORIES
from manifests.schema import encode

__all__ = ["Describe"]


class Describe:
    """One input is a subject."""

    name = "describe"

    def __init__(self, describer: Describer, blobs: Blobs) -> None:
        self._describer = describer
        self._blobs = blobs

    def run(self, inputs: Sequence[dict[str, Any]]) -> list[Made | Fault]:
        """Input: photos, masks. Value: words (as `SubjectAttribute`), captions by photograph ID."""
        return [self._subject(value) for value in inputs]

    def _subject(self, value: dict[str, Any]) -> Made:
        photos = [self._blobs.photo(photo) for photo in value["photos"]]
        description = self._describer.describe(photos, [self._blobs.mask(mask) for mask in value["masks"]])
        ids = {photo.id for photo in photos}
        seen: set[tuple[str, str]] = set()
        words = []
        for word in description.words:
            if word.category not in CATEGORIES or not set(word.sample_ids) <= ids or (word.category, word.word) in seen:
                raise ValueError(f"the describer's word {word.category}={word.word!r} is foreign or doubled")
            seen.add((word.category, word.word))
            words.append(encode(word))
        captions = {photo.id: description.captions[photo.id] for photo in photos}
        return Made({"words": words, "captions": captions, "by": spoke(self._describer)})
