"""A unit of work: a batch of tasks for one stage, run anywhere, its results written as one part file."""

from __future__ import annotations

import json
import os
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataforge.stages import Stage, build_stage
from dataforge.store import Made, write_part
from manifests.errors import Fault, ReportedError

__all__ = ["Unit", "UnitFunction"]

Unit = dict[str, Any]
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
        return _run_unit(self, unit)


def _run_unit(fn: UnitFunction, unit: Unit) -> str:
    """Run one unit and write its part; returns the part's path.

    A batch that fails is run again task by task, so that one bad item does not take its neighbours with it.
    """
    stage = _load(fn)
    tasks: list[tuple[str, dict[str, Any]]] = [(task["key"], task["input"]) for task in unit["tasks"]]
    try:
        results = stage.run([task_input for _, task_input in tasks])
    except ReportedError:
        raise
    except Exception:
        results = [_alone(stage, task_input) for _, task_input in tasks]
    if len(results) != len(tasks):
        raise AssertionError(f"{fn.stage} gave {len(results)} results for {len(tasks)} tasks")
    return write_part(
        Path(fn.work),
        fn.stage,
        unit["serial"],
        [(key, result) for (key, _), result in zip(tasks, results, strict=True)],
    )


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
    identity = json.dumps([fn.stage, fn.settings, fn.work, fn.root], sort_keys=True)
    if _stage is None or _stage[0] != identity:
        _stage = None
        _stage = (identity, build_stage(fn.stage, fn.settings, Path(fn.work), Path(fn.root)))
    return _stage[1]
