"""What the pages say of the corpus as a whole: who spoke, how good the masks are, what to look at, what was refused."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dataforge.report.plan import Plan
from dataforge.report.wording import BACKENDS, FLAGS, STAGES, in_words
from manifests.corpus import Corpus
from manifests.errors import CODES
from manifests.records import LedgerRow

__all__ = [
    "FlagGroup",
    "Histogram",
    "IgnoredRule",
    "RejectGroup",
    "Rejects",
    "Spoke",
    "Stretch",
    "calibration",
    "flag_groups",
    "flat_recipe",
    "histogram",
    "provenance",
    "rejects",
    "share",
    "who_spoke",
]

HISTOGRAM_BARS = 20
# a long list of files nobody can act on is counted, not printed
LISTED = 500
# of each flag; the rest is found on the subjects' pages, where flagged pictures come first
FLAGGED_LISTED = 24


def share(value: float) -> float:
    """The value brought into 0 to 1; 0 for what is no number."""
    return min(1.0, max(0.0, value)) if math.isfinite(value) else 0.0


@dataclass(frozen=True, slots=True)
class Spoke:
    """One backend that had a part in a stage, and in how many pictures."""

    stage: str
    did: str
    backend: str
    meaning: str
    model: str
    version: str
    count: int


def provenance(corpus: Corpus) -> pa.Table:
    """What the overview reads of a manifest: role, mask quality and who spoke."""
    return corpus.columns(["role", "mask_quality", "provenance"], corpus.select_rows())


def who_spoke(table: pa.Table) -> list[Spoke]:
    """Every (stage, backend, model, version) of the provenance, in the order of the stages."""
    steps = pc.list_flatten(table.column("provenance"))
    names = ("stage", "backend", "model", "version")
    columns = pa.table({name: pc.struct_field(steps, name) for name in names})
    rows = columns.group_by(list(names), use_threads=False).aggregate([([], "count_all")]).to_pylist()
    order = list(STAGES)
    rows.sort(
        key=lambda row: (
            order.index(row["stage"]) if row["stage"] in order else len(order),
            *(row[name] for name in names),
        )
    )
    return [
        Spoke(
            row["stage"],
            STAGES.get(row["stage"], ""),
            row["backend"],
            BACKENDS.get(row["backend"], ""),
            row["model"],
            row["version"],
            row["count_all"],
        )
        for row in rows
    ]


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many photographs have which mask_quality: bars of equal width from 0 to 1."""

    bars: tuple[tuple[float, float, int], ...]
    highest: int
    total: int
    below: int
    threshold: float | None


def histogram(table: pa.Table, threshold: object) -> Histogram:
    """The mask_quality of the photographs; `threshold` is the recipe's gate.flag_below, where it is a number."""
    values = [share(v) for v in table.filter(pc.equal(table["role"], "src")).column("mask_quality").to_pylist()]
    counts = Counter(min(HISTOGRAM_BARS - 1, int(value * HISTOGRAM_BARS + 1e-9)) for value in values)
    limit = share(threshold) if isinstance(threshold, (int, float)) and not isinstance(threshold, bool) else None
    bars = tuple((n / HISTOGRAM_BARS, (n + 1) / HISTOGRAM_BARS, counts[n]) for n in range(HISTOGRAM_BARS))
    below = sum(value < limit for value in values) if limit is not None else 0
    return Histogram(bars, max(counts.values(), default=0), len(values), below, limit)


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of mask_quality: what such estimates were worth in the trial, and how many are here."""

    low: float
    high: float
    masks: int
    iou: float
    good: float
    here: int


def calibration(table: pa.Table) -> list[Stretch]:
    """How the embedded segmenter's estimates did on subjects it was not fitted on; empty where it drew no mask."""
    from dataforge.backends.mask_quality import CALIBRATION

    photographs = table.filter(pc.equal(table["role"], "src"))
    drawn = [
        share(quality)
        for quality, steps in zip(
            photographs.column("mask_quality").to_pylist(), photographs.column("provenance").to_pylist(), strict=True
        )
        if any(step["stage"] == "segment" and step["backend"] == "embedded" for step in steps)
    ]
    if not drawn:
        return []
    return [
        Stretch(
            row.low,
            row.high,
            row.masks,
            row.iou,
            row.good,
            sum(row.low <= value < row.high or value == row.high == 1.0 for value in drawn),
        )
        for row in CALIBRATION
    ]


@dataclass(frozen=True, slots=True)
class FlagGroup:
    """The pictures of one flag: why a person should look, and the first of them."""

    meaning: str
    count: int
    ids: tuple[str, ...]
    more: int


def flag_groups(plan: Plan) -> list[FlagGroup]:
    """The flagged pictures by flag, those with something a person must judge before the merely remarkable."""
    order = list(FLAGS)
    names = sorted(plan.by_flag, key=lambda flag: (order.index(flag) if flag in order else -1, flag))
    return [
        FlagGroup(in_words(FLAGS, flag), len(ids), tuple(ids[:FLAGGED_LISTED]), max(0, len(ids) - FLAGGED_LISTED))
        for flag, ids in ((name, plan.by_flag[name]) for name in names)
    ]


@dataclass(frozen=True, slots=True)
class RejectGroup:
    """Ledger rows of one code."""

    code: str
    slug: str
    meaning: str
    rows: tuple[LedgerRow, ...]


@dataclass(frozen=True, slots=True)
class IgnoredRule:
    """Files left alone by one rule; `more` of them are not listed."""

    rule: str
    count: int
    paths: tuple[str, ...]
    more: int


@dataclass(frozen=True, slots=True)
class Rejects:
    """What did not get in, and why."""

    files: tuple[RejectGroup, ...]
    made: tuple[RejectGroup, ...]
    ignored: tuple[IgnoredRule, ...]
    aliases: tuple[LedgerRow, ...]
    more_aliases: int

    @property
    def quarantined(self) -> int:
        """Files that were refused."""
        return sum(len(group.rows) for group in self.files)

    @property
    def not_kept(self) -> int:
        """Pictures that were made and not kept."""
        return sum(len(group.rows) for group in self.made)


def rejects(ledger: Sequence[LedgerRow]) -> Rejects:
    """The ledger without what was accepted, grouped by reason."""
    refused = [row for row in ledger if row.status == "quarantined"]
    aliases = [row for row in ledger if row.status == "alias"]
    ignored: dict[str, list[str]] = defaultdict(list)
    for row in ledger:
        if row.status == "ignored":
            ignored[row.rule].append(row.path)
    return Rejects(
        files=_by_code([row for row in refused if row.kind != "made"]),
        made=_by_code([row for row in refused if row.kind == "made"]),
        ignored=tuple(
            IgnoredRule(rule, len(paths), tuple(paths[:LISTED]), max(0, len(paths) - LISTED))
            for rule, paths in sorted(ignored.items())
        ),
        aliases=tuple(aliases[:LISTED]),
        more_aliases=max(0, len(aliases) - LISTED),
    )


def _by_code(rows: Sequence[LedgerRow]) -> tuple[RejectGroup, ...]:
    groups: dict[str, list[LedgerRow]] = defaultdict(list)
    for row in rows:
        groups[row.code].append(row)
    return tuple(
        RejectGroup(
            code, CODES[code].slug if code in CODES else "", CODES[code].meaning if code in CODES else "", tuple(held)
        )
        for code, held in sorted(groups.items())
    )


def flat_recipe(recipe: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every setting as a dotted key and its value as text."""
    for key, value in recipe.items():
        if isinstance(value, dict) and value:
            yield from flat_recipe(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
