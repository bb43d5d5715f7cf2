"""The second shape: the same rows as parquet with the pictures inside, one file per shard, for HF Datasets and DuckDB.

Written with content-defined chunking (https://huggingface.co/docs/hub/datasets-parquet) and large row groups, so that a
store that keeps chunks once is sent only what changed. A file's bytes follow from the shard's members, the layout below
and the version of pyarrow; its name holds a digest of the three, so one that is there need not be written again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.errors import IntegrityError
from manifests.features import PICTURES, data_schema
from manifests.fsops import write_atomic
from manifests.ids import sha256_hex
from manifests.records import Sample
from manifests.shards import ShardSample, shard_digest

__all__ = ["DataFileError", "check_data_file", "data_path", "write_data_file"]

FOLDER = "data"
# raised when the way the files are written changes
LAYOUT = 1
# bytes of pictures in a row group: large ones are sent again in part, many small ones whole
GROUP_BYTES = 100 << 20
# what a row may take in memory before it is asked for: rows of a foreign file are looked at a few at a time
ROWS_AT_ONCE = 16


class DataFileError(IntegrityError):
    """A data file that does not say what the manifest says; `where` is the sample or the file."""

    def __init__(self, where: str, detail: str, *, code: str) -> None:
        self.where = where
        super().__init__(detail, code=code)


def data_path(shard: str, members: Iterable[ShardSample]) -> str:
    """Path of the data file with the rows of a shard: `data/<name>-<hex>.parquet`."""
    name = Path(shard).name.rpartition("-")[0]
    digest = sha256_hex(f"{shard_digest(members)} layout {LAYOUT} pyarrow {pa.__version__}".encode())
    return f"{FOLDER}/{name}-{digest[:16]}.parquet"


def write_data_file(path: Path, samples: Sequence[ShardSample]) -> str:
    """Write the rows of one shard with their pictures; returns the sha256 of the file.

    Holds one row group in memory. Raises `IntegrityError` E401 where bytes are not those their digest promised.
    """
    schema = data_schema()
    plain = [name for name in schema.names if name not in PICTURES]

    def write(file: IO[bytes]) -> None:
        with pq.ParquetWriter(
            file,
            schema,
            # pictures are compressed already
            compression=dict.fromkeys(plain, "zstd"),
            use_dictionary=plain,
            write_statistics=plain,
            write_page_checksum=True,
            write_page_index=True,
            use_content_defined_chunking=True,
        ) as writer:
            for group in _groups(samples):
                table = pa.Table.from_pylist([_row(sample) for sample in group], schema=schema)
                writer.write_table(table, row_group_size=len(group))

    write_atomic(path, write)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _groups(samples: Sequence[ShardSample]) -> Iterator[list[ShardSample]]:
    group: list[ShardSample] = []
    held = 0
    for sample in samples:
        group.append(sample)
        held += sum(member.length for member in sample.members)
        if held >= GROUP_BYTES:
            yield group
            group, held = [], 0
    if group:
        yield group


def _row(sample: ShardSample) -> dict[str, Any]:
    image, mask, text = (member.data() for member in sample.members)
    for data, member in zip((image, mask), sample.members, strict=False):
        if len(data) != member.length or sha256_hex(data) != member.sha256:
            raise IntegrityError(f"{sample.key}.{member.ending} changed before it was packed.", code="E401")
    # no path: a reader that is given one may open it
    pictures = {"image": {"bytes": image, "path": None}, "mask": {"bytes": mask, "path": None}}
    return {**pictures, **json.loads(text)}


def check_data_file(file: IO[bytes], where: str, samples: Sequence[Sample]) -> Iterator[DataFileError]:
    """What a data file says that the manifest's rows of its shard do not, by row; a file that is no parquet too.

    Bytes are required and compared by sha256; a path is refused, because HF Datasets opens whatever file or address
    stands in one.
    """
    known = {sample.id: sample for sample in samples}
    seen: set[str] = set()
    try:
        table = pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False)
        missing = {"id", *PICTURES} - set(table.schema_arrow.names)
        if missing:
            yield DataFileError(where, f"column {sorted(missing)[0]} is missing.", code="E305")
            return
        for batch in table.iter_batches(ROWS_AT_ONCE, columns=["id", *PICTURES], use_threads=False):
            for row in batch.to_pylist():
                name = str(row["id"])
                if name not in known or name in seen:
                    code = "E303" if name in seen else "E304"
                    yield DataFileError(where, f"{name} {'stands twice' if name in seen else 'is foreign'}.", code=code)
                    continue
                seen.add(name)
                yield from _row_errors(row, known[name])
    except (pa.ArrowException, OSError, TypeError, AttributeError) as error:
        yield DataFileError(where, f"cannot be read as parquet: {str(error).splitlines()[0][:100]}.", code="E305")
        return
    for name in sorted(known.keys() - seen):
        yield DataFileError(where, f"{name} is missing.", code="E303")


def _row_errors(row: dict[str, Any], sample: Sample) -> Iterator[DataFileError]:
    for column, ref in (("image", sample.image), ("mask", sample.mask)):
        value = row[column] or {}
        if value.get("path") is not None:
            yield DataFileError(sample.id, f"its {column} names a path, {value['path']!r}.", code="E307")
        if value.get("bytes") is None or sha256_hex(value["bytes"]) != ref.sha256:
            yield DataFileError(sample.id, f"its {column} in the data file differs from the manifest.", code="E401")
