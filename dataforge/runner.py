"""Run one stage over many tasks: skip what is stored, batch the rest, count everything.

Every task that goes in comes out as a stored result or a stored fault; the runner refuses to end otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from dataforge.executor import Executor, Resources, UnitResult
from dataforge.store import Outcome, Store, write_part
from dataforge.units import Unit, UnitFunction
from manifests.errors import EnvironmentFault, Fault

__all__ = ["MOMENTARY", "OnProgress", "OnReject", "Outcomes", "Runner", "StageCounts", "Task"]

MAX_DEATHS = 3
# item faults come singly; this many failures of the machinery in a row are not the items' fault
MAX_FAILURES_IN_A_ROW = 20
MACHINERY = frozenset({"E197", "E198", "E220", "E222"})
# fewer items than this may all be bad by chance
MIN_TOTAL_FAILURE = 3
# these say something of the moment and not of the file, which may be the same and readable now
MOMENTARY = frozenset({"E104", "E106"})

OnProgress = Callable[[str, int, int], None]
OnReject = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Task:
    """One thing for a stage to do: `key` is the digest of all that the result depends on."""

    key: str
    input: dict[str, Any]
    weight: int = 1


@dataclass(slots=True)
class StageCounts:
    """What a stage had to do and what it found done."""

    computed: int = 0
    reused: int = 0
    faults: int = 0


class Outcomes:
    """The outcomes of a stage by task key, read from the store when asked for: memory holds few of them."""

    def __init__(self, store: Store, stage: str) -> None:
        self._store = store
        self._stage = stage

    def __getitem__(self, key: str) -> Outcome:
        return next(self.of([key]))

    def of(self, keys: Iterable[str]) -> Iterator[Outcome]:
        """The outcomes of keys in their order, several times as fast as one by one."""
        keys = list(keys)
        for key, outcome in zip(keys, self._store.outcomes(self._stage, keys), strict=True):
            yield outcome or self._missing(key)

    def _missing(self, key: str) -> Outcome:
        raise KeyError(key)


@dataclass(slots=True)
class _Run:
    """One pass over a stage: what went in and what came out."""

    total: int
    fresh: bool  # nothing is stored, or it does not count
    keys: set[str] = field(default_factory=set)
    deaths: dict[str, int] = field(default_factory=dict)
    came_out: int = 0
    succeeded: int = 0
    faults: int = 0
    machinery: int = 0


def _unheard(code: str) -> None:
    del code


@dataclass(slots=True)
class Runner:
    """Runs stages on one executor over one store."""

    executor: Executor
    store: Store
    root: str
    on_progress: OnProgress
    retry_failed: bool = False
    on_reject: OnReject = _unheard  # told the code of each fault
    counts: dict[str, StageCounts] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)  # what backends warned of, each once, in order
    _failures_in_a_row: list[str] = field(default_factory=list)

    def run(
        self,
        stage: str,
        settings: dict[str, Any],
        tasks: Iterable[Task],
        *,
        total: int,
        batch: int,
        resources: Resources,
        fresh: bool = False,
    ) -> Outcomes:
        """The outcome of every task by key, read from the store when it is asked for. `fresh` computes all again.

        `tasks` is gone through once, as workers have room, and nothing is kept of a task but its key; `total` is how
        many there are at most, for the progress. A key that comes twice is computed once.
        """
        counts = self.counts.setdefault(stage, StageCounts())
        state = _Run(total, fresh=fresh or not self.store.count(stage))
        fn = UnitFunction(stage=stage, settings=settings, work=str(self.store.work), root=self.root)
        self._failures_in_a_row.clear()
        self.on_progress(stage, 0, total)
        missing = (task for task in tasks if self._is_missing(stage, task, state, counts))
        units = (self._unit(tasks_, alone=False) for tasks_ in _batches(missing, batch))
        while True:
            again: list[Task] = []
            for result in self.executor.map_units(fn, units, resources):
                again += self._settle(stage, result, state, counts)
            if not again:
                break
            units = (self._unit([task], alone=True) for task in again)
        self.executor.release()
        if state.came_out != len(state.keys):
            raise AssertionError(f"{stage}: {len(state.keys)} tasks went in, {state.came_out} results came out")
        self.on_progress(stage, total, total)
        counts.faults += state.faults
        self._refuse_total_failure(stage, state)
        return Outcomes(self.store, stage)

    def _is_missing(self, stage: str, task: Task, state: _Run, counts: StageCounts) -> bool:
        if task.key in state.keys:
            return False
        state.keys.add(task.key)
        code = None if state.fresh else self.store.code(stage, task.key)
        if code is None or code in MOMENTARY or (self.retry_failed and code in MACHINERY):
            return True
        counts.reused += 1
        self._take(code, state)
        if counts.reused % 256 == 0:
            self.on_progress(stage, state.came_out, state.total)
        return False

    def _settle(self, stage: str, result: UnitResult, state: _Run, counts: StageCounts) -> list[Task]:
        """Make a unit's results known; returns what has to be tried again, each by itself."""
        keys = [task["key"] for task in result.unit["tasks"]]
        self.notes.update(dict.fromkeys(result.notes))
        part = result.part
        if part is None:
            tasks = [Task(task["key"], task["input"]) for task in result.unit["tasks"]]
            if len(tasks) > 1:
                return tasks
            (key,) = keys
            state.deaths[key] = state.deaths.get(key, 0) + result.alone
            if not result.alone or (state.deaths[key] < MAX_DEATHS and result.died != "deadline"):
                return tasks
            fault = Fault("E197" if result.died == "deadline" else "E198", f"{stage}: {result.died}")
            part = write_part(self.store.work, stage, self.store.next_serial(), [(key, fault)])
        codes = self.store.register(part)
        for key in keys:
            code = codes.get(key)
            if code is None:
                raise AssertionError(f"{stage}: task {key} left no result in {part}")
            if key not in state.deaths or state.succeeded == 0:
                # killers are tried last and so come in a row; they count only while nothing else succeeds
                self._watch(stage, key, code)
            self._take(code, state)
        counts.computed += len(keys)
        self.on_progress(stage, state.came_out, state.total)
        return []

    def _take(self, code: str, state: _Run) -> None:
        state.came_out += 1
        state.succeeded += not code
        state.faults += bool(code)
        state.machinery += code in MACHINERY
        if code:
            self.on_reject(code)

    def _unit(self, tasks: Sequence[Task], *, alone: bool) -> Unit:
        tasks_ = [{"key": task.key, "input": task.input} for task in tasks]
        return {"serial": self.store.next_serial(), "tasks": tasks_, "alone": alone}

    def _refuse_total_failure(self, stage: str, state: _Run) -> None:
        """A stage that fails on everything is broken; the photographs are not."""
        if len(state.keys) >= MIN_TOTAL_FAILURE and state.machinery == len(state.keys):
            detail = self._detail(stage, next(iter(state.keys)))
            self.store.forget(stage, state.keys)
            raise EnvironmentFault(f"{stage} failed on all {len(state.keys)} items: {detail}.", code="E512")

    def _watch(self, stage: str, key: str, code: str) -> None:
        """Open the circuit when nothing but failures comes: a broken model, not broken photographs.

        The failures are forgotten, so that the same command tries them again once the cause is mended.
        """
        if code not in MACHINERY:
            self._failures_in_a_row.clear()
            return
        self._failures_in_a_row.append(key)
        if len(self._failures_in_a_row) >= MAX_FAILURES_IN_A_ROW:
            detail = self._detail(stage, key)
            self.store.forget(stage, self._failures_in_a_row)
            count = len(self._failures_in_a_row)
            raise EnvironmentFault(f"{stage} failed {count} times in a row, last: {detail}.", code="E512")

    def _detail(self, stage: str, key: str) -> str:
        outcome = self.store.outcome(stage, key)
        return outcome.fault.detail[:200] if outcome and outcome.fault else ""


def _batches(tasks: Iterable[Task], batch: int) -> Iterator[list[Task]]:
    unit: list[Task] = []
    weight = 0
    for task in tasks:
        if unit and weight + task.weight > batch:
            yield unit
            unit, weight = [], 0
        unit.append(task)
        weight += task.weight
    if unit:
        yield unit
