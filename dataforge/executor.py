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
from typing import IO, Protocol

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
    """What the workers of a stage need. `untrusted`: they decode bytes from outside, so they get tight limits and
    no secrets; `timeout_s`: wall time after which a worker is taken for stuck."""

    untrusted: bool = False
    max_memory_bytes: int | None = None
    timeout_s: float = 600.0


@dataclass(frozen=True, slots=True)
class UnitResult:
    """What became of a unit: the part that holds its results, or how its worker died."""

    unit: Unit
    part: str | None
    died: str | None = None


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

    def map_units(self, fn: UnitFunction, units: Iterable[Unit], resources: Resources) -> Iterator[UnitResult]:
        """Results in the order they come. One unit a worker at a time; at most as many workers as units."""
        if self._resources != resources:
            self.close()
            self._resources = resources
        source = iter(units)
        busy: set[_Worker] = set()
        idle = deque(self._workers)
        exhausted = False
        with selectors.DefaultSelector() as selector:
            while True:
                while not exhausted and (idle or len(self._workers) < self._count):
                    unit = next(source, None)
                    if unit is None:
                        exhausted = True
                        break
                    worker = idle.popleft() if idle else self._start(resources)
                    worker.give(fn, unit)
                    selector.register(worker.answers, selectors.EVENT_READ, worker)
                    busy.add(worker)
                if not busy:
                    return
                ready = [key.data for key, _ in selector.select(timeout=1.0)]
                late = [w for w in busy if w not in ready and time.monotonic() > w.given_at + resources.timeout_s]
                for worker in late:
                    worker.stop()
                for worker in [*ready, *late]:
                    selector.unregister(worker.answers)
                    busy.discard(worker)
                    result = worker.take()
                    if result.died or worker in late:
                        self._workers.remove(worker)
                        worker.kill()
                    else:
                        idle.append(worker)
                    yield result

    def _start(self, resources: Resources) -> _Worker:
        worker = _Worker(resources)
        self._workers.append(worker)
        return worker

    def close(self) -> None:
        """End all workers; safe at any moment, because results are renamed into place whole."""
        for worker in self._workers:
            worker.kill()
        self._workers.clear()


class _Worker:
    """One worker process and the unit it holds."""

    def __init__(self, resources: Resources) -> None:
        environment = {
            name: value
            for name, value in os.environ.items()
            if not resources.untrusted or name in HARMLESS_NAMES or name.startswith(HARMLESS_PREFIXES)
        }
        # workers are the parallelism: libraries inside them must not add threads of their own
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
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
        self._unit: Unit = {}
        self.given_at = 0.0
        self._late = False

    def give(self, fn: UnitFunction, unit: Unit) -> None:
        self._unit, self.given_at = unit, time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # died while idle: take() finds out
            self._questions.write(json.dumps({"fn": asdict(fn), "unit": unit}).encode() + b"\n")
            self._questions.flush()

    def take(self) -> UnitResult:
        """The answer to the unit held, or how the process died. Raises what the unit's function raised."""
        line = self.answers.readline()
        if not line.endswith(b"\n"):
            self._process.wait()
            return UnitResult(self._unit, None, died="deadline" if self._late else _death(self._process.returncode))
        answer = json.loads(line)
        if "part" in answer:
            return UnitResult(self._unit, answer["part"])
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


def _death(returncode: int) -> str:
    if returncode in (-signal.SIGPROF, -signal.SIGXCPU):
        return "deadline"
    return signal.Signals(-returncode).name if returncode < 0 else f"exit {returncode}"
