"""Corpora joined and cut by subject: IDs, digests and every byte of the pictures stay what they were."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from manifests.corpus import Corpus, open_corpus
from manifests.errors import NotFoundError, UsageError
from manifests.ids import SCENES, slug
from manifests.records import LedgerRow, Sample, Subject
from manifests.refs import parse_reference
from manifests.rewriting import Source, new_corpus, write_corpus

__all__ = ["merge", "split"]


def merge(places: Sequence[str | Path], output: str | Path, renames: Sequence[str] = ()) -> str:
    """Write to `output` one corpus that holds the subjects, pictures and ledger rows of all; returns its digest.

    What stands in several of them alike stands once in the new one. `renames` are `PLACE#SUBJECT=NEW`: the subject of
    that corpus gets another name, and so do the IDs of its samples. A path that two corpora found different files
    under gets `from-<n>/` in front in the n-th of them.
    Raises `UsageError` where one ID stands for different content.
    """
    if len(places) < 2:
        raise UsageError("merge needs two corpora at least.")
    wanted = [_rename(text, [str(place) for place in places]) for text in renames]
    with ExitStack() as stack:
        root = stack.enter_context(new_corpus(output))
        parts = [
            _Part(
                stack.enter_context(open_corpus(str(place))),
                str(place),
                {old: new for at, old, new in wanted if at == n},
            )
            for n, place in enumerate(places)
        ]
        samples: dict[str, tuple[Sample, Source, str]] = {}
        subjects: dict[str, tuple[Subject, str]] = {}
        ledger: dict[tuple[str, str], LedgerRow] = {}
        for number, part in enumerate(parts, 1):
            part.check_names()
            rows = [part.row(row) for row in part.corpus.ledger]
            for row in rows:
                there = ledger.get(_row_key(row))
                if row.path and there is not None and there != row:
                    part.paths[row.path] = f"from-{number}/{row.path}"
            for row in rows:
                row = replace(row, path=part.paths.get(row.path, row.path))
                ledger[_row_key(row)] = row
            for subject in map(part.subject, part.corpus.subjects.values()):
                before = subjects.setdefault(subject.id, (subject, part.place))
                if before[0] != subject:
                    raise _differs("subject", subject.id, before[1], part.place)
            for there_sample in part.corpus.samples():
                sample = part.sample(there_sample)
                content = _without_places(sample)
                first = samples.setdefault(sample.id, (content, (part.corpus, there_sample, sample), part.place))
                if first[0] != content:
                    raise _differs("sample", sample.id, first[2], part.place)
        return write_corpus(
            root,
            (source for _, source, _ in samples.values()),
            (subject for subject, _ in subjects.values()),
            ledger.values(),
            [part.corpus for part in parts],
        )


def split(ref: str, output: str | Path, rest: str | Path | None = None) -> tuple[str, str | None]:
    """Write to `output` the corpus of the subjects that `ref` names, and to `rest` that of all others.

    A subject takes along its regular pictures and scenes; what several subjects share goes to both sides. Files that
    belong to no subject are accounted for in `rest`. Merging the two gives the corpus that was cut, digest and all.
    Returns the digests. Raises `UsageError` where `ref` names anything but subjects, or all of them with a `rest`.
    """
    reference = parse_reference(ref)
    with ExitStack() as stack:
        corpus = stack.enter_context(open_corpus(reference.place))
        chosen = set(reference.ids)
        foreign = sorted(chosen - corpus.subjects.keys())
        if foreign and "/" not in foreign[0]:
            raise NotFoundError(f"no subject {foreign[0]!r} in {corpus.name}.{corpus.near(foreign[0])}", code="E503")
        if not chosen or foreign:
            raise UsageError(
                f"split takes subjects: CORPUS#SUBJECT[,SUBJECT...]{', not ' + foreign[0] if foreign else ''}."
            )
        others = corpus.subjects.keys() - chosen
        if rest is not None and not others:
            raise UsageError("all subjects are named: nothing is left for --rest.")
        samples = {sample.id: sample for sample in corpus.samples()}
        theirs, left = _held(corpus, chosen, samples), _held(corpus, others, samples)

        def write(root: Path, subjects: Iterable[str], kept: Iterable[str], rows: Iterable[LedgerRow]) -> str:
            sources = [(corpus, samples[name], samples[name]) for name in kept]
            return write_corpus(root, sources, [corpus.subjects[name] for name in subjects], rows, [corpus])

        digest = write(
            stack.enter_context(new_corpus(output)),
            chosen,
            theirs,
            [row for row in corpus.ledger if row.subject in chosen or (not row.subject and row.sample_id in theirs)],
        )
        if rest is None:
            return digest, None
        gone = theirs - left
        return digest, write(
            stack.enter_context(new_corpus(rest)),
            others,
            samples.keys() - gone,
            [row for row in corpus.ledger if row.subject not in chosen and row.sample_id not in gone],
        )


@dataclass(slots=True)
class _Part:
    """One corpus of a merge, seen through the new names of its subjects and paths."""

    corpus: Corpus
    place: str
    names: dict[str, str]
    paths: dict[str, str] = field(default_factory=dict)

    def check_names(self) -> None:
        """Raise `UsageError` for a subject that is not there, or a new name that is."""
        for old, new in self.names.items():
            if old not in self.corpus.subjects:
                raise UsageError(f"{self.place} has no subject {old!r} to rename.")
            if slug(new) != new or new == SCENES:
                raise UsageError(f"{new!r} is no name of a subject: lower-case letters, digits and dashes.")
            if new in self.corpus.subjects.keys() - self.names.keys():
                raise UsageError(f"{self.place} has a subject {new!r} already.")

    def _name(self, name: str) -> str:
        owner, slash, own = name.partition("/")
        return f"{self.names.get(owner, owner)}{slash}{own}"

    def row(self, row: LedgerRow) -> LedgerRow:
        return replace(row, subject=self._name(row.subject), sample_id=self._name(row.sample_id))

    def sample(self, sample: Sample) -> Sample:
        return replace(
            sample,
            id=self._name(sample.id),
            subject=self._name(sample.subject),
            parents=tuple(map(self._name, sample.parents)),
            source_uri=self.paths.get(sample.source_uri, sample.source_uri),
        )

    def subject(self, subject: Subject) -> Subject:
        return replace(
            subject,
            id=self._name(subject.id),
            attributes=tuple(
                replace(word, sample_ids=tuple(map(self._name, word.sample_ids))) for word in subject.attributes
            ),
            sample_ids=tuple(map(self._name, subject.sample_ids)),
            regular_ids=tuple(map(self._name, subject.regular_ids)),
            scene_ids=tuple(map(self._name, subject.scene_ids)),
        )


def _rename(text: str, places: Sequence[str]) -> tuple[int, str, str]:
    ref, equals, new = text.rpartition("=")
    place, mark, old = ref.rpartition("#")
    if not (equals and mark and old and new) or place not in places:
        raise UsageError(f"--rename takes PLACE#SUBJECT=NEW with one of the corpora as PLACE, not {text!r}.")
    return places.index(place), old, new


def _held(corpus: Corpus, subjects: Iterable[str], samples: dict[str, Sample]) -> set[str]:
    """IDs of all samples of these subjects, their scenes and shared pictures, and of what those were made from."""
    names = set(subjects)
    held = {name for name, sample in samples.items() if sample.subject in names}
    for name in names:
        held |= {*corpus.subjects[name].regular_ids, *corpus.subjects[name].scene_ids}
    while more := {parent for name in held for parent in samples[name].parents} - held:
        held |= more
    for name in held:
        owner = samples[name].subject
        if owner in corpus.subjects and owner not in names:
            raise UsageError(
                f"{owner} has to come along: {name} is a parent of a picture of {', '.join(sorted(names))}."
            )
    return held


def _row_key(row: LedgerRow) -> tuple[str, str]:
    return row.path, "" if row.path else row.sample_id


def _without_places(sample: Sample) -> Sample:
    """A sample by its content: where its bytes lie is not part of it."""
    image, mask = (replace(ref, shard="", offset=0) for ref in (sample.image, sample.mask))
    return replace(sample, image=image, mask=mask)


def _differs(what: str, name: str, first: str, second: str) -> UsageError:
    owner = name.partition("/")[0]
    return UsageError(
        f"{what} {name} differs in {first} and {second}; give one a new name with --rename {second}#{owner}=NEW."
    )
