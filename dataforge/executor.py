"""Where units of work run: `Executor.map_units(fn, units, resources)`, and the local implementation of it.

A unit is a small JSON value that says what to compute; `fn` reads its inputs, runs a stage and writes one part
file whole. The executor moves units and short answers, never pictures, and never commits. A worker that dies
takes only its own unit with it.
"""

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
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import IO, Any, Protocol

from dataforge.units import Unit, UnitFunction
from manifests.errors import CODES, CorpusError, EnvironmentFault, ReportedError, UsageError

__all__ = ["Executor", "InlineExecutor", "LocalExecutor", "Resources", "UnitResult"]

# what a worker that decodes bytes from outside may know of this process's environment: nothing secret is on the list
HARMLESS_NAMES = frozenset(
    {"PATH", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "DATAFORGE_DEBUG"}
)
HARMLESS_PREFIXES = ("LC_", "PYTHON")


@dataclass(frozen=True, slots=True)
class Resources:
    """What the workers of a stage need.

    `untrusted`: they decode bytes from outside, so they get tight limits and no secrets. `timeout_s`: wall time after
    which a worker is taken for stuck. `model`: they hold a model, so `max_workers` of them at most, each with its share
    of the cores; each is given `ahead` units more than the one it works on, to prepare them meanwhile.
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


class Executor(Protocol):
    """Maps a function over units of work."""

    def map_units(self, fn: UnitFunction, units: Iterable[Unit], resources: Resources) -> Iterator[UnitResult]:
        """Results in any order, one per unit. Raises what the function raises for faults that are not the unit's."""
        ...

    def close(self) -> None:
        """End all workers."""
        ...


class InlineExecutor:
    """Runs units in this process: for tests and debuggers. A decoder that crashes takes the build with it."""

    def map_units(self, fn: UnitFunction, units: Iterable[Unit], resources: Resources) -> Iterator[UnitResult]:
        """Results in the order of the units."""
        del resources
        for unit in units:
            yield UnitResult(unit, fn(unit))

    def close(self) -> None:
        """Nothing to end."""


class LocalExecutor:
    """Runs units in worker processes on this machine, which speak JSON lines over their pipes."""

    def __init__(self, workers: int) -> None:
        self._count = workers
        self._workers: list[_Worker] = []
        self._resources: Resources | None = None
        self._stage = ""

    def map_units(self, fn: UnitFunction, units: Iterable[Unit], resources: Resources) -> Iterator[UnitResult]:
        """Results in the order they come. At most as many workers as units; each holds `1 + ahead` units at most."""
        if self._resources != resources:
            self.close()
            self._resources = resources
        if self._stage != fn.stage:
            for worker in self._workers:
                worker.release()
            self._stage = fn.stage
        source = iter(units)
        waiting: deque[Unit] = deque()
        with selectors.DefaultSelector() as selector:
            while True:
                while True:
                    if not waiting and (unit := next(source, None)) is not None:
                        waiting.append(unit)
                    taker = self._taker(waiting[0], resources) if waiting else None
                    if taker is None:
                        break
                    if not taker.held:
                        selector.register(taker.answers, selectors.EVENT_READ, taker)
                    taker.give(fn, waiting.popleft())
                busy = [worker for worker in self._workers if worker.held]
                if not busy:
                    return
                ready = [key.data for key, _ in selector.select(timeout=1.0)]
                late = [w for w in busy if w not in ready and time.monotonic() > w.given_at + resources.timeout_s]
                for worker in late:
                    worker.stop()
                for worker in [*ready, *late]:
                    result = worker.take()
                    if result.died or worker in late:
                        selector.unregister(worker.answers)
                        self._workers.remove(worker)
                        worker.kill()
                        waiting.extendleft(reversed(worker.held))  # not looked at yet: another worker's
                    elif not worker.held:
                        selector.unregister(worker.answers)
                    yield result

    def _taker(self, unit: Unit, resources: Resources) -> _Worker | None:
        """The worker for a unit: an idle one, a new one while there may be more, or one with room ahead."""
        idle = next((worker for worker in self._workers if not worker.held), None)
        if idle is not None:
            return idle
        if len(self._workers) < min(self._count, resources.max_workers or self._count):
            return self._start(resources)
        if unit.get("alone"):
            return None
        least = min(self._workers, key=lambda worker: len(worker.held))
        return least if len(least.held) <= resources.ahead and not least.held[-1].get("alone") else None

    def _start(self, resources: Resources) -> _Worker:
        numbers = {worker.number for worker in self._workers}
        number = next(number for number in range(len(numbers) + 1) if number not in numbers)
        threads = max(1, _cores() // min(self._count, resources.max_workers or self._count)) if resources.model else 1
        worker = _Worker(resources, number, threads)
        self._workers.append(worker)
        return worker

    def close(self) -> None:
        """End all workers; safe at any moment, because results are renamed into place whole."""
        for worker in self._workers:
            worker.kill()
        self._workers.clear()


class _Worker:
    """One worker process and the units it holds, the one it works on first."""

    def __init__(self, resources: Resources, number: int = 0, threads: int = 1) -> None:
        self.number = number
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
        self.answers: IO[bytes] = self._process.stdout
        self.held: deque[Unit] = deque()
        self._shared = False
        self.given_at = 0.0
        self._late = False

    def give(self, fn: UnitFunction, unit: Unit) -> None:
        if not self.held:
            self.given_at = time.monotonic()
        self.held.append(unit)
        # the results of the unit before are still being written when this one begins, once units overlap
        self._shared = len(self.held) > 1 or (self._shared and not unit.get("alone"))
        self._say({"fn": asdict(fn), "unit": unit})

    def release(self) -> None:
        """Have the process let go of the stage it holds, and of that stage's model."""
        self._say({"release": True})

    def _say(self, question: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # died while idle: take() finds out
            self._questions.write(json.dumps(question).encode() + b"\n")
            self._questions.flush()

    def take(self) -> UnitResult:
        """The answer to the first unit held, or how the process died. Raises what the unit's function raised."""
        line = self.answers.readline()
        unit = self.held.popleft()
        self.given_at = time.monotonic()
        if not line.endswith(b"\n"):
            self._process.wait()
            died = "deadline" if self._late else _death(self._process.returncode)
            return UnitResult(unit, None, died=died, alone=not self._shared)
        answer = json.loads(line)
        if "part" in answer:
            return UnitResult(unit, answer["part"], notes=tuple(answer["notes"]))
        kinds = {"EnvironmentFault": EnvironmentFault, "UsageError": UsageError, "CorpusError": CorpusError}
        kind: type[ReportedError] | None = kinds.get(answer["kind"])
        if kind is not None and answer["code"] in CODES:
            raise kind(answer["detail"], code=answer["code"])
        raise RuntimeError(f"worker: {answer['detail']}")

    def stop(self) -> None:
        """End the process; what it had answered before can still be taken."""
        self._late = True
        self._process.kill()
        self._process.wait()

    def kill(self) -> None:
        """End the process and close its pipes."""
        self.stop()
        self.answers.close()
        with contextlib.suppress(BrokenPipeError):
            self._questions.close()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _death(returncode: int) -> str:
    if returncode in (-signal.SIGPROF, -signal.SIGXCPU):
        return "deadline"
    return signal.Signals(-returncode).name if returncode < 0 else f"exit {returncode}"
