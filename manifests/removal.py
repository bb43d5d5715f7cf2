"""Takedown: a new corpus without some samples and without everything that was made from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from manifests.corpus import Corpus, open_corpus
from manifests.errors import UsageError
from manifests.records import LedgerRow, Subject
from manifests.refs import parse_reference
from manifests.rewriting import new_corpus, write_corpus

__all__ = ["remove"]

RULE = "taken-down"


def remove(ref: str, output: str | Path) -> tuple[str, list[str]]:
    """Write to `output` the corpus that `ref` names, without the samples it names and all that was made from them.

    Returns the new corpus digest and the IDs that are gone. The same bytes under another subject go too; descendants
    are found through `parents`, however many steps away. Ledger rows of removed files stay, without their sha256, as
    `ignored (taken-down)`.
    Raises `UsageError` where no ID is named or `output` is the corpus itself.
    """
    reference = parse_reference(ref)
    if not reference.ids:
        raise UsageError("remove needs IDs: CORPUS#ID[,ID...].")
    with (
        open_corpus(reference) as asked,
        open_corpus(reference.place) as corpus,
        new_corpus(output) as root,
    ):
        gone = _with_descendants(corpus, _unshared(corpus, reference.ids, asked.ids))
        if len(gone) == len(corpus):
            raise UsageError("nothing would be left; delete the corpus instead.")
        min_images = int(corpus.header.recipe.get("min_images", 1))
        wanted_subjects = {name for name in reference.ids if name in corpus.subjects}
        digest = write_corpus(
            root,
            ((corpus, sample, sample) for sample in corpus.samples() if sample.id not in gone),
            (
                _without(subject, gone, min_images)
                for subject in corpus.subjects.values()
                if subject.id not in wanted_subjects
            ),
            (
                _settled(row, gone, wanted_subjects)
                for row in corpus.ledger
                if row.path or row.subject not in wanted_subjects
            ),
            [corpus],
        )
    return digest, sorted(gone)


def _unshared(corpus: Corpus, named: Sequence[str], ids: Sequence[str]) -> list[str]:
    """The IDs without pictures of a class that only a subject's link brought in and another subject links too."""
    others = {name for subject in corpus.subjects.values() if subject.id not in named for name in subject.regular_ids}
    owners = set(named)
    return [name for name in ids if name in owners or name.partition("/")[0] in owners or name not in others]


def _with_descendants(corpus: Corpus, ids: Sequence[str]) -> set[str]:
    gone = set(ids)
    # the same photograph under another subject is the same photograph
    found = [sample for sample in corpus.samples() if sample.source_sha256]
    bytes_gone = {sample.source_sha256 for sample in found if sample.id in gone}
    gone |= {sample.id for sample in found if sample.source_sha256 in bytes_gone}
    parents = {sample.id: sample.parents for sample in corpus.samples()}
    while more := {name for name, its in parents.items() if name not in gone and gone.intersection(its)}:
        gone |= more
    return gone


def _without(subject: Subject, gone: set[str], min_images: int) -> Subject:
    """The subject without the samples, and without words that only they supported."""
    photographs = tuple(name for name in subject.sample_ids if name not in gone)
    words = []
    for word in subject.attributes:
        support = tuple(name for name in word.sample_ids if name not in gone)
        if support or not word.sample_ids:
            words.append(replace(word, sample_ids=support))
    return replace(
        subject,
        attributes=tuple(words),
        status="ok" if len(photographs) >= min_images else "insufficient",
        sample_ids=photographs,
        regular_ids=tuple(name for name in subject.regular_ids if name not in gone),
        scene_ids=tuple(name for name in subject.scene_ids if name not in gone),
    )


def _settled(row: LedgerRow, gone: set[str], subjects: set[str]) -> LedgerRow:
    if row.sample_id not in gone and row.subject not in subjects:
        return row
    return replace(row, status="ignored", rule=RULE, sample_id="", sha256="", code="", sentence="", notes=())
