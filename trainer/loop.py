"""The training loop all recipes share: micro-steps, per-subject clipping and skipping, averages, checkpoints, logs.

One optimizer step is a function of the weights, the moments and the step's number. So a run that is stopped between
two steps goes on bit for bit; one that is stopped inside a step does that step again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from manifests.errors import EnvironmentFault, IntegrityError
from trainer import checkpoints, resuming
from trainer.batches import Batches, step_of
from trainer.runlog import RunLog
from trainer.stacked import clip_per_subject

if TYPE_CHECKING:
    from accelerate import Accelerator

    from pipelines.backbones import Backbone, TextStates
    from trainer.recipe import Recipe
    from trainer.settings import Settings
    from trainer.trainable import Trainable
    from trainer.trained_token import TrainedToken

__all__ = ["MAX_SKIPPED", "Fit", "lr_factor"]

logger = logging.getLogger(__name__)

MAX_SKIPPED = 10  # steps in a row without a finite loss and gradient before a run stops


def lr_factor(settings: Settings) -> Callable[[int], float]:
    """The learning rate's factor as a function of the optimizer step, by diffusers' schedule of that name."""
    from diffusers.optimization import get_scheduler

    one = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule = get_scheduler(
        settings.lr_scheduler,
        one,
        num_warmup_steps=settings.lr_warmup_steps,
        num_training_steps=settings.max_train_steps,
    )
    factor: Callable[[int], float] = schedule.lr_lambdas[0]
    return factor


@dataclass
class Fit:
    """One run over a group of subjects. `fingerprint` is what must be the same when it is taken up again."""

    recipe: Recipe
    backbone: Backbone
    trainable: Trainable
    batches: Batches
    accelerator: Accelerator
    folder: Path
    fingerprint: Mapping[str, Any]
    on_step: Callable[[int], None] = lambda step: None
    token: TrainedToken | None = None
    step: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    in_a_row: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settings = self.recipe.settings
        rows = {} if self.token is None else _prefixed("token", self.token)
        others = {**self.trainable.named(), **_prefixed("recipe", self.recipe.modules)}
        self.parameters = {**others, **rows}
        groups: list[dict[str, Any]] = [{"params": list(others.values()), "lr": settings.learning_rate}]
        if rows:  # decay would pull a word towards no word at all
            rate = settings.token_learning_rate or settings.learning_rate
            groups.append({"params": list(rows.values()), "lr": rate, "weight_decay": 0.0})
        self._rates = [float(group["lr"]) for group in groups]
        self.optimizer = torch.optim.AdamW(
            groups,
            betas=(settings.adam_beta1, settings.adam_beta2),
            weight_decay=settings.adam_weight_decay,
            eps=settings.adam_epsilon,
        )
        # only the optimizer: gradients are few and averaged by hand, so the UNet stays the stock module it is
        self._stepper = self.accelerator.prepare(self.optimizer)
        self._lr = lr_factor(settings)
        self.average: dict[str, Tensor] | None = None
        if settings.ema_decay is not None:
            self.average = {name: value.detach().clone() for name, value in self.parameters.items()}
        self._log = RunLog(self.folder / "log.jsonl")
        self._updating = False
        self._saved = -1

    # the whole run

    def run(self) -> None:
        """Train from the newest checkpoint, or from the start, to `max_train_steps`."""
        settings = self.recipe.settings
        self._resume()
        loader = self.loader(settings.max_train_steps)
        try:
            while self.step < settings.max_train_steps:
                self.one_step(loader)
                if self.step % settings.checkpointing_steps == 0:
                    self.save()
                self.on_step(self.step)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise _out_of_memory(settings, self.step, len(self.trainable.subjects)) from error
        except BaseException as stop:
            # asked to stop, between two steps or inside a forward pass: what was reached is kept
            if not isinstance(stop, Exception) and not self._updating and self.step > self._saved:
                self.save()
            raise
        finally:
            self._log.close()
        if self._saved != self.step:
            self.save()

    def weights(self) -> Mapping[str, Tensor]:
        """What an adapter is written from: the averages where there are any."""
        return self.average if self.average is not None else self.parameters

    # one optimizer step

    def one_step(self, loader: Iterator[dict[str, Any]]) -> None:
        """Take the micro-steps of one optimizer step from the loader and move the weights."""
        settings = self.recipe.settings
        count = len(self.trainable.subjects)
        losses = torch.zeros(count, device=self.backbone.device)
        for _ in range(settings.gradient_accumulation_steps):
            step = step_of(next(loader), self.backbone, self._encode)
            with self.accelerator.autocast():
                item_losses = self.recipe.weighted_loss(step)
            subject_losses = (item_losses * step.share).view(count, -1).sum(dim=1)
            # a subject's gradient reaches its own slice only, so summing subjects mixes nothing
            self.accelerator.backward(subject_losses.sum() / settings.gradient_accumulation_steps)
            losses += subject_losses.detach() / settings.gradient_accumulation_steps
        if self.accelerator.num_processes > 1:
            for parameter in self.parameters.values():
                parameter.grad = self.accelerator.reduce(parameter.grad, "mean")
            losses = self.accelerator.reduce(losses, "mean")
        self.accelerator.unscale_gradients(self.optimizer)
        norms = clip_per_subject(list(self.parameters.values()), count, settings.max_grad_norm)
        # the one place where the device is waited for
        loss_values, norm_values = torch.stack([losses, norms.to(losses)]).tolist()
        finite = torch.isfinite(losses)
        if self.accelerator.scaler is None:  # a gradient scaler overflows now and then, and mends that by itself
            finite &= torch.isfinite(norms.to(losses))
        self._updating = True
        factor = self._lr(self.step)
        for group, whole in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = whole * factor
        rate = settings.learning_rate * factor
        bad = [index for index, good in enumerate(finite.tolist()) if not good]
        self._update(bad)
        self.step += 1
        if self.accelerator.is_main_process:
            self._log.write(self.step, rate, self.trainable.subjects, loss_values, norm_values, bad)
        self.accelerator.log(
            {f"loss/{name}": value for name, value in zip(self.trainable.subjects, loss_values, strict=True)}
            | {"lr": rate},
            step=self.step,
        )
        self._count(bad)
        self._updating = False  # only now is all of the step in what a checkpoint holds

    def _encode(self, prompts: Sequence[str]) -> TextStates:
        assert self.token is not None
        return self.token.states(self.recipe, prompts)

    @contextmanager
    def alone(self, index: int) -> Iterator[None]:
        """For the length of the block the base is one subject's: its adapter for every item, its word."""
        with self.trainable.alone(index), self.token.alone(index) if self.token is not None else nullcontext():
            yield

    def _update(self, bad: Sequence[int]) -> None:
        """Move the weights of every subject but the bad ones."""
        if len(bad) == len(self.trainable.subjects) and self.accelerator.scaler is None:
            self.optimizer.zero_grad()
            return
        kept = [(view, view.clone()) for index in bad for view in self._slices(index)]
        for index in bad:
            for parameter in self.parameters.values():
                if parameter.grad is not None:
                    self.trainable.slice_of(parameter.grad, index).zero_()
        self._stepper.step()
        with torch.no_grad():
            for view, before in kept:  # weight decay and momentum move a weight without a gradient too
                view.copy_(before)
        self.optimizer.zero_grad()
        if self.average is not None:
            decay = self.recipe.settings.ema_decay
            assert decay is not None
            for name, value in self.parameters.items():
                self.average[name].lerp_(value.detach(), 1 - decay)

    def _slices(self, index: int) -> Iterator[Tensor]:
        for parameter in self.parameters.values():
            yield self.trainable.slice_of(parameter.data, index)
            moments = self.optimizer.state.get(parameter, {})
            for name in ("exp_avg", "exp_avg_sq"):
                if name in moments:
                    yield self.trainable.slice_of(moments[name], index)

    def _count(self, bad: Sequence[int]) -> None:
        for index, subject in enumerate(self.trainable.subjects):
            if index not in bad:
                self.in_a_row[subject] = 0
                continue
            self.skipped[subject] = self.skipped.get(subject, 0) + 1
            self.in_a_row[subject] = self.in_a_row.get(subject, 0) + 1
            logger.warning("step %d: %s: loss or gradient is not finite; its step is skipped.", self.step, subject)
            if self.in_a_row[subject] >= MAX_SKIPPED:
                last = checkpoints.checkpoints(self.folder / "checkpoints")
                where = f"the last good checkpoint is {last[-1].name}" if last else "there is no checkpoint yet"
                raise IntegrityError(
                    f"{subject}: {MAX_SKIPPED} steps in a row without a finite loss, the last at step {self.step}; "
                    f"{where}.",
                    code="E613",
                )

    # data, checkpoints

    def loader(self, last_step: int) -> Iterator[dict[str, Any]]:
        """The micro-steps from the present step to the last one."""
        settings = self.recipe.settings
        accumulated = settings.gradient_accumulation_steps
        numbers = range(self.step * accumulated, last_step * accumulated)
        return iter(
            DataLoader(
                self.batches,
                batch_size=None,
                sampler=numbers,
                num_workers=settings.dataloader_workers,
                pin_memory=self.backbone.device.type == "cuda",
            )
        )

    def save(self) -> None:
        """Write a checkpoint of the last finished step."""
        if self.accelerator.is_main_process and self.step != self._saved:
            groups, state = resuming.capture(self)
            keep = self.recipe.settings.checkpoints_kept
            checkpoints.save(self.folder / "checkpoints", self.step, groups, state, keep=keep)
            self._saved = self.step

    def _resume(self) -> None:
        found = checkpoints.load_latest(self.folder / "checkpoints")
        if found is not None:
            resuming.restore(self, found)
            self._saved = self.step
        if self.accelerator.is_main_process:
            self._log.cut(self.step)


def _prefixed(prefix: str, module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {f"{prefix}.{name}": parameter for name, parameter in module.named_parameters()}


def _out_of_memory(settings: Settings, step: int, subjects: int) -> EnvironmentFault:
    ways = []
    if subjects > 1:
        ways.append(f"subjects_at_once below {subjects}")
    if settings.train_batch_size > 1:
        ways.append(f"train_batch_size below {settings.train_batch_size} (with more gradient_accumulation_steps)")
    if not settings.gradient_checkpointing:
        ways.append("gradient_checkpointing: true")
    if settings.mixed_precision == "no":
        ways.append("mixed_precision: bf16")
    if settings.method == "full":
        ways.append("method: lora")
    ways.append("a smaller resolution")
    return EnvironmentFault(
        f"out of memory at step {step + 1}. Set {ways[0]}; then: {', '.join(ways[1:])}.", code="E616"
    )
