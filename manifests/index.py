"""The ID index: `index.sqlite`, derived from the manifest, so that one sample is found without reading the table."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

from manifests.fsops import TEMPORARY_PREFIX, environment_faults
from manifests.records import Sample

__all__ = ["INDEX_NAME", "IdIndex", "write_index"]

INDEX_NAME = "index.sqlite"


def write_index(root: Path, digest: str, samples: Iterable[Sample]) -> None:
    """Write the index of a manifest's samples, in the manifest's order, whole and renamed into place."""
    temporary = root / f"{TEMPORARY_PREFIX}index"
    with environment_faults(temporary):
        temporary.unlink(missing_ok=True)
        connection = sqlite3.connect(temporary, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode=OFF")
            connection.execute("BEGIN")
            connection.execute("CREATE TABLE corpus (digest TEXT NOT NULL)")
            connection.execute("INSERT INTO corpus VALUES (?)", (digest,))
            connection.execute("CREATE TABLE sample (id TEXT PRIMARY KEY, row INTEGER NOT NULL) WITHOUT ROWID")
            connection.executemany("INSERT INTO sample VALUES (?, ?)", ((s.id, row) for row, s in enumerate(samples)))
            connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise OSError(28, str(error)) from error  # sqlite says "disk is full" in its own way
        finally:
            connection.close()
        temporary.replace(root / INDEX_NAME)


class IdIndex:
    """Row numbers by ID, read from `index.sqlite` without loading it."""

    def __init__(self, root: Path) -> None:
        self._connection = sqlite3.connect(
            f"{(root / INDEX_NAME).resolve().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False
        )

    @property
    def digest(self) -> str:
        """Digest of the corpus this index was made from."""
        row: tuple[str] = self._connection.execute("SELECT digest FROM corpus").fetchone()
        return row[0]

    def row(self, sample_id: str) -> int | None:
        """Row number in the manifest, or None."""
        found = self._connection.execute("SELECT row FROM sample WHERE id = ?", (sample_id,)).fetchone()
        return None if found is None else int(found[0])

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
