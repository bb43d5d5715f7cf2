"""`overrides.yaml`: what a person says beside the photographs, which wins over every stage.

class_noun: mug                 # what the subject is
drop: [blurry.jpg]              # photographs to leave out
boxes: {a.jpg: [10, 20, 200, 220]}   # x0,y0,x1,y1 in pixels of the upright picture, half-open
masks: {a.jpg: a-mask.png}      # files beside the overrides
add_words: {colour: [teal]}     # words the subject has
add_candidates: {material: [oak]}    # words an edit could ask for
strike_words: [shiny]           # words no stage may give it
caption: {a.jpg: "a teal mug on a shelf"}
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from manifests.errors import UsageError
from manifests.fsops import check_relative

__all__ = ["CATEGORIES", "Overrides", "check_box", "parse_overrides"]

CATEGORIES = ("colour", "material", "texture", "pattern", "shape", "state", "accessories")
Words = Annotated[list[Annotated[str, Field(min_length=1, max_length=60)]], Field(max_length=64)]


def check_box(box: tuple[float, ...]) -> tuple[int, int, int, int]:
    """Four finite numbers x0,y0,x1,y1 with x0 < x1 and y0 < y1, as whole pixels. Raises ValueError."""
    if len(box) != 4 or any(value != value or abs(value) > 1e6 for value in box):
        raise ValueError("a box is four finite numbers x0,y0,x1,y1")
    x0, y0, x1, y1 = (round(value) for value in box)
    if x0 >= x1 or y0 >= y1:
        raise ValueError(f"the box {x0},{y0},{x1},{y1} is empty or inverted")
    return x0, y0, x1, y1


class Overrides(BaseModel):
    """The corrections of one subject; file names are relative to the subject's folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    class_noun: Annotated[str, Field(min_length=1, max_length=60)] | None = None
    drop: list[str] = Field(default_factory=list)
    boxes: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    masks: dict[str, str] = Field(default_factory=dict)
    caption: dict[str, Annotated[str, Field(max_length=400)]] = Field(default_factory=dict)
    add_words: dict[str, Words] = Field(default_factory=dict)
    add_candidates: dict[str, Words] = Field(default_factory=dict)
    strike_words: Words = Field(default_factory=list)

    @field_validator("boxes")
    @classmethod
    def _boxes(cls, value: dict[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
        return {name: check_box(box) for name, box in value.items()}

    @field_validator("masks")
    @classmethod
    def _masks(cls, value: dict[str, str]) -> dict[str, str]:
        return {name: str(check_relative(path)) for name, path in value.items()}

    @field_validator("add_words", "add_candidates")
    @classmethod
    def _categories(cls, value: dict[str, list[str]]) -> dict[str, list[str]]:
        for category in value:
            if category not in CATEGORIES:
                raise ValueError(f"{category!r} is none of {', '.join(CATEGORIES)}")
        return value


def parse_overrides(text: bytes, *, where: str) -> Overrides:
    """Parse an overrides file. Raises `UsageError` E502 naming the file and every field that is wrong."""
    value = load_yaml(text, where=where)
    try:
        return Overrides.model_validate({} if value is None else value)
    except ValidationError as error:
        raise UsageError(f"{where}: {describe(error)}.", code="E502") from error


def load_yaml(text: bytes, *, where: str) -> Any:
    """Plain YAML values. Raises `UsageError` E502 with the line where it is not YAML, or larger than 1 MiB."""
    if len(text) > 1 << 20:
        raise UsageError(f"{where}: {len(text):,} bytes is more than 1 MiB.", code="E502")
    try:
        # the node graph first: merge keys (`<<`) copy what an alias stands for, so nested aliases grow without bound
        _check_aliases(text)
        return yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark is not None else ""
        raise UsageError(
            f"{where}{line}: not YAML: {getattr(error, 'problem', None) or type(error).__name__}.", code="E502"
        ) from error


def _check_aliases(text: bytes) -> None:
    """Refuse an alias that stands for more than one value. Scalars may be named and used again."""
    collections: set[str] = set()
    for event in yaml.parse(text, Loader=yaml.SafeLoader) if b"*" in text else ():
        if isinstance(event, yaml.CollectionStartEvent) and event.anchor:
            collections.add(event.anchor)
        elif isinstance(event, yaml.AliasEvent) and event.anchor in collections:
            mark: Any = event.start_mark
            raise yaml.MarkedYAMLError(
                problem=f"the alias *{event.anchor} stands for a list or mapping", problem_mark=mark
            )


def describe(error: ValidationError) -> str:
    """Every problem of a validation error on one line: `field: what is wrong (found ...)`."""
    problems = []
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"]) or "top level"
        message = item["msg"].removeprefix("Value error, ")
        found = _found(item["input"])
        problems.append(f"{place}: {message[0].lower() + message[1:]}{found}")
    return "; ".join(problems[:8])


def _found(value: Any) -> str:
    # a huge whole number has no decimal text (ValueError), a nested value is too long
    if isinstance(value, str | float | date) or (isinstance(value, int) and value.bit_length() < 64):
        return f" (found {str(value)[:60]!r})"
    return ""
