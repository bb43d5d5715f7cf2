"""The only way this project writes files: whole, synced, then renamed into place; and locks, and safe opens.

Every step of a commit passes `crashpoint`, so that a test can kill the process at each one in turn.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import secrets
import shutil
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from manifests.errors import EnvironmentFault, OutputLocked

__all__ = [
    "check_relative",
    "crashpoint",
    "environment_faults",
    "open_below",
    "output_lock",
    "remove_stale_temporaries",
    "sha256_of_file",
    "sync_folder",
    "write_atomic",
    "write_named_by_content",
]

TEMPORARY_PREFIX = ".tmp-"
_temporary_numbers = itertools.count()
# beside the process ID: on a file system that machines share, two processes may have the same one
_process_token = secrets.token_hex(4)
_crash_at = int(os.environ.get("DATAFORGE_CRASH_AT", "0"))
_crash_log = os.environ.get("DATAFORGE_CRASH_LOG")
_crash_count = 0

# What a full or failing disk says; anything else that is an OSError is a bug or an item fault.
DISK_ERRNOS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG}
    | {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENAMETOOLONG}
)


def crashpoint(name: str) -> None:
    """Kill this process here when DATAFORGE_CRASH_AT says so (tests only; two comparisons otherwise).

    With DATAFORGE_CRASH_LOG set, each point passed is appended to that file, so that a test can list them.
    """
    global _crash_count
    if not _crash_at and _crash_log is None:
        return
    _crash_count += 1
    if _crash_log is not None:
        with Path(_crash_log).open("a") as log:
            log.write(name + "\n")
    if _crash_count == _crash_at:
        os.kill(os.getpid(), signal.SIGKILL)


def set_crashpoint(at: int, log: str | None = None) -> None:
    """Arm or disarm `crashpoint` in this process; for tests that fork."""
    global _crash_at, _crash_count, _crash_log
    _crash_at, _crash_log, _crash_count = at, log, 0


@contextlib.contextmanager
def environment_faults(place: Path) -> Iterator[None]:
    """Turn a disk that is full or failing into `EnvironmentFault` E510, naming the place and the free bytes."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRNOS:
            raise
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise EnvironmentFault(f"{os.strerror(error.errno)} while writing {place}.", code="E510") from error
        folder = place if place.is_dir() else place.parent
        free = shutil.disk_usage(folder).free if folder.exists() else 0
        raise EnvironmentFault(
            f"{os.strerror(error.errno)} while writing {place.name} ({free:,} bytes free on that disk).", code="E510"
        ) from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last: after a rename, before anyone is told of it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, content: bytes | Callable[[IO[bytes]], None], *, lasting: bool = True) -> None:
    """Write a file so that it is either absent (or the old one) or whole: temporary, fsync, rename, fsync folder.

    `content` is the bytes, or a function that writes them to an open file. Parent folders are made. Without `lasting`
    the folder is not synced: after a loss of power the file may be absent, or the old one, and still never half.
    Raises `EnvironmentFault` E510 when the disk is full; nothing is left behind then.
    """
    with environment_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{_process_token}-{next(_temporary_numbers)}"
        try:
            with temporary.open("wb") as file:
                crashpoint(f"open {path.name}")
                if callable(content):
                    content(file)
                else:
                    file.write(content)
                file.flush()
                crashpoint(f"written {path.name}")
                os.fsync(file.fileno())
            crashpoint(f"synced {path.name}")
            temporary.replace(path)
            crashpoint(f"renamed {path.name}")
            if lasting:
                sync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def remove_stale_temporaries(folder: Path) -> int:
    """Delete temporaries that a killed process left under the folder; returns how many. The caller holds the lock."""
    removed = 0
    for parent, folders, files in os.walk(folder):
        for name in files:
            if name.startswith(TEMPORARY_PREFIX):
                (Path(parent) / name).unlink(missing_ok=True)
                removed += 1
        for name in [name for name in folders if name.startswith(TEMPORARY_PREFIX)]:
            shutil.rmtree(Path(parent) / name, ignore_errors=True)
            folders.remove(name)
            removed += 1
    return removed


def check_relative(text: str) -> PurePosixPath:
    """A path from data as a safe relative one.

    Refuses with ValueError what is absolute under POSIX or Windows rules, climbs with `..`, holds a NUL or
    backslash, or is longer than 4096 bytes.
    """
    path = PurePosixPath(text)
    unsafe = (
        not text
        or "\0" in text
        or "\\" in text
        or path.is_absolute()
        or not path.parts
        or ".." in path.parts
        or (len(text) > 1 and text[1] == ":")
        or len(os.fsencode(text)) > 4096
    )
    if unsafe:
        raise ValueError(f"{text!r} is not a safe relative path")
    return path


def open_below(root: Path, relative: str, *, flags: int = os.O_RDONLY) -> int:
    """Open a regular file below a root without following a symbolic link in any part of the path.

    Returns a file descriptor, opened non-blocking so that a FIFO cannot hang. Raises ValueError for an unsafe
    path and OSError where a part is a link (ELOOP or ENOTDIR) or the file is not a regular one (EINVAL).
    """
    parts = check_relative(relative).parts
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = inner
        descriptor = os.open(parts[-1], flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return descriptor


@contextlib.contextmanager
def output_lock(lock_path: Path) -> Iterator[None]:
    """Hold the one lock of an output for the length of the block.

    `flock`, so the kernel frees it when its owner dies. Raises `OutputLocked` E520 at once, naming the owner's
    process and since when, while another process holds it.
    """
    with environment_faults(lock_path):
        lock_path.parent.mkdir(parents=True, exist_ok=True)
        file = lock_path.open("a+", encoding="utf-8", errors="replace")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            file.seek(0)
            raise OutputLocked(f"{lock_path.parent.parent.name} is being written by {_owner(file.read())}.") from error
        file.truncate(0)
        file.write(
            json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")})
        )
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)  # no host name stays behind


def _owner(text: str) -> str:
    try:
        owner = json.loads(text)
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


def write_named_by_content(folder: Path, pattern: str, write: Callable[[IO[bytes]], None]) -> tuple[Path, int, str]:
    """Write a file whose name holds the first 16 hex digits of its own sha256; returns path, size and sha256.

    `pattern` has one `{}` for the digits. The file is hashed as it lies on disk, not as it was meant to be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{TEMPORARY_PREFIX}{os.getpid()}-{_process_token}-{next(_temporary_numbers)}"
    with environment_faults(temporary):
        try:
            with temporary.open("w+b") as file:
                write(file)
                file.flush()
                crashpoint(f"written {pattern}")
                os.fsync(file.fileno())
                file.seek(0)
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                size = file.tell()
            path = folder / pattern.format(sha256[:16])
            crashpoint(f"synced {pattern}")
            temporary.replace(path)
            crashpoint(f"renamed {pattern}")
            sync_folder(folder)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    return path, size, sha256


def sha256_of_file(path: Path) -> tuple[int, str]:
    """Size and sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), sha256
