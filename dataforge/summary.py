"""What a build says when it is done: a short table for people, the same numbers as JSON for machines."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from rich.table import Table

from dataforge.building import BuildResult
from dataforge.buildlog import Status, busy
from dataforge.planning import Plan
from manifests.console import console, echo, id_column
from manifests.corpus import open_corpus
from manifests.errors import CODES

__all__ = ["print_plan", "print_status", "print_summary", "summary_json"]


def summary_json(result: BuildResult) -> dict[str, Any]:
    """The result as JSON values."""
    return {
        "digest": result.digest,
        "unchanged": result.unchanged,
        "exit_code": result.exit_code,
        "counts": result.counts,
        "quarantined_share": result.quarantined_share,
        "insufficient": list(result.insufficient),
        "stages": {name: asdict(counts) for name, counts in result.stages.items()},
        "warnings": list(result.warnings),
    }


def print_summary(result: BuildResult) -> None:
    """Subjects, totals, what was not taken and why, and where to look."""
    with open_corpus(result.root) as corpus:
        table = Table(
            id_column("subject"),
            "class noun",
            "photographs",
            "regular",
            "mask quality",
            "first words",
            box=None,
            pad_edge=False,
        )
        quality: dict[str, list[float]] = {}
        for sample in corpus.samples(role="src"):
            quality.setdefault(sample.subject, []).append(sample.mask_quality)
        subjects = list(corpus.subjects.values())
        for subject in subjects[:40]:
            words = [word.word for word in subject.attributes if word.origin == "source"][:3]
            values = quality.get(subject.id, [])
            table.add_row(
                subject.id,
                subject.class_noun,
                str(len(subject.sample_ids)),
                str(len(subject.regular_ids)),
                f"{sum(values) / len(values):.2f}" if values else "-",
                ", ".join(words),
            )
        console.print(table)
        if len(subjects) > 40:
            echo(f"... and {len(subjects) - 40} more subjects (`dataforge show {result.root}`)")
        bad = [row for row in corpus.ledger if row.status == "quarantined" and row.path]
    for row in bad[:20]:
        echo(f'not taken: "{row.path}": {row.sentence}')
    if len(bad) > 20:
        echo(f"... and {len(bad) - 20} more; all are in report/index.html")
    for warning in result.warnings:
        echo(f"warning: {warning}")
    for name in result.insufficient:
        echo(f"insufficient: subject {name} has fewer photographs than min_images")
    if result.exit_code == 3 and not result.insufficient:
        share = f"{100 * result.quarantined_share:.0f} %"
        echo(f"{share} of the files were not taken, more than --max-quarantine allows: exit 3")
    counts = result.counts
    work = ", ".join(
        f"{name} {c.computed} new {c.reused} kept" for name, c in result.stages.items() if c.computed or c.reused
    )
    echo(
        f"{counts['photographs']} photographs, {counts['regular']} regular pictures and {counts['scenes']} scenes of "
        f"{counts['subjects']} subjects; {counts['flagged']} flagged; {counts['files_found']} files found, "
        f"{counts['files_quarantined']} quarantined."
    )
    echo("Nothing had changed." if result.unchanged else f"Stages: {work}.")
    echo(f"Corpus {result.root} is {result.digest[:12]}. Look at {result.root}/report/index.html")


def print_plan(found: Plan) -> None:
    """What a build would do, stage by stage, and whether the disk can hold it."""
    echo(f"{found.photographs} photographs and {found.scenes} scenes of {found.subjects} subjects")
    table = Table("stage", "tasks", "there", "time for the rest", box=None, pad_edge=False)
    for stage in found.stages:
        table.add_row(stage.stage, f"{stage.total:,}", f"{stage.there:,}", _span(stage.seconds))
    console.print(table)
    needed = found.work_bytes + found.corpus_bytes
    echo(
        f"About {found.samples:,} samples, {_span(found.seconds)}, and {_size(needed)} on the disk "
        f"({_size(found.corpus_bytes)} corpus, {_size(found.work_bytes)} work); {_size(found.free)} are free."
    )
    for warning in found.warnings:
        echo(f"warning: {warning}")


def print_status(name: str, status: Status) -> None:
    """What a build in another terminal is at, or how the last one ended."""
    owner, last = status.owner, status.last
    if owner is not None:
        echo(f"{name} is being written by process {owner['pid']} on {owner['host']} since {owner['since']}.")
    elif last is None:
        echo(f"{name}: no build was ever logged here.")
        return
    else:
        ended = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last["at"]))
        how = {"finished": "finished", "stopped": "stopped early"}.get(last["state"], "was killed")
        echo(f"{name}: no build is running; the last one {how}, {ended}.")
    if last is None:
        return
    table = Table("stage", "done", "of", "a second", "time left", box=None, pad_edge=False)
    for stage, facts in last["stages"].items():
        left = "" if facts["left_s"] is None or owner is None else _span(facts["left_s"])
        table.add_row(stage, f"{facts['done']:,}", f"{facts['total']:,}", f"{facts['rate']:.1f}", left)
    console.print(table)
    for code, count in sorted(last["rejects"].items(), key=lambda item: -item[1]):
        echo(f"refused: {count:,} {CODES[code].meaning if code in CODES else code}")
    said = busy(last["cpu"], last["gpu"])
    if owner is not None and said:
        echo(f"busy: {', '.join(said)}")


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
