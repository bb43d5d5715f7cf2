"""The manifest as a memory-mapped table: rows are decoded group by group, where they are asked for."""

from __future__ import annotations

import mmap
import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.errors import CorpusError, IntegrityError
from manifests.header import FileEntry, open_entry
from manifests.ids import sha256_hex
from manifests.records import Sample
from manifests.schema import check_columns, records_from_table

__all__ = ["ManifestRows"]

# up to here a manifest is hashed and looked into as it is opened (some 10 ms); beyond, when the first row is asked for
EAGER_BYTES = 8 << 20
# what is kept of rows that were asked for: groups as Arrow tables, and records (some 5 kB each)
KEPT_TABLE_BYTES = 256 << 20
KEPT_RECORDS = 16_384


class ManifestRows:
    """Rows of the committed manifest by number. The file is checked against its size and sha256 before the first row.

    Mapped, not read: memory holds the groups that were asked for last, and a forked process shares the pages.
    """

    def __init__(self, root: Path, entry: FileEntry) -> None:
        self._entry = entry
        self._data = _mapped(root, entry)
        self._tables: dict[int, tuple[pa.Table, int]] = {}
        self._records: dict[int, Sample] = {}
        if entry.size <= EAGER_BYTES:
            self.check()

    def check(self) -> None:
        """Raises `IntegrityError` E401 and `CorpusError` E305 as the first row would."""
        _ = self._metadata

    @cached_property
    def _metadata(self) -> pq.FileMetaData:
        if sha256_hex(self._data) != self._entry.sha256:
            raise IntegrityError(f"{self._entry.path}: sha256 differs from the recorded one.", code="E401")
        try:
            metadata = pq.read_metadata(pa.BufferReader(self._data))
            columns = metadata.schema.to_arrow_schema().names
        except (pa.ArrowException, OSError) as error:  # the recorded bytes, and still no table
            raise CorpusError(f"{self._entry.path}: no parquet table.", code="E305") from error
        check_columns(Sample, columns, where=self._entry.path)
        return metadata

    @cached_property
    def _starts(self) -> list[int]:
        """First row of every group, and the number of rows."""
        starts = [0]
        for group in range(self._metadata.num_row_groups):
            starts.append(starts[-1] + self._metadata.row_group(group).num_rows)
        return starts

    def __len__(self) -> int:
        return int(self._metadata.num_rows)

    def _file(self) -> pq.ParquetFile:
        # one reader per call: they share the mapping and the footer, and no state between threads; with pre_buffer a
        # thread of Arrow's reads, and aborts the process if it still holds Python's bytes when the interpreter ends
        return pq.ParquetFile(pa.BufferReader(self._data), metadata=self._metadata, pre_buffer=False)

    def _read(self, groups: Sequence[int], columns: list[str] | None = None) -> pa.Table:
        try:
            # no pool of threads: it would be one more thing to carry over a fork and to end at exit
            return self._file().read_row_groups(list(groups), columns=columns, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise CorpusError(f"{self._entry.path}: no parquet table.", code="E305") from error

    def columns(self, names: list[str]) -> pa.Table:
        """The named columns of all rows."""
        return self._read(range(self._metadata.num_row_groups), names)

    @cached_property
    def ids(self) -> list[str]:
        """The IDs of all rows, in order."""
        found: list[str] = self.columns(["id"]).column("id").to_pylist()
        return found

    @cached_property
    def _row_by_id(self) -> dict[str, int]:
        return {sample_id: row for row, sample_id in enumerate(self.ids)}

    def find(self, sample_id: str) -> int | None:
        """Row of an ID, or None: decodes the whole column of IDs once."""
        return self._row_by_id.get(sample_id)

    def ids_at(self, rows: Iterable[int]) -> dict[int, str]:
        """ID by row of those of the rows that there are; only their groups' IDs are read."""
        found: dict[int, str] = {}
        there = sorted(row for row in set(rows) if 0 <= row < len(self))
        for group, members in groupby(there, key=lambda row: bisect_right(self._starts, row) - 1):
            numbers, start = list(members), self._starts[group]
            column = self._read([group], ["id"]).column("id")
            found.update(zip(numbers, column.take(_indices([row - start for row in numbers])).to_pylist(), strict=True))
        return found

    def owned_by(self, owner: str) -> range:
        """Rows whose IDs begin with `<owner>/`."""
        # "0" is the character after "/"
        return range(bisect_left(self.ids, f"{owner}/"), bisect_left(self.ids, f"{owner}0"))

    def tables(self, rows: Sequence[int] | None = None) -> Iterator[pa.Table]:
        """All rows, or those of ascending numbers, as one table per group that has any; at least one table."""
        last = 0
        empty = True
        for group, (start, stop) in enumerate(pairwise(self._starts)):
            if rows is None:
                yield self._read([group])
            else:
                first, last = last, bisect_left(rows, stop)
                if first == last:
                    continue
                yield self._read([group]).take(_indices([row - start for row in rows[first:last]]))
            empty = False
        if empty:
            yield self._metadata.schema.to_arrow_schema().empty_table()

    def records(self, rows: Sequence[int]) -> list[Sample]:
        """The records of some rows, in the order asked. Raises `CorpusError` E305 for a row that does not fit."""
        known = self._records
        missing = sorted({row for row in rows if row not in known})
        if missing and len(known) + len(missing) > KEPT_RECORDS:
            known = self._records = {row: known[row] for row in rows if row in known}
        for group, members in groupby(missing, key=lambda row: bisect_right(self._starts, row) - 1):
            numbers = list(members)
            table = self._kept(group).take(_indices([row - self._starts[group] for row in numbers]))
            known.update(zip(numbers, records_from_table(Sample, table, where=self._entry.path), strict=True))
        return [known[row] for row in rows]

    def _kept(self, group: int) -> pa.Table:
        known = self._tables.get(group)
        if known is None:
            table = self._read([group]).combine_chunks()
            known = table, table.nbytes  # counted once: Arrow goes through every buffer for it
            while self._tables and known[1] + sum(size for _, size in [*self._tables.values()]) > KEPT_TABLE_BYTES:
                self._tables.pop(next(iter([*self._tables]), -1), None)  # a copy: other threads put and take, too
            self._tables[group] = known
        return known[0]


def _indices(rows: Sequence[int]) -> pa.Array:
    """Row numbers for Arrow; `pa.array` would import pandas where it is installed, 0.6 s before the first picture."""
    return pa.Array.from_buffers(pa.int64(), len(rows), [None, pa.py_buffer(np.array(rows, np.int64))])


def _mapped(root: Path, entry: FileEntry) -> pa.Buffer:
    """A file of the corpus, mapped read-only, its size checked."""
    descriptor = open_entry(root, entry)
    try:
        if os.fstat(descriptor).st_size != entry.size:
            raise IntegrityError(f"{entry.path}: size differs from the recorded {entry.size:,} bytes.", code="E402")
        # nothing of a corpus is ever written over, so the pages stay what was checked
        return pa.py_buffer(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) if entry.size else b"")
    finally:
        os.close(descriptor)
