"""What a running build says of itself: to the display, and line by line to `.work/progress.jsonl` for machines.

`dataforge status` reads the last line from another terminal; each line is whole by itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from dataforge.runner import OnProgress

__all__ = ["LOG_NAME", "BuildLog", "Status", "busy", "read_status"]

LOG_NAME = "progress.jsonl"
# at most one line a second
EVERY_S = 1.0
# asking a GPU how busy it is starts a process
ASK_GPU_S = 5.0
TAIL_BYTES = 1 << 16


@dataclass(slots=True)
class _Stage:
    """A stage's progress; one that runs twice (photographs, then made pictures) goes on where it was."""

    before: int = 0
    done: int = 0
    total: int = 0
    first: float = 0.0  # when the first answer came, and how much was done by then
    first_done: int = 0
    last: float = 0.0

    @property
    def rate(self) -> float:
        """Items a second since the first answer: starting workers and loading models are not in it."""
        span = self.last - self.first
        return (self.done - self.first_done) / span if span > 0 else 0.0

    def facts(self) -> dict[str, Any]:
        left = (self.total - self.done) / self.rate if self.rate else None
        return {
            "done": self.before + self.done,
            "total": self.before + self.total,
            "rate": round(self.rate, 3),
            "left_s": None if left is None else round(left, 1),
        }


class BuildLog:
    """Receives progress and rejects, passes progress on, and writes a line now and then.

    `on_note` is given a short text of rejects and of how busy the machine is.
    """

    def __init__(self, path: Path, on_progress: OnProgress, on_note: Callable[[str], None]) -> None:
        self._on_progress = on_progress
        self._on_note = on_note
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", encoding="utf-8")
        self._stages: dict[str, _Stage] = {}
        self._stage = ""
        self._rejects: Counter[str] = Counter()
        self._written = 0.0
        self._cpu = _Cpu()
        self._gpu = _Gpu()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Progress of a stage: `done` of `total` items."""
        now = time.monotonic()
        state = self._stages.setdefault(stage, _Stage())
        if done == 0:
            state.before += state.done
            state.first, state.first_done = 0.0, 0
        elif not state.first:
            state.first, state.first_done = now, done
        state.done, state.total, state.last = done, total, now
        self._stage = stage
        self._on_progress(stage, done, total)
        if now >= self._written + EVERY_S:
            self._write("running")

    def rejected(self, code: str) -> None:
        """An item was refused for the reason of that code."""
        self._rejects[code] += 1

    def _write(self, state: str) -> None:
        self._written = time.monotonic()
        cpu, gpu = self._cpu.share(), self._gpu.share()
        line = {
            "at": round(time.time(), 1),
            "state": state,
            "stage": self._stage,
            "stages": {name: stage.facts() for name, stage in self._stages.items() if stage.before + stage.total},
            "rejects": dict(sorted(self._rejects.items())),
            "cpu": cpu,
            "gpu": gpu,
        }
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        said = [f"{code} {count}" for code, count in self._rejects.most_common(4)]
        self._on_note("  ".join([*busy(cpu, gpu), *(["refused: " + ", ".join(said)] if said else [])]))

    def __enter__(self) -> BuildLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gpu.stop()
        with contextlib.suppress(OSError):  # a full disk has been reported already
            self._write("finished" if kind is None else "stopped")
            self._file.close()


def busy(cpu: float | None, gpu: float | None) -> list[str]:
    """How busy a machine is, in words; nothing of what it does not say."""
    return [f"{name} {100 * share:.0f} %" for name, share in (("CPU", cpu), ("GPU", gpu)) if share is not None]


class _Cpu:
    """How busy this machine's cores were since the last question; None where the system does not say."""

    def __init__(self) -> None:
        self._last = self._read()

    @staticmethod
    def _read() -> tuple[int, int] | None:
        try:
            with Path("/proc/stat").open() as file:
                ticks = [int(text) for text in file.readline().split()[1:9]]
        except (OSError, ValueError):
            return None
        return sum(ticks), ticks[3] + ticks[4]

    def share(self) -> float | None:
        now, last = self._read(), self._last
        self._last = now
        if now is None or last is None or now[0] <= last[0]:
            return None
        return round(1 - (now[1] - last[1]) / (now[0] - last[0]), 3)


class _Gpu:
    """How busy the GPUs are on average, asked beside the build; None where there is none."""

    def __init__(self) -> None:
        self._share: float | None = None
        self._end = threading.Event()
        self._asker: threading.Thread | None = None
        if shutil.which("nvidia-smi"):
            self._asker = threading.Thread(target=self._ask, daemon=True)
            self._asker.start()

    def _ask(self) -> None:
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not self._end.is_set():
            try:
                said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
                shares = [int(line) / 100 for line in said.split()]
            except (OSError, ValueError, subprocess.SubprocessError):
                return
            self._share = sum(shares) / len(shares) if shares else None
            self._end.wait(ASK_GPU_S)

    def share(self) -> float | None:
        return self._share

    def stop(self) -> None:
        self._end.set()
        if self._asker is not None:
            self._asker.join(timeout=1.0)


@dataclass(frozen=True, slots=True)
class Status:
    """Of a corpus being built: `owner` is who holds its lock (pid, host, since), None while nobody does.

    `last` is the last line of the log, None where nothing was ever logged.
    """

    owner: dict[str, Any] | None
    last: dict[str, Any] | None


def read_status(work: Path) -> Status:
    """What a work folder says of the build that runs or ran there."""
    return Status(_owner(work / "lock"), _last_line(work / LOG_NAME))


def _owner(lock: Path) -> dict[str, Any] | None:
    try:
        with lock.open(encoding="utf-8", errors="replace") as file:
            text = file.read()
            if not text:
                return None
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:  # held: its owner lives
                return dict(json.loads(text))
    except (OSError, ValueError):
        return None
    return None


def _last_line(log: Path) -> dict[str, Any] | None:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            lines = file.read().split(b"\n")
        return dict(json.loads(lines[-2]))  # what follows the last line end is not whole
    except (OSError, ValueError, IndexError):
        return None
