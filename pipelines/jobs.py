"""What to paint, as a file or a call says it: one job a row, everything by ID. No model library is imported here.

A jobs file is YAML or JSON (a list of jobs), or JSON lines. The same schema serves adapters, baselines and evaluation.
Several subjects in one scene are one job: its own adapter, box and prompt are the first region, `also` holds the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from manifests.errors import NotFoundError, UsageError
from manifests.records import Box

__all__ = ["PROMPT", "Job", "Region", "job_from", "parse_edit", "read_jobs"]

PROMPT = "a photo of {identifier} {class_noun}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """A further subject in the scene of a job; the fields are those of `Job`."""

    adapter: str | None = None
    box: Box | None = None
    mask: str | None = None
    prompt: str = PROMPT
    local_prompt: str | None = None
    edit: dict[str, str] = field(default_factory=dict)
    remove: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One picture to paint. A job without box and mask takes the scene's own box from its corpus."""

    scene: str  # CORPUS#scenes/bg-... or a picture file
    adapter: str | None = None  # folder or hf://user/name; None for the base alone and for methods without one
    base: str | None = None  # None: the one the adapter was trained on
    box: Box | None = None  # x0,y0,x1,y1 in pixels, half-open
    mask: str | None = None  # file, white = paint here
    prompt: str = PROMPT
    local_prompt: str | None = None  # of the stage on the crop; None: the same
    edit: dict[str, str] = field(default_factory=dict)  # category -> new word
    remove: tuple[str, ...] | None = None  # words TAS removes; None: the subject's own of the edited categories
    reference: str | None = None  # CORPUS#subject/src-...: the photograph that reference methods paint from
    method: str = "adapter"  # or a baseline: see pipelines.baselines
    preset: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)  # changes to the preset
    seed: int | None = None  # None: a number of its own, from everything else that makes the result
    also: tuple[Region, ...] = ()  # more subjects, in regions of their own
    in_turn: bool = False  # one after the other, each into the last one's result; else in one run, regions disjoint

    @property
    def regions(self) -> tuple[Region, ...]:
        """Every region, the job's own first."""
        own = Region(
            adapter=self.adapter, box=self.box, mask=self.mask, prompt=self.prompt, local_prompt=self.local_prompt,
            edit=self.edit, remove=self.remove,
        )  # fmt: skip
        return own, *self.also


@cache
def _adapter() -> Any:
    from pydantic import ConfigDict, TypeAdapter, with_config

    return TypeAdapter(with_config(ConfigDict(extra="forbid"))(Job))


def job_from(values: Mapping[str, Any], *, where: str) -> Job:
    """A job from plain values. Raises `UsageError` E502 that names where, the field and what was found."""
    from pydantic import ValidationError

    try:
        job: Job = _adapter().validate_python(dict(values))
    except (ValidationError, TypeError) as error:
        if isinstance(error, TypeError):
            raise UsageError(f"{where}: a job is a mapping of fields.", code="E502") from error
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UsageError(f"{where}: {place}: {first['msg']} (found {first['input']!r}).", code="E502") from error
    if any(region.box is not None and region.mask is not None for region in job.regions):
        raise UsageError(f"{where}: a region has a box or a mask, not both.", code="E502")
    return job


def read_jobs(path: Path, defaults: Mapping[str, Any] | None = None) -> list[Job]:
    """The jobs of a file, with defaults for what they leave out. Raises `NotFoundError` E503 and `UsageError` E502."""
    import yaml

    if not path.is_file():
        raise NotFoundError(f"no jobs file {path}.")
    text = path.read_text(encoding="utf-8")
    try:
        rows: Any = (
            [json.loads(line) for line in text.splitlines() if line.strip()]
            if path.suffix == ".jsonl"
            else yaml.safe_load(text)
        )
    except (ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: {str(error).splitlines()[0]}.", code="E502") from error
    if not isinstance(rows, list) or not rows:
        raise UsageError(f"{path}: a list of jobs was expected.", code="E502")
    return [
        job_from({**(defaults or {}), **row} if isinstance(row, Mapping) else row, where=f"{path} job {number}")
        for number, row in enumerate(rows, start=1)
    ]


def parse_edit(texts: Iterable[str]) -> dict[str, str]:
    """`colour=blue,material=wood` to a mapping. Raises `UsageError` E501."""
    edit: dict[str, str] = {}
    for part in (part for text in texts for part in text.split(",")):
        category, mark, word = (piece.strip() for piece in part.partition("="))
        if not (category and mark and word):
            raise UsageError(f"--edit takes category=word[,category=word...], not {part!r}.")
        edit[category] = word
    return edit
