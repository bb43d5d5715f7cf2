"""Run one stage over many tasks: skip what is stored, batch the rest, count everything.

Every task that goes in comes out as a stored result or a stored fault; the runner refuses to end otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from dataforge.executor import Executor, Resources
from dataforge.store import Outcome, Store, write_part
from dataforge.units import Unit, UnitFunction
from manifests.errors import EnvironmentFault, Fault

__all__ = ["OnProgress", "Runner", "StageCounts", "Task"]

MAX_DEATHS = 3
# item faults come singly; this many failures of the machinery in a row are not the items' fault
MAX_FAILURES_IN_A_ROW = 20
MACHINERY = frozenset({"E197", "E198", "E220", "E222"})
# fewer items than this may all be bad by chance
MIN_TOTAL_FAILURE = 3
# these say something of the moment and not of the file, which may be the same and readable now
MOMENTARY = frozenset({"E104", "E106"})

OnProgress = Callable[[str, int, int], None]


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


@dataclass(slots=True)
class Runner:
    """Runs stages on one executor over one store."""

    executor: Executor
    store: Store
    root: str
    on_progress: OnProgress
    retry_failed: bool = False
    counts: dict[str, StageCounts] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)  # what backends warned of, each once, in order
    _failures_in_a_row: list[str] = field(default_factory=list)

    def run(
        self,
        stage: str,
        settings: dict[str, Any],
        tasks: Iterable[Task],
        *,
        batch: int,
        resources: Resources,
        fresh: bool = False,
    ) -> dict[str, Outcome]:
        """The outcome of every task by key. `fresh` computes all again."""
        tasks = list(tasks)
        counts = self.counts.setdefault(stage, StageCounts())
        outcomes: dict[str, Outcome] = {}
        missing: dict[str, Task] = {}
        for task in tasks:
            stored = None if fresh else self.store.outcome(stage, task.key)
            if stored is not None and not self._tries_again(stored):
                outcomes[task.key] = stored
            else:
                missing[task.key] = task
        counts.reused += len(outcomes)
        done, total = len(outcomes), len(outcomes) + len(missing)
        self.on_progress(stage, done, total)
        fn = UnitFunction(stage=stage, settings=settings, work=str(self.store.work), root=self.root)
        deaths: dict[str, int] = {}
        succeeded = 0
        self._failures_in_a_row.clear()
        pending, retried = list(_batches(list(missing.values()), batch)), False
        while pending:
            again: list[list[Task]] = []
            units = [_unit(unit, self.store.next_serial(), alone=bool(retried)) for unit in pending]
            for result in self.executor.map_units(fn, units, resources):
                keys = [task["key"] for task in result.unit["tasks"]]
                self.notes.update(dict.fromkeys(result.notes))
                part = result.part
                if part is None and len(keys) > 1:
                    again += [[missing[key]] for key in keys]
                    continue
                if part is None:
                    (key,) = keys
                    deaths[key] = deaths.get(key, 0) + result.alone
                    if not result.alone or (deaths[key] < MAX_DEATHS and result.died != "deadline"):
                        again.append([missing[key]])
                        continue
                    code = "E197" if result.died == "deadline" else "E198"
                    serial = self.store.next_serial()
                    part = write_part(self.store.work, stage, serial, [(key, Fault(code, f"{stage}: {result.died}"))])
                self.store.register(part)
                for key in keys:
                    stored = self.store.outcome(stage, key)
                    if stored is None:
                        raise AssertionError(f"{stage}: task {key} left no result in {part}")
                    outcomes[key] = stored
                    if key not in deaths or succeeded == 0:
                        # killers are tried last and so come in a row; they count only while nothing else succeeds
                        self._watch(stage, key, stored)
                    succeeded += stored.fault is None
                counts.computed += len(keys)
                done += len(keys)
                self.on_progress(stage, done, total)
            pending, retried = again, True
        if outcomes.keys() != {task.key for task in tasks}:
            raise AssertionError(f"{stage}: {len(tasks)} tasks went in, {len(outcomes)} results came out")
        counts.faults += sum(outcome.fault is not None for outcome in outcomes.values())
        self._refuse_total_failure(stage, outcomes)
        return outcomes

    def _refuse_total_failure(self, stage: str, outcomes: dict[str, Outcome]) -> None:
        """A stage that fails on everything is broken; the photographs are not."""
        faults = [o.fault for o in outcomes.values() if o.fault is not None and o.fault.code in MACHINERY]
        if len(outcomes) >= MIN_TOTAL_FAILURE and len(faults) == len(outcomes):
            self.store.forget(stage, outcomes)
            raise EnvironmentFault(f"{stage} failed on all {len(faults)} items: {faults[0].detail[:200]}.", code="E512")

    def _tries_again(self, stored: Outcome) -> bool:
        code = stored.fault.code if stored.fault else ""
        return code in MOMENTARY or (self.retry_failed and code in MACHINERY)

    def _watch(self, stage: str, key: str, outcome: Outcome) -> None:
        """Open the circuit when nothing but failures comes: a broken model, not broken photographs.

        The failures are forgotten, so that the same command tries them again once the cause is mended.
        """
        if outcome.fault is None or outcome.fault.code not in MACHINERY:
            self._failures_in_a_row.clear()
            return
        self._failures_in_a_row.append(key)
        if len(self._failures_in_a_row) >= MAX_FAILURES_IN_A_ROW:
            self.store.forget(stage, self._failures_in_a_row)
            count = len(self._failures_in_a_row)
            raise EnvironmentFault(
                f"{stage} failed {count} times in a row, last: {outcome.fault.detail[:200]}.", code="E512"
            )


def _unit(tasks: list[Task], serial: int, *, alone: bool) -> Unit:
    tasks_ = [{"key": task.key, "input": task.input} for task in tasks]
    return {"serial": serial, "tasks": tasks_, "alone": alone}


def _batches(tasks: list[Task], batch: int) -> Iterator[list[Task]]:
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
