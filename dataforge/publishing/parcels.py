"""What is published: files named by content first, and last the few that make them a corpus."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from dataforge.report import card_bytes, croissant_bytes, thumbnails_bytes
from manifests.corpus import Corpus
from manifests.errors import IntegrityError
from manifests.fsops import open_below
from manifests.header import HEADER_NAME, FileEntry
from manifests.ids import sha256_hex
from manifests.writer import DERIVED_TABLES

__all__ = ["OURS", "Parcel", "Parcels", "parcels_of"]

# the names a corpus gives its files; whatever else lies at a place belongs to someone else and is left alone
OURS = re.compile(
    r"(manifest|subjects|ledger)-[0-9a-f]{16}\.parquet|shards/[a-z0-9_-]+-[0-9a-f]{16}\.tar|"
    r"data/[a-z0-9_-]+-[0-9a-f]{16}\.parquet"
)


@dataclass(frozen=True, slots=True)
class Parcel:
    """One file to be at the place: a file of the corpus, or bytes made for the place."""

    path: str
    size: int
    sha256: str
    source: Path | bytes

    def checked(self) -> Path | bytes:
        """What to send, after its bytes are found to be those it is named for. Raises `IntegrityError` E401."""
        if isinstance(self.source, Path):
            with self.source.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != self.sha256:
                raise IntegrityError(f"{self.path}: sha256 differs from the recorded one; nothing more was sent.")
        return self.source

    def digest(self, name: str) -> str:
        """Hex digest of the content by another algorithm; `git` is the object ID that git gives a file."""
        data = self.source.read_bytes() if isinstance(self.source, Path) else self.source
        if name == "git":
            return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        return hashlib.new(name, data, usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Parcels:
    """All that is to be at a place: `body` is named by content and sent first, `last` is committed in one step."""

    digest: str
    body: tuple[Parcel, ...]
    last: tuple[Parcel, ...]

    def stale(self, old: Iterable[str]) -> list[str]:
        """Those of earlier versions' files that this one does not name."""
        named = {parcel.path for parcel in (*self.body, *self.last)}
        return sorted(path for path in old if OURS.fullmatch(path) and path not in named)


def parcels_of(corpus: Corpus, place: str | None) -> Parcels:
    """What publishing a corpus at a place takes. The card and the Croissant description name the place, if given."""
    header = corpus.header
    root = corpus.root

    def committed(entry: FileEntry, name: str | None = None) -> Parcel:
        return Parcel(name or entry.path, entry.size, entry.sha256, root / entry.path)

    body = [committed(entry) for entry in (header.subjects, header.ledger, *header.shards, *header.data)]
    last = [committed(header.manifest)]
    last += [committed(entry, name) for entry, name in zip(header.tables, DERIVED_TABLES, strict=True)]
    made: dict[str, Callable[[], bytes]] = {
        "README.md": lambda: card_bytes(corpus, place),
        "croissant.json": lambda: croissant_bytes(corpus, place),
        "thumbnails.webp": lambda: thumbnails_bytes(corpus),
        HEADER_NAME: lambda: _header_bytes(corpus),
    }
    for name, make in made.items():
        data = make()
        last.append(Parcel(name, len(data), sha256_hex(data), data))
    return Parcels(corpus.digest, tuple(body), tuple(last))


def _header_bytes(corpus: Corpus) -> bytes:
    with open(open_below(corpus.root, HEADER_NAME), "rb") as file:  # noqa: PTH123 a descriptor has no path
        data = file.read()
    if sha256_hex(data) != corpus.digest:
        raise IntegrityError(f"{HEADER_NAME} changed while it was read.", code="E406")
    return data
