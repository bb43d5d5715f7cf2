"""Where a corpus is published to: one small protocol, and the two places that are plain stores, a folder and S3."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol

from dataforge.publishing.parcels import OURS, Parcel, Parcels
from manifests.corpus import open_corpus
from manifests.errors import CorpusError, NotFoundError, OutputLocked
from manifests.fsops import environment_faults, output_lock, remove_stale_temporaries, sha256_of_file, write_atomic
from manifests.header import HEADER_NAME, OpenedHeader
from manifests.ids import sha256_hex
from manifests.patience import patiently
from manifests.refs import Reference
from manifests.remote import connect, fetch_header, filesystem
from manifests.writer import check_output, write_derived

__all__ = ["FolderTarget", "OnSent", "S3Target", "Standing", "Target", "header_at"]

# called with the parcel after it is sent
OnSent = Callable[[Parcel], None]


@dataclass(frozen=True, slots=True)
class Standing:
    """What is at a place: paths to how their content is known there, and a mark that changes with its header.

    `old` may be taken away when a new version is there: nobody who is publishing from what is there now has sent it.
    """

    files: dict[str, str] = field(default_factory=dict)
    mark: str = ""
    old: frozenset[str] = frozenset()


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

    def commit(self, parcels: Parcels, last: Sequence[Parcel], stale: Sequence[str], seen: Standing) -> None:
        """Make what is there the corpus: the header and what goes with it, in one step where the place can.

        `last` are those of `parcels.last` that are not there yet. Raises `OutputLocked` E521 where another corpus has
        been committed since `seen`, or a file of the body is gone.
        """
        ...


def header_at(reference: Reference) -> OpenedHeader | None:
    """The header at a place, or None where there is none that can be read."""
    try:
        return fetch_header(connect(reference))[0]
    except (NotFoundError, CorpusError):
        return None


class FolderTarget:
    """A folder on this disk. Raises `UsageError` E504 for one that holds something else than a corpus."""

    def __init__(self, root: Path) -> None:
        check_output(root)
        self.name = self.url = str(root)
        self._root = root

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """The one lock of an output."""
        with environment_faults(self._root), output_lock(self._root / ".work" / "lock"):
            remove_stale_temporaries(self._root)
            yield

    def look(self) -> Standing:
        """Paths and sha256 of the files of a corpus that are there."""
        found = [path for path in self._root.rglob("*") if path.is_file() and not path.is_symlink()]
        names = {path.relative_to(self._root).as_posix(): path for path in found}
        files = {name: sha256_of_file(path)[1] for name, path in names.items() if not name.startswith(".work/")}
        return Standing(files, files.get(HEADER_NAME, ""), frozenset(files))  # the lock is held

    def same(self, parcel: Parcel, known: str) -> bool:
        """By sha256."""
        return known == parcel.sha256

    def send(self, parcels: Sequence[Parcel], on_sent: OnSent) -> None:
        """Copy each file whole, then rename it into place."""
        for parcel in parcels:
            source = parcel.checked()
            write_atomic(self._root / parcel.path, source if isinstance(source, bytes) else _copier(source))
            on_sent(parcel)

    def commit(self, parcels: Parcels, last: Sequence[Parcel], stale: Sequence[str], seen: Standing) -> None:
        """The header last; then the ID index, and away with files of the old version."""
        del parcels, seen  # the lock is held
        self.send(sorted(last, key=lambda parcel: parcel.path == HEADER_NAME), lambda parcel: None)
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
        """Paths with size and ETag of what is there.

        Old are the files that the header there names, and what is older than that header: a run that was killed before
        it deleted, or before its header.
        """
        found = self._find()
        files = {path: f"{facts['size']} {facts.get('ETag', '')}" for path, facts in found.items()}
        header = header_at(Reference(self.name, None, ())) if HEADER_NAME in found else None
        if header is None:
            return Standing(files, files.get(HEADER_NAME, " ").partition(" ")[2])
        named = {entry.path for entry in header.header.files}
        since = found[HEADER_NAME]["LastModified"]
        old = {path for path, facts in found.items() if path in named or facts["LastModified"] < since}
        return Standing(files, files[HEADER_NAME].partition(" ")[2], frozenset(old))

    def _find(self) -> dict[str, dict[str, Any]]:
        def find() -> dict[str, Any]:
            self._fs.invalidate_cache()
            found: dict[str, Any] = self._fs.find(self._root, detail=True)
            return found

        return {path.removeprefix(f"{self._root}/"): facts for path, facts in patiently(find, self.name).items()}

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
                patiently(partial(self._fs.pipe_file, where, source), where)
            else:
                patiently(partial(self._fs.put_file, str(source), where), where)
            on_sent(parcel)

    def commit(self, parcels: Parcels, last: Sequence[Parcel], stale: Sequence[str], seen: Standing) -> None:
        """The manifest, then the header on its condition, then what goes with it; then away with the old files.

        S3 has no condition over several files. So the body is looked for before the header is written and once more
        after it, and old files are deleted only while the header is the one that this run saw or wrote.
        """
        header = [parcel for parcel in last if parcel.path == HEADER_NAME]
        self.send([parcel for parcel in last if OURS.fullmatch(parcel.path)], _unheard)
        for parcel in header:
            gone = self._gone(parcels)
            if gone:
                raise OutputLocked(f"{self.name}: {gone[0].path} is no longer there.", code="E521")
            data = parcel.checked()
            assert isinstance(data, bytes)
            try:
                patiently(partial(self._put_header, data, seen.mark), self.name)
            except OutputLocked:
                # an answer that was lost on the way: it is ours that is there
                if self._header_there() != parcels.digest:
                    raise
            self.send(self._gone(parcels), _unheard)
        self.send([parcel for parcel in last if parcel not in header and not OURS.fullmatch(parcel.path)], _unheard)
        if stale and self._header_there() == parcels.digest:
            for path in stale:
                patiently(partial(self._fs.rm_file, f"{self._root}/{path}"), self.name)

    def _gone(self, parcels: Parcels) -> list[Parcel]:
        there = self._find()
        return [parcel for parcel in parcels.body if parcel.path not in there]

    def _put_header(self, data: bytes, mark: str) -> None:
        condition = {"IfMatch": mark} if mark else {"IfNoneMatch": "*"}
        self._fs.pipe_file(f"{self._root}/{HEADER_NAME}", data, **condition)

    def _header_there(self) -> str:
        data: bytes = patiently(lambda: self._fs.cat_file(f"{self._root}/{HEADER_NAME}"), self.name)
        return sha256_hex(data)


def _unheard(parcel: Parcel) -> None:
    del parcel
