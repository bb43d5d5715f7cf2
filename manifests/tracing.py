"""Where a sample came from, and what differs between two corpora."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from manifests.corpus import Corpus, open_corpus
from manifests.errors import CorpusError
from manifests.records import LedgerRow, Sample
from manifests.schema import encode

__all__ = ["Difference", "TraceStep", "diff", "trace"]


@dataclass(frozen=True, slots=True)
class TraceStep:
    """One sample on the way back; `depth` counts the steps from where the trace began."""

    depth: int
    sample: Sample
    file: LedgerRow | None


def trace(corpus: Corpus, sample_id: str) -> list[TraceStep]:
    """The sample, its parents, their parents, down to the photographs and the files they were found as."""
    files = {
        row.sample_id: row for row in corpus.ledger if row.status == "accepted" and row.kind in ("photograph", "scene")
    }
    # parents may lie outside a selection: the whole corpus is asked
    whole = open_corpus(corpus.root)

    def walk(name: str, above: tuple[str, ...]) -> Iterator[TraceStep]:
        if name in above:
            raise CorpusError(f"{name} is its own ancestor.", code="E303")
        sample = whole[name]
        yield TraceStep(len(above), sample, files.get(name))
        for parent in sample.parents:
            yield from walk(parent, (*above, name))

    with whole:
        return list(walk(corpus[sample_id].id, ()))


@dataclass(frozen=True, slots=True)
class Difference:
    """One sample that two corpora do not share alike: added, removed, or changed in the fields named."""

    id: str
    kind: str
    fields: tuple[str, ...] = ()


def diff(first: str | Path, second: str | Path) -> list[Difference]:
    """What changed from the first corpus to the second, by ID. Places in shards do not count, bytes do."""
    with open_corpus(first) as old, open_corpus(second) as new:
        before = {sample.id: sample for sample in old.samples()}
        after = {sample.id: sample for sample in new.samples()}
    differences = [Difference(name, "removed") for name in before.keys() - after.keys()]
    differences += [Difference(name, "added") for name in after.keys() - before.keys()]
    for name in before.keys() & after.keys():
        fields = tuple(
            field for field, value in _content(before[name]).items() if value != _content(after[name])[field]
        )
        if fields:
            differences.append(Difference(name, "changed", fields))
    return sorted(differences, key=lambda item: item.id)


def _content(sample: Sample) -> dict[str, object]:
    value = encode(sample)
    return value | {"image": sample.image.sha256, "mask": sample.mask.sha256}
