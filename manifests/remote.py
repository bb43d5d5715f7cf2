"""Corpora that lie elsewhere: `hf://datasets/user/name[@revision]` and `s3://bucket/key`, through fsspec.

Header and tables are fetched once into a cache keyed by the corpus digest and checked against what the header says; the
ID index is made from the checked manifest, never fetched. A picture is one range request. Nothing is believed because
of where it lay, and no server's error leaves here without being told in one sentence that holds no secret.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from manifests.errors import CorpusError, IntegrityError, NotFoundError, ReportedError, UsageError
from manifests.fsops import (
    TEMPORARY_PREFIX,
    environment_faults,
    open_below,
    sha256_of_file,
    sync_folder,
    write_atomic,
)
from manifests.header import HEADER_NAME, FileEntry, Header, OpenedHeader, parse_header, read_header
from manifests.ids import sha256_hex
from manifests.index import INDEX_NAME, write_index
from manifests.patience import patiently
from manifests.records import Sample
from manifests.refs import Reference
from manifests.rows import ManifestRows
from manifests.schema import records_from_table

__all__ = [
    "FolderPlace",
    "FsspecPlace",
    "Place",
    "Reached",
    "RemoteShards",
    "connect",
    "fetch_header",
    "filesystem",
    "pinned",
    "reach",
]

DIGEST = re.compile(r"[0-9a-f]{64}")
_DATASET = re.compile(r"datasets/[\w.-]+/[\w.-]+")
# corpus.json of a million shards is far smaller
MAX_HEADER_BYTES = 256 << 20
INDEX_DIGEST_NAME = "index.sha256"


class Place(Protocol):
    """A folder of files, wherever it is; `name` is what people call it."""

    name: str

    def size(self, path: str) -> int:
        """Bytes of a file. Raises `NotFoundError` E503 where it is not there."""
        ...

    def read(self, path: str, start: int, stop: int) -> bytes:
        """The bytes from `start` to before `stop`, fewer where the file ends: one request. Safe to call in threads."""
        ...


class FolderPlace:
    """A folder on this disk; links in it are not followed."""

    def __init__(self, root: Path) -> None:
        self.name = str(root)
        self._root = root

    def size(self, path: str) -> int:
        """Bytes of a file."""
        with os.fdopen(self._open(path), "rb") as file:
            return os.fstat(file.fileno()).st_size

    def read(self, path: str, start: int, stop: int) -> bytes:
        """The bytes from `start` to before `stop`."""
        with os.fdopen(self._open(path), "rb") as file:
            return os.pread(file.fileno(), stop - start, start)

    def _open(self, path: str) -> int:
        try:
            return open_below(self._root, path)
        except OSError as error:
            raise NotFoundError(f"{self.name} holds no {path}.", code="E503") from error


class FsspecPlace:
    """A corpus on the Hub or in S3; `revision` is a tag, branch or commit of the Hub."""

    def __init__(self, place: str, revision: str | None = None) -> None:
        self.name = place if revision is None else f"{place}@{revision}"
        self._scheme, _, path = place.partition("://")
        self._root = path.rstrip("/") if revision is None else f"{path.rstrip('/')}@{revision}"
        self._lock = threading.Lock()
        self._filesystem: Any = None
        self._owner = 0

    def _fs(self) -> Any:
        # neither thread pools nor event loops of these clients outlive a fork
        with self._lock:
            if self._filesystem is None or self._owner != os.getpid():
                self._filesystem, self._owner = filesystem(self._scheme), os.getpid()
            return self._filesystem

    def size(self, path: str) -> int:
        """Bytes of a file."""
        return int(patiently(lambda: self._fs().info(f"{self._root}/{path}"), f"{self.name}: {path}")["size"])

    def read(self, path: str, start: int, stop: int) -> bytes:
        """The bytes from `start` to before `stop`."""

        def fetch() -> bytes:
            fs, where = self._fs(), f"{self._root}/{path}"
            if self._scheme == "s3":
                return bytes(fs.cat_file(where, start=start, end=stop))
            # no read-ahead, and the size is said beforehand so that it is not asked for
            with fs.open(where, "rb", cache_type="none", size=stop) as file:
                file.seek(start)
                return bytes(file.read(stop - start))

        return b"" if stop <= start else patiently(fetch, f"{self.name}: {path}")


def filesystem(scheme: str) -> Any:
    """The fsspec file system of `hf` or `s3`, not shared with anyone. Raises `UsageError` E505 without its package."""
    packages = {"hf": ("huggingface_hub", "hub"), "s3": ("s3fs", "s3")}
    try:
        import fsspec

        return fsspec.filesystem(scheme, skip_instance_cache=True)
    except ImportError as error:
        package, extra = packages[scheme]
        raise UsageError(f"{scheme}:// needs {package}: `pip install 'dataforge[{extra}]'`.", code="E505") from error


def connect(reference: Reference) -> Place:
    """The place that a reference names. Raises `UsageError` E501 for a kind of place that is not known."""
    if not reference.is_remote:
        return FolderPlace(Path(reference.place))
    scheme, _, path = reference.place.partition("://")
    if scheme == "hf":
        if _DATASET.fullmatch(path.rstrip("/")) is None:
            raise UsageError(f"{reference.place}: a corpus on the Hub is hf://datasets/USER/NAME[@REVISION].")
        return FsspecPlace(reference.place, reference.revision)
    if scheme == "s3":
        if reference.revision and DIGEST.fullmatch(reference.revision) is None:
            raise UsageError(f"{reference}: a revision in S3 is the digest of a corpus.")
        return FsspecPlace(reference.place)
    raise UsageError(f"{reference.place}: a place is a folder, hf://datasets/USER/NAME or s3://BUCKET/KEY.")


class RemoteShards:
    """The bytes of shards that lie elsewhere: one range request per read, none beyond what the header says is there."""

    def __init__(self, place: Place, header: Header) -> None:
        self._place = place
        self._sizes = {entry.path: entry.size for entry in header.shards}

    def read(self, shard: str, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`.

        Raises `IntegrityError` E303 for a shard that corpus.json does not name, E401 where it does not hold them, E403
        where it is gone.
        """
        if shard not in self._sizes:
            raise IntegrityError(f"{shard} is not named by corpus.json.", code="E303")
        if not 0 <= offset <= offset + length <= self._sizes[shard]:
            raise IntegrityError(f"{shard} has no {length} bytes at {offset}.", code="E401")
        try:
            data = self._place.read(shard, offset, offset + length)
        except NotFoundError as error:
            raise IntegrityError(f"{self._place.name}: {shard} is not there.", code="E403") from error
        if len(data) != length:
            raise IntegrityError(f"{shard} at byte {offset}: {len(data)} bytes came, not {length}.", code="E401")
        return data

    def close(self) -> None:
        """Nothing is held open."""


def pinned(place: Place, reference: Reference, digest: str) -> Place:
    """The place of a corpus under the tag of its digest, where it has one: what is published later is not seen.

    A branch of the Hub moves, and files of an old version go from it.
    """
    if reference.place.startswith("hf://") and reference.revision != digest:
        tagged = connect(Reference(reference.place, digest, ()))
        with contextlib.suppress(NotFoundError):
            tagged.size(HEADER_NAME)
            return tagged
    return place


def fetch_header(place: Place, revision: str | None = None) -> tuple[OpenedHeader, bytes]:
    """The header at a place and its bytes; where `revision` is a corpus digest, that very one.

    Raises `NotFoundError` E503, `CorpusError` E404, and `IntegrityError` E406 where another corpus is there.
    """
    try:
        size = place.size(HEADER_NAME)
    except NotFoundError as error:
        raise NotFoundError(f"{place.name} holds no {HEADER_NAME} that can be read here.", code="E503") from error
    if size > MAX_HEADER_BYTES:
        raise CorpusError(f"{place.name}: {HEADER_NAME} has {size:,} bytes.", code="E404")
    data = place.read(HEADER_NAME, 0, size)
    opened = parse_header(data)
    if revision and DIGEST.fullmatch(revision) and opened.digest != revision:
        raise IntegrityError(f"{place.name} holds corpus {opened.digest[:12]}, not {revision[:12]}.", code="E406")
    return opened, data


def cache_folder() -> Path:
    """Where headers and tables of remote corpora are kept: `DATAFORGE_CACHE`, or the user's cache folder."""
    given = os.environ.get("DATAFORGE_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "dataforge"


@dataclass(frozen=True, slots=True)
class Reached:
    """A corpus elsewhere as it can be opened here: a local folder with header, tables and index, and its shards."""

    root: Path
    shards: RemoteShards
    name: str


def reach(reference: Reference) -> Reached:
    """Fetch what it takes to open a corpus on the Hub or in S3, no pictures; from the cache what is there.

    Asked for by digest, the cache answers alone. Raises `NotFoundError` E503, `UsageError` E507 where access is
    refused, `EnvironmentFault` E513 where the server fails, `IntegrityError` where bytes are wrong.
    """
    place = connect(reference)
    asked = reference.revision if reference.revision and DIGEST.fullmatch(reference.revision) else None
    root = _cached(asked) if asked else None
    if root is None:
        opened, data = fetch_header(place, reference.revision)
        place = pinned(place, reference, opened.digest)
        root = _cached(opened.digest) or _fill_cache(place, opened, data)
    return Reached(root, RemoteShards(place, read_header(root).header), place.name)


def _cached(digest: str) -> Path | None:
    """The cache's folder of a corpus, where every byte of it is what was put there; a damaged one is filled anew."""
    root = cache_folder() / "corpora" / digest
    try:
        opened = read_header(root)
        wanted = {entry.path: entry.sha256 for entry in opened.header.tables}
        wanted[INDEX_NAME] = (root / INDEX_DIGEST_NAME).read_text()
        whole = opened.digest == digest and all(
            sha256_of_file(root / name)[1] == sha256 for name, sha256 in wanted.items()
        )
    except (ReportedError, OSError, UnicodeDecodeError):
        return None
    return root if whole else None


def _fill_cache(place: Place, opened: OpenedHeader, data: bytes) -> Path:
    """Fetch and check the tables, make the index, and rename the whole folder into place."""
    corpora = cache_folder() / "corpora"
    root = corpora / opened.digest
    with environment_faults(corpora):
        corpora.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=corpora, prefix=TEMPORARY_PREFIX) as temporary:
            folder = Path(temporary) / opened.digest
            folder.mkdir(mode=0o700)
            for entry in opened.header.tables:
                write_atomic(folder / entry.path, fetch_checked(place, entry))
            write_atomic(folder / HEADER_NAME, data)
            write_index(folder, opened.digest, _samples(folder, opened.header))
            # no header vouches for the index, so its digest is kept beside it
            write_atomic(folder / INDEX_DIGEST_NAME, sha256_of_file(folder / INDEX_NAME)[1].encode())
            if root.exists() and _cached(opened.digest) is None:
                with contextlib.suppress(OSError):  # another process moves it away too
                    root.rename(Path(temporary) / "damaged")
            try:
                folder.rename(root)
            except OSError:
                if _cached(opened.digest) is None:
                    raise
            sync_folder(corpora)
    return root


def _samples(folder: Path, header: Header) -> Iterator[Sample]:
    """The records of the manifest, found to be in order: an ID that stood twice would lead to one of two pictures."""
    last = ""
    for table in ManifestRows(folder, header.manifest).tables():
        for batch in table.to_batches(max_chunksize=256):
            for sample in records_from_table(Sample, pa.Table.from_batches([batch]), where=header.manifest.path):
                if sample.id <= last:
                    raise IntegrityError(f"{sample.id} stands twice or out of order in the manifest.", code="E303")
                last = sample.id
                yield sample


def fetch_checked(place: Place, entry: FileEntry) -> bytes:
    """A whole file that the header names, asked for once more where the bytes are wrong. Raises E403 and E408."""
    for _ in range(2):
        try:
            data = place.read(entry.path, 0, entry.size)
        except NotFoundError as error:
            raise IntegrityError(f"{place.name}: {entry.path} is not there.", code="E403") from error
        if sha256_hex(data) == entry.sha256:
            return data
    raise IntegrityError(f"{place.name}: {entry.path}.", code="E408")
