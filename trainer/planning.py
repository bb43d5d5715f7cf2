"""`train --plan`: time, memory and disk of a run before it starts, from a few measured steps of the run itself."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.job import Job

if TYPE_CHECKING:
    from trainer.recipe import Recipe

__all__ = ["Plan", "plan"]

WARM_UP, MEASURED = 1, 2


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will take. Seconds and bytes; the bank's part is zero where it is already filled."""

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

    subjects, settings = job.subjects, job.recipe.settings
    items = {item.sample.id: item for subject in subjects for item in subject.items}
    views = sum(job.recipe.variants_of(item) for item in items.values())
    groups = job.groups([subject.id for subject in subjects])
    group = groups[0]
    cuda = job.backbone.device.type == "cuda"
    job.subjects = group
    began = time.perf_counter()
    job.prepare(lambda *_: None)
    group_items = {item.sample.id: item for subject in group for item in subject.items}
    measured_views = sum(job.recipe.variants_of(item) for item in group_items.values())
    seconds_per_view = (time.perf_counter() - began) / measured_views
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
    owners = len(groups) if job.recipe.joint else len(subjects)
    parts = 3 + (settings.ema_decay is not None)  # weights and two moments
    return Plan(
        subjects=len(subjects),
        pictures=len(items),
        groups=len(groups),
        steps=settings.max_train_steps,
        seconds_per_step=min(times[WARM_UP:]),
        seconds_for_bank=seconds_per_view * views,
        peak_memory=torch.cuda.max_memory_allocated() if cuda else _resident_peak(),
        device=str(job.backbone.device),
        bank_bytes=job.bank.size(subjects, job.recipe, job.backbone),
        checkpoint_bytes=settings.checkpoints_kept * parts * 4 * sum(sizes) * len(groups),
        adapter_bytes=owners * 4 * sum(sizes) // len(fit.trainable.subjects),
        trained_parameters=sum(sizes) // len(fit.trainable.subjects),
        warnings=tuple(job.warnings),
    )


def _resident_peak() -> int:
    # Linux counts in KiB, macOS in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
