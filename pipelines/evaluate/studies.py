"""From evaluated runs to a protocol's table, its report, and the material of a preference study."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.corpus import Corpus, open_corpus
from manifests.errors import UsageError
from manifests.fsops import write_atomic
from manifests.schema import table_from_records
from pipelines.evaluate.assembling import assemble
from pipelines.evaluate.gallery import below, cut, gallery
from pipelines.evaluate.items import REAL, Item, PairReader, read_picture, real_images
from pipelines.evaluate.pages import render
from pipelines.evaluate.preference import Group
from pipelines.evaluate.presets import Preset
from pipelines.evaluate.published import published
from pipelines.evaluate.scoring import Scored, score
from pipelines.evaluate.tables import TableRow, summarise

__all__ = ["Study", "evaluate_items", "groups_of_runs", "write_study"]


@dataclass
class Study:
    """A scored run: rows measured and published, every picture's scores, and what was left out."""

    title: str
    protocol: str
    corpus: str
    corpus_digest: str
    preset: Preset
    rows: list[TableRow]
    scored: list[Scored]
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def evaluate_items(
    items: Sequence[Item],
    corpus: Corpus,
    preset: Preset,
    folder: Path,
    *,
    title: str,
    protocol: str,
    published_tables: Sequence[str] = (),
    notes: Sequence[str] = (),
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Study:
    """Score the items with the preset, the subjects' own photographs beside them as the row `real image`."""
    metrics = assemble(preset)
    real = [
        photograph
        for task in dict.fromkeys(item.task for item in items)
        for photograph in real_images(corpus, {item.subject for item in items if item.task == task}, task=task)
    ]
    scored = score(
        [*items, *real],
        metrics,
        PairReader(corpus),
        folder / ".parts",
        on_progress=lambda done, total: on_progress("score", done, total),
    )
    # the order of methods is the caller's, the photographs last
    order = {name: number for number, name in enumerate(dict.fromkeys(item.method for item in items))}
    scored.sort(key=lambda one: (one.item.task, order.get(one.item.method, len(order)), one.item.id))
    rows = summarise(scored, metrics, protocol=protocol) + published(*published_tables)
    return Study(title, protocol, corpus.root.name, corpus.digest, preset, rows, scored, metrics.missing, list(notes))


def write_study(study: Study, folder: Path, corpus: Corpus) -> None:
    """`table.parquet` (the table), `scores.parquet` (every picture), `items.json`, `index.html` (table and gallery)."""
    table = table_from_records(TableRow, study.rows)
    write_atomic(folder / "table.parquet", lambda file: pq.write_table(table, file))
    scores = pa.Table.from_pylist(
        [
            {"id": one.item.id, "task": one.item.task, "method": one.item.method, "pair": one.item.group,
             "subject": one.item.subject, "seed": one.item.seed, "column": name, "value": value}
            for one in study.scored
            for name, value in sorted(one.scores.items())
        ],
        schema=pa.schema(
            [(name, pa.string()) for name in ("id", "task", "method", "pair", "subject")]
            + [("seed", pa.int64()), ("column", pa.string()), ("value", pa.float64())]
        ),
    )  # fmt: skip
    write_atomic(folder / "scores.parquet", lambda file: pq.write_table(scores, file))
    painted = [one.item for one in study.scored if one.item.method != REAL]
    listing = [{**asdict(item), "image": below(folder, item.image)} for item in painted]
    facts = {"corpus": os.path.relpath(corpus.root, folder), "corpus_digest": study.corpus_digest, "items": listing}
    write_atomic(folder / "items.json", f"{json.dumps(facts, indent=1)}\n".encode())
    groups = gallery(study.scored, corpus, folder)
    pairs = len({(item.task, item.group) for item in painted})
    html = render("study.html", title=study.title, study=study, tables=_tables(study), groups=groups, pairs=pairs)
    write_atomic(folder / "index.html", html.encode())


def _tables(study: Study) -> list[dict[str, Any]]:
    """One table a task: columns, and per method the row of each column."""
    tables = []
    for task in dict.fromkeys(row.task for row in study.rows):
        for source in ("measured", "published"):
            rows = [row for row in study.rows if row.task == task and row.source == source]
            if not rows:
                continue
            columns = list(dict.fromkeys(row.column for row in rows))
            methods: dict[str, dict[str, TableRow]] = defaultdict(dict)
            for row in rows:
                methods[row.method][row.column] = row
            legend = {row.column: row for row in rows} if source == "measured" else {}
            tables.append(
                {"task": task, "source": source, "columns": columns, "methods": methods, "legend": legend,
                 "protocols": sorted({row.protocol for row in rows})}
            )  # fmt: skip
    return tables


def groups_of_runs(folders: Sequence[Path]) -> list[Group]:
    """The pairs of evaluated runs that two or more methods painted, each with the first seed of every method.

    Raises `UsageError` E503 for a folder that is no evaluated run, E502 where no pair has two methods.
    """
    items: list[Item] = []
    corpora: set[str] = set()
    for folder in folders:
        path = folder / "items.json"
        if not path.is_file():
            raise UsageError(f"{folder} holds no items.json, so it is no evaluated run.", code="E503")
        value = json.loads(path.read_bytes())
        corpora.add(str((folder / value["corpus"]).resolve()))
        for entry in value["items"]:
            values = {**entry, "image": str(folder / entry["image"])}
            items.append(Item(**{**values, "box": tuple(entry["box"]), "references": tuple(entry["references"])}))
    if len(corpora) != 1:
        raise UsageError("runs over different corpora have no pairs in common.", code="E502")
    by_group: dict[tuple[str, str], dict[str, Item]] = defaultdict(dict)
    for item in sorted(items, key=lambda item: (item.task, item.group, item.method, item.seed)):
        by_group[item.task, item.group].setdefault(item.method, item)
    groups = []
    with open_corpus(corpora.pop()) as corpus:
        read = PairReader(corpus)
        for (task, name), results in by_group.items():
            if len(results) < 2:
                continue
            first = next(iter(results.values()))
            pair = read(first)
            groups.append(
                Group(
                    name=f"{task} {name}",
                    subject=first.subject,
                    prompt=first.prompt,
                    results={method: read_picture(Path(item.image), item.sha256) for method, item in results.items()},
                    scene=pair.scene,
                    reference=cut(pair.references[0]) if pair.references else None,
                )
            )
    if not groups:
        raise UsageError("no pair was painted by two methods.", code="E502")
    return groups
