"""Scores of many items: batches are read ahead, computed, and written down at once; what is there is not redone.

A part file holds one batch and is named by everything that decides its content, so a run that was killed goes on
with the first batch that is missing, and gives the same bytes as a run that was not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.fsops import write_atomic
from manifests.ids import digest_of
from pipelines.evaluate.assembling import Metrics
from pipelines.evaluate.items import REAL, Item
from pipelines.evaluate.metrics.overall import overall
from pipelines.evaluate.pairs import Pair, as_seen
from pipelines.evaluate.reading import read_ahead

__all__ = ["Scored", "score"]

BATCH = 16
_SCHEMA = pa.schema(
    [("id", pa.string()), ("column", pa.string()), ("value", pa.float64()), ("features", pa.list_(pa.float32()))]
)


@dataclass(frozen=True)
class Scored:
    """An item's scores by column, and its features by column of the metrics over sets."""

    item: Item
    scores: dict[str, float]
    features: dict[str, npt.NDArray[np.float32]]


def score(
    items: Sequence[Item],
    metrics: Metrics,
    read: Callable[[Item], Pair],
    parts: Path,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Scored]:
    """Score every item, in the order of their IDs; `parts` keeps finished batches between runs."""
    ordered = sorted(items, key=lambda item: item.id)
    columns = [dataclasses.asdict(column) for column in metrics.columns]
    made_by = [metrics.preset.digest, metrics.masked_by, columns]
    batches = [ordered[start : start + BATCH] for start in range(0, len(ordered), BATCH)]
    places = [parts / f"{digest_of([made_by, [_key(item) for item in batch]])[:24]}.parquet" for batch in batches]
    absent = [batch for batch, place in zip(batches, places, strict=True) if not place.is_file()]
    # one thread job is one item, so that a batch is read by all threads and not by one
    pairs = read_ahead((item for batch in absent for item in batch), read, ahead=2 * BATCH)
    scored: list[Scored] = []
    on_progress(0, len(ordered))
    with ThreadPoolExecutor(1, thread_name_prefix="parts") as writer:
        written: Future[None] | None = None
        for batch, place in zip(batches, places, strict=True):
            if place.is_file():
                table = pq.read_table(place)
            else:
                table = _compute(batch, [_with_mask(next(pairs), item, metrics) for item in batch], metrics)
                if written is not None:
                    written.result()
                # to disk while the next batch is computed: a sync takes longer than a small model
                written = writer.submit(_write, place, table)
            scored += _scored(batch, table)
            on_progress(len(scored), len(ordered))
        if written is not None:
            written.result()
    return scored


def _write(place: Path, table: pa.Table) -> None:
    write_atomic(place, lambda file: pq.write_table(table, file))


def _key(item: Item) -> list[object]:
    return [item.id, item.sha256, item.scene, list(item.box), item.prompt, list(item.references)]


def _with_mask(pair: Pair, item: Item, metrics: Metrics) -> Pair:
    """The pair with a mask of what was painted, if there is a segmenter and it has none."""
    if metrics.segmenter is None or item.method == REAL or pair.composite.mask is not None:
        return pair
    mask = metrics.segmenter.mask(pair.composite.image, pair.box)
    return dataclasses.replace(pair, composite=dataclasses.replace(pair.composite, mask=mask))


def _compute(batch: Sequence[Item], pairs: Sequence[Pair], metrics: Metrics) -> pa.Table:
    scores: list[dict[str, float]] = [{} for _ in batch]
    for metric in metrics.of_pairs:
        for known, new in zip(scores, metric.score(pairs), strict=True):
            known.update(new)
    rows: list[tuple[str, str, float | None, npt.NDArray[np.float32] | None]] = []
    for item, known in zip(batch, scores, strict=True):
        if metrics.preset.overall:
            known.update(overall(known))
        rows += [(item.id, name, value, None) for name, value in sorted(known.items())]
    for measure in metrics.of_sets:
        seen = [
            (item, pair.composite)
            for item, pair in zip(batch, pairs, strict=True)
            if as_seen(pair.composite, measure.crop) is not None
        ]
        if seen:
            features = measure.features([view for _, view in seen])
            name = measure.columns[0].name
            rows += [(item.id, name, None, row) for (item, _), row in zip(seen, features, strict=True)]
    columns = zip(*rows, strict=True) if rows else ([],) * len(_SCHEMA)
    arrays = [pa.array(list(column), field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=_SCHEMA)


def _scored(batch: Sequence[Item], table: pa.Table) -> Iterator[Scored]:
    found: dict[str, Scored] = {item.id: Scored(item, {}, {}) for item in batch}
    for row in table.to_pylist():
        if row["value"] is not None:
            found[row["id"]].scores[row["column"]] = row["value"]
        else:
            found[row["id"]].features[row["column"]] = np.asarray(row["features"], np.float32)
    yield from found.values()
