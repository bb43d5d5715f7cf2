"""Files: written whole or not at all; opened only below their root; one writer at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from manifests.errors import EnvironmentFault, OutputLocked
from manifests.fsops import (
    TEMPORARY_PREFIX,
    check_relative,
    environment_faults,
    open_below,
    output_lock,
    remove_stale_temporaries,
    sha256_of_file,
    write_atomic,
    write_named_by_content,
)
from manifests.ids import sha256_hex


def fail_in_the_middle(file) -> None:
    file.write(b"half of the new")
    raise RuntimeError("in the middle")


def interrupted_in_the_middle(file) -> None:
    file.write(b"half of the new")
    raise KeyboardInterrupt


def test_file_is_written_whole_with_its_folders(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    write_atomic(path, b"bytes")
    assert path.read_bytes() == b"bytes"
    write_atomic(path, lambda file: file.write(b"other"))  # type: ignore[arg-type,return-value]
    assert path.read_bytes() == b"other"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_a_name_is_synced_but_where_it_need_not_last(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("manifests.fsops.sync_folder", synced.append)
    write_atomic(tmp_path / "a" / "file", b"bytes")
    write_atomic(tmp_path / "b" / "file", b"bytes", lasting=False)
    assert synced == [tmp_path / "a"]
    assert (tmp_path / "b" / "file").read_bytes() == b"bytes"


@pytest.mark.parametrize("write", [fail_in_the_middle, interrupted_in_the_middle])
def test_failure_in_the_middle_leaves_the_old_file_and_nothing_else(tmp_path, write):
    path = tmp_path / "file"
    write_atomic(path, b"old")
    with pytest.raises((RuntimeError, KeyboardInterrupt)):
        write_atomic(path, write)
    with pytest.raises((RuntimeError, KeyboardInterrupt)):
        write_named_by_content(tmp_path, "file-{}", write)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """As a full disk: a write beyond the limit fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_disk_that_refuses_is_an_environment_fault_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, b"old")
    with file_size_limit(10_000), pytest.raises(EnvironmentFault, match=r"E510 .*file .*bytes free") as caught:
        write_atomic(path, b"x" * 100_000)
    assert caught.value.exit_code == 5
    with file_size_limit(10_000), pytest.raises(EnvironmentFault):
        write_named_by_content(tmp_path, "file-{}", lambda file: file.write(b"x" * 100_000))  # type: ignore[arg-type,return-value]
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


CRASH = """
import os, sys
from pathlib import Path
from manifests.fsops import write_atomic, write_named_by_content
write_atomic(Path(sys.argv[1]) / "file", b"new")
write_named_by_content(Path(sys.argv[1]), "named-{}", lambda file: file.write(b"new"))
"""


def test_killed_at_any_point_the_file_is_the_old_or_the_new_one(tmp_path):
    outcomes = []
    for point in range(1, 20):
        folder = tmp_path / str(point)
        write_atomic(folder / "file", b"old")
        run = subprocess.run([sys.executable, "-c", CRASH, str(folder)], env=environment(DATAFORGE_CRASH_AT=str(point)))
        outcomes.append((folder / "file").read_bytes())
        named = list(folder.glob("named-*"))
        assert all(path.read_bytes() == b"new" for path in named)
        remove_stale_temporaries(folder)
        assert {path.name[:5] for path in folder.iterdir()} <= {"file", "named"}
        if run.returncode == 0:
            break
        assert run.returncode == -signal.SIGKILL
    # open, written, synced, renamed of the one; written, synced, renamed of the other; and a run to the end
    assert outcomes == [b"old"] * 3 + [b"new"] * 5


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent), **more}


def test_temporaries_of_a_killed_process_are_removed_and_nothing_else(tmp_path):
    for name in ("a", "sub/b", f"{TEMPORARY_PREFIX}1", f"sub/{TEMPORARY_PREFIX}2-3", f"{TEMPORARY_PREFIX}folder/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert remove_stale_temporaries(tmp_path) == 3
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "sub"]


def test_file_named_by_content_holds_the_digest_of_what_lies_on_disk(tmp_path):
    path, size, sha256 = write_named_by_content(tmp_path, "part-{}.bin", lambda file: file.write(b"abc"))  # type: ignore[arg-type,return-value]
    assert (size, sha256) == (3, sha256_hex(b"abc")) == sha256_of_file(path)
    assert path.name == f"part-{sha256[:16]}.bin"


UNSAFE = [
    "",
    ".",
    "./",
    "..",
    "../x",
    "a/../b",
    "a/..",
    "/etc/passwd",
    "//x",
    "C:x",
    "c:/x",
    "a\\b",
    "\\\\host\\x",
    "a\0b",
    "a" * 5000,
]


@pytest.mark.parametrize("name", UNSAFE)
def test_name_that_leaves_the_root_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="not a safe relative path"):
        check_relative(name)
    with pytest.raises(ValueError, match="not a safe relative path"):
        open_below(tmp_path, name)


def test_regular_file_below_the_root_is_opened(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "..c d").write_bytes(b"x")
    for name in ("a/b/..c d", "a//b/./..c d"):
        descriptor = open_below(tmp_path, name)
        assert os.read(descriptor, 9) == b"x"
        os.close(descriptor)


def test_links_in_any_part_fifos_sockets_and_folders_are_refused_without_hanging(tmp_path):
    import socket

    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "a" / "b").mkdir(parents=True)
    (outside / "b").mkdir(parents=True)
    (outside / "b" / "file").write_text("secret")
    (root / "a" / "file").write_text("inside")
    (root / "a" / "link").symlink_to(outside / "b" / "file")
    (root / "a" / "inner").symlink_to(root / "a" / "file")
    (root / "a" / "loop").symlink_to(root / "a" / "loop")
    (root / "folder").symlink_to(outside)
    (root / "a" / "deep").symlink_to(outside / "b")
    os.mkfifo(root / "a" / "fifo")
    listener = socket.socket(socket.AF_UNIX)
    with contextlib.chdir(root / "a"):
        listener.bind("socket")
    names = ["a/link", "a/inner", "a/loop", "folder/b/file", "a/deep/file", "a/fifo", "a/socket", "a/b", "a", "a/none"]
    start = time.monotonic()
    for name in names:
        with pytest.raises(OSError, match="Errno"):
            open_below(root, name)
    listener.close()
    assert time.monotonic() - start < 5


def test_ten_thousand_names_open_nothing_outside_the_root_and_no_descriptor_stays_open(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "a" / "b", outside / "b"):
        folder.mkdir(parents=True)
        (folder / "file").touch()
    (root / "file").touch()
    (outside / "file").touch()
    (root / "link").symlink_to(outside)
    (root / "up").symlink_to("..")
    parts = [
        *["a", "b", "file"] * 4,
        "link",
        "up",
        "..",
        ".",
        "",
        "/",
        "\\",
        "~",
        "C:",
        "...",
        "..\\..",
        "%2e%2e",
        "outside",
        "root",
        "\0",
        "\u2025",
        "x" * 300,
        str(tmp_path),
        "file/",
    ]
    rng = random.Random(11)
    inside = root.resolve()
    opened = set()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10_000):
        name = rng.choice(["/", "", "./"]) * (rng.random() < 0.3) + "/".join(
            rng.choices(parts, k=rng.randint(1, 5)) + rng.choice([[], [], ["file"]])
        )
        try:
            descriptor = open_below(root, name)
        except (ValueError, OSError):
            continue
        real = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        os.close(descriptor)
        assert real.is_relative_to(inside), name
        opened.add(real.relative_to(inside).as_posix())
    print(f"10,000 names, {len(opened)} different files opened, all below the root")
    assert opened == {"file", "a/b/file"}
    assert len(os.listdir("/proc/self/fd")) == before


HOLD = """
import sys, time
from pathlib import Path
from manifests.fsops import output_lock
with output_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "out" / ".work" / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


def test_second_process_is_told_at_once_who_holds_the_output(tmp_path, holder):
    lock = tmp_path / "out" / ".work" / "lock"
    start = time.monotonic()
    with (
        pytest.raises(
            OutputLocked, match=rf"E520 .*out is being written by process {holder.pid} on .* since"
        ) as caught,
        output_lock(lock),
    ):
        pass
    assert caught.value.exit_code == 6
    assert time.monotonic() - start < 2
    holder.communicate(b"\n")
    with output_lock(lock):
        assert str(os.getpid()) in lock.read_text()
    assert lock.read_bytes() == b""


def test_lock_of_a_killed_owner_is_free_at_once(tmp_path, holder):
    lock = tmp_path / "out" / ".work" / "lock"
    holder.kill()
    holder.wait()
    assert str(holder.pid) in lock.read_text()
    with output_lock(lock):
        assert str(holder.pid) not in lock.read_text()
    assert lock.read_bytes() == b""


def test_lock_is_released_and_emptied_when_the_work_fails(tmp_path):
    lock = tmp_path / "out" / ".work" / "lock"
    for _ in range(2):
        with pytest.raises(RuntimeError), output_lock(lock):
            raise RuntimeError
        assert lock.read_bytes() == b""


def test_junk_in_a_lock_file_does_not_matter(tmp_path, holder):
    lock = tmp_path / "out" / ".work" / "lock"
    lock.write_bytes(b'["\xff')
    with pytest.raises(OutputLocked, match="another process"), output_lock(lock):
        pass


def test_errors_that_are_not_the_disks_fault_stay_what_they_are(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Errno") as caught:
        write_atomic(tmp_path / "file" / "below", b"x")
    assert caught.value.errno in (errno.ENOTDIR, errno.EEXIST)


def test_what_may_not_be_written_is_not_called_full(tmp_path):
    with (
        pytest.raises(EnvironmentFault, match=r"Permission denied while writing .*/lock\. Free space or mend"),
        environment_faults(tmp_path / "lock"),
    ):
        raise PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(EnvironmentFault, match="bytes free on that disk"), environment_faults(tmp_path / "lock"):
        raise OSError(errno.ENOSPC, "No space left on device")
