"""Where a sample came from, and what differs between two corpora."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from manifests.corpus import Corpus, open_corpus
from manifests.errors import CorpusError, NotFoundError, ReportedError
from manifests.records import LedgerRow, Sample
from manifests.refs import parse_reference
from manifests.schema import encode

__all__ = ["CompositeTrace", "Difference", "TraceStep", "diff", "diff_subjects", "trace", "trace_composite"]

RESULTS_NAME = "results.parquet"


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
        sample = whole.record(name)
        yield TraceStep(len(above), sample, files.get(name))
        for parent in sample.parents:
            yield from walk(parent, (*above, name))

    with whole:
        return list(walk(corpus[sample_id].id, ()))


@dataclass(frozen=True, slots=True)
class CompositeTrace:
    """A composite's row in its result folder, and the way back from each sample its adapter was trained on.

    `missing` says why `steps` is empty: the corpus is not where the row says, or is another by now.
    """

    row: dict[str, Any]
    steps: list[TraceStep]
    missing: str = ""


def trace_composite(folder: Path, name: str) -> CompositeTrace:
    """From a composite (its ID, job key or picture) in a result folder back to the photographs and files.

    Raises `NotFoundError` E503 for a name that is not there.
    """
    import difflib

    import pyarrow.parquet as pq

    rows = pq.ParquetFile(folder / RESULTS_NAME, pre_buffer=False).read(use_threads=False).to_pylist()
    names = {alias: row for row in rows for alias in (row["image"], row["job"], row["id"])}
    if name not in names:
        near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.4)
        raise NotFoundError(f"no result {name!r} in {folder.name}.{f' Did you mean {near[0]}?' if near else ''}")
    row = names[name]
    if not row["sample_ids"]:
        return CompositeTrace(row, [], "no adapter had a part in it.")
    try:
        # what was trained on may be a selection; the way back is asked of the whole
        with open_corpus(replace(parse_reference(row["corpus"]), ids=())) as corpus:
            steps = [step for sample in row["sample_ids"] for step in trace(corpus, sample)]
    except ReportedError as error:
        return CompositeTrace(row, [], str(error))
    return CompositeTrace(row, steps)


@dataclass(frozen=True, slots=True)
class Difference:
    """One sample or subject that two corpora do not share alike: added, removed, or changed in the fields named.

    `words` says how its words changed: `+ colour teal (candidate)`, `- ...`, or `~ ...` for another score.
    """

    id: str
    kind: str
    fields: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


def diff(first: str | Path, second: str | Path) -> list[Difference]:
    """What changed from the first corpus to the second, by sample ID. Places in shards do not count, bytes do."""
    with open_corpus(first) as old, open_corpus(second) as new:
        before = {sample.id: _content(sample) for sample in old.samples()}
        after = {sample.id: _content(sample) for sample in new.samples()}
    return _differences(before, after)


def diff_subjects(first: str | Path, second: str | Path) -> list[Difference]:
    """What changed from the first corpus to the second, by subject: words, prompts, which samples it has."""
    with open_corpus(first) as old, open_corpus(second) as new:
        before = {name: encode(old.subjects[name]) for name in _subjects_of(old)}
        after = {name: encode(new.subjects[name]) for name in _subjects_of(new)}
    return _differences(before, after)


def _subjects_of(corpus: Corpus) -> set[str]:
    """The subjects that the selection has samples of."""
    return {name.partition("/")[0] for name in corpus} & set(corpus.subjects)


def _differences(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> list[Difference]:
    differences = [Difference(name, "removed") for name in before.keys() - after.keys()]
    differences += [Difference(name, "added") for name in after.keys() - before.keys()]
    for name in before.keys() & after.keys():
        old, new = before[name], after[name]
        fields = tuple(field for field, value in old.items() if value != new[field])
        if fields:
            differences.append(Difference(name, "changed", fields, _words(old, new)))
    return sorted(differences, key=lambda item: item.id)


def _words(before: dict[str, Any], after: dict[str, Any]) -> tuple[str, ...]:
    old, new = (
        {f"{word['category']} {word['word']} ({word['origin']})": word["score"] for word in value["attributes"]}
        for value in (before, after)
    )
    changed = [f"- {word}" for word in old.keys() - new.keys()] + [f"+ {word}" for word in new.keys() - old.keys()]
    changed += [
        f"~ {word} {old[word]:.2f} to {new[word]:.2f}" for word in old.keys() & new.keys() if old[word] != new[word]
    ]
    return tuple(sorted(changed, key=lambda line: (line[2:], line[0])))


def _content(sample: Sample) -> dict[str, Any]:
    value = encode(sample)
    return value | {"image": sample.image.sha256, "mask": sample.mask.sha256}
