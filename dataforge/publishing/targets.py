"""Where a corpus is published to: one small protocol, and the two places that are plain stores, a folder and S3."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from dataforge.publishing.parcels import OURS, Parcel
from manifests.corpus import open_corpus
from manifests.errors import OutputLocked
from manifests.fsops import environment_faults, output_lock, remove_stale_temporaries, sha256_of_file, write_atomic
from manifests.header import HEADER_NAME
from manifests.ids import sha256_hex
from manifests.remote import filesystem, patiently
from manifests.writer import check_output, write_derived

__all__ = ["FolderTarget", "OnSent", "S3Target", "Standing", "Target"]

# called with the parcel after it is sent
OnSent = Callable[[Parcel], None]


@dataclass(frozen=True, slots=True)
class Standing:
    """What is at a place: paths to how their content is known there, and a mark that changes with its header."""

    files: dict[str, str] = field(default_factory=dict)
    mark: str = ""


class Target(Protocol):
    """A place that a corpus can be published to."""

    name: str
    url: str

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Keep other publishers of this machine out for the length of the block, where that can be done."""
        ...

    def look(self) -> Standing:
        """What is there now; nothing where the place does not exist yet."""
        ...

    def same(self, parcel: Parcel, known: str) -> bool:
        """Whether what is there under that path is the parcel."""
        ...

    def send(self, parcels: Sequence[Parcel], on_sent: OnSent) -> None:
        """Put files there that no reader looks for yet."""
        ...

    def commit(self, parcels: Sequence[Parcel], stale: Sequence[str], seen: Standing, digest: str) -> None:
        """Make what is there the corpus: the header and all that goes with it, in one step where the place can.

        Raises `OutputLocked` E521 where another corpus has been committed since `seen`.
        """
        ...


class FolderTarget:
    """A folder on this disk."""

    def __init__(self, root: Path) -> None:
        self.name = self.url = str(root)
        self._root = root

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """The one lock of an output."""
        check_output(self._root)
        with environment_faults(self._root), output_lock(self._root / ".work" / "lock"):
            remove_stale_temporaries(self._root)
            yield

    def look(self) -> Standing:
        """Paths and sha256 of the files of a corpus that are there."""
        found = [path for path in self._root.rglob("*") if path.is_file() and not path.is_symlink()]
        names = {path.relative_to(self._root).as_posix(): path for path in found}
        files = {name: sha256_of_file(path)[1] for name, path in names.items() if not name.startswith(".work/")}
        return Standing(files, files.get(HEADER_NAME, ""))

    def same(self, parcel: Parcel, known: str) -> bool:
        """By sha256."""
        return known == parcel.sha256

    def send(self, parcels: Sequence[Parcel], on_sent: OnSent) -> None:
        """Copy each file whole, then rename it into place."""
        for parcel in parcels:
            source = parcel.checked()
            write_atomic(self._root / parcel.path, source if isinstance(source, bytes) else _copier(source))
            on_sent(parcel)

    def commit(self, parcels: Sequence[Parcel], stale: Sequence[str], seen: Standing, digest: str) -> None:
        """The header last; then the ID index, and away with files of the old version."""
        del seen, digest  # the lock is held
        self.send(sorted(parcels, key=lambda parcel: parcel.path == HEADER_NAME), lambda parcel: None)
        with open_corpus(self._root) as corpus:
            write_derived(self._root, corpus.samples())
        for path in stale:
            (self._root / path).unlink()


def _copier(source: Path) -> Callable[[IO[bytes]], None]:
    def copy(file: IO[bytes]) -> None:
        with source.open("rb") as original:
            shutil.copyfileobj(original, file, 1 << 20)

    return copy


class S3Target:
    """A bucket, or a folder in one. The header is written only over the one that was seen, or where there is none
    (`If-Match`, `If-None-Match`), so that of two publishers one is told."""

    def __init__(self, place: str) -> None:
        self.name = self.url = place.rstrip("/")
        self._root = self.name.partition("://")[2]
        self._fs: Any = filesystem("s3")

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Nothing can be held in S3; `commit` finds out."""
        return contextlib.nullcontext()

    def look(self) -> Standing:
        """Paths with size and ETag of what is there."""

        def find() -> dict[str, Any]:
            self._fs.invalidate_cache()
            found: dict[str, Any] = self._fs.find(self._root, detail=True)
            return found

        files = {
            path.removeprefix(f"{self._root}/"): f"{facts['size']} {facts.get('ETag', '')}"
            for path, facts in patiently(find, self.name).items()
        }
        return Standing(files, files.get(HEADER_NAME, " ").partition(" ")[2])

    def same(self, parcel: Parcel, known: str) -> bool:
        """By name and size for files named by content, since an upload is there whole or not at all; else by MD5."""
        size, _, etag = known.partition(" ")
        if OURS.fullmatch(parcel.path):
            return int(size) == parcel.size
        return etag.strip('"') == parcel.digest("md5")

    def send(self, parcels: Sequence[Parcel], on_sent: OnSent) -> None:
        """Put each file; S3 shows it when it is whole."""
        for parcel in parcels:
            source = parcel.checked()
            where = f"{self._root}/{parcel.path}"
            if isinstance(source, bytes):
                patiently(lambda source=source, where=where: self._fs.pipe_file(where, source), where)  # type: ignore[misc]
            else:
                patiently(lambda source=source, where=where: self._fs.put_file(str(source), where), where)  # type: ignore[misc]
            on_sent(parcel)

    def commit(self, parcels: Sequence[Parcel], stale: Sequence[str], seen: Standing, digest: str) -> None:
        """The manifest, then the header on its condition, then what goes with it; then away with the old files."""
        header = [parcel for parcel in parcels if parcel.path == HEADER_NAME]
        self.send([parcel for parcel in parcels if OURS.fullmatch(parcel.path)], lambda parcel: None)
        for parcel in header:
            try:
                patiently(lambda data=parcel.checked(): self._put_header(data, seen.mark), self.name)  # type: ignore[misc]
            except OutputLocked:
                # an answer that was lost on the way: it is ours that is there
                if self._header_there() != digest:
                    raise
        rest = [parcel for parcel in parcels if parcel not in header and not OURS.fullmatch(parcel.path)]
        self.send(rest, lambda parcel: None)
        for path in stale:
            patiently(lambda path=path: self._fs.rm_file(f"{self._root}/{path}"), self.name)  # type: ignore[misc]

    def _put_header(self, data: bytes, mark: str) -> None:
        condition = {"IfMatch": mark} if mark else {"IfNoneMatch": "*"}
        self._fs.pipe_file(f"{self._root}/{HEADER_NAME}", data, **condition)

    def _header_there(self) -> str:
        data: bytes = patiently(lambda: self._fs.cat_file(f"{self._root}/{HEADER_NAME}"), self.name)
        return sha256_hex(data)
