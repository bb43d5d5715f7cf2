"""From a protocol's cases to pictures: jobs for `pipelines.run`, and its results as items to score."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from manifests.corpus import Corpus
from manifests.errors import UsageError
from manifests.fsops import write_atomic
from pipelines.evaluate.items import Item, without_identifier
from pipelines.evaluate.protocols import CANVAS, CANVAS_SIDE, Case
from pipelines.jobs import Job
from pipelines.records import read_record
from pipelines.run import Row, run
from pipelines.settings import resolve_for

__all__ = ["Method", "items_of", "jobs_of", "paint", "parse_method"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """A row of the table: `adapters` holds one folder a subject; without them it is `base` alone, or a baseline."""

    name: str
    baseline: str = ""  # a name of pipelines.baselines
    base: str = ""
    adapters: Path | None = None
    preset: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def parse_method(text: str) -> Method:
    """`base=PLACE`, `adapters=DIR`, or a baseline with what it needs; `NAME:` before it names the row. Raises E501."""
    from pipelines.baselines import BASELINES

    name, mark, what = text.partition(":")
    if not mark or "=" in name or what.startswith("//"):
        name, what = "", text
    kind, mark, place = what.partition("=")
    if kind == "base" and place:
        return Method(name=name or f"base {Path(place).name}", base=place)
    if kind == "adapters" and place:
        return Method(name=name or f"adapters {Path(place).name}", adapters=Path(place))
    forms = {known: _given(baseline.needs) for known, baseline in BASELINES.items()}
    form = forms.get(kind)
    if form is not None and bool(place) == bool(form):
        adapters = Path(place) if form == "=DIR" else None
        return Method(name=name or kind, baseline=kind, base=place if form == "=PLACE" else "", adapters=adapters)
    takes = ", ".join(["base=PLACE", "adapters=DIR", *(f"{known}{given}" for known, given in forms.items())])
    raise UsageError(f"--method takes one of {takes} (NAME: before it names the row), not {text!r}.")


def _given(needs: Sequence[str]) -> str:
    """How a method that needs these fields of a job is given its model."""
    return "=DIR" if "adapter" in needs else "=PLACE" if "base" in needs else ""


def jobs_of(method: Method, cases: Sequence[Case], corpus: Corpus, place: str, canvas: Path) -> list[Job]:
    """One job a case. What paints from a photograph (a baseline, DreamInpainter) takes another one with each seed.

    `place` is where the corpus lies, as a reference; `canvas` the picture that stands for an empty scene.
    Raises `UsageError` E503 for a subject without adapter.
    """
    from pipelines.baselines import BASELINES

    always_refers = method.baseline in BASELINES and "reference" in BASELINES[method.baseline].needs
    # a record is read once, however many of its subject's cases there are
    resolved = cache(lambda folder: resolve_for(read_record(folder).inference, method.preset, method.settings))
    jobs = []
    for case in cases:
        references = sorted(corpus.subjects[case.subject].sample_ids)
        adapter, refers = None, always_refers
        if method.adapters is not None:
            folder = method.adapters / case.subject
            if not (folder / "adapter.json").is_file():
                raise UsageError(
                    f"{method.name}: {method.adapters.name}/{case.subject} is no adapter; train it, or name subjects "
                    "with CORPUS#ID.",
                    code="E503",
                )
            adapter = str(folder)
            refers |= resolved(folder).reference is not None
        jobs.append(
            Job(
                scene=str(canvas) if case.scene == CANVAS else f"{place}#{case.scene}",
                adapter=adapter,
                base=method.base or None,
                box=case.box,
                prompt=case.prompt if adapter else without_identifier(case.prompt),
                edit=dict(case.edit) if adapter else {},
                reference=f"{place}#{references[case.seed % len(references)]}" if refers else None,
                method=method.baseline or "adapter",
                preset=method.preset,
                settings=method.settings,
                seed=case.seed,
            )
        )
    return jobs


def paint(
    methods: Sequence[Method],
    cases: Sequence[Case],
    corpus: Corpus,
    place: str,
    folder: Path,
    *,
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> list[Item]:
    """Paint every case by every method into `folder`, what is there already excepted; the results as items."""
    canvas = write_canvas(folder / "canvas.png") if any(case.scene == CANVAS for case in cases) else folder
    by_method = [(method, jobs_of(method, cases, corpus, place, canvas)) for method in methods]
    # one at a time: which jobs share a forward would depend on where a run was stopped, and so would the last bit
    rows = run([job for _, jobs in by_method for job in jobs], folder, batch_size=1, on_progress=on_progress)
    items = []
    for number, (method, _) in enumerate(by_method):
        own = rows[number * len(cases) : (number + 1) * len(cases)]
        items += items_of(method.name, cases, own, corpus, folder)
    return items


def items_of(method: str, cases: Sequence[Case], rows: Sequence[Row], corpus: Corpus, folder: Path) -> list[Item]:
    """The rows of one method, in the order of its cases, as items."""
    return [
        Item(
            id=f"{method}/{case.group}/{case.seed}",
            method=method,
            task=case.task,
            group=case.group,
            subject=case.subject,
            seed=case.seed,
            prompt=without_identifier(case.prompt),
            box=row.box_xyxy,
            references=tuple(sorted(corpus.subjects[case.subject].sample_ids)),
            image=str(folder / row.image),
            sha256=row.image_sha256,
            scene="" if case.scene == CANVAS else case.scene,
        )
        for case, row in zip(cases, rows, strict=True)
    ]


def write_canvas(path: Path) -> Path:
    """The empty scene: mid grey, what a masked picture is where nothing is known."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.full((CANVAS_SIDE, CANVAS_SIDE, 3), 128, np.uint8)).save(buffer, "PNG")
    write_atomic(path, buffer.getvalue())
    return path
