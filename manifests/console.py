"""What the command line prints: text for people on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import rich.console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from manifests.corpus import Corpus
from manifests.errors import printable
from manifests.records import Attribute, Sample, SubjectAttribute
from manifests.tracing import CompositeTrace, TraceStep

__all__ = [
    "Bars",
    "echo",
    "emit_json",
    "id_column",
    "progress",
    "samples_table",
    "show_composite",
    "show_corpus",
    "show_sample",
    "show_subject",
    "show_trace",
]

# off a terminal nothing is narrow: a file or pipe gets whole lines
console = rich.console.Console(highlight=False, soft_wrap=True, emoji=False, width=None if sys.stdout.isatty() else 200)


def echo(text: str) -> None:
    """Print a line as it is; control characters in it are escaped, markup is not interpreted."""
    console.print("\n".join(printable(line) for line in text.split("\n")), markup=False)


def emit_json(value: Any, *, indent: int | None = 1) -> None:
    """Print a value as JSON in ASCII: what a machine reads is not styled, wrapped or escaped twice."""
    sys.stdout.write(json.dumps(value, indent=indent) + "\n")


def id_column(title: str) -> Column:
    """A table column that is never cut: an ID with its end missing is no ID."""
    return Column(title, no_wrap=True, overflow="ignore")


def _safe(text: str) -> str:
    return escape(printable(text))


class _Rate(TextColumn):
    def __init__(self) -> None:
        super().__init__("{task.speed}")

    def render(self, task: Any) -> Any:
        from rich.text import Text

        return Text(f"{task.finished_speed or task.speed or 0:.1f}/s", style="progress.data.speed")


class Bars:
    """Called with `(stage, done, total)`: bars with rate and time left, or plain lines off a terminal.

    `note` shows a short text below the bars.
    """

    def __init__(self, bars: _NotedProgress | None) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._totals: dict[str, tuple[int, int]] = {}
        self._quarters: dict[str, int] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show how far a stage is."""
        if self._bars is None:
            self._line(stage, done, total)
            return
        # a stage may run twice (photographs, then made pictures): its bar goes on, it does not start over
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total)
        before, last_total = self._totals.get(stage, (0, total))
        if done == 0 and total != last_total:
            before += last_total
        self._totals[stage] = (before, total)
        self._bars.update(self._tasks[stage], completed=before + done, total=before + total)

    def _line(self, stage: str, done: int, total: int) -> None:
        # a line at each quarter: a log file stays readable
        quarter = 4 * done // total if total else 4
        if total and quarter > self._quarters.get(stage, -1):
            self._quarters[stage] = quarter
            print(f"{stage}: {done}/{total}", file=sys.stderr, flush=True)  # noqa: T201 the console is what prints

    def note(self, text: str) -> None:
        """Show a text below the bars; nothing off a terminal."""
        if self._bars is not None:
            self._bars.note = text


@contextlib.contextmanager
def progress() -> Iterator[Bars]:
    """Bars with rate and time left on a terminal, plain lines elsewhere: call it with `(stage, done, total)`."""
    if not sys.stderr.isatty():
        yield Bars(None)
        return
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with _NotedProgress(*columns, console=rich.console.Console(stderr=True)) as bars:
        yield Bars(bars)


class _NotedProgress(Progress):
    """Bars with a line of text below them."""

    note = ""

    def get_renderables(self) -> Iterable[rich.console.RenderableType]:
        yield from super().get_renderables()
        if self.note:
            from rich.text import Text

            yield Text(self.note, style="dim")


def show_corpus(corpus: Corpus) -> None:
    """Totals and subjects of a corpus."""
    counts = corpus.header.counts
    echo(
        f"corpus {corpus.digest[:12]}: {counts['photographs']} photographs, {counts['regular']} regular pictures, "
        f"{counts['scenes']} scenes of {counts['subjects']} subjects; {counts['flagged']} flagged, "
        f"{counts['files_quarantined']} files quarantined"
    )
    table = Table(
        id_column("subject"),
        "class noun",
        "photographs",
        "regular",
        "split",
        "words",
        "status",
        box=None,
        pad_edge=False,
    )
    for subject in corpus.subjects.values():
        words = ", ".join(word.word for word in subject.attributes if word.origin == "source")
        table.add_row(
            subject.id,
            _safe(subject.class_noun),
            str(len(subject.sample_ids)),
            str(len(subject.regular_ids)),
            subject.split,
            _safe(words),
            subject.status,
        )
    console.print(table)
    for row in corpus.ledger:
        if row.status == "quarantined" and row.path:
            echo(f"quarantined {row.path}: {row.sentence}")
    echo("Look closer: `dataforge show CORPUS#SUBJECT`, `dataforge ls CORPUS`, report/index.html.")


def show_subject(corpus: Corpus, name: str) -> None:
    """Everything known of a subject."""
    subject = corpus.subjects[name]
    noun = f"{subject.class_noun} (noun from {subject.class_noun_origin})"
    echo(f"{subject.id}: {noun}, {subject.status}, {subject.split}")
    _facts(
        ("folder", subject.name),
        ("licence", subject.licence or "not stated"),
        ("credit", subject.credit or "not stated"),
        ("consent", subject.consent or "not stated"),
        ("prompt", subject.instance_prompt),
        ("has", _words([word for word in subject.attributes if word.origin == "source"])),
        ("could have", _words([word for word in subject.attributes if word.origin == "candidate"])),
    )
    for title, ids in (
        ("photographs", subject.sample_ids),
        ("regular", subject.regular_ids),
        ("scenes", subject.scene_ids),
    ):
        echo(f"  {title} ({len(ids)})")
        for sample_id in ids:
            sample = corpus.record(sample_id)
            flags = f"  [{', '.join(sample.flags)}]" if sample.flags else ""
            echo(f"    {sample_id}  {sample.caption or sample.prompt}{flags}")


def _words(words: list[SubjectAttribute] | list[Attribute]) -> str:
    return ", ".join(f"{word.category} {word.word} ({word.score:.2f})" for word in words) or "nothing"


def _facts(*facts: tuple[str, str]) -> None:
    for name, value in facts:
        echo(f"  {name:<11} {value}")


def show_sample(corpus: Corpus, sample_id: str) -> None:
    """Everything known of a sample and where it came from."""
    sample = corpus.record(sample_id)
    roles = {"src": "photograph", "reg": "regular picture", "bg": "scene"}
    of = "" if sample.role == "bg" else f" of {sample.subject}"
    echo(f"{sample.id}: {roles[sample.role]}{of}, class {sample.class_noun or 'any'}, {sample.split}")
    x0, y0, x1, y1 = sample.box_xyxy
    found_by, cut_by = _by(sample, "ground", "segment", "generate"), _by(sample, "segment", "generate")
    size = f"{sample.width}x{sample.height} {sample.image.format}, {sample.image.length:,} bytes"
    facts = [
        ("picture", f"{size} in {sample.image.shard}"),
        ("box", f"{x0},{y0},{x1},{y1} (score {sample.box_score:.2f}, by {found_by})"),
        ("mask", f"{100 * sample.mask_area:.1f} % of the picture, quality {sample.mask_quality:.2f} (by {cut_by})"),
        ("flags", ", ".join(sample.flags) or "none"),
        ("caption", f"{sample.caption} (by {_by(sample, 'describe', 'compose')})" if sample.caption else "none"),
        ("prompt", sample.prompt or "none"),
        ("words", _words(list(sample.attributes))),
        ("licence", sample.licence or "not stated"),
    ]
    if sample.source_sha256:
        facts.append(("from", f"{sample.source_uri}, sha256 {sample.source_sha256[:16]}..."))
    if sample.parents:
        facts.append(("made from", ", ".join(sample.parents)))
    _facts(*facts)
    for row in corpus.ledger:
        if row.sample_id == sample.id and row.notes:
            echo(f"  notes       {'; '.join(row.notes)}")
    echo("  made by")
    for step in sample.provenance:
        model = f" {step.model}" if step.model else ""
        seed = f", seed {step.seed}" if step.seed else ""
        echo(f"    {step.stage:<9} {step.backend}{model} {step.version} (settings {step.settings_digest}{seed})")
    place = f"CORPUS#{sample.id}"
    echo(f"  See it: report/index.html, or `dataforge show {place} --image picture.png --mask mask.png`.")


def _by(sample: Sample, *stages: str) -> str:
    named = [step.backend for stage in stages for step in sample.provenance if step.stage == stage]
    return named[0] if named else "given"


def samples_table(rows: list[dict[str, Any]]) -> None:
    """Manifest rows as a table."""
    table = Table(id_column("id"), "split", "size", "mask", "quality", "flags", "caption", box=None, pad_edge=False)
    for row in rows:
        table.add_row(
            row["id"],
            row["split"],
            f"{row['width']}x{row['height']}",
            f"{100 * row['mask_area']:.0f} %",
            f"{row['mask_quality']:.2f}",
            _safe(", ".join(row["flags"])),
            _safe(row["caption"]),
        )
    console.print(table)
    echo(f"{len(rows)} samples")


def show_composite(composite: CompositeTrace) -> None:
    """A composite, what painted it, and the way back from each sample behind it."""
    row = composite.row
    echo(f"{row['id']}  {row['prompt']}")
    edit = ", ".join(f"{pair['category']} = {pair['word']}" for pair in row["edit"])
    _facts(
        ("picture", f"{row['image']}, sha256 {row['image_sha256']}"),
        ("scene", f"{row['scene']} at {','.join(map(str, row['box_xyxy']))}"),
        ("edit", edit or "none"),
        ("removed", ", ".join(row["removed_words"]) or "nothing"),
        (
            "adapter",
            f"{row['adapter'] or 'none'} {row['adapter_digest'][:12]} in {row['adapter_place'] or 'no folder'}",
        ),
        ("base", f"{row['base']} {row['base_digest'][:12]}"),
        ("corpus", f"{row['corpus'] or 'none'} {row['corpus_digest'][:12]}"),
    )
    if composite.missing:
        echo(f"  the way back ends here: {composite.missing}")
    show_trace(composite.steps)


def show_trace(steps: list[TraceStep]) -> None:
    """A trace, one indented block per sample."""
    for step in steps:
        pad = "  " * step.depth
        sample = step.sample
        echo(f"{pad}{sample.id}  {sample.caption or sample.prompt}")
        for made in sample.provenance:
            echo(f"{pad}  {made.stage} by {made.backend}{' ' + made.model if made.model else ''} {made.version}")
        if step.file is not None:
            echo(f"{pad}  file {step.file.path}, sha256 {step.file.sha256}")
            for note in step.file.notes:
                echo(f"{pad}  {note}")
