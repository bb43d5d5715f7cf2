"""Where units of work run: `Executor.map_units(fn, units, resources)`, in this process or in others on this machine.

A unit is a small JSON value that says what to compute; `fn` reads its inputs, runs a stage and writes one part
file whole. The executor moves units and short answers, never pictures, and never commits. A worker that dies
takes only its own unit with it. Many machines: `dataforge.ray_executor`.
"""

from __future__ import annotations

import selectors
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Protocol

from dataforge.units import Unit, UnitFunction, forget_stage
from dataforge.worker_process import Resources, UnitResult, WorkerProcess, cores, has_room

__all__ = ["Executor", "InlineExecutor", "LocalExecutor", "Resources", "UnitResult"]


class Executor(Protocol):
    """Maps a function over units of work."""

    def map_units(self, fn: UnitFunction, units: Iterable[Unit], resources: Resources) -> Iterator[UnitResult]:
        """Results in any order, one per unit. Raises what the function raises for faults that are not the unit's."""
        ...

    def release(self) -> None:
        """Let go of a stage that is done: its model, and the pictures that it was given. Workers may end."""
        ...

    def close(self) -> None:
        """End all workers; nothing where they have ended already."""
        ...


class InlineExecutor:
    """Runs units in this process: for tests and debuggers. A decoder that crashes takes the build with it."""

    def map_units(self, fn: UnitFunction, units: Iterable[Unit], resources: Resources) -> Iterator[UnitResult]:
        """Results in the order of the units."""
        del resources
        for unit in units:
            yield UnitResult(unit, fn(unit))

    def release(self) -> None:
        """Let go of the stage that this process holds."""
        forget_stage()

    def close(self) -> None:
        """Let go of a stage that raised; there is nothing to end."""
        forget_stage()


class LocalExecutor:
    """Runs units in worker processes on this machine."""

    def __init__(self, workers: int) -> None:
        self._count = workers
        self._workers: list[WorkerProcess] = []
        self._resources: Resources | None = None

    def map_units(self, fn: UnitFunction, units: Iterable[Unit], resources: Resources) -> Iterator[UnitResult]:
        """Results in the order they come. At most as many workers as units; each holds `1 + ahead` units at most."""
        if self._resources != resources:
            self.close()
            self._resources = resources
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
                        selector.register(taker, selectors.EVENT_READ, taker)
                    taker.give(fn, waiting.popleft())
                busy = [worker for worker in self._workers if worker.held]
                if not busy:
                    return
                ready = [key.data for key, _ in selector.select(timeout=1.0)]
                late = [worker for worker in busy if worker not in ready and worker.late]
                for worker in late:
                    worker.stop()
                for worker in [*ready, *late]:
                    results = worker.take()
                    if worker.dead or not worker.held:
                        selector.unregister(worker)
                    if worker.dead:
                        self._drop(worker)
                        waiting.extendleft(reversed(worker.held))  # not begun: another worker's
                    yield from results

    def _taker(self, unit: Unit, resources: Resources) -> WorkerProcess | None:
        """The worker for a unit: an idle one, a new one while there may be more, or one with room ahead."""
        for worker in [worker for worker in self._workers if not worker.held]:
            if not worker.ended:
                return worker
            self._drop(worker)  # ended while idle, by us or from outside: no unit's fault
        if len(self._workers) < min(self._count, resources.max_workers or self._count):
            return self._start(resources)
        least = min(self._workers, key=lambda worker: len(worker.held))
        return least if has_room(least.held, unit, resources.ahead) else None

    def _start(self, resources: Resources) -> WorkerProcess:
        numbers = {worker.number for worker in self._workers}
        number = next(number for number in range(len(numbers) + 1) if number not in numbers)
        threads = max(1, cores() // min(self._count, resources.max_workers or self._count)) if resources.model else 1
        worker = WorkerProcess(resources, number, threads)
        self._workers.append(worker)
        return worker

    def _drop(self, worker: WorkerProcess) -> None:
        self._workers.remove(worker)
        worker.kill()

    def release(self) -> None:
        """Have all workers let go of their stage, or end where they have lived long."""
        for worker in self._workers:
            worker.release()

    def close(self) -> None:
        """End all workers; safe at any moment, because results are renamed into place whole."""
        for worker in self._workers:
            worker.kill()
        self._workers.clear()
