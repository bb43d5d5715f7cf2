"""`subjects.yaml`: subjects and scenes listed by hand. Paths are relative to the file; globs may use `**`.

defaults: {licence: CC-BY-4.0, credit: "A. Person", consent: owner}
subjects:
  - name: mug
    class_noun: mug
    photographs: ["mug/*.jpg"]             # default: everything below a folder of the subject's name
    masks: "mug/masks/{stem}.png"          # or a mapping photograph: mask
    boxes: {mug/a.jpg: [10, 20, 200, 220]} # x0,y0,x1,y1 in pixels of the upright picture, half-open
scenes:
  - photographs: ["desk/*.jpg"]
    class_noun: mug
    boxes: {desk/1.jpg: [40, 60, 180, 200]}
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, field_validator

from dataforge.config import Section
from manifests.errors import UsageError
from manifests.overrides import check_box, describe, load_yaml

__all__ = ["ListedScenes", "ListedSubject", "Listing", "read_listing"]

Boxes = dict[str, tuple[float, ...]]


class Rights(Section):
    """Licence (an SPDX identifier where there is one), whom to credit, and whether the owner or person agreed."""

    licence: str = ""
    credit: str = ""
    consent: str = ""


class ListedSubject(Rights):
    """One subject."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    class_noun: str = ""
    photographs: list[str] = Field(default_factory=list)
    masks: dict[str, str] | str = Field(default_factory=dict)
    boxes: Boxes = Field(default_factory=dict)
    overrides: str | None = None

    @field_validator("boxes")
    @classmethod
    def _boxes(cls, value: Boxes) -> Boxes:
        return {name: check_box(box) for name, box in value.items()}


class ListedScenes(Section):
    """Scenes to paint into."""

    photographs: Annotated[list[str], Field(min_length=1)]
    class_noun: str = ""
    boxes: Boxes = Field(default_factory=dict)

    @field_validator("boxes")
    @classmethod
    def _boxes(cls, value: Boxes) -> Boxes:
        return {name: check_box(box) for name, box in value.items()}


class Listing(Section):
    """The whole file."""

    defaults: Rights = Rights()
    subjects: list[ListedSubject] = Field(default_factory=list)
    scenes: list[ListedScenes] = Field(default_factory=list)


def read_listing(path: Path) -> Listing:
    """Read a subjects.yaml. Raises `UsageError` E502 naming every field that is wrong."""
    value = load_yaml(path.read_bytes(), where=path.name)
    try:
        return Listing.model_validate(value or {})
    except ValidationError as error:
        raise UsageError(f"{path.name}: {describe(error)}.", code="E502") from error
