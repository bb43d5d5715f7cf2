"""`train --plan`: time, memory and disk of a run before it starts, from a few measured steps of the run itself."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.data import each_once
from trainer.job import Job

if TYPE_CHECKING:
    from trainer.data import SubjectData
    from trainer.recipe import Recipe

__all__ = ["Plan", "plan"]

WARM_UP, MEASURED = 1, 2


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will take. Seconds and bytes; of the bank what was missing when the plan began."""

    subjects: int
    pictures: int
    groups: int
    steps: int
    seconds_per_step: float
    seconds_for_bank: float
    peak_memory: int
    device: str
    bank_bytes: int
    checkpoint_bytes: int
    adapter_bytes: int
    trained_parameters: int
    warnings: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Bank and all steps of all groups."""
        return self.seconds_for_bank + self.groups * self.steps * self.seconds_per_step

    @property
    def disk_bytes(self) -> int:
        """Bank, the checkpoints that are kept, and the adapters."""
        return self.bank_bytes + self.checkpoint_bytes + self.adapter_bytes


def plan(
    corpus: str | Path,
    *,
    recipe: str | Recipe,
    base: str | Path,
    references: int | None = None,
    settings: Mapping[str, Any] | None = None,
    bank: str | Path | None = None,
) -> Plan:
    """Measure the first steps of a run, in a folder that is thrown away, and say what all of it takes.

    Nothing is written but what is missing in a `bank` that is named. Time is as of this machine in its present load;
    memory is the device's peak, or on a CPU the process's. Raises what `trainer.train` raises before it trains.
    """
    import tempfile

    with (
        tempfile.TemporaryDirectory(prefix="dataforge-plan-") as folder,
        Job.open(corpus, recipe, base, Path(folder), references, settings, bank) as job,
    ):
        return _measure(job)


def _measure(job: Job) -> Plan:
    import torch

    subjects, settings, recipe, bank = job.subjects, job.recipe.settings, job.recipe, job.bank

    def missing_views(them: Sequence[SubjectData]) -> int:
        return sum(recipe.variants_of(item) for item in bank.missing(them, recipe)[0])

    views, prompts = missing_views(subjects), bank.missing(subjects, recipe)[1]
    groups = job.groups([subject.id for subject in subjects])
    cuda = job.backbone.device.type == "cuda"
    # steps are measured on the first group, the bank on the group of which most is missing
    emptiest = max(groups, key=missing_views)
    job.subjects = list({subject.id: subject for subject in (*groups[0], *emptiest)}.values())
    before = missing_views(job.subjects)
    ticks: list[float] = []
    job.prepare(lambda *_: ticks.append(time.perf_counter()))
    computed = before - missing_views(job.subjects)
    seconds_per_view = (ticks[-1] - ticks[0]) / max(1, computed)
    bytes_per_view, bytes_per_prompt = bank.bytes_each(job.subjects, recipe)
    group = job.groups([subject.id for subject in job.subjects])[0]  # without what cannot be trained on
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    with job.fit(group) as fit:
        loader = fit.loader(WARM_UP + MEASURED)
        times = []
        for _ in range(WARM_UP + MEASURED):
            began = time.perf_counter()
            fit.one_step(loader)
            times.append(time.perf_counter() - began)
        sizes = [parameter.numel() for parameter in fit.parameters.values()]
    owners = len(groups) if recipe.joint else len(subjects)
    parts = 3 + (settings.ema_decay is not None)  # weights and two moments
    return Plan(
        subjects=len(subjects),
        pictures=len(each_once(subjects)),
        groups=len(groups),
        steps=settings.max_train_steps,
        seconds_per_step=min(times[WARM_UP:]),
        seconds_for_bank=seconds_per_view * views,
        peak_memory=torch.cuda.max_memory_allocated() if cuda else _resident_peak(),
        device=str(job.backbone.device),
        bank_bytes=round(bytes_per_view * views + bytes_per_prompt * len(prompts)),
        checkpoint_bytes=settings.checkpoints_kept * parts * 4 * sum(sizes) * len(groups),
        adapter_bytes=owners * 4 * sum(sizes) // len(fit.trainable.subjects),
        trained_parameters=sum(sizes) // len(fit.trainable.subjects),
        warnings=tuple(job.warnings),
    )


def _resident_peak() -> int:
    # Linux counts in KiB, macOS in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
