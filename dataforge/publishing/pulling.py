"""Pull a corpus from where it was published: resumed, every byte checked, no name inside a tar believed."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from dataforge.building import derive
from dataforge.publishing.parcels import OURS
from manifests.corpus import read_table
from manifests.errors import CorpusError, EnvironmentFault, IntegrityError, NotFoundError, ReportedError, UsageError
from manifests.fsops import (
    crashpoint,
    environment_faults,
    output_lock,
    remove_stale_temporaries,
    sha256_of_file,
    sync_folder,
    write_atomic,
)
from manifests.header import HEADER_NAME, FileEntry, Header, read_header
from manifests.patience import give_up_on
from manifests.records import LedgerRow, Sample, Subject
from manifests.refs import parse_reference
from manifests.remote import Place, connect, fetch_header, pinned
from manifests.schema import RecordT, records_from_table
from manifests.validation import foreign_problems
from manifests.writer import check_output, remove_unnamed

__all__ = ["Pulled", "pull"]

OnProgress = Callable[[str, int, int], None]
MIB = 1 << 20
# asked for at a time: what a lost connection costs, and what a file on its way takes in memory
CHUNK = 8 << 20
FILES_AT_ONCE = 4
PARTS = Path(".work") / "pull"


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull came to: the corpus, how many of its files were fetched and how many were there already."""

    root: Path
    digest: str
    fetched: int
    kept: int


def _silent(stage: str, done: int, total: int) -> None:
    del stage, done, total


def pull(ref: str, output: str | Path, *, on_progress: OnProgress = _silent) -> Pulled:
    """Bring the corpus that `ref` names, `PLACE[@revision]`, into a folder; a corpus that is there becomes that one.

    A file that was cut off goes on where it stopped; a file whose bytes are wrong is fetched once more. Header last, so
    that the folder is the old corpus or the new one. Then card, report and index are made. `on_progress` is called with
    "pull", MiB done and MiB in all.

    Raises `UsageError` E501 for IDs, `NotFoundError` E503, `IntegrityError` E408 where bytes stay wrong,
    `CorpusError` E3xx where a file is not what its corpus says (it is not kept), `EnvironmentFault` E510 and E513.
    """
    reference = parse_reference(ref)
    if reference.ids:
        raise UsageError(f"{ref}: pull takes whole corpora; manifests.open reads pictures by ID from where they are.")
    root = Path(output)
    place = connect(reference)
    if not reference.is_remote and Path(reference.place).resolve() == root.resolve():
        raise UsageError(f"{output} is the corpus itself.")
    check_output(root)
    with environment_faults(root), output_lock(root / ".work" / "lock"):
        remove_stale_temporaries(root)
        opened, data = fetch_header(place, reference.revision)
        header, place = opened.header, pinned(place, reference, opened.digest)
        _check_names(header)
        held = _held(root)
        _check_standing(header, held)
        missing = [entry for entry in header.files if not _is_whole(root, entry)]
        _check_space(root, missing)
        _fetch_all(place, root, missing, on_progress)
        _check_content(root, header, held)
        crashpoint("before commit")
        write_atomic(root / HEADER_NAME, data)
        remove_unnamed(root)
        derive(root, on_progress)
    return Pulled(root, opened.digest, len(missing), len(header.files) - len(missing))


def _check_names(header: Header) -> None:
    """A file goes by the name the format gives it, so that none is written over ours or a neighbour's."""
    paths = [entry.path for entry in header.files]
    for path in paths:
        if OURS.fullmatch(path) is None:
            raise CorpusError(f"{HEADER_NAME} names {path!r}.", code="E307")
    if len(paths) != len(set(paths)):
        raise IntegrityError(f"{HEADER_NAME} names a file twice.", code="E303")
    if len({entry.sha256 for entry in header.files}) != len(paths):
        raise IntegrityError(f"{HEADER_NAME} names the same bytes twice.", code="E303")


def _check_standing(header: Header, held: Mapping[str, str]) -> None:
    """No file of the corpus that is here is written over before the new header is in place."""
    for entry in header.files:
        if held.get(entry.path, entry.sha256) != entry.sha256:
            raise CorpusError(f"{HEADER_NAME} gives {entry.path} other bytes than the corpus here.", code="E307")


def _held(root: Path) -> dict[str, str]:
    """sha256 by path of the files of the corpus that is here already."""
    try:
        return {entry.path: entry.sha256 for entry in read_header(root).header.files}
    except ReportedError:
        return {}


def _is_whole(root: Path, entry: FileEntry) -> bool:
    path = _target(root, entry)
    if not path.is_file() or path.is_symlink() or path.stat().st_size != entry.size:
        return False
    return sha256_of_file(path)[1] == entry.sha256


def _target(root: Path, entry: FileEntry) -> Path:
    path = root / entry.path
    if path.parent.is_symlink():
        raise CorpusError(f"{entry.path} lies behind a link.", code="E307")
    return path


def _check_space(root: Path, missing: list[FileEntry]) -> None:
    wanted = {f"{entry.sha256}.part" for entry in missing}
    held = 0
    for path in (root / PARTS).glob("*"):
        if path.name in wanted:
            held += path.stat().st_size
        else:  # of another version, that was never finished
            path.unlink()
    stat = os.statvfs(root)
    needed, free = sum(entry.size for entry in missing) - held, stat.f_bavail * stat.f_frsize
    if needed > free:
        raise EnvironmentFault(f"{needed:,} bytes are to come and {free:,} are free at {root.name}.", code="E510")


def _fetch_all(place: Place, root: Path, missing: list[FileEntry], on_progress: OnProgress) -> None:
    lock = threading.Lock()
    done, total = 0, max(1, sum(entry.size for entry in missing))
    stop = threading.Event()

    def came(count: int) -> None:
        nonlocal done
        with lock:
            done += count
            on_progress("pull", done // MIB, max(1, -(-total // MIB)))
        if stop.is_set():
            raise InterruptedError

    (root / PARTS).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(FILES_AT_ONCE, initializer=give_up_on, initargs=(stop,)) as pool:
        waiting = [pool.submit(_fetch, place, root, entry, came) for entry in missing]
        try:
            for each in waiting:
                each.result()
        except BaseException:
            stop.set()
            for each in waiting:
                each.cancel()
            raise


def _fetch(place: Place, root: Path, entry: FileEntry, came: Callable[[int], None]) -> None:
    """Bring one file: on top of what an earlier run left, else from the start, and once more where bytes are wrong."""
    part = root / PARTS / f"{entry.sha256}.part"
    for attempt in range(2):
        if _fill(place, entry, part, came):
            path = _target(root, entry)
            path.parent.mkdir(exist_ok=True)
            part.replace(path)
            sync_folder(path.parent)
            crashpoint(f"pulled {entry.path}")
            return
        part.unlink()
        came(-entry.size if attempt == 0 else 0)
    raise IntegrityError(f"{place.name}: {entry.path}.", code="E408")


def _fill(place: Place, entry: FileEntry, part: Path, came: Callable[[int], None]) -> bool:
    """Whether the part file, filled up to the size of the entry, has its sha256."""
    digest = hashlib.sha256()
    with part.open("a+b") as file:
        file.seek(0)
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            came(len(chunk))
        position = file.tell()
        while position < entry.size:
            try:
                data = place.read(entry.path, position, min(position + CHUNK, entry.size))
            except NotFoundError as error:
                raise IntegrityError(f"{place.name}: {entry.path} is not there.", code="E403") from error
            if not data:
                break
            file.write(data)
            digest.update(data)
            position += len(data)
            came(len(data))
        file.flush()
        os.fsync(file.fileno())
    return position == entry.size and digest.hexdigest() == entry.sha256


def _check_content(root: Path, header: Header, held: Mapping[str, str]) -> None:
    """Records decode and agree; shards and data files hold what the manifest says and nothing else."""
    samples = _records(Sample, root, header.manifest)
    subjects, ledger = _records(Subject, root, header.subjects), _records(LedgerRow, root, header.ledger)
    for problem in foreign_problems(root, header, samples, subjects, ledger):
        if OURS.fullmatch(problem.where) and problem.where not in held:
            (root / problem.where).unlink(missing_ok=True)
        raise CorpusError(f"{problem.where}: {problem.detail}", code=problem.code)


def _records(record: type[RecordT], root: Path, entry: FileEntry) -> list[RecordT]:
    return records_from_table(record, read_table(root, entry), where=entry.path)
