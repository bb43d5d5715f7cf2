"""What a build would do, take and need, before it is run: a dry walk over what is there, and a trial of a few subjects.

The trial runs the real stages on evenly chosen subjects and keeps their results, so that nothing is computed for the
plan alone; then it packs and describes them in a folder of its own. What it took is carried over to all subjects:
stages by photograph, subject or class, files by sample.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataforge.backends import backend_class
from dataforge.building import (
    WORK,
    choose_executor,
    compute,
    derive,
    first_subjects,
    free_bytes,
    only,
    refuse_beyond,
    silent,
)
from dataforge.config import Recipe
from dataforge.doctor import require_ready
from dataforge.executor import Executor, InlineExecutor, Resources
from dataforge.flow import Flow
from dataforge.ingest.sources import Inputs, SubjectSource, read_inputs
from dataforge.runner import OnProgress, Outcomes, Runner, StageCounts, Task
from dataforge.samples import WorkingSubject
from dataforge.store import Outcome, Store
from dataforge.worker_process import cores
from manifests.corpus import open_corpus
from manifests.errors import Fault
from manifests.fsops import environment_faults, output_lock, remove_stale_temporaries
from manifests.header import read_header
from manifests.writer import check_output

__all__ = ["Plan", "StagePlan", "plan"]

# as many units a worker as tell the first, slow one from the others
TRIAL_SUBJECTS_A_WORKER = 6
BLOCK = 512  # of st_blocks


@dataclass(frozen=True, slots=True)
class StagePlan:
    """Of one stage: tasks in all, how many are there already, and seconds for the rest."""

    stage: str
    total: int
    there: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What a build would do. `work_bytes` and `corpus_bytes` are what it will add to the disk, `free` is the room."""

    subjects: int
    photographs: int
    scenes: int
    samples: int
    stages: tuple[StagePlan, ...]
    seconds: float
    work_bytes: int
    corpus_bytes: int
    free: int
    warnings: tuple[str, ...] = ()


def plan(
    subjects: str | Path,
    output: str | Path | None = None,
    recipe: Recipe | None = None,
    *,
    workers: int | None = None,
    executor: Executor | str | None = None,
    limit: int | None = None,
    trial: int | None = None,
    on_progress: OnProgress = silent,
) -> Plan:
    """What `build(subjects, output, recipe)` would do, from a trial of `trial` subjects (default: six a worker).

    With an `output` the trial's results are kept in its work folder; without one, the disk of the current folder is
    looked at. Raises what `build` raises before it computes, and `EnvironmentFault` E510 where the disk cannot hold
    what the build would write.
    """
    recipe = recipe or Recipe()
    require_ready(recipe)
    inputs = first_subjects(read_inputs(Path(subjects)), limit)
    parallel = max(1, cores() if workers is None else workers)
    place = Path() if output is None else Path(output)
    with contextlib.ExitStack() as stack:
        root = Path(output) if output is not None else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        check_output(root)
        stack.enter_context(environment_faults(root))
        stack.enter_context(output_lock(root / WORK / "lock"))
        remove_stale_temporaries(root)
        store = stack.enter_context(contextlib.closing(Store(root / WORK)))
        runs_on = stack.enter_context(contextlib.closing(choose_executor(executor, workers)))
        trial_root = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=root / WORK, prefix=".tmp-")))
        chosen = only(inputs, _evenly(_unfinished(inputs, recipe, store), trial or TRIAL_SUBJECTS_A_WORKER * parallel))
        tried = _try(chosen, trial_root, recipe, store, runs_on, on_progress, parallel)
        # the trial's results stay in an output, where a build finds them
        there = _walk(inputs, recipe, store).counts if output is not None else {}
        found = _carried_over(inputs, recipe, tried, there, _corpus_there(root), free_bytes(place))
    needed = found.work_bytes + found.corpus_bytes
    refuse_beyond(found.free, needed, f"{found.photographs} photographs and what is made of them", place)
    return found


# what is there ------------------------------------------------------------------------------------------------------


class _Stored(Outcomes):
    """Stored outcomes; what is missing ends its picture's way, so that what would follow from it is not looked for."""

    def _missing(self, key: str) -> Outcome:
        del key
        return Outcome({}, {}, Fault("E511", "not computed yet"))


@dataclass(slots=True)
class _DryRunner(Runner):
    """Computes nothing and counts what is stored."""

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
        """As `Runner.run`, with a fault for what is missing."""
        counts = self.counts.setdefault(stage, StageCounts())
        counts.reused += sum(self.store.code(stage, key) is not None for key in {task.key for task in tasks})
        return _Stored(self.store, stage)


@dataclass(frozen=True, slots=True)
class _Walked:
    flow: Flow
    counts: dict[str, int]


def _walk(inputs: Inputs, recipe: Recipe, store: Store) -> _Walked:
    runner = _DryRunner(InlineExecutor(), store, str(inputs.root), silent)
    flow = Flow(inputs, recipe, runner)
    flow.run()
    return _Walked(flow, {stage: counts.reused for stage, counts in runner.counts.items()})


def _unfinished(inputs: Inputs, recipe: Recipe, store: Store) -> list[SubjectSource]:
    """Subjects with a photograph that was never looked at, or all where there are none."""
    flow = _walk(inputs, recipe, store).flow
    missing = [s.source for s in flow.subjects if any(p.fault and p.fault.code == "E511" for p in s.photographs)]
    return missing or inputs.subjects


def _evenly(subjects: list[SubjectSource], count: int) -> list[SubjectSource]:
    count = min(count, len(subjects))
    return [subjects[number * len(subjects) // count] for number in range(count)]


# the trial ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Watch:
    """When each run of a stage began, and (time, done) of each of its answers."""

    on_progress: OnProgress
    runs: dict[str, list[list[tuple[float, int]]]] = field(default_factory=dict)

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.on_progress(f"trial {stage}", done, total)
        runs = self.runs.setdefault(stage, [])
        if done == 0:
            runs.append([(time.monotonic(), 0)])
        elif runs and done > runs[-1][-1][1]:
            runs[-1].append((time.monotonic(), done))

    def rate(self, stage: str, workers: int) -> tuple[float, float]:
        """Seconds until the first answers, and seconds a task after that.

        Counted from the answer that is each worker's first, so that starting workers is in neither.
        """
        start, spent, done = 0.0, 0.0, 0
        for run in self.runs.get(stage, ()):
            began, answers = run[0][0], run[1:]
            if not answers:
                continue
            origin = answers[min(workers, len(answers)) - 1]
            last = answers[-1]
            if last[1] > origin[1]:
                spent, done = spent + last[0] - origin[0], done + last[1] - origin[1]
                start = max(start, answers[0][0] - began)
            elif not done:  # too few to tell the start from the work
                spent, done = spent + last[0] - began, done + last[1]
        return start, spent / done if done else 0.0


@dataclass(frozen=True, slots=True)
class _Tried:
    """What a trial took: per stage (start, seconds a task, bytes a task) and tasks; files and seconds of packing.

    `made` is how many of a stage's tasks were pictures that an earlier stage had made.
    """

    subjects: list[WorkingSubject]
    rates: dict[str, tuple[float, float, float]]
    tasks: dict[str, int]
    made: dict[str, int]
    photographs: int
    regular: int
    scenes: int
    packed: dict[str, float]  # bytes in shards by role
    corpus_bytes: int
    start_s: float
    pack_s: float


def _try(
    inputs: Inputs,
    root: Path,
    recipe: Recipe,
    store: Store,
    executor: Executor,
    on_progress: OnProgress,
    workers: int,
) -> _Tried:
    watch = _Watch(on_progress)
    runner = Runner(executor, store, str(inputs.root), watch)
    compute(inputs, root, recipe, runner)
    # all is there now: what a second time takes is packing, and what the first took more is loading libraries
    began = time.monotonic()
    derive(root)
    first = time.monotonic() - began
    began = time.monotonic()
    compute(inputs, root, recipe, Runner(executor, store, str(inputs.root), silent))
    derive(root)
    again = time.monotonic() - began
    counts = read_header(root).header.counts
    tasks = {stage: c.computed + c.reused for stage, c in runner.counts.items()}
    rates = {}
    for stage in tasks:
        sizes = [_allocated(path) for path in (store.work / "parts" / stage).glob("*.part")]
        rows = store.count(stage)
        rates[stage] = (*watch.rate(stage, workers), sum(sizes) / rows if rows else 0.0)
    made = {stage: runs[1][-1][1] for stage, runs in watch.runs.items() if len(runs) == 2}
    if "recheck" in tasks:
        made["recheck"] = max(0, tasks["recheck"] - counts["photographs"])
    return _Tried(
        subjects=_walk(inputs, recipe, store).flow.subjects,
        rates=rates,
        tasks=tasks,
        made=made,
        photographs=counts["photographs"],
        regular=counts["regular"],
        scenes=counts["scenes"],
        packed=_packed(root),
        corpus_bytes=sum(_allocated(path) for path in root.rglob("*") if path.is_file()),
        start_s=max(0.0, first - again),
        pack_s=again,
    )


def _packed(root: Path) -> dict[str, float]:
    """Bytes in shards by role: its pictures and masks, and for each sample its part of what stands around them."""
    with open_corpus(root) as corpus:
        samples = [(sample.role, sample.image.length + sample.mask.length) for sample in corpus.samples()]
        around = sum(entry.size for entry in corpus.header.shards) - sum(size for _, size in samples)
    packed: Counter[str] = Counter()
    for role, size in samples:
        packed[role] += size + around // len(samples)
    return dict(packed)


def _allocated(path: Path) -> int:
    """Bytes that a file takes on the disk: whole blocks."""
    status = path.stat()
    return max(status.st_blocks * BLOCK, status.st_size)


def _corpus_there(root: Path) -> int:
    files = (path for path in root.rglob("*") if WORK not in path.relative_to(root).parts)
    return sum(_allocated(path) for path in files if path.is_file())


# all subjects -------------------------------------------------------------------------------------------------------


def _growth_of_classes(subjects: list[SubjectSource], tried: list[WorkingSubject]) -> float:
    """How many times the prompts of the trial all subjects ask for, where those of one class share what is made.

    Words of subjects differ more or less: `count ** power` times the prompts of one are those of `count`, the power
    as it is among the subjects of the trial, whatever their classes.
    """
    asked = [{prompt.words for prompt in subject.prompts} for subject in tried if subject.kept() and subject.prompts]
    if not asked:
        return 1.0
    of_one, of_all = sum(map(len, asked)) / len(asked), len(set().union(*asked))
    power = math.log(of_all / of_one) / math.log(len(asked)) if len(asked) > 1 else 1.0

    def prompts(nouns: Iterable[str]) -> float:
        return sum(math.pow(count, power) for count in Counter(nouns).values())

    return prompts(s.class_noun for s in subjects) / prompts(s.source.class_noun for s in tried)


def _carried_over(
    inputs: Inputs, recipe: Recipe, tried: _Tried, there: dict[str, int], corpus_there: int, free: int
) -> Plan:
    chosen = [subject.source for subject in tried.subjects]
    photographs, of_trial = _photographs(inputs.subjects), max(1, _photographs(chosen))
    own = backend_class("generate", recipe.generate.generator.kind).own_pixels
    by_photograph = photographs / of_trial
    by_subject = len(inputs.subjects) / max(1, len(chosen))
    classes = _growth_of_classes(inputs.subjects, tried.subjects)
    by_made = by_photograph if own else classes
    shares = {"describe": by_subject, "compose": by_subject, "write": classes, "generate": by_made}
    stages = []
    work_bytes = 0.0
    for stage, tasks in tried.tasks.items():
        scenes, made = len(inputs.scenes) if stage == "ingest" else 0, tried.made.get(stage, 0)
        expected = round((tasks - scenes - made) * shares.get(stage, by_photograph) + made * by_made) + scenes
        total = max(there.get(stage, 0), expected)
        missing = total - there.get(stage, 0)
        start, each, size = tried.rates[stage]
        stages.append(StagePlan(stage, total, there.get(stage, 0), start + missing * each if missing else 0.0))
        work_bytes += missing * size
    samples = tried.photographs * by_photograph + tried.regular * by_made + tried.scenes
    growth = samples / max(1, tried.photographs + tried.regular + tried.scenes)
    # made pictures may be much smaller than photographs, and as many or fewer for each
    times = {"src": by_photograph, "reg": by_made, "bg": 1.0}
    packed = sum(size * times[role] for role, size in tried.packed.items()) / max(1.0, sum(tried.packed.values()))
    return Plan(
        subjects=len(inputs.subjects),
        photographs=photographs,
        scenes=len(inputs.scenes),
        samples=round(samples),
        stages=tuple(stage for stage in stages if stage.total),
        seconds=sum(stage.seconds for stage in stages) + tried.start_s + tried.pack_s * growth,
        work_bytes=math.ceil(work_bytes),
        corpus_bytes=max(0, math.ceil(tried.corpus_bytes * packed) - corpus_there),
        free=free,
        warnings=tuple(inputs.warnings),
    )


def _photographs(subjects: Iterable[SubjectSource]) -> int:
    return sum(len(subject.photographs) for subject in subjects)
