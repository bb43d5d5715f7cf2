"""Commit a corpus: shards, tables, then `corpus.json`. Nothing the old corpus names is touched before that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import chain, groupby, islice
from operator import attrgetter
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.counts import counts_of
from manifests.datafiles import data_path, write_data_file
from manifests.errors import CorpusError, IntegrityError, UnsupportedSchemaError, UsageError
from manifests.fsops import crashpoint, sha256_of_file, write_atomic, write_named_by_content
from manifests.header import HEADER_NAME, FileEntry, Header, read_header, write_header
from manifests.ids import check_id, sha256_hex
from manifests.index import INDEX_NAME, write_index
from manifests.records import LedgerRow, MemberRef, Sample, Subject
from manifests.schema import arrow_schema, table_from_records
from manifests.shards import Member, ShardSample, member_offsets, shard_digest, shard_size, write_shard

__all__ = ["CorpusContent", "UnpackedSample", "check_output", "commit_corpus", "remove_unnamed", "write_derived"]

# few rows a group: one sample or one subject is read without decoding a large part of the table
ROWS_PER_GROUP = 4096
# as Python objects a row is many times as large as in Arrow: so few of them are made at a time
ROWS_AT_A_TIME = 256
DERIVED_TABLES = ("manifest.parquet", "subjects.parquet", "ledger.parquet")


@dataclass(frozen=True, slots=True)
class UnpackedSample:
    """A sample whose member references hold format, length and sha256 but no place yet, and its bytes on demand."""

    sample: Sample
    image: Callable[[], bytes]
    mask: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class CorpusContent:
    """All that a corpus is made of. `samples` is called more than once and yields in ID order each time."""

    samples: Callable[[], Iterator[UnpackedSample]]
    subjects: Sequence[Subject]
    ledger: Sequence[LedgerRow]
    recipe: dict[str, Any]
    made_with: dict[str, str]
    shard_bytes: int
    parquet: bool = False  # write data/*.parquet too


def json_member(sample: Sample) -> bytes:
    """The `<key>.json` member: the manifest row without the places of its own bytes; every field always present,
    names in alphabetical order."""
    return _encoder.encode(dict(zip(_JSON_FIELDS, _json_values(sample), strict=True))).encode()


@cache
def _spread(record: Any) -> tuple[list[str], attrgetter[tuple[Any, ...]]]:
    names = sorted(item.name for item in fields(record))
    return names, attrgetter(*names)


def _as_dict(record: Any) -> dict[str, Any]:
    kind: Any = type(record)
    names, values = _spread(kind)
    return dict(zip(names, values(record), strict=True))


_JSON_FIELDS = sorted(item.name for item in fields(Sample) if item.name not in ("image", "mask"))
_json_values = attrgetter(*_JSON_FIELDS)
# records inside are spread by the encoder itself: several times as fast as copying all of it into dicts first
_encoder = json.JSONEncoder(default=_as_dict, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _shard_sample(unpacked: UnpackedSample) -> ShardSample:
    sample = unpacked.sample
    text = json_member(sample)
    return ShardSample(
        sample.id,
        (
            Member(sample.image.format, sample.image.length, sample.image.sha256, unpacked.image),
            Member("mask.png", sample.mask.length, sample.mask.sha256, unpacked.mask),
            # made again when it is written: a shard's worth of them would be the largest thing in memory
            Member("json", len(text), sha256_hex(text), lambda: json_member(sample)),
        ),
    )


def _cuts_after(owner: str, owner_bytes: int, size: int, target: int) -> bool:
    """Whether a shard ends after this owner: by the owner's own name and size, so that a changed or new subject
    moves few other cuts (content-defined, as in content-defined chunking of files)."""
    if size < target // 4:
        return False
    chance = min(1.0, 2 * owner_bytes / target)
    return int.from_bytes(hashlib.sha256(owner.encode()).digest()[:8]) < chance * 2**64


def plan_shards(samples: Iterable[UnpackedSample], target: int) -> Iterator[tuple[str, list[ShardSample]]]:
    """Cut samples, in ID order, into shards: (name, samples). Owners are never cut; scenes and splits never mix."""
    open_shards: dict[str, tuple[list[ShardSample], int]] = {}
    for (owner, split), group in groupby(samples, key=lambda item: (item.sample.subject, item.sample.split)):
        name = "scenes" if owner == "scenes" else split
        members = [_shard_sample(item) for item in group]
        size = shard_size(members)
        held, held_size = open_shards.pop(name, ([], 0))
        if held and held_size + size > target:
            yield name, held
            held, held_size = [], 0
        held, held_size = held + members, held_size + size
        if _cuts_after(owner, size, held_size, target):
            yield name, held
        else:
            open_shards[name] = (held, held_size)
    yield from ((name, held) for name, (held, _) in sorted(open_shards.items()))


def check_output(root: Path) -> None:
    """Refuse an output folder that holds foreign files, before anything is written to it."""
    if not root.exists():
        return
    if not root.is_dir():
        raise UsageError(f"{root} is a file.", code="E504")
    ours = (root / HEADER_NAME).exists() or (root / ".work").is_dir()
    if not ours and any(root.iterdir()):
        raise UsageError(f"{root} is neither empty nor a corpus.", code="E504")


def commit_corpus(root: Path, content: CorpusContent) -> str:
    """Write everything a corpus is made of and commit it; returns the corpus digest.

    The caller holds the output's lock. Shards whose bytes are already there under the old header are kept, not
    written again. Raises `IntegrityError` where content contradicts itself and `EnvironmentFault` where the disk
    refuses; the old corpus is whole in both cases.
    """
    known = _known_files(root)
    places: dict[str, tuple[str, int, int]] = {}
    shards: list[FileEntry] = []
    data: dict[str, FileEntry] = {}
    for name, members in plan_shards(content.samples(), content.shard_bytes):
        relative = f"shards/{name}-{shard_digest(members)[:16]}.tar"
        size = shard_size(members)
        entry = known.get(relative)
        if entry is None or not _is_whole(root, entry):  # hashed: a rotten shard is not carried along
            sha256 = write_shard(root / relative, members)
            entry = FileEntry(path=relative, size=size, sha256=sha256, rows=len(members))
        shards.append(entry)
        if content.parquet:
            data[relative] = _write_data(root, relative, members, known)
        offsets = member_offsets(members)
        for member in members:
            image = member.members[0].ending
            places[member.key] = (relative, offsets[member.key, image], offsets[member.key, "mask.png"])
    crashpoint("shards done")

    def placed() -> Iterator[Sample]:
        for unpacked in content.samples():
            sample = unpacked.sample
            shard, image, mask = places[sample.id]
            yield replace(
                sample,
                image=replace(sample.image, shard=shard, offset=image),
                mask=replace(sample.mask, shard=shard, offset=mask),
            )

    header = Header(
        manifest=_write_table(root, "manifest-{}.parquet", Sample, placed()),
        subjects=_write_table(root, "subjects-{}.parquet", Subject, iter(content.subjects)),
        ledger=_write_table(root, "ledger-{}.parquet", LedgerRow, iter(content.ledger)),
        shards=sorted(shards, key=lambda entry: entry.path),
        # the n-th data file holds the rows of the n-th shard
        data=[data[path] for path in sorted(data)],
        counts=counts_of((item.sample for item in content.samples()), content.subjects, content.ledger),
        recipe=content.recipe,
        made_with=content.made_with,
    )
    crashpoint("before commit")
    digest = write_header(root, header)
    crashpoint("after commit")
    return digest


def _write_data(root: Path, shard: str, members: Sequence[ShardSample], known: dict[str, FileEntry]) -> FileEntry:
    path = data_path(shard, members)
    entry = known.get(path)
    if entry is not None and _is_whole(root, entry):
        return entry
    sha256 = write_data_file(root / path, members)
    return FileEntry(path=path, size=(root / path).stat().st_size, sha256=sha256, rows=len(members))


def _known_files(root: Path) -> dict[str, FileEntry]:
    if not (root / HEADER_NAME).exists():
        return {}
    try:
        return {entry.path: entry for entry in read_header(root).header.files}
    except UnsupportedSchemaError:  # a newer program's corpus is not ours to write over
        raise
    except CorpusError:
        return {}


def _is_whole(root: Path, entry: FileEntry) -> bool:
    path = root / entry.path
    return _has_size(path, entry.size) and sha256_of_file(path)[1] == entry.sha256


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size == size


def _batches(rows: Iterator[Any], size: int) -> Iterator[Iterator[Any]]:
    """The rows, so many at a time; each batch is gone through before the next is asked for."""
    for first in rows:
        yield chain([first], islice(rows, size - 1))


def _write_table(root: Path, pattern: str, record: type, rows: Iterator[Any]) -> FileEntry:
    count, last = 0, ""

    def checked(row: Any) -> Any:
        nonlocal last
        if record is Sample:
            check_id(row.id)
            if row.id <= last:
                raise IntegrityError(f"{row.id} stands twice or out of order.", code="E303")
            last = row.id
        return row

    def write(file: IO[bytes]) -> None:
        nonlocal count
        with pq.ParquetWriter(
            file,
            arrow_schema(record),
            compression="zstd",
            write_page_checksum=True,
            write_page_index=True,
            store_schema=True,
        ) as writer:
            for group in _batches(map(checked, rows), ROWS_PER_GROUP):
                tables = [table_from_records(record, batch) for batch in _batches(group, ROWS_AT_A_TIME)]
                table = pa.concat_tables(tables).combine_chunks()
                writer.write_table(table, row_group_size=ROWS_PER_GROUP)
                count += len(table)
                del tables, table
                # Arrow keeps what it was given for next time: some 20 MB that a build would carry to its end
                pa.default_memory_pool().release_unused()

    path, size, sha256 = write_named_by_content(root, pattern, write)
    return FileEntry(path=path.name, size=size, sha256=sha256, rows=count)


def write_derived(root: Path, samples: Iterable[Sample]) -> None:
    """Make the fixed-name files that people and tools use from the committed ones: table copies and the ID index."""
    opened = read_header(root)
    header = opened.header
    for name, entry in zip(DERIVED_TABLES, header.tables, strict=True):
        copy = root / name
        if not _has_size(copy, entry.size) or copy.read_bytes() != (root / entry.path).read_bytes():
            write_atomic(copy, (root / entry.path).read_bytes())
        crashpoint(f"derived {name}")
    write_index(root, opened.digest, samples)
    crashpoint(f"derived {INDEX_NAME}")


def remove_unnamed(root: Path) -> list[str]:
    """Delete committed-style files that the header no longer names; returns their paths. The caller holds the lock."""
    named = {entry.path for entry in read_header(root).header.files}
    removed: list[str] = []
    candidates = [
        *root.glob("*-????????????????.parquet"),
        *(root / "shards").glob("*.tar"),
        *(root / "data").glob("*.parquet"),
    ]
    for path in sorted(candidates):
        relative = path.relative_to(root).as_posix()
        if relative not in named:
            path.unlink()
            removed.append(relative)
            crashpoint(f"removed {relative}")
    return removed


def unpacked(sample: Sample, image: Callable[[], bytes], mask: Callable[[], bytes]) -> UnpackedSample:
    """A committed sample made ready to be packed again, with its places forgotten."""
    return UnpackedSample(replace(sample, image=_forget(sample.image), mask=_forget(sample.mask)), image, mask)


def _forget(ref: MemberRef) -> MemberRef:
    return replace(ref, shard="", offset=0)
