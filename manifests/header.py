"""`corpus.json`: the one commit point of a corpus. It names every other file by content, size and sha256."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from manifests.errors import CorpusError, IntegrityError, NotFoundError, UnsupportedSchemaError
from manifests.fsops import check_relative, open_below, write_atomic
from manifests.ids import sha256_hex
from manifests.overrides import describe
from manifests.schema import SCHEMA_VERSION

__all__ = [
    "HEADER_NAME",
    "FileEntry",
    "Header",
    "OpenedHeader",
    "header_bytes",
    "open_entry",
    "parse_header",
    "read_header",
    "write_header",
]

HEADER_NAME = "corpus.json"
FORMAT = "dataforge-corpus"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FileEntry(BaseModel):
    """One file the corpus vouches for; `rows` counts table rows, or samples of a shard."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    size: Annotated[int, Field(ge=0)]
    sha256: Sha256
    rows: Annotated[int, Field(ge=0)]


class Header(BaseModel):
    """What corpus.json says. Newer minor fields are ignored; a newer `schema_version` is refused."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    format: str = FORMAT
    schema_version: int = SCHEMA_VERSION
    manifest: FileEntry
    subjects: FileEntry
    ledger: FileEntry
    shards: list[FileEntry]
    data: list[FileEntry] = []
    counts: dict[str, int]
    recipe: dict[str, Any]
    made_with: dict[str, str]

    @property
    def tables(self) -> tuple[FileEntry, FileEntry, FileEntry]:
        """Manifest, subjects and ledger."""
        return self.manifest, self.subjects, self.ledger

    @property
    def files(self) -> list[FileEntry]:
        """Every file the corpus vouches for."""
        return [*self.tables, *self.shards, *self.data]


@dataclass(frozen=True, slots=True)
class OpenedHeader:
    """A header and the digest of the very bytes it was read from: the corpus digest."""

    header: Header
    digest: str


def open_entry(root: Path, entry: FileEntry) -> int:
    """A descriptor of a file that a header names, open for reading. Raises `IntegrityError` E403 where it cannot be."""
    try:
        return open_below(root, entry.path)
    except FileNotFoundError as error:
        raise IntegrityError(f"{entry.path} is not there.", code="E403") from error
    except OSError as error:
        raise IntegrityError(f"{entry.path} cannot be opened: {error.strerror}.", code="E403") from error


def read_header(root: Path) -> OpenedHeader:
    """Read and check corpus.json.

    Raises `NotFoundError` E503 where there is none, and what `parse_header` raises.
    """
    path = root / HEADER_NAME
    if not path.is_file():
        raise NotFoundError(f"{root} holds no {HEADER_NAME}, so it is no corpus.", code="E503")
    return parse_header(path.read_bytes())


def parse_header(data: bytes) -> OpenedHeader:
    """The header in the bytes of a corpus.json, and their digest.

    Raises `CorpusError` E404 where it is no header, E307 where it names a path outside the corpus,
    `UnsupportedSchemaError` E405 for a newer version.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{HEADER_NAME}: not JSON ({error}).", code="E404") from error
    version = value.get("schema_version") if isinstance(value, dict) else None
    if type(version) is not int or version < 1 or "format" not in value:
        raise CorpusError(f"{HEADER_NAME}: format or schema_version is missing or wrong.", code="E404")
    if version > SCHEMA_VERSION:
        raise UnsupportedSchemaError(f"schema version {version}, this program knows {SCHEMA_VERSION}.")
    try:
        header = Header.model_validate(value)
    except ValidationError as error:
        raise CorpusError(f"{HEADER_NAME}: {describe(error)}.", code="E404") from error
    if header.format != FORMAT:
        raise CorpusError(f"{HEADER_NAME}: format {header.format!r}, expected {FORMAT!r}.", code="E404")
    for entry in header.files:
        try:
            check_relative(entry.path)
        except ValueError as error:
            raise CorpusError(f"{HEADER_NAME}: {error}.", code="E307") from error
    return OpenedHeader(header, sha256_hex(data))


def header_bytes(header: Header) -> bytes:
    """The bytes of the corpus.json that says this. A corpus without data files says nothing of them."""
    value = header.model_dump(mode="json", exclude={"data"} if not header.data else None)
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def write_header(root: Path, header: Header) -> str:
    """Commit: write corpus.json whole and rename it into place. Returns the corpus digest.

    Everything the header names must be on disk before. Writing the same header again is no commit at all.
    """
    data = header_bytes(header)
    path = root / HEADER_NAME
    if not path.is_file() or path.read_bytes() != data:
        write_atomic(path, data)
    return sha256_hex(data)
