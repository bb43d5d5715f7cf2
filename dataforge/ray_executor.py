"""Units of work on a Ray cluster: the same worker processes, held by one thin actor each on whichever node has room.

Ray starts, places and loses actors; it never sees a picture and never commits. An actor holds one `WorkerProcess`, so
limits, deadlines and deaths are those of one machine. A node that goes takes no more with it than the units its
workers held: they are given to others. `ray` is imported when an executor is made.

All nodes see the corpus folder and the photographs under the same paths, and have the same packages installed; a node
that does not is found out before it gets a unit.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import secrets
import signal
import socket
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent import futures
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dataforge.units import Unit, UnitFunction
from dataforge.worker_process import Resources, UnitResult, WorkerProcess, cores, has_room, told
from manifests.errors import EnvironmentFault, ReportedError, UsageError

__all__ = ["RayExecutor"]

# what decides pixels and bytes: nodes that differ in one of them would make another corpus
PACKAGES = ("dataforge", "numpy", "opencv-python-headless", "pillow")
# a unit whose actor was lost so often while working on it may be the reason: a node without memory ends actors too
MAX_LOSSES = 3
# actors lost before they were ready, for each the cluster has room for, and none that was ready between them
MAX_FAILED_STARTS = 3
# how often a cluster is asked what it consists of
LOOK_S = 1.0
# how long a cluster may have no room at all for a worker before the build says so
PATIENCE_S = 120.0
# how long an address may refuse: a job's first node starts while the build does
CONNECT_S = 30.0


def _await(address: str) -> None:
    """Wait a little for a cluster that is starting; Ray itself waits for minutes for one that is not there."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():  # `auto`, or the address of a Ray client
        return
    end = time.monotonic() + CONNECT_S
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5.0).close()
            return
        except (OSError, OverflowError) as error:
            if time.monotonic() > end:
                raise EnvironmentFault(f"no Ray cluster answers at {address}: {error}.", code="E514") from error
        time.sleep(1.0)


def _last_line(error: Exception) -> str:
    """What Ray says last is what went wrong; before it stand places in its own code."""
    return str(error).strip().rpartition("\n")[2][:200]


def _installed() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


class Hand:
    """What runs on a node, as a Ray actor: one worker process, and the check that the node is fit for it."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._worker: WorkerProcess | None = None

    def look(self, work: str, token: str, root: str) -> dict[str, Any]:
        """What this node is: its name, what is installed, and which of the build's folders it cannot see."""
        unseen = [] if (Path(work) / token).is_file() else [work]
        unseen += [] if Path(root).is_dir() else [root]
        return {"node": platform.node(), "installed": _installed(), "unseen": unseen}

    def become(self, resources: Resources) -> None:
        """Hold another kind of worker from now on."""
        self._drop()
        self._resources = resources

    def work(self, fn: UnitFunction, units: list[Unit]) -> tuple[list[UnitResult], list[Unit]] | list[str]:
        """Give the worker more units and wait for its next answers: those, and units that it never began.

        Kind, code and detail of what a unit's function raised.
        """
        if self._worker is not None and self._worker.ended and not self._worker.held:
            self._drop()
        if self._worker is None:
            threads = max(1, cores() // (self._resources.max_workers or 1)) if self._resources.model else 1
            os.environ["OMP_NUM_THREADS"] = str(threads)  # Ray says one, whatever runs there
            self._worker = WorkerProcess(self._resources, 0, threads)
        for unit in units:
            self._worker.give(fn, unit)
        try:
            results = self._worker.wait()
        except ReportedError as error:  # as values: they do not survive pickling whole
            return [type(error).__name__, error.code, error.detail]
        except RuntimeError as error:
            return ["bug", "", str(error)]
        left: list[Unit] = []
        if self._worker.dead:
            left = list(self._worker.held)
            self._drop()
        return results, left

    def release(self) -> None:
        """Have the worker let go of its stage, or end where it has lived long."""
        if self._worker is not None:
            self._worker.release()

    def _drop(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker = None


def room_of(nodes: list[dict[str, float]], resources: Resources) -> tuple[int, float]:
    """How many workers there is room for on nodes with these resources, and the share of a GPU that each takes.

    Where there are GPUs a model's workers share them as on one machine: `max_workers` have all of its GPUs.
    """
    room = sum(int(node.get("CPU", 0)) for node in nodes)
    if not resources.model:
        return room, 0.0
    of_one = resources.max_workers or max(1, room)
    gpus = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
    if not gpus:
        return min(room, len(nodes) * of_one), 0.0
    share = min(1.0, gpus / of_one)
    return min(room, sum(int(node.get("GPU", 0.0) / share + 1e-6) for node in nodes)), share


class _Held:
    """An actor as the driver sees it: the call whose answer is waited for, and the units that it was given."""

    def __init__(self, actor: Any, look: futures.Future[Any]) -> None:
        self.actor = actor
        self.asked: futures.Future[Any] | None = look
        self.ready = False
        self.units: deque[Unit] = deque()
        self.unsaid: list[Unit] = []  # of them those that go with the next call


class RayExecutor:
    """Runs units on a Ray cluster: on the one at `address`, or on one that is started here and ended with the build.

    `workers` bounds the workers of a stage; without it there are as many as the cluster has room for, while nodes come
    and go. A worker takes one core, and a model's its share of the GPUs where there are any.
    Raises `UsageError` E505 where `ray` is not installed and `EnvironmentFault` E514 where no cluster answers.
    """

    def __init__(self, address: str | None = None, workers: int | None = None) -> None:
        # nothing leaves this machine that nobody asked for, and nothing but a build's own lines on the terminal
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
        except ImportError as error:
            raise UsageError('--executor ray needs the package: pip install "dataforge[ray]".', code="E505") from error
        self._ray = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            _await(address or "")
            stop = signal.getsignal(signal.SIGTERM)
            stopped = False
            try:
                ray.init(
                    address,
                    num_cpus=None if address else (workers or cores()),
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    include_dashboard=None if address else False,
                    namespace="dataforge",
                )
            except SystemExit:  # what Ray makes of a SIGTERM while it starts
                stopped = True
            except Exception as error:  # a bare one where a node is slow to start
                said = f"no Ray cluster answers at {address or 'this machine'}: {_last_line(error)}"
                raise EnvironmentFault(said, code="E514") from error
            finally:
                with contextlib.suppress(ValueError):  # not in the main thread: Ray left it alone too
                    signal.signal(signal.SIGTERM, stop or signal.SIG_DFL)  # Ray's own ends a build without a word
            if stopped:
                signal.raise_signal(signal.SIGTERM)
        self._most = workers
        self._held: list[_Held] = []
        self._resources: Resources | None = None
        self._token = f".cluster-{secrets.token_hex(8)}"
        self._works: set[Path] = set()
        self._room, self._looked, self._looked_for = 0, -LOOK_S, Resources()
        self._gpus = 0.0
        self._losses: Counter[int] = Counter()  # by the serial of the unit that was worked on
        self._failed_starts = 0

    def map_units(self, fn: UnitFunction, units: Iterable[Unit], resources: Resources) -> Iterator[UnitResult]:
        """Results in the order they come, from as many workers as there is room and work for."""
        # actors have a current folder of their own
        fn = replace(fn, work=str(Path(fn.work).resolve()), root=str(Path(fn.root).resolve()))
        self._prepare(fn, resources)
        source = iter(units)
        waiting: deque[Unit] = deque()
        had_room = time.monotonic()
        while True:
            target = self._target(resources)
            while len(waiting) < max(1, target) and (unit := next(source, None)) is not None:
                waiting.append(unit)
            self._hire(fn, resources, target, len(waiting))
            self._give(fn, waiting, resources.ahead)
            if not waiting and not any(held.units for held in self._held):
                return
            if any(held.ready for held in self._held):
                had_room = time.monotonic()
            elif time.monotonic() > had_room + PATIENCE_S:
                raise EnvironmentFault(
                    f"the Ray cluster had no room for a worker of {fn.stage} in {PATIENCE_S:.0f} s.", code="E514"
                )
            asked = {held.asked: held for held in self._held if held.asked is not None}
            if not asked:
                time.sleep(LOOK_S)
                continue
            # not ray.wait: what a signal's handler raises in there is lost
            answered, _ = futures.wait(asked, timeout=LOOK_S, return_when=futures.FIRST_COMPLETED)
            for answer in answered:
                yield from self._answer(asked[answer], answer, waiting)

    def _prepare(self, fn: UnitFunction, resources: Resources) -> None:
        work = Path(fn.work)
        if work not in self._works:
            work.mkdir(parents=True, exist_ok=True)
            (work / self._token).touch()
            self._works.add(work)
        before, self._resources = self._resources, resources
        if before is not None and before != resources:
            if (before.model, before.max_workers) == (resources.model, resources.max_workers):
                for held in self._held:
                    held.actor.become.remote(resources)
            else:  # another share of the machines
                self._dismiss()

    def _target(self, resources: Resources) -> int:
        """How many workers the cluster has room for now."""
        now = time.monotonic()
        if now >= self._looked + LOOK_S or self._looked_for != resources:
            nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            self._room, self._gpus = room_of(nodes, resources)
            self._looked, self._looked_for = now, resources
        return min(self._room, self._most or self._room)

    def _hire(self, fn: UnitFunction, resources: Resources, target: int, waiting: int) -> None:
        """As many actors as there is room and work for; those that wait for a node that is gone are let go."""
        for held in [held for held in self._held if not held.ready][: max(0, len(self._held) - target)]:
            self._ray.kill(held.actor)
            self._held.remove(held)
        busy = sum(bool(held.units) for held in self._held)
        while len(self._held) < min(target, busy + waiting):
            actor = (
                self._ray.remote(Hand)
                .options(num_cpus=1, num_gpus=self._gpus, max_restarts=0, scheduling_strategy="SPREAD")
                .remote(resources)
            )
            self._held.append(_Held(actor, actor.look.remote(fn.work, self._token, fn.root).future()))

    def _give(self, fn: UnitFunction, waiting: deque[Unit], ahead: int) -> None:
        """Waiting units to actors that have room, idle ones first; then one call to each that has something to do."""
        free = [held for held in self._held if held.ready and held.asked is None]
        while waiting:
            takers = [held for held in free if has_room(held.units, waiting[0], ahead)]
            if not takers:
                break
            taker = min(takers, key=lambda held: len(held.units))
            taker.units.append(waiting[0])
            taker.unsaid.append(waiting.popleft())
        for held in free:
            if held.units:
                held.asked, held.unsaid = held.actor.work.remote(fn, held.unsaid).future(), []

    def _answer(self, held: _Held, answered: futures.Future[Any], waiting: deque[Unit]) -> Iterator[UnitResult]:
        """What an actor answered; the units of one that is gone go back."""
        held.asked = None
        try:
            answer = answered.result()
        except self._ray.exceptions.RayTaskError:  # a bug of ours in the actor
            raise
        except self._ray.exceptions.RayError as error:
            self._held.remove(held)
            self._looked = -LOOK_S
            yield from self._lose(held, waiting, error)
            return
        if not held.ready:
            self._check(answer)
            held.ready = True
            self._failed_starts = 0
            return
        if isinstance(answer, list):
            raise told(*answer)
        results, left = answer
        done = {result.unit["serial"] for result in results} | {unit["serial"] for unit in left}
        held.units = deque(unit for unit in held.units if unit["serial"] not in done)
        waiting.extendleft(reversed(left))
        yield from results

    def _lose(self, held: _Held, waiting: deque[Unit], error: Exception) -> Iterator[UnitResult]:
        """Units of a lost actor go back, but one that loses actor after actor: it comes back as one that died."""
        if not held.ready:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS * max(4, self._room):
                raise EnvironmentFault(
                    f"{self._failed_starts} workers of the Ray cluster ended before they began: {_last_line(error)}",
                    code="E514",
                ) from error
            return
        alone = len(held.units) == 1
        worked_on = held.units[0]
        self._losses[worked_on["serial"]] += 1
        if self._losses[worked_on["serial"]] >= MAX_LOSSES:
            yield UnitResult(held.units.popleft(), None, died=f"lost with its worker {MAX_LOSSES} times", alone=alone)
        waiting.extendleft(reversed(held.units))

    @staticmethod
    def _check(found: dict[str, Any]) -> None:
        if found["unseen"]:
            raise EnvironmentFault(
                f"node {found['node']} does not see {found['unseen'][0]}: the corpus and the photographs must lie on a "
                "file system that all nodes share, under the same path.",
                code="E514",
            )
        ours = _installed()
        for name, here in ours.items():
            if found["installed"][name] != here:
                raise EnvironmentFault(
                    f"node {found['node']} has {name} {found['installed'][name]}, this machine has {here}: "
                    "install the same on both, or the corpus depends on which one made it.",
                    code="E514",
                )

    def _dismiss(self) -> None:
        for held in self._held:
            self._ray.kill(held.actor)
        self._held.clear()

    def release(self) -> None:
        """Have all workers let go of their stage, or end where they have lived long."""
        for held in self._held:
            held.actor.release.remote()

    def close(self) -> None:
        """End all workers, and the cluster where it was started here."""
        self._dismiss()
        for work in self._works:
            (work / self._token).unlink(missing_ok=True)
        if self._ours:
            self._ours = False
            self._ray.shutdown()
