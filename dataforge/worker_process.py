"""One worker process as its owner sees it: units go in as JSON lines, the paths of finished parts come out."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import IO, Any

from dataforge.units import Unit, UnitFunction
from manifests.errors import CODES, CorpusError, EnvironmentFault, ReportedError, UsageError

__all__ = ["Resources", "UnitResult", "WorkerProcess", "cores", "has_room", "told"]

# what a worker that decodes bytes from outside may know of this process's environment: nothing secret is on the list
HARMLESS_NAMES = frozenset(
    {"PATH", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "DATAFORGE_DEBUG"}
)
HARMLESS_PREFIXES = ("LC_", "PYTHON")
READ_BYTES = 1 << 16
# a process that has lived so long is not kept for another stage, unless it may have a model's libraries to load again
LONG_S = 60.0


@dataclass(frozen=True, slots=True)
class Resources:
    """What the workers of a stage need.

    `untrusted`: they decode bytes from outside, so they get tight limits and no secrets. `timeout_s`: wall time after
    which a worker is taken for stuck. `model`: they hold a model, so `max_workers` of them at most on a machine, each
    with its share of the cores; each is given `ahead` units more than the one it works on, to prepare them meanwhile.
    """

    untrusted: bool = False
    max_memory_bytes: int | None = None
    timeout_s: float = 600.0
    model: bool = False
    max_workers: int | None = None
    ahead: int = 0


@dataclass(frozen=True, slots=True)
class UnitResult:
    """What became of a unit: the part that holds its results, or how its worker died.

    `alone` says that nothing but this unit can have killed the worker; `notes` is what a backend warned of.
    """

    unit: Unit
    part: str | None
    died: str | None = None
    alone: bool = True
    notes: tuple[str, ...] = ()


def has_room(held: Sequence[Unit], unit: Unit, ahead: int) -> bool:
    """Whether a worker that holds these may be given a unit: none beside one that must be alone, and few at all."""
    if not held:
        return True
    return len(held) <= ahead and not unit.get("alone") and not held[-1].get("alone")


class WorkerProcess:
    """One worker process and the units it holds, the one it works on first.

    `number` tells workers that hold models apart, `threads` is each one's share of the cores.
    """

    def __init__(self, resources: Resources, number: int = 0, threads: int = 1) -> None:
        self.number = number
        self.resources = resources
        environment = {
            name: value
            for name, value in os.environ.items()
            if not resources.untrusted or name in HARMLESS_NAMES or name.startswith(HARMLESS_PREFIXES)
        }
        # workers are the parallelism: libraries inside them must not add threads of their own, models apart
        if not resources.model:
            environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        else:
            environment = {"OMP_NUM_THREADS": str(threads), **environment, "DATAFORGE_WORKER": str(number)}
            # a build looks at what is on this machine and reaches for nothing else
            environment |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
        command = [sys.executable, "-P", "-m", "dataforge.worker"]  # -P: no modules from the current folder
        if resources.untrusted:
            command += ["--untrusted", str(resources.max_memory_bytes or 0)]
        quiet = None if os.environ.get("DATAFORGE_DEBUG") else subprocess.DEVNULL
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=quiet, env=environment
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._questions: IO[bytes] = self._process.stdin
        # read below its buffer: what lies in a buffer wakes no selector
        self._answers: IO[bytes] = self._process.stdout
        self._unread = b""
        self.held: deque[Unit] = deque()
        self.dead = False
        self._shared = False
        self._given_at = 0.0
        self._late = False
        self._began = time.monotonic()

    @property
    def pid(self) -> int:
        """The process's ID."""
        return self._process.pid

    def fileno(self) -> int:
        """The descriptor that a selector waits on for answers."""
        return self._answers.fileno()

    def give(self, fn: UnitFunction, unit: Unit) -> None:
        """Hand over a unit."""
        if not self.held:
            self._given_at = time.monotonic()
        self.held.append(unit)
        # the results of the unit before are still being written when this one begins, once units overlap
        self._shared = len(self.held) > 1 or (self._shared and not unit.get("alone"))
        self._say({"fn": asdict(fn), "unit": unit})

    def release(self) -> None:
        """Have the process let go of the stage it holds, and of that stage's model; one that has lived long ends.

        Its memory is in pieces by then, some of which it cannot give back: whoever has more units starts another,
        which takes about a second. One that held a model is kept: it would load torch once more.
        """
        if not self.resources.model and time.monotonic() - self._began > LONG_S:
            self.stop()
        else:
            self._say({"release": True})

    def _say(self, question: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # died while idle: take() finds out
            self._questions.write(json.dumps(question).encode() + b"\n")
            self._questions.flush()

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    @property
    def late(self) -> bool:
        """Whether the unit worked on has had its time."""
        return bool(self.held) and time.monotonic() > self._given_at + self.resources.timeout_s

    def take(self) -> list[UnitResult]:
        """All that can be read now without waiting for more: answers, and at the end how the process died.

        Called when the descriptor is readable, or when the process was stopped. Raises what a unit's function raised.
        After a death `dead` is set, and what is still `held` was not begun: it is another worker's.
        """
        results: list[UnitResult] = []
        while True:
            said = os.read(self.fileno(), READ_BYTES)
            *lines, self._unread = (self._unread + said).split(b"\n")
            results += [self._understood(line) for line in lines]
            if not said:
                break
            if results and not self._late:
                return results
        self._process.wait()
        self.dead = True
        if self.held and not (self._late and results):  # one that answered at the last moment was not stuck
            died = "deadline" if self._late else _death(self._process.returncode)
            results.append(UnitResult(self.held.popleft(), None, died=died, alone=not self._shared))
        return results

    def _understood(self, line: bytes) -> UnitResult:
        unit = self.held.popleft()
        self._given_at = time.monotonic()
        answer = json.loads(line)
        if "part" in answer:
            return UnitResult(unit, answer["part"], notes=tuple(answer["notes"]))
        raise told(answer["kind"], answer["code"], answer["detail"])

    def wait(self) -> list[UnitResult]:
        """Wait for the next answers, or for the deadline of the unit worked on, which ends the process."""
        with selectors.DefaultSelector() as selector:
            selector.register(self, selectors.EVENT_READ)
            while not selector.select(timeout=1.0):
                if self.late:
                    self.stop()
                    break
        return self.take()

    def stop(self) -> None:
        """End the process; what it had answered before can still be taken."""
        self._late = True
        self._process.kill()
        self._process.wait()

    def kill(self) -> None:
        """End the process and close its pipes."""
        self.stop()
        self._answers.close()
        with contextlib.suppress(BrokenPipeError):
            self._questions.close()


def told(kind: str, code: str, detail: str) -> Exception:
    """What a unit's function raised in another process, made again here."""
    kinds = {"EnvironmentFault": EnvironmentFault, "UsageError": UsageError, "CorpusError": CorpusError}
    known: type[ReportedError] | None = kinds.get(kind)
    if known is not None and code in CODES:
        return known(detail, code=code)
    return RuntimeError(f"worker: {detail}")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _death(returncode: int) -> str:
    if returncode in (-signal.SIGPROF, -signal.SIGXCPU):
        return "deadline"
    return signal.Signals(-returncode).name if returncode < 0 else f"exit {returncode}"
