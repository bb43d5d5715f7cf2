"""The ID index: `index.sqlite`, derived from the manifest, so that one sample is found without reading the table."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from manifests.fsops import write_atomic
from manifests.records import Sample

__all__ = ["INDEX_NAME", "IdIndex", "SamplePlace", "write_index"]

INDEX_NAME = "index.sqlite"
# row and place in one B-tree: an ID costs one descent, and the bytes are found without the manifest
_SCHEMA = """
CREATE TABLE corpus (digest TEXT NOT NULL);
CREATE TABLE shard (number INTEGER PRIMARY KEY, path TEXT NOT NULL);
CREATE TABLE sample (
    id TEXT PRIMARY KEY, row INTEGER NOT NULL, shard INTEGER NOT NULL,
    image_offset INTEGER NOT NULL, image_length INTEGER NOT NULL,
    mask_offset INTEGER NOT NULL, mask_length INTEGER NOT NULL
) WITHOUT ROWID;
"""
_MAPPED_BYTES = 1 << 32


@dataclass(frozen=True, slots=True)
class SamplePlace:
    """Where the bytes of one sample lie, as the index has it: offsets and lengths in bytes of one shard."""

    shard: str
    image_offset: int
    image_length: int
    mask_offset: int
    mask_length: int


def write_index(root: Path, digest: str, samples: Iterable[Sample]) -> None:
    """Write the index of a manifest's samples, in the manifest's order, whole and renamed into place."""
    write_atomic(root / INDEX_NAME, lambda file: _fill(Path(file.name), digest, samples))


def _fill(path: Path, digest: str, samples: Iterable[Sample]) -> None:
    shards: dict[str, int] = {}

    def rows() -> Iterator[tuple[str | int, ...]]:
        for row, sample in enumerate(samples):
            shard = shards.setdefault(sample.image.shard, len(shards))
            image, mask = sample.image, sample.mask
            yield sample.id, row, shard, image.offset, image.length, mask.offset, mask.length

    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=OFF")
        connection.executescript(f"BEGIN; {_SCHEMA}")
        connection.execute("INSERT INTO corpus VALUES (?)", (digest,))
        connection.executemany("INSERT INTO sample VALUES (?, ?, ?, ?, ?, ?, ?)", rows())
        connection.executemany("INSERT INTO shard VALUES (?, ?)", ((n, path) for path, n in shards.items()))
        connection.execute("COMMIT")
    except sqlite3.OperationalError as error:
        raise OSError(errno.ENOSPC, str(error)) from error  # sqlite says "disk is full" in its own way
    finally:
        connection.close()


class IdIndex:
    """Row numbers and places by ID, read from a mapped `index.sqlite` without loading it.

    Safe to share between threads; a process forked from this one opens the file anew, since a connection must not
    cross a fork (sqlite.org/howtocorrupt.html, section 2.6).
    """

    def __init__(self, root: Path) -> None:
        self._uri = f"{(root / INDEX_NAME).resolve().as_uri()}?mode=ro&immutable=1"
        self._connection, self._owner = self._connect(), os.getpid()
        digest: tuple[str] = self._connection.execute("SELECT digest FROM corpus").fetchone()
        self.digest: str = digest[0]
        """Digest of the corpus this index was made from."""
        self._shards: dict[int, str] = dict(self._connection.execute("SELECT number, path FROM shard"))

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._uri, uri=True, check_same_thread=False)
        connection.execute("PRAGMA trusted_schema=OFF")  # the file may come from elsewhere: sqlite.org/security.html
        connection.execute(f"PRAGMA mmap_size={_MAPPED_BYTES}")
        return connection

    def _find(self, columns: str, sample_id: str) -> tuple[int, ...] | None:
        if self._owner != os.getpid():
            self._connection, self._owner = self._connect(), os.getpid()
        found: tuple[int, ...] | None = self._connection.execute(
            f"SELECT {columns} FROM sample WHERE id = ?", (sample_id,)
        ).fetchone()
        return found

    def row(self, sample_id: str) -> int | None:
        """Row number in the manifest, or None."""
        found = self._find("row", sample_id)
        return None if found is None else int(found[0])

    def place(self, sample_id: str) -> SamplePlace | None:
        """Where the bytes lie, or None. A place for speed: only the manifest's digests vouch for bytes."""
        found = self._find("shard, image_offset, image_length, mask_offset, mask_length", sample_id)
        return None if found is None else SamplePlace(self._shards[found[0]], *(int(number) for number in found[1:]))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
