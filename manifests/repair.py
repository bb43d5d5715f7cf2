"""Repair: bring back what a damaged corpus lost from copies of the same bytes, or say what cannot come back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from manifests.corpus import Corpus, read_table
from manifests.datafiles import write_data_file
from manifests.errors import CorpusError, IntegrityError
from manifests.fsops import open_below, sha256_of_file, write_atomic
from manifests.header import FileEntry, read_header
from manifests.ids import sha256_hex
from manifests.records import MemberRef, Sample
from manifests.shards import Member, ShardSample, read_member, write_shard
from manifests.writer import DERIVED_TABLES, json_member

__all__ = ["RepairReport", "repair"]

# sha256 to the bytes, or None where no copy is known
FetchBlob = Callable[[str], bytes | None]


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What was damaged and is whole again, and what is lost: IDs whose bytes no copy holds, and data files that this
    version of pyarrow cannot write as they were."""

    mended: tuple[str, ...]
    lost: tuple[str, ...]


def repair(root: Path, fetch: FetchBlob = lambda sha256: None) -> RepairReport:
    """Rewrite only what is damaged. The caller holds the output's lock.

    A table comes back from its fixed-name copy, a data file from its shard. A shard is put together again from members
    that are still whole in it and from `fetch`; its bytes are then the recorded ones. Raises `IntegrityError` where a
    table has no copy.
    """
    header = read_header(root).header
    mended: list[str] = []
    for entry, copy in zip(header.tables, DERIVED_TABLES, strict=True):
        if not _is_whole(root, entry):
            if not _is_whole(root, FileEntry(path=copy, size=entry.size, sha256=entry.sha256, rows=entry.rows)):
                raise IntegrityError(f"{entry.path} is damaged and {copy} is no copy of it; build again.", code="E401")
            write_atomic(_target(root, entry), (root / copy).read_bytes())
            mended.append(entry.path)
    read_table(root, header.manifest)
    lost: list[str] = []
    with Corpus(root) as corpus:
        for entry in header.shards:
            if _is_whole(root, entry):
                continue
            samples = [sample for sample in corpus.samples() if sample.image.shard == entry.path]
            members, missing = _salvage(root, entry, samples, fetch)
            if missing:
                lost += missing
                continue
            if write_shard(_target(root, entry), members) != entry.sha256:
                raise AssertionError(f"{entry.path}: the same members gave other bytes")
            mended.append(entry.path)
        for entry, shard in zip(header.data, header.shards, strict=False):
            if _is_whole(root, entry):
                continue
            samples = [sample for sample in corpus.samples() if sample.image.shard == shard.path]
            members, missing = _salvage(root, shard, samples, fetch)
            # another version of pyarrow gives other bytes
            same = not missing and write_data_file(_target(root, entry), members) == entry.sha256
            (mended if same else lost).append(entry.path)
    return RepairReport(tuple(mended), tuple(lost))


def _target(root: Path, entry: FileEntry) -> Path:
    """Where to write a file of the corpus; raises `CorpusError` E307 where a folder on the way is a link."""
    path = root / entry.path
    if any(folder.is_symlink() for folder in path.parents if folder != root and folder.is_relative_to(root)):
        raise CorpusError(f"{entry.path} lies behind a link.", code="E307")
    return path


def _is_whole(root: Path, entry: FileEntry) -> bool:
    path = root / entry.path
    return path.is_file() and not path.is_symlink() and sha256_of_file(path) == (entry.size, entry.sha256)


def _salvage(
    root: Path, entry: FileEntry, samples: list[Sample], fetch: FetchBlob
) -> tuple[list[ShardSample], list[str]]:
    """The shard's samples with bytes from wherever a whole copy is, and the IDs for which there is none."""
    with contextlib.ExitStack() as stack:
        descriptor = None
        with contextlib.suppress(OSError):
            descriptor = open_below(root, entry.path)
            stack.callback(os.close, descriptor)
        return _rebuild(descriptor, samples, fetch)


def _rebuild(descriptor: int | None, samples: list[Sample], fetch: FetchBlob) -> tuple[list[ShardSample], list[str]]:
    rebuilt, missing = [], []
    for sample in samples:
        text = json_member(sample)
        parts = []
        for ref, ending in ((sample.image, sample.image.format), (sample.mask, "mask.png")):
            data = _still_whole(descriptor, ref) or fetch(ref.sha256)
            if data is None:
                missing.append(sample.id)
                break
            parts.append(Member(ending, ref.length, ref.sha256, lambda data=data: data))
        else:
            parts.append(Member("json", len(text), sha256_hex(text), lambda text=text: text))
            rebuilt.append(ShardSample(sample.id, parts))
    return rebuilt, missing


def _still_whole(descriptor: int | None, ref: MemberRef) -> bytes | None:
    if descriptor is None:
        return None
    try:
        return read_member(descriptor, ref)
    except CorpusError:
        return None
