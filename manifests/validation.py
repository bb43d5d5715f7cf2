"""Check a corpus against itself: quick (header, sizes, tables), full (every byte and record), or a share of it."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from manifests.corpus import Corpus, read_table
from manifests.counts import counts_of
from manifests.datafiles import check_data_file
from manifests.errors import CODES, CorpusError, IntegrityError, ReportedError, UsageError, printable
from manifests.fsops import open_below, sha256_of_file
from manifests.header import FileEntry, Header, read_header
from manifests.ids import is_sample_id, sha256_hex
from manifests.index import IdIndex
from manifests.pixels import MaskArray, decode_image, decode_mask, image_size
from manifests.records import LedgerRow, Sample, Subject
from manifests.schema import records_from_table
from manifests.shards import MemberName, check_member, mapped, read_member, scan_members
from manifests.writer import DERIVED_TABLES, json_member

__all__ = ["Problem", "foreign_problems", "validate"]

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: a code of docs/errors.md, where, and what was found."""

    code: str
    where: str
    detail: str

    def __str__(self) -> str:
        code = CODES[self.code]
        return f"{self.code} {code.slug}: {printable(self.where)}: {printable(self.detail)} {code.advice}"


def validate(
    root: str | Path,
    *,
    full: bool = False,
    decode: bool = False,
    subset: tuple[int, int] | None = None,
    on_progress: OnProgress = lambda stage, done, total: None,
) -> list[Problem]:
    """Everything that is wrong with a corpus; an empty list is a clean bill.

    The quick check reads the header and the tables and compares sizes. `full` hashes every shard and every member,
    compares every record and looks at every picture's size; `decode` decodes every picture and mask besides;
    `subset=(n, t)` does that for the n-th of t parts of the shards.
    Raises `NotFoundError` where there is no corpus, `CorpusError` where its header cannot be read.
    """
    root = Path(root)
    if subset is not None and not 1 <= subset[0] <= subset[1]:
        raise UsageError(f"a subset is (n, t) with 1 <= n <= t, not {subset}.")
    header = read_header(root).header
    problems = [problem for entry in header.files for problem in _file_problems(root, entry)]
    broken = {problem.where for problem in problems}
    tables = _tables(root, problems)
    if tables is None:
        return problems
    samples, subjects, ledger = tables
    problems += [*_row_problems(samples, subjects, ledger), *_count_problems(header, samples, subjects, ledger)]
    problems += _derived_problems(root, samples)
    if full or decode or subset:
        part, parts = subset or (1, 1)
        chosen = [entry for number, entry in enumerate(header.shards) if number % parts == part - 1]
        by_shard: dict[str, list[Sample]] = {}
        for sample in samples:
            by_shard.setdefault(sample.image.shard, []).append(sample)
        done, total = 0, sum(entry.rows for entry in chosen)
        for entry in chosen:
            if entry.path not in broken:
                for problem in _shard_problems(root, entry, by_shard.get(entry.path, []), decode):
                    if problem is None:
                        done += 1
                        on_progress("validate", done, total)
                    else:
                        problems.append(problem)
        problems += _data_problems(root, header, [entry.path for entry in chosen], by_shard, broken)
    return problems


def _file_problems(root: Path, entry: FileEntry) -> Iterator[Problem]:
    try:
        descriptor = open_below(root, entry.path)  # as a reader would: no link in any part of the path
    except OSError:
        yield Problem("E403", entry.path, "not there, or not a regular file.")
        return
    size = os.fstat(descriptor).st_size
    os.close(descriptor)
    if size != entry.size:
        yield Problem("E402", entry.path, f"{size:,} bytes, recorded are {entry.size:,}.")


def _tables(root: Path, problems: list[Problem]) -> tuple[list[Sample], list[Subject], list[LedgerRow]] | None:
    header = read_header(root).header
    try:
        return (
            records_from_table(Sample, read_table(root, header.manifest), where=header.manifest.path),
            records_from_table(Subject, read_table(root, header.subjects), where=header.subjects.path),
            records_from_table(LedgerRow, read_table(root, header.ledger), where=header.ledger.path),
        )
    except CorpusError as error:
        if not any(problem.code == error.code for problem in problems):
            problems.append(Problem(error.code, "tables", error.detail))
        return None


def _row_problems(samples: list[Sample], subjects: list[Subject], ledger: list[LedgerRow]) -> Iterator[Problem]:
    ids = [sample.id for sample in samples]
    known = set(ids)
    if ids != sorted(known):
        yield Problem("E303", "manifest", "IDs are doubled or out of order.")
    splits: dict[str, set[str]] = {}
    for sample in samples:
        yield from _sample_problems(sample, known)
        splits.setdefault(sample.subject, set()).add(sample.split)
    for owner, found in splits.items():
        if len(found) > 1:
            yield Problem("E306", owner, f"in {' and '.join(sorted(found))}.")
    for subject in subjects:
        for name in (*subject.sample_ids, *subject.regular_ids, *subject.scene_ids):
            if name not in known:
                yield Problem("E303", f"subject {subject.id}", f"names {name}, which is not in the manifest.")
        for word in subject.attributes:
            if not set(word.sample_ids) <= set(subject.sample_ids):
                yield Problem(
                    "E303", f"subject {subject.id}", f"the word {word.word!r} is supported by foreign samples."
                )
    accepted = sorted(
        row.sample_id for row in ledger if row.status == "accepted" and row.kind in ("photograph", "scene")
    )
    if accepted != sorted(sample.id for sample in samples if sample.role != "reg"):
        yield Problem("E308", "ledger", "accepted files and samples disagree.")
    paths = [row.path for row in ledger if row.path]
    if len(paths) != len(set(paths)):
        yield Problem("E303", "ledger", "a file stands twice.")
    for row in ledger:
        if row.status == "quarantined" and row.code not in CODES:
            yield Problem("E305", f"ledger {row.path}", f"unknown code {row.code!r}.")


def _sample_problems(sample: Sample, known: set[str]) -> Iterator[Problem]:
    if not is_sample_id(sample.id) or not sample.id.startswith(f"{sample.subject}/{sample.role}-"):
        yield Problem("E301", sample.id, "is no ID of its subject and role.")
    if sample.role != "reg" and not sample.id.endswith(sample.source_sha256[:12] or "?"):
        yield Problem("E301", sample.id, "does not follow from its source_sha256.")
    x0, y0, x1, y1 = sample.box_xyxy
    if not (0 <= x0 < x1 <= sample.width and 0 <= y0 < y1 <= sample.height):
        yield Problem("E211", sample.id, f"box {x0},{y0},{x1},{y1} in a picture of {sample.width}x{sample.height}.")
    for name in ("box_score", "mask_area", "mask_quality"):
        if not 0 <= getattr(sample, name) <= 1:
            yield Problem("E305", sample.id, f"{name} is {getattr(sample, name)}.")
    if sample.mask.shard != sample.image.shard:
        yield Problem("E308", sample.id, "its mask and its picture lie in different shards.")
    for parent in sample.parents:
        if parent not in known:
            yield Problem("E303", sample.id, f"its parent {parent} is not in the manifest.")
    if not sample.provenance and sample.role != "bg":
        yield Problem("E305", sample.id, "no provenance.")


def _count_problems(
    header: Header, samples: list[Sample], subjects: list[Subject], ledger: list[LedgerRow]
) -> Iterator[Problem]:
    for entry, rows in (
        (header.manifest, len(samples)),
        (header.subjects, len(subjects)),
        (header.ledger, len(ledger)),
    ):
        if entry.rows != rows:
            yield Problem("E308", entry.path, f"{rows} rows, recorded are {entry.rows}.")
    placed: dict[str, int] = {}
    for sample in samples:
        placed[sample.image.shard] = placed.get(sample.image.shard, 0) + 1
    recorded = {entry.path: entry.rows for entry in header.shards}
    if placed != recorded:
        yield Problem("E308", "shards", "the manifest's samples and the header's shards disagree.")
    counts = counts_of(samples, subjects, ledger)
    for name in sorted(counts.keys() | header.counts.keys()):
        if header.counts.get(name) != counts.get(name, header.counts.get(name)):
            yield Problem("E308", "corpus.json", f"{name} is {header.counts.get(name)}, counted are {counts[name]}.")


def _derived_problems(root: Path, samples: list[Sample]) -> Iterator[Problem]:
    opened = read_header(root)
    for name, entry in zip(DERIVED_TABLES, opened.header.tables, strict=True):
        path = root / name
        if not path.is_file() or sha256_of_file(path) != (entry.size, entry.sha256):
            yield Problem("E407", name, "differs from the committed table.")
    try:
        with Corpus(root) as corpus:
            index: IdIndex = corpus.index()
        try:
            rows = [index.row(sample.id) for sample in samples]
        finally:
            index.close()
        if rows != list(range(len(samples))):
            yield Problem("E407", "index.sqlite", "rows differ from the manifest.")
    except (sqlite3.Error, ValueError, TypeError):
        yield Problem("E407", "index.sqlite", "cannot be read.")
    except ReportedError as error:
        yield Problem(error.code, "index.sqlite", error.detail)


def _shard_problems(root: Path, entry: FileEntry, samples: list[Sample], decode: bool) -> Iterator[Problem | None]:
    """Problems of one shard; a None after each sample that was looked at."""
    with os.fdopen(open_below(root, entry.path), "rb") as file:
        data = mapped(file)
    if sha256_hex(data) != entry.sha256:
        yield Problem("E401", entry.path, "sha256 differs from the recorded one.")
    found = yield from _members(data, entry, samples)
    if found is None:
        return
    for sample in samples:
        try:
            yield from _member_problems(data, sample, found, decode)
        except CorpusError as error:
            yield Problem(error.code, sample.id, error.detail)
        except Exception as error:  # decoders raise anything on foreign bytes
            yield Problem("E401", sample.id, f"cannot be decoded: {error}.")
        yield None


def _members(
    data: memoryview, entry: FileEntry, samples: list[Sample]
) -> Generator[Problem, None, dict[str, MemberName] | None]:
    """Problems of a shard's names; returns its members by name, or None where it cannot be walked."""
    try:
        members = scan_members(data)
    except CorpusError as error:
        yield Problem(error.code, entry.path, error.detail)
        return None
    found = {member.name: member for member in members}
    if len(found) != len(members):
        yield Problem("E303", entry.path, "a member stands twice.")
    expected = {f"{s.id}.{ending}" for s in samples for ending in (s.image.format, "mask.png", "json")}
    for name in sorted(found.keys() ^ expected):
        code = "E304" if name in found else "E303"
        yield Problem(code, entry.path, f"{name} is {'foreign' if code == 'E304' else 'missing'}.")
    return found


def foreign_problems(
    root: Path, header: Header, samples: list[Sample], subjects: list[Subject], ledger: list[LedgerRow]
) -> Iterator[Problem]:
    """What a corpus from elsewhere may hold for readers to trip on, though its files are those its header names.

    Rows that contradict each other, members that the manifest does not name or that are not what it says, and data
    files without bytes or with paths. Every byte is hashed, no picture is decoded.
    """
    yield from _row_problems(samples, subjects, ledger)
    yield from _count_problems(header, samples, subjects, ledger)
    by_shard: dict[str, list[Sample]] = {}
    for sample in samples:
        by_shard.setdefault(sample.image.shard, []).append(sample)
    for entry in header.shards:
        held = by_shard.get(entry.path, [])
        with os.fdopen(open_below(root, entry.path), "rb") as file:
            shard = mapped(file)
            found = yield from _members(shard, entry, held)
            if found is None:
                continue
            for sample in held:
                for problem in _place_problems(shard, sample, found):
                    yield Problem(problem.code, entry.path, f"{sample.id}: {problem.detail}")
                try:
                    for ref in (sample.image, sample.mask):
                        read_member(file.fileno(), ref)
                except IntegrityError as error:
                    yield Problem(error.code, entry.path, f"{sample.id}: {error.detail}")
    yield from _data_problems(root, header, [entry.path for entry in header.shards], by_shard, set())


def _data_problems(
    root: Path, header: Header, shards: list[str], by_shard: dict[str, list[Sample]], broken: set[str]
) -> Iterator[Problem]:
    """Problems of the data files of these shards: the n-th data file holds the rows of the n-th shard."""
    if header.data and [entry.rows for entry in header.data] != [entry.rows for entry in header.shards]:
        yield Problem("E308", "data", "the data files and the shards disagree.")
        return
    for entry, shard in zip(header.data, header.shards, strict=False):
        if shard.path not in shards or entry.path in broken:
            continue
        with os.fdopen(open_below(root, entry.path), "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
                yield Problem("E401", entry.path, "sha256 differs from the recorded one.")
            file.seek(0)
            for error in check_data_file(file, entry.path, by_shard.get(shard.path, [])):
                yield Problem(error.code, error.where, error.detail)


def _member_problems(
    shard: memoryview, sample: Sample, found: dict[str, MemberName], decode: bool
) -> Iterator[Problem]:
    yield from _place_problems(shard, sample, found)
    data, mask_data = (
        check_member(bytes(shard[max(0, ref.offset) : max(0, ref.offset + ref.length)]), ref)
        for ref in (sample.image, sample.mask)
    )
    sizes = image_size(data, sample.image.format), image_size(mask_data, "png")
    if sizes != ((sample.height, sample.width),) * 2:
        recorded = f"recorded {sample.height}x{sample.width}"
        yield Problem("E201", sample.id, f"image {sizes[0]}, mask {sizes[1]}, {recorded}.")
    elif decode:
        decode_image(data, sample.image.format)
        yield from _area_problems(sample, decode_mask(mask_data))


def _area_problems(sample: Sample, mask: MaskArray) -> Iterator[Problem]:
    if not np.isclose(mask.mean(), sample.mask_area, atol=1e-9):
        yield Problem("E212", sample.id, f"mask area {mask.mean():.4f}, recorded {sample.mask_area:.4f}.")


def _place_problems(shard: memoryview, sample: Sample, found: dict[str, MemberName]) -> Iterator[Problem]:
    """Where a sample's members lie, and what its row says."""
    for ref, ending in ((sample.image, sample.image.format), (sample.mask, "mask.png")):
        member = found.get(f"{sample.id}.{ending}")
        if member is not None and (member.offset, member.length) != (ref.offset, ref.length):
            yield Problem("E308", sample.id, f"the {ending} member lies elsewhere than recorded.")
    text = found.get(f"{sample.id}.json")
    if text is not None and shard[text.offset : text.offset + text.length] != json_member(sample):
        yield Problem("E401", sample.id, "its json member differs from the manifest row.")
