"""Read a corpus: by ID, as a table, or as a stream of decoded pictures."""

from __future__ import annotations

import io
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.errors import CorpusError, IntegrityError, NotFoundError, UsageError
from manifests.fsops import open_below
from manifests.header import FileEntry, Header, read_header
from manifests.ids import sha256_hex
from manifests.index import INDEX_NAME, IdIndex
from manifests.pixels import ImageArray, MaskArray, decode_image, decode_mask
from manifests.records import LedgerRow, MemberRef, Role, Sample, Subject
from manifests.refs import Reference, parse_reference
from manifests.schema import RecordT, check_columns, records_from_table
from manifests.shards import read_member

__all__ = ["Corpus", "Example", "open_corpus", "read_table"]


@dataclass(frozen=True, slots=True)
class Example:
    """A sample with its pixels: image uint8 HxWx3 RGB, mask bool HxW with True = the subject."""

    sample: Sample
    image: ImageArray
    mask: MaskArray


def read_table(root: Path, entry: FileEntry) -> pa.Table:
    """One of the corpus's tables, after its size and sha256 are checked. Raises `IntegrityError` E401..E403."""
    data = read_checked(root, entry)
    try:
        # no dataset layer and no threads: the bytes are in memory, and a pool is one more thing to end at exit
        return pq.ParquetFile(io.BytesIO(data)).read(use_threads=False)
    except (pa.ArrowException, OSError) as error:  # the recorded bytes, and still no table
        raise CorpusError(f"{entry.path}: no parquet table.", code="E305") from error


def read_checked(root: Path, entry: FileEntry) -> bytes:
    """The bytes of a file the header names, checked against its size and sha256."""
    try:
        descriptor = open_below(root, entry.path)
    except FileNotFoundError as error:
        raise IntegrityError(f"{entry.path} is not there.", code="E403") from error
    except OSError as error:
        raise IntegrityError(f"{entry.path} cannot be opened: {error.strerror}.", code="E403") from error
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(entry.size + 1)
    if len(data) != entry.size:
        raise IntegrityError(f"{entry.path}: size differs from the recorded {entry.size:,} bytes.", code="E402")
    if sha256_hex(data) != entry.sha256:
        raise IntegrityError(f"{entry.path}: sha256 differs from the recorded one.", code="E401")
    return data


class Corpus:
    """An open corpus, or the part of it that a reference names.

    Nothing is believed that `corpus.json` does not name, and no picture is handed out whose bytes differ from the
    manifest's sha256. Safe to share between threads. Use it as a context manager, or call `close`.
    """

    def __init__(self, root: Path, ids: Iterable[str] = ()) -> None:
        self.root = root
        opened = read_header(root)
        self.header: Header = opened.header
        self.digest: str = opened.digest
        self._descriptors: dict[str, int] = {}
        self._asked = tuple(ids)
        self.ids: tuple[str, ...] = self._select(self._asked)
        self._selected = frozenset(self.ids) if self._asked else None

    @cached_property
    def _table(self) -> pa.Table:
        table = read_table(self.root, self.header.manifest)
        check_columns(Sample, table, where=self.header.manifest.path)
        return table

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {sample_id: row for row, sample_id in enumerate(self._table.column("id").to_pylist())}

    @cached_property
    def subjects(self) -> Mapping[str, Subject]:
        """Every subject by its slug."""
        return {subject.id: subject for subject in self._records(Subject, self.header.subjects)}

    @cached_property
    def ledger(self) -> list[LedgerRow]:
        """What became of every file found and of every sample made and not kept."""
        return self._records(LedgerRow, self.header.ledger)

    def _records(self, record: type[RecordT], entry: FileEntry) -> list[RecordT]:
        return records_from_table(record, read_table(self.root, entry), where=entry.path)

    def _select(self, asked: tuple[str, ...]) -> tuple[str, ...]:
        if not asked:
            return tuple(self._table.column("id").to_pylist())
        chosen: set[str] = set()
        for name in asked:
            if name in self._rows:
                chosen.add(name)
            elif name in self.subjects:
                subject = self.subjects[name]
                chosen.update(subject.sample_ids, subject.regular_ids)
            elif any(row.startswith(f"{name}/") for row in self._rows):
                chosen.update(row for row in self._rows if row.startswith(f"{name}/"))
            else:
                raise NotFoundError(
                    f"no sample or subject {name!r} in {self.root.name}.{self._near(name)}", code="E503"
                )
        return tuple(sorted(chosen))

    def _near(self, name: str) -> str:
        import difflib

        close = difflib.get_close_matches(name, [*self.subjects, *self._rows], n=1, cutoff=0.6)
        return f" Did you mean {close[0]}?" if close else ""

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __contains__(self, sample_id: object) -> bool:
        return sample_id in (self._rows if self._selected is None else self._selected)

    def __getitem__(self, sample_id: str) -> Sample:
        """The sample of an ID. Raises `NotFoundError` E503 for an ID that is not in this corpus or selection."""
        if sample_id not in self:
            raise NotFoundError(f"no sample {sample_id!r} in {self.root.name}.{self._near(sample_id)}", code="E503")
        row = self._table.slice(self._rows[sample_id], 1)
        return records_from_table(Sample, row, where=f"{self.header.manifest.path}#{sample_id}")[0]

    def samples(self, *, role: Role | None = None, split: str | None = None) -> Iterator[Sample]:
        """The selected samples in ID order, decoded in batches so that memory stays flat."""
        for batch in self.table(role=role, split=split).to_batches(max_chunksize=256):
            yield from records_from_table(Sample, pa.Table.from_batches([batch]), where=self.header.manifest.path)

    def table(self, *, role: Role | None = None, split: str | None = None) -> pa.Table:
        """The selected manifest rows as an Arrow table."""
        table = self._table
        if self._selected is not None:
            table = table.filter(pc.is_in(table["id"], value_set=pa.array(self.ids, pa.string())))
        for column, value in (("role", role), ("split", split)):
            if value is not None:
                table = table.filter(pc.equal(table[column], value))
        return table

    def image_bytes(self, sample: Sample | str) -> bytes:
        """The stored bytes of a picture, checked against their sha256."""
        return self._read(self._sample(sample).image)

    def mask_bytes(self, sample: Sample | str) -> bytes:
        """The stored bytes of a mask (1-bit PNG), checked against their sha256."""
        return self._read(self._sample(sample).mask)

    def image(self, sample: Sample | str) -> ImageArray:
        """uint8 HxWx3 RGB."""
        sample = self._sample(sample)
        return decode_image(self._read(sample.image), sample.image.format)

    def mask(self, sample: Sample | str) -> MaskArray:
        """bool HxW, True = the subject."""
        return decode_mask(self._read(self._sample(sample).mask))

    def stream(self, *, role: Role | None = None, split: str | None = None) -> Iterator[Example]:
        """The selected samples in ID order, with pixels."""
        for sample in self.samples(role=role, split=split):
            yield Example(sample, self.image(sample), self.mask(sample))

    def _sample(self, sample: Sample | str) -> Sample:
        return self[sample] if isinstance(sample, str) else sample

    def _read(self, ref: MemberRef) -> bytes:
        descriptor = self._descriptors.get(ref.shard)
        if descriptor is None:
            if ref.shard not in {entry.path for entry in self.header.shards}:
                raise IntegrityError(f"{ref.shard} is not named by corpus.json.", code="E303")
            try:
                descriptor = open_below(self.root, ref.shard)
            except OSError as error:
                rebuilt = read_header(self.root).digest != self.digest
                raise IntegrityError(f"{ref.shard} cannot be opened.", code="E406" if rebuilt else "E403") from error
            descriptor = self._descriptors.setdefault(ref.shard, descriptor)
        return read_member(descriptor, ref)

    def close(self) -> None:
        """Close the shards."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def __enter__(self) -> Corpus:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def index(self) -> IdIndex:
        """The ID index, if it belongs to this very corpus. Raises `IntegrityError` E407 otherwise."""
        try:
            index = IdIndex(self.root)
            fresh = index.digest == self.digest
        except (sqlite3.Error, TypeError) as error:
            raise IntegrityError(f"{INDEX_NAME} cannot be read.", code="E407") from error
        if not fresh:
            raise IntegrityError(f"{INDEX_NAME} belongs to another version of the corpus.", code="E407")
        return index


def open_corpus(ref: str | Path | Reference) -> Corpus:
    """Open `PLACE[#ID[,ID...]]`; a subject's ID means its photographs and regular pictures, no ID means everything.

    Raises `NotFoundError` E503, `CorpusError` E404 and `UnsupportedSchemaError` E405.
    """
    reference = ref if isinstance(ref, Reference) else parse_reference(str(ref))
    if reference.is_remote:
        raise UsageError(f"{reference.place}: this version opens local folders only.")
    place, mark, tail = reference.place.rpartition("#")
    if mark and not Path(reference.place).exists() and Path(place).exists():
        raise UsageError(f"{tail!r} is no ID: `<subject>` or `<subject>/src-<12 hex digits>`.")
    return Corpus(Path(reference.place), reference.ids)
