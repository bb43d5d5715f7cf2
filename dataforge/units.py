"""A unit of work: a batch of tasks for one stage, run anywhere, its results written as one part file."""

from __future__ import annotations

import contextlib
import json
import os
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataforge.backends.devices import release
from dataforge.stages import Stage, build_stage
from dataforge.store import Made, write_part
from manifests.errors import Fault, ReportedError

__all__ = ["Results", "Unit", "UnitFunction", "forget_stage"]

# `serial` and `tasks`; `alone`: no other unit may share a worker with it, so that a death is its own
Unit = dict[str, Any]
Results = list[Made | Fault]
# one stage object a process: the model of the stage before is released before the next one is loaded
_stage: tuple[str, Stage] | None = None


@dataclass(frozen=True, slots=True)
class UnitFunction:
    """What to do with a unit: a stage by name, its settings, and where inputs and work lie.

    All JSON values, so that it crosses to a process or a machine without pickle.
    """

    stage: str
    settings: dict[str, Any]
    work: str
    root: str

    def __call__(self, unit: Unit) -> str:
        """Run the unit here; returns the path of the part that holds its results."""
        return self.write(unit, self.compute(unit))

    def compute(self, unit: Unit) -> Results:
        """The results of a unit's tasks, in order.

        A batch that fails is run again task by task, so that one bad item does not take its neighbours with it.
        """
        stage = _load(self)
        inputs = [task["input"] for task in unit["tasks"]]
        try:
            results = stage.run(inputs)
        except ReportedError:
            raise
        except Exception:
            results = [_alone(stage, task_input) for task_input in inputs]
        if len(results) != len(inputs):
            raise AssertionError(f"{self.stage} gave {len(results)} results for {len(inputs)} tasks")
        return results

    def write(self, unit: Unit, results: Results) -> str:
        """Write a unit's results as one part; returns its path."""
        rows = [(task["key"], result) for task, result in zip(unit["tasks"], results, strict=True)]
        return write_part(Path(self.work), self.stage, unit["serial"], rows)

    def prefetch(self, unit: Unit) -> None:
        """Read and decode what a unit will ask for, while the stage works on the one before; never fails."""
        loaded = _stage
        if loaded is not None and loaded[0] == self._identity and hasattr(loaded[1], "prefetch"):
            with contextlib.suppress(Exception):  # whatever it is, the unit itself meets it again
                loaded[1].prefetch([task["input"] for task in unit["tasks"]])

    @property
    def _identity(self) -> str:
        return json.dumps([self.stage, self.settings, self.work, self.root], sort_keys=True)


def _alone(stage: Stage, task_input: dict[str, Any]) -> Made | Fault:
    try:
        (result,) = stage.run([task_input])
        return result
    except ReportedError:
        raise
    except Exception as error:
        if os.environ.get("DATAFORGE_DEBUG"):
            traceback.print_exc()
        return Fault("E220", f"{stage.name}: {type(error).__name__}: {error}")


def _load(fn: UnitFunction) -> Stage:
    global _stage
    if _stage is None or _stage[0] != fn._identity:
        forget_stage()
        _stage = (fn._identity, build_stage(fn.stage, fn.settings, Path(fn.work), Path(fn.root)))
    return _stage[1]


def forget_stage() -> None:
    """Let go of this process's stage and give the memory of its model back."""
    global _stage
    if _stage is not None:
        _stage = None
        release()
