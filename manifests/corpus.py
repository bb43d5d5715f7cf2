"""Read a corpus: by ID, as a table, or as a stream of decoded pictures."""

from __future__ import annotations

import io
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.errors import CorpusError, IntegrityError, NotFoundError, UsageError
from manifests.header import FileEntry, Header, open_entry, read_header
from manifests.ids import sha256_hex
from manifests.index import INDEX_NAME, IdIndex, SamplePlace
from manifests.pixels import ImageArray, MaskArray, decode_image, decode_mask
from manifests.records import LedgerRow, MemberRef, Role, Sample, Subject
from manifests.refs import Reference, parse_reference
from manifests.rows import ManifestRows
from manifests.samples import LazySample
from manifests.schema import RecordT, records_from_table
from manifests.shard_files import LocalShards
from manifests.shards import ShardBytes, check_member

if TYPE_CHECKING:
    from manifests.stream import Crop, Mode, Stream, Verify

__all__ = ["Corpus", "open_corpus", "read_table"]

logger = logging.getLogger(__name__)
FoundT = TypeVar("FoundT")


def read_table(root: Path, entry: FileEntry) -> pa.Table:
    """One of the corpus's tables, after its size and sha256 are checked. Raises `IntegrityError` E401..E403."""
    data = read_checked(root, entry)
    try:
        # no dataset layer and no threads, so no pre_buffer: one of Arrow's that still holds Python's bytes when the
        # interpreter ends aborts the process
        return pq.ParquetFile(io.BytesIO(data), pre_buffer=False).read(use_threads=False)
    except (pa.ArrowException, OSError) as error:  # the recorded bytes, and still no table
        raise CorpusError(f"{entry.path}: no parquet table.", code="E305") from error


def read_checked(root: Path, entry: FileEntry) -> bytes:
    """The bytes of a file the header names, checked against its size and sha256."""
    with os.fdopen(open_entry(root, entry), "rb") as file:
        data = file.read(entry.size + 1)
    if len(data) != entry.size:
        raise IntegrityError(f"{entry.path}: size differs from the recorded {entry.size:,} bytes.", code="E402")
    if sha256_hex(data) != entry.sha256:
        raise IntegrityError(f"{entry.path}: sha256 differs from the recorded one.", code="E401")
    return data


class Corpus:
    """An open corpus, or the part of it that a reference names.

    Nothing is believed that `corpus.json` does not name, and no picture is handed out whose bytes differ from the
    manifest's sha256. Rows are decoded where they are asked for: a corpus of a million samples opens in milliseconds.
    Safe to share between threads and with processes forked from this one. Use it as a context manager, or call `close`.

    `root` is a local folder with header and tables; `shards` is where the bytes come from, if they lie elsewhere, and
    `name` what people call the place.
    """

    def __init__(
        self, root: Path, ids: Iterable[str] = (), *, shards: ShardBytes | None = None, name: str = ""
    ) -> None:
        self.root = root
        self.name = name or root.name
        opened = read_header(root)
        self.header: Header = opened.header
        self.digest: str = opened.digest
        self.shards: ShardBytes = shards or LocalShards(root, opened.header, opened.digest)
        self._rows = ManifestRows(root, self.header.manifest)
        self._asked = tuple(ids)
        self._selected: Mapping[str, int] | None = self._select(self._asked) if self._asked else None

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The selected samples' IDs, in order."""
        return tuple(self._selected) if self._selected is not None else tuple(self._rows.ids)

    @cached_property
    def _index(self) -> IdIndex | None:
        """The index, where one is there and belongs to this corpus: without it, IDs are looked up in the manifest."""
        try:
            return self.index()
        except IntegrityError:
            return None

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

    def _select(self, asked: tuple[str, ...]) -> dict[str, int]:
        """Row by ID of the samples that were asked for, in ID order."""
        chosen = self._rows_of(asked)
        there = self._rows.ids_at(chosen.values())
        if any(there.get(row) != name for name, row in chosen.items()):
            self._leave_index()
            chosen = self._rows_of(asked)
        return dict(sorted(chosen.items()))

    def _rows_of(self, asked: tuple[str, ...]) -> dict[str, int]:
        chosen: dict[str, int] = {}
        for name in asked:
            row = self._row(name)
            if row is not None:
                chosen[name] = row
                continue
            rows = self._rows.owned_by(name)
            chosen.update((self._rows.ids[row], row) for row in rows)
            if name in self.subjects:
                subject = self.subjects[name]
                for owned in (*subject.sample_ids, *subject.regular_ids):
                    row = self._row(owned)
                    if row is None:
                        raise IntegrityError(
                            f"subject {name} names {owned}, which is not in the manifest.", code="E303"
                        )
                    chosen[owned] = row
            elif not rows:
                raise NotFoundError(f"no sample or subject {name!r} in {self.name}.{self.near(name)}", code="E503")
        return chosen

    def _row(self, sample_id: str) -> int | None:
        """Row of an ID in the manifest. The index is asked first; that an ID is missing, only the manifest can say."""
        row = self._ask(lambda index: index.row(sample_id)) if "/" in sample_id else None
        return self._rows.find(sample_id) if row is None else row

    def _ask(self, question: Callable[[IdIndex], FoundT | None]) -> FoundT | None:
        """The index's answer; one that is damaged answers nothing, now and later."""
        if self._index is None:
            return None
        try:
            return question(self._index)
        except (sqlite3.Error, ValueError, TypeError, KeyError):
            self._leave_index()
            return None

    def _leave_index(self) -> None:
        """From now on IDs are looked up in the manifest: the index was found to be wrong."""
        mend = "`dataforge repair` mends it" if isinstance(self.shards, LocalShards) else "opening anew mends it"
        logger.warning("%s: %s is damaged: IDs are looked up in the manifest; %s.", self.name, INDEX_NAME, mend)
        self.__dict__["_index"] = None

    def near(self, name: str) -> str:
        """A sentence that asks for the subject or sample of nearly this name; nothing where there is none."""
        import difflib

        close = difflib.get_close_matches(name, [*self.subjects, *self._rows.ids], n=1, cutoff=0.6)
        return f" Did you mean {close[0]}?" if close else ""

    def __len__(self) -> int:
        return self.header.manifest.rows if self._selected is None else len(self._selected)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __contains__(self, sample_id: object) -> bool:
        return isinstance(sample_id, str) and self._position(sample_id) is not None

    def _position(self, sample_id: str) -> int | None:
        return self._row(sample_id) if self._selected is None else self._selected.get(sample_id)

    def __getitem__(self, sample_id: str) -> LazySample:
        """The sample of an ID: its record and pixels are read when they are asked for.

        Raises `NotFoundError` E503 for an ID that is not in this corpus or selection.
        """
        row = self._position(sample_id)
        if row is None:
            raise NotFoundError(f"no sample {sample_id!r} in {self.name}.{self.near(sample_id)}", code="E503")
        return LazySample(self, sample_id, row)

    def record(self, sample_id: str) -> Sample:
        """The manifest's record of an ID. Raises as `corpus[sample_id]` does, and `CorpusError` E305."""
        return self[sample_id].record

    def record_in(self, row: int, sample_id: str) -> Sample:
        """The record of an ID that is thought to be in a row: an index that was wrong is found out here.

        Raises `NotFoundError` E503 where the manifest has no such ID.
        """
        record = self.records_at([row])[0] if 0 <= row < len(self._rows) else None
        if record is not None and record.id == sample_id:
            return record
        self._leave_index()
        found = self._rows.find(sample_id)
        if found is None:
            raise NotFoundError(f"no sample {sample_id!r} in {self.name}.", code="E503")
        return self.records_at([found])[0]

    def records_at(self, rows: Sequence[int]) -> list[Sample]:
        """The records of rows of the manifest, in the order asked."""
        return self._rows.records(rows)

    def samples(self, *, role: Role | None = None, split: str | None = None) -> Iterator[Sample]:
        """The selected samples in ID order, decoded in batches so that memory stays flat."""
        rows = None if self._selected is None else sorted(self._selected.values())
        for table in self._rows.tables(rows):
            for batch in _chosen(table, role, split).to_batches(max_chunksize=256):
                yield from records_from_table(Sample, pa.Table.from_batches([batch]), where=self.header.manifest.path)

    def table(self, *, role: Role | None = None, split: str | None = None) -> pa.Table:
        """The selected manifest rows as an Arrow table."""
        rows = None if self._selected is None else sorted(self._selected.values())
        return _chosen(self.table_at(rows), role, split)

    def table_at(self, rows: Sequence[int] | None) -> pa.Table:
        """Rows of the manifest by ascending number, all without any, as an Arrow table."""
        return pa.concat_tables(self._rows.tables(rows))

    def manifest_file(self) -> Path:
        """The manifest on this disk, checked against its size and sha256: for programs that read parquet themselves."""
        self._rows.check()
        return (self.root / self.header.manifest.path).absolute()

    def columns(self, names: list[str], rows: npt.NDArray[np.int64]) -> pa.Table:
        """Some columns of rows of the manifest, in the order asked."""
        return self._rows.columns(names).take(pa.array(rows))

    def select_rows(self, *, role: str | None = None, split: str | None = None) -> npt.NDArray[np.int64]:
        """Numbers of the selected rows of the manifest, ascending."""
        rows = np.arange(len(self._rows)) if self._selected is None else np.array(sorted(self._selected.values()))
        for column, value in (("role", role), ("split", split)):
            if value is not None:
                rows = rows[pc.equal(self.columns([column], rows)[column], value).to_numpy()]
        return rows.astype(np.int64)

    def image_bytes(self, sample: Sample | LazySample | str, *, verify: bool = True) -> bytes:
        """The stored bytes of a picture, checked against their sha256.

        `verify=False`, with an ID, reads them where the index says and checks nothing: the fastest way to bytes.
        """
        if not verify and isinstance(sample, str):
            place = self._place(sample)
            return self.shards.read(place.shard, place.image_offset, place.image_length)
        return self._read(self._sample(sample).image)

    def mask_bytes(self, sample: Sample | LazySample | str) -> bytes:
        """The stored bytes of a mask (1-bit PNG), checked against their sha256."""
        return self._read(self._sample(sample).mask)

    def _place(self, sample_id: str) -> SamplePlace:
        place = None if self._selected is not None else self._ask(lambda index: index.place(sample_id))
        if place is None:  # no index, or a selection to respect: the long way
            record = self.record(sample_id)
            image, mask = record.image, record.mask
            return SamplePlace(image.shard, image.offset, image.length, mask.offset, mask.length)
        return place

    def image(self, sample: Sample | LazySample | str) -> ImageArray:
        """uint8 HxWx3 RGB."""
        sample = self._sample(sample)
        return decode_image(self._read(sample.image), sample.image.format)

    def mask(self, sample: Sample | LazySample | str) -> MaskArray:
        """bool HxW, True = the subject."""
        return decode_mask(self._read(self._sample(sample).mask))

    def stream(
        self,
        *,
        batch_size: int | None = None,
        size: int | tuple[int, int] | None = None,
        seed: int | None = None,
        epoch: int = 0,
        position: int = 0,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 2,
        mode: Mode = "threads",
        crop: Crop = "centre",
        role: Role | None = None,
        split: str | None = None,
        where: str = "",
        regular_probability: float | None = None,
        drop_last: bool = False,
        verify: Verify = "first",
    ) -> Stream:
        """The selected samples, decoded: one by one as `Example`s, or as `Batch`es of `batch_size` pictures.

        Without a `seed` they come in ID order; with one, shuffled anew in each `epoch`. `size` is the side or
        (height, width) in pixels: a picture is scaled to cover it and cut in the middle, or at random (`crop`), where
        the subject's box stays inside if it fits. `role`, `split` and `where` (an SQL condition on manifest columns)
        choose samples. With `regular_probability` an epoch has every photograph once, and any place in it holds a
        regular picture with that probability.

        Place n of an epoch belongs to rank n modulo `world_size`; the ranks together give every sample once, and with
        `drop_last` each gives the same number of whole batches. `position` (or `load_state_dict`) starts at any sample.
        Every draw depends on seed, epoch and sample ID alone, so workers, ranks and machines change nothing.

        `workers` decode ahead: in "threads", or in "processes" for a loop that keeps Python busy; 0 is the calling
        thread. `verify` checks the bytes' sha256 the "first" time this stream reads them, or "always".

        Raises `UsageError` E501 for arguments that contradict each other; when iterating, `IntegrityError` for bytes
        that are not the corpus's and `EnvironmentFault` E511 where a worker process died.
        """
        from manifests.stream import open_stream

        return open_stream(
            self,
            batch_size=batch_size,
            size=size,
            seed=seed,
            epoch=epoch,
            position=position,
            rank=rank,
            world_size=world_size,
            workers=workers,
            mode=mode,
            crop=crop,
            role=role,
            split=split,
            where=where,
            regular_probability=regular_probability,
            drop_last=drop_last,
            verify=verify,
        )

    def _sample(self, sample: Sample | LazySample | str) -> Sample:
        if isinstance(sample, LazySample):
            return sample.record
        return self.record(sample) if isinstance(sample, str) else sample

    def _read(self, ref: MemberRef) -> bytes:
        return check_member(self.shards.read(ref.shard, ref.offset, ref.length), ref)

    def close(self) -> None:
        """Close the shards and the index."""
        self.shards.close()
        index = self.__dict__.pop("_index", None)
        if index is not None:
            index.close()

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
        except (sqlite3.Error, TypeError, ValueError) as error:
            raise IntegrityError(f"{INDEX_NAME} cannot be read.", code="E407") from error
        if not fresh:
            raise IntegrityError(f"{INDEX_NAME} belongs to another version of the corpus.", code="E407")
        return index


def _chosen(table: pa.Table, role: str | None, split: str | None) -> pa.Table:
    for column, value in (("role", role), ("split", split)):
        if value is not None:
            table = table.filter(pc.equal(table[column], value))
    return table


def open_corpus(ref: str | Path | Reference) -> Corpus:
    """Open `PLACE[@revision][#ID[,ID...]]`, a folder, `hf://datasets/USER/NAME` or `s3://BUCKET/KEY`.

    A subject's ID means its photographs and regular pictures, no ID means everything. Of a corpus elsewhere, header and
    tables are fetched once and pictures as they are read (`manifests.remote`).

    Raises `NotFoundError` E503, `CorpusError` E404 and `UnsupportedSchemaError` E405.
    """
    reference = ref if isinstance(ref, Reference) else parse_reference(str(ref))
    if reference.is_remote:
        from manifests.remote import reach

        reached = reach(reference)
        return Corpus(reached.root, reference.ids, shards=reached.shards, name=reached.name)
    place, mark, tail = reference.place.rpartition("#")
    if mark and not Path(reference.place).exists() and Path(place).exists():
        raise UsageError(f"{tail!r} is no ID: `<subject>` or `<subject>/src-<12 hex digits>`.")
    return Corpus(Path(reference.place), reference.ids)
