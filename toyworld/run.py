"""A run of the denoiser: weights, optimisers and accounts on disk, and one or more workers that train them."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
import typer
from torch import multiprocessing

from toyworld.denoiser import Denoiser, Sampler, learning_rate
from toyworld.settings import Settings

EMA_DECAY, EMA_EVERY = 0.99, 4


class Run:
    """The state of a run: weights, their running mean, one optimiser a worker, and what was spent."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder, self.settings, self.path = folder, settings, folder / "denoiser.pt"
        torch.manual_seed(settings.seed)
        self.device = torch.device(settings.device)
        self.denoiser = Denoiser(settings.norm_groups).to(self.device)
        self.mean = Denoiser(settings.norm_groups).to(self.device)
        self.mean.load_state_dict(self.denoiser.state_dict())
        self.mean.requires_grad_(False)
        self.optimisers = [
            torch.optim.AdamW(self.denoiser.parameters(), betas=(0.9, 0.99), weight_decay=0.005, fused=True)
            for _ in range(settings.workers)
        ]
        # one row a worker: steps, samples, CPU seconds
        self.spent = torch.zeros(settings.workers, 3, dtype=torch.float64)
        self.history: list[dict[str, Any]] = []
        self.restored = 0.0
        if self.path.exists():
            self._restore()
        self.start_spent = self.spent.clone()

    @property
    def progress(self) -> float:
        """Share of the samples that has been seen."""
        return min(1.0, self.spent[:, 1].sum().item() / self.settings.samples)

    def _restore(self) -> None:
        state = torch.load(self.path, map_location=self.device, weights_only=True)
        self.denoiser.load_state_dict(state["denoiser"])
        self.mean.load_state_dict(state["mean"])
        for number, optimiser in enumerate(self.optimisers):
            optimiser.load_state_dict(state["optimisers"][number % len(state["optimisers"])])
        spent = state["spent"]
        if len(spent) == len(self.spent):
            self.spent.copy_(spent)
        else:  # another number of workers: go on from the furthest, and keep the sums
            self.spent[:, 0] = spent[:, 0].max()
            self.spent[0, 1:] = spent[:, 1:].sum(0)
        self.history = state["history"]

    def share(self) -> None:
        """Put everything that workers write into shared memory; optimisers need their state to exist for that."""
        self.denoiser.share_memory()
        self.spent.share_memory_()
        for optimiser in self.optimisers:
            if not optimiser.state:
                for group in optimiser.param_groups:
                    group["lr"] = 0.0
                for parameter in self.denoiser.parameters():
                    parameter.grad = torch.zeros_like(parameter)
                optimiser.step()
                optimiser.zero_grad()
            for state in optimiser.state.values():
                for value in state.values():
                    value.share_memory_()

    def save(self) -> None:
        """Write the state; a run killed meanwhile finds the state before."""
        state = {
            "denoiser": self.denoiser.state_dict(),
            "mean": self.mean.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "spent": self.spent,
            "history": self.history,
            "norm_groups": self.settings.norm_groups,
        }
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.path)

    @torch.no_grad()
    def follow(self) -> None:
        """Move the running mean towards the weights."""
        for kept, new in zip(self.mean.parameters(), self.denoiser.parameters(), strict=True):
            kept.lerp_(new.detach(), 1 - EMA_DECAY)


def work(run: Run, worker: int, stop: torch.Tensor, stop_after: int = 0) -> None:
    """Train until the samples are seen or `stop` is set. Worker 0 also follows, reports and saves."""
    torch.set_num_threads(1)
    settings, parent = run.settings, os.getppid()
    if worker:
        os.setsid()  # Linux shares time between sessions first, and between the processes of one after that
    sampler, optimiser = Sampler(settings, worker), run.optimisers[worker]
    began, base_cpu = time.monotonic(), run.spent[worker, 2].item() - time.process_time()
    saved, losses = began, dict[int, list[float]]()
    while run.progress < 1 and not stop.item():
        step, progress = int(run.spent[worker, 0].item()), run.progress
        loss, count, canvas = sampler.loss(run.denoiser, step, progress)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(run.denoiser.parameters(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(settings, step, progress)
        optimiser.step()
        optimiser.zero_grad()
        run.spent[worker] += torch.tensor([1.0, count, 0.0], dtype=torch.float64)
        run.spent[worker, 2] = base_cpu + time.process_time()
        if worker:
            if os.getppid() != parent:  # the first worker was killed: nobody saves any more
                return
            continue
        losses.setdefault(canvas, []).append(loss.item())
        if (step + 1) % EMA_EVERY == 0:
            run.follow()
        if (step + 1) % settings.report_every == 0:
            report(run, losses, time.monotonic() - began)
            losses.clear()
        now = time.monotonic()
        if now - saved > settings.save_every:
            run.save()
            saved = now
        late = settings.minutes and now - began > 60 * settings.minutes
        if late or (stop_after and run.spent[:, 1].sum().item() >= stop_after):
            stop.fill_(1)
    if not worker:
        stop.fill_(1)


def report(run: Run, losses: dict[int, list[float]], seconds: float) -> None:
    """Say where the run stands, and keep it."""
    _, samples, cpu = run.spent.sum(0).tolist()
    rate = (samples - run.start_spent[:, 1].sum().item()) / seconds
    entry: dict[str, Any] = {"samples": int(samples), "cpu_seconds": round(cpu)}
    entry |= {f"loss_{canvas}": round(sum(some) / len(some), 4) for canvas, some in sorted(losses.items())}
    run.history.append(entry)
    left = (run.settings.samples - samples) / rate / 60
    typer.echo(json.dumps(entry | {"samples_per_second": round(rate, 1), "minutes_left": round(left, 1)}))


def train_denoiser(folder: Path, settings: Settings, stop_after: int = 0) -> Run:
    """Train text encoder and UNet, from where the folder stands; `stop_after` samples in all, or when done."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(folder, settings)
    stop = torch.zeros(1)
    signal.signal(signal.SIGTERM, lambda *_: stop.fill_(1))
    helpers = []
    if settings.workers > 1:
        run.share()
        stop.share_memory_()
        context = multiprocessing.get_context("fork")
        helpers = [
            context.Process(target=work, args=(run, worker, stop), daemon=True) for worker in range(1, settings.workers)
        ]
        for helper in helpers:
            helper.start()
    try:
        work(run, 0, stop, stop_after)
    finally:
        stop.fill_(1)
        for helper in helpers:
            helper.join(30)
        run.save()
    return run
