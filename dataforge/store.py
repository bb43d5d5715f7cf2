"""Stage results on disk: part files, each written whole, and a sqlite cache that finds a result by its key.

A part is one JSON line (length and sha256 of the index), the index (a line a task: key, code of its fault or nothing,
and a JSON row, between tabs), then the blobs. Parts are the truth; the cache is made again from them when it is missing
or damaged. A part that is not whole is ignored, and what it held is computed again.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

from manifests.errors import EnvironmentFault, Fault, IntegrityError
from manifests.fsops import crashpoint, sync_folder, write_atomic
from manifests.ids import canonical_json, digest_of, sha256_hex

__all__ = ["BlobRef", "Made", "Outcome", "Store", "read_blob", "write_part"]

PART_VERSION = 2
# of the cache: another one's tables are made again from the parts
CACHE_VERSION = 3
# serials taken at a time: a killed build's workers may still write parts with the numbers that they were given
SERIALS = 10_000
# ASCII: a name that is no UTF-8 has no other text, and a row no tab or line end of its own
_row = json.JSONEncoder(allow_nan=False, separators=(",", ":"))
_text = json.JSONDecoder()
# results read from the cache at a time
ROWS = 256


@dataclass(frozen=True, slots=True)
class BlobRef:
    """Where bytes lie in a part; `path` is relative to the work folder."""

    path: str
    offset: int
    length: int
    sha256: str

    @property
    def place(self) -> list[Any]:
        """The reference as JSON values; `BlobRef(*place)` is the reference again."""
        return [self.path, self.offset, self.length, self.sha256]


@dataclass(frozen=True, slots=True)
class Made:
    """What a stage made for one task: a JSON value and named bytes."""

    value: dict[str, Any]
    blobs: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A stored result: its value and where its bytes lie, or the fault that stands in its place."""

    value: dict[str, Any]
    blobs: dict[str, BlobRef]
    fault: Fault | None = None


def write_part(work: Path, stage: str, serial: int, rows: list[tuple[str, Made | Fault]]) -> str:
    """Write the results of one unit whole; returns the part's path relative to the work folder.

    `serial` grows with every unit: of two results for one key the later one counts, and no part is written over.
    """
    index: list[str] = []
    blobs: list[bytes] = []
    position = 0
    for key, made in rows:
        if isinstance(made, Fault):
            index.append(f"{key}\t{made.code}\t{_row.encode({'fault': made.detail})}\n")
            continue
        places = {}
        for name, data in made.blobs.items():
            places[name] = [position, len(data), sha256_hex(data)]
            blobs.append(data)
            position += len(data)
        index.append(f"{key}\t\t{_row.encode({'value': made.value, 'blobs': places})}\n")
    body = "".join(index).encode()
    head = {"part": PART_VERSION, "stage": stage, "index": len(body), "sha256": sha256_hex(body), "blobs": position}

    def write(file: IO[bytes]) -> None:
        file.write(canonical_json(head).encode() + b"\n")
        file.write(body)
        file.writelines(blobs)

    relative = f"parts/{stage}/{serial:010d}-{digest_of([key for key, _ in rows])[:32]}.part"
    # the bytes have to be whole; a name that is lost with the power before `Store.make_last` is computed again
    write_atomic(work / relative, write, lasting=False)
    return relative


def _read_part(work: Path, relative: str) -> tuple[str, int, list[list[str]]] | None:
    """Stage, where the blobs begin, and [key, code of the fault or nothing, row] of each task.

    None for a part that is not whole.
    """
    path = work / relative
    try:
        with path.open("rb") as file:
            line = file.readline(1000)
            head = json.loads(line)
            body = file.read(head["index"])
            whole = len(line) + head["index"] + head["blobs"] == path.stat().st_size
            if head["part"] != PART_VERSION or not whole or sha256_hex(body) != head["sha256"]:
                return None
            # rows stay text: most are read once, when their outcome is asked for
            return str(head["stage"]), len(line) + len(body), [row.split("\t") for row in body.decode().splitlines()]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _blobs(row: dict[str, Any], part: str, start: int) -> Iterator[tuple[str, BlobRef]]:
    part = sys.intern(part)  # one text, however many results refer to it
    for name, (offset, length, sha256) in row["blobs"].items():
        yield name, BlobRef(part, start + offset, length, sha256)


def _outcome(code: str, text: str, part: str, start: int) -> Outcome:
    row, _ = _text.raw_decode(text)
    if code:
        return Outcome({}, {}, Fault(code, row["fault"]))
    return Outcome(row["value"], dict(_blobs(row, part, start)))


def read_blob(work: Path, ref: BlobRef) -> bytes:
    """The bytes of a blob, checked. Raises `IntegrityError` E401 where they are not what was written."""
    descriptor = os.open(work / ref.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.pread(descriptor, ref.length, ref.offset)
    finally:
        os.close(descriptor)
    if sha256_hex(data) != ref.sha256:
        raise IntegrityError(f"stage result {ref.path} is damaged; delete it and build again.", code="E401")
    return data


class Store:
    """The results of all stages of one output. One process writes.

    The caller holds the output's lock and has removed what a killed process left half-written.
    """

    def __init__(self, work: Path) -> None:
        self.work = work
        work.mkdir(parents=True, exist_ok=True)
        self._connection = self._open()
        self._register_found_parts()

    def _open(self) -> sqlite3.Connection:
        path = self.work / "store.sqlite"
        for attempt in (0, 1):
            connection = sqlite3.connect(path, isolation_level=None)
            try:
                # a cache: kept in order against kill -9, thrown away and made again after a power loss
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=OFF")
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
                if tables and version != CACHE_VERSION:
                    raise sqlite3.DatabaseError(f"cache of version {version}")
                connection.execute(f"PRAGMA user_version={CACHE_VERSION}")
                connection.execute("CREATE TABLE IF NOT EXISTS part (path TEXT PRIMARY KEY) WITHOUT ROWID")
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS result"
                    " (stage TEXT, key TEXT, code TEXT, row TEXT, part TEXT, start INTEGER, PRIMARY KEY (stage, key))"
                    " WITHOUT ROWID"
                )
                connection.execute("CREATE TABLE IF NOT EXISTS note (name TEXT PRIMARY KEY, text TEXT) WITHOUT ROWID")
                if connection.execute("PRAGMA quick_check").fetchone()[0] == "ok":
                    return connection
            except sqlite3.OperationalError as error:
                connection.close()
                raise EnvironmentFault(f"{path.name}: {error}.", code="E510") from error
            except sqlite3.DatabaseError:
                if attempt:
                    raise
            connection.close()
            for ending in ("", "-wal", "-shm"):
                Path(f"{path}{ending}").unlink(missing_ok=True)
        raise AssertionError("unreachable: the second attempt returns or raises")

    def _register_found_parts(self) -> None:
        found = {path.relative_to(self.work).as_posix() for path in (self.work / "parts").glob("*/*.part")}
        known = {row[0] for row in self._connection.execute("SELECT path FROM part")}
        for path in known - found:
            self._connection.execute("DELETE FROM part WHERE path = ?", (path,))
        # also rows that outlived a loss of power without the name of their part
        self._connection.execute("DELETE FROM result WHERE part NOT IN (SELECT path FROM part)")
        by_serial = sorted(found, key=lambda path: path.rpartition("/")[2])
        last = int(by_serial[-1].rpartition("/")[2].partition("-")[0]) if by_serial else 0
        self._serial = self._reserved = max(last, int(self.note("serial") or 0))
        for path in by_serial:
            if path not in known:
                self.register(path)

    def next_serial(self) -> int:
        """The number of the next unit."""
        if self._serial >= self._reserved:
            self._reserved = self._serial + SERIALS
            self.set_note("serial", str(self._reserved))
        self._serial += 1
        return self._serial

    def register(self, relative: str) -> dict[str, str]:
        """Make a part's results known; returns the code of each one's fault, or nothing, by key.

        A part that is not whole is left out.
        """
        part = _read_part(self.work, relative)
        if part is None:
            return {}
        stage, start, rows = part
        try:
            self._connection.execute("BEGIN")
            self._connection.executemany(
                # of two results the one with the later serial counts, in whichever order they are found
                "INSERT INTO result VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE"
                " SET code = excluded.code, row = excluded.row, part = excluded.part, start = excluded.start"
                " WHERE excluded.part >= part",
                ((stage, *row, relative, start) for row in rows),
            )
            self._connection.execute("INSERT OR REPLACE INTO part VALUES (?)", (relative,))
            self._connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise EnvironmentFault(f"store.sqlite: {error}.", code="E510") from error
        crashpoint(f"registered {stage}")
        return {key: code for key, code, _ in rows}

    def code(self, stage: str, key: str) -> str | None:
        """The code of a stored fault, nothing for a stored result, None where neither is stored."""
        row = self._connection.execute("SELECT code FROM result WHERE stage = ? AND key = ?", (stage, key)).fetchone()
        return None if row is None else str(row[0])

    def count(self, stage: str) -> int:
        """How many results of a stage are stored."""
        return int(self._connection.execute("SELECT count(*) FROM result WHERE stage = ?", (stage,)).fetchone()[0])

    def outcome(self, stage: str, key: str) -> Outcome | None:
        """The stored result of a key, or None."""
        return next(self.outcomes(stage, [key]))

    def outcomes(self, stage: str, keys: Iterable[str]) -> Iterator[Outcome | None]:
        """The stored results of keys in their order, None where there is none; a few are in memory at a time."""
        left = iter(keys)
        while block := list(islice(left, ROWS)):
            found = self._connection.execute(
                "SELECT key, code, row, part, start FROM result"
                " WHERE stage = ? AND key IN (SELECT value FROM json_each(?))",
                (stage, json.dumps(block)),
            )
            rows = {key: row for key, *row in found}
            for key in block:
                yield _outcome(*rows[key]) if key in rows else None

    def forget(self, stage: str, keys: Iterable[str]) -> None:
        """Drop results and the parts that hold them, so that they are computed again; neighbours in a part go too."""
        parts: set[str] = set()
        for key in keys:
            row = self._connection.execute(
                "SELECT part FROM result WHERE stage = ? AND key = ?", (stage, key)
            ).fetchone()
            parts |= set(row or ())
        for path in sorted(parts):
            (self.work / path).unlink(missing_ok=True)
            self._connection.execute("DELETE FROM result WHERE part = ?", (path,))
            self._connection.execute("DELETE FROM part WHERE path = ?", (path,))

    def read(self, ref: BlobRef) -> bytes:
        """The bytes of a blob, checked."""
        return read_blob(self.work, ref)

    def blobs(self) -> Iterator[BlobRef]:
        """Every blob of every result."""
        found = self._connection.execute("SELECT row, part, start FROM result WHERE code = '' ORDER BY stage, key")
        for text, part, start in found:
            yield from (ref for _, ref in _blobs(json.loads(text), part, start))

    def make_last(self) -> None:
        """Make the parts outlive a loss of power: before a corpus that is packed from them does."""
        for folder in sorted((self.work / "parts").glob("*")):
            sync_folder(folder)

    def note(self, name: str) -> str | None:
        """A small text kept from the last build."""
        row = self._connection.execute("SELECT text FROM note WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def set_note(self, name: str, text: str) -> None:
        """Keep a small text for the next build."""
        self._connection.execute("INSERT OR REPLACE INTO note VALUES (?, ?)", (name, text))

    def close(self) -> None:
        """Close the cache."""
        self._connection.close()
