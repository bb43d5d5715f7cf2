"""The state of a run as tensors and plain values, and back: weights, moments, averages, counters. No random state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from manifests.errors import UsageError
from trainer.checkpoints import Checkpoint

if TYPE_CHECKING:
    from trainer.loop import Fit

__all__ = ["capture", "restore"]

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def capture(fit: Fit) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, Any]]:
    """What a checkpoint holds: groups of tensors by parameter name, and the facts of `state.json`."""
    moments = {
        f"{part}.{name}": value
        for name, parameter in fit.parameters.items()
        for part, value in fit.optimizer.state.get(parameter, {}).items()
    }
    groups: dict[str, Mapping[str, Tensor]] = {"weights": fit.parameters, "optimizer": moments}
    if fit.average is not None:
        groups["average"] = fit.average
    scaler = fit.accelerator.scaler
    state = {
        "fingerprint": dict(fit.fingerprint),
        "skipped": fit.skipped,
        "in_a_row": fit.in_a_row,
        "scaler": scaler.state_dict() if scaler is not None else None,
    }
    return groups, state


def restore(fit: Fit, found: Checkpoint) -> None:
    """Put a run where a checkpoint left it, bit for bit.

    Raises `UsageError` E614 naming every setting, picture set or base that is not what the run was begun with.
    """
    before, now = found.state["fingerprint"], dict(fit.fingerprint)
    if before != now:
        changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
        told = ", ".join(f"{key} {before.get(key)!r} -> {now.get(key)!r}" for key in changed)
        raise UsageError(f"{fit.folder.name} was begun otherwise: {told}; use another output.", code="E614")
    limit = fit.recipe.settings.max_train_steps
    if found.step > limit:
        raise UsageError(
            f"{fit.folder.name} is at step {found.step}, past max_train_steps {limit}; use another output.",
            code="E614",
        )
    with torch.no_grad():
        for name, parameter in fit.parameters.items():
            parameter.copy_(found.tensors["weights"][name])
            if fit.average is not None:
                fit.average[name].copy_(found.tensors["average"][name])
    moments = found.tensors["optimizer"]
    for name, parameter in fit.parameters.items():
        # AdamW counts its steps on the CPU
        kept = {
            part: moments[f"{part}.{name}"].to("cpu" if part == "step" else parameter.device)
            for part in MOMENTS
            if f"{part}.{name}" in moments
        }
        if kept:
            fit.optimizer.state[parameter] = kept
    fit.skipped, fit.in_a_row = dict(found.state["skipped"]), dict(found.state["in_a_row"])
    if fit.accelerator.scaler is not None:
        fit.accelerator.scaler.load_state_dict(found.state["scaler"])
    fit.step = found.step
