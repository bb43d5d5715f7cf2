"""What a build says when it is done: a short table for people, the same numbers as JSON for machines."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.table import Table

from dataforge.building import BuildResult
from manifests.console import console, echo, id_column
from manifests.corpus import open_corpus

__all__ = ["print_summary", "summary_json"]


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
