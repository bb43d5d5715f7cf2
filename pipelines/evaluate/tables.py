"""The table: one row per method, task and column, and in each row all that made the number."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pipelines.evaluate.assembling import Metrics
from pipelines.evaluate.intervals import bootstrap, mean
from pipelines.evaluate.items import REAL
from pipelines.evaluate.metrics import Column
from pipelines.evaluate.scoring import Scored

__all__ = ["TableRow", "summarise"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TableRow:
    """A number and what made it."""

    protocol: Annotated[str, "which composites were made and how they were counted"]
    task: str
    method: str
    column: Annotated[str, "metric and crop rule"]
    value: Annotated[float, "mean over pairs of means over seeds; a distance between sets for FID"]
    low: Annotated[float, "95 % interval, bootstrap over subjects; NaN where there is none"]
    high: float
    better: Literal["up", "down"]
    pairs: int
    pictures: int
    subjects: int
    seeds: Annotated[str, "seeds of the pictures; `published` rows leave it empty"]
    preset: str
    model: Annotated[str, "model ID, revision and sha256 of the weights"]
    preprocessing: str
    crop: str
    source: Annotated[Literal["measured", "published"], "published: copied from a paper, made by another protocol"]
    note: str = field(default="")


def summarise(scored: Sequence[Scored], metrics: Metrics, *, protocol: str, bootstrap_seed: int = 0) -> list[TableRow]:
    """One row per task, method and column, in the order methods first appear; a column nobody has is left out."""
    of_sets = {metric.columns[0].name for metric in metrics.of_sets}
    by_method: dict[tuple[str, str], list[Scored]] = defaultdict(list)
    for one in scored:
        by_method[one.item.task, one.item.method].append(one)
    rows = []
    for (task, method), members in by_method.items():
        for column in metrics.columns:
            if column.name in of_sets:
                row = _distance(column, task, method, members, by_method.get((task, REAL), []))
            else:
                row = _mean(column, members, bootstrap_seed)
            if row is None:
                continue
            value, low, high, counted, note = row
            rows.append(
                TableRow(
                    protocol=protocol,
                    task=task,
                    method=method,
                    column=column.name,
                    value=value,
                    low=low,
                    high=high,
                    better="up" if column.better == "up" else "down",
                    pairs=len({one.item.group for one in counted}),
                    pictures=len(counted),
                    subjects=len({one.item.subject for one in counted}),
                    seeds="" if method == REAL else _seeds(counted),
                    preset=metrics.preset.title,
                    model=column.model,
                    preprocessing=column.preprocessing,
                    crop=column.crop,
                    source="measured",
                    note=note,
                )
            )
    return rows


_Row = tuple[float, float, float, list[Scored], str]


def _mean(column: Column, members: Iterable[Scored], seed: int) -> _Row | None:
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    counted = [one for one in members if column.name in one.scores]
    for one in counted:
        groups[one.item.subject, one.item.group].append(one.scores[column.name])
    if not counted:
        return None
    by_subject: dict[str, list[float]] = defaultdict(list)
    for (subject, _), values in sorted(groups.items()):
        by_subject[subject].append(mean(values))
    low, high = bootstrap(by_subject, seed=seed)
    return mean(value for values in by_subject.values() for value in values), low, high, counted, ""


def _distance(column: Column, task: str, method: str, members: Sequence[Scored], real: Sequence[Scored]) -> _Row | None:
    import numpy as np

    from pipelines.evaluate.metrics.fid import frechet_distance

    del task
    counted = [one for one in members if column.name in one.features]
    against = [one for one in real if column.name in one.features]
    note = f"against {len(against)} photographs of the subjects"
    if method == REAL:
        # the photographs have nothing to be compared with but themselves
        counted, against = counted[::2], counted[1::2]
        note = f"every other photograph against the {len(against)} between them"
    if len(counted) < 2 or len(against) < 2:
        return None
    first, second = (np.stack([one.features[column.name] for one in group]) for group in (counted, against))
    return frechet_distance(first, second), math.nan, math.nan, counted, note


def _seeds(counted: Iterable[Scored]) -> str:
    return ",".join(str(seed) for seed in sorted({one.item.seed for one in counted}))
