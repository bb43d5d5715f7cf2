"""One sample of an open corpus: its record and pixels, read where they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from manifests.pixels import ImageArray, MaskArray
from manifests.records import Attribute, Box, Provenance, Sample

if TYPE_CHECKING:
    from manifests.corpus import Corpus

__all__ = ["Example", "LazySample"]


@dataclass(frozen=True, slots=True)
class Example:
    """A sample with its pixels: image uint8 HxWx3 RGB, mask bool HxW with True = the subject."""

    sample: Sample
    image: ImageArray
    mask: MaskArray


class LazySample:
    """What `corpus[ID]` gives. Each part is read once, when it is first asked for; every other field of the record
    (`class_noun`, `split`, `parents`, `width`...) is an attribute too.

    Raises when a part is asked for: `IntegrityError` where bytes or rows are not what the corpus vouches for.
    """

    def __init__(self, corpus: Corpus, sample_id: str, row: int) -> None:
        self.id = sample_id
        self._row = row
        self._corpus = corpus

    @cached_property
    def record(self) -> Sample:
        """The manifest's row."""
        return self._corpus.record_in(self._row, self.id)

    @cached_property
    def picture(self) -> ImageArray:
        """uint8 HxWx3 RGB."""
        return self._corpus.image(self.record)

    @cached_property
    def mask(self) -> MaskArray:
        """bool HxW, True = the subject."""
        return self._corpus.mask(self.record)

    @property
    def box(self) -> Box:
        """`x0, y0, x1, y1` of the subject in pixels of the whole picture, half-open."""
        return self.record.box_xyxy

    @property
    def words(self) -> tuple[Attribute, ...]:
        """What the describer saw, and what a regular picture was asked to show."""
        return self.record.attributes

    @property
    def prompt(self) -> str:
        """With `{identifier}` where one belongs."""
        return self.record.prompt

    @property
    def provenance(self) -> tuple[Provenance, ...]:
        """Every stage that had a part in it, in order."""
        return self.record.provenance

    def __getattr__(self, name: str) -> Any:
        # only what is not found otherwise comes here; a name of ours must not ask for itself for ever
        if name.startswith("_") or name == "record":
            raise AttributeError(name)
        return getattr(self.record, name)

    def __repr__(self) -> str:
        return f"LazySample({self.id!r})"
