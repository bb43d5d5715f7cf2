"""Checkpoints that survive being killed anywhere, damaged, or written while the loss turns into NaN.

    checkpoints/000250/weights.safetensors, optimizer.safetensors, average.safetensors
                       state.json     step, counters, fingerprint, sha256 of each file; written last: that commits

Nothing random is kept, because nothing random has a state (trainer.keyed). An old checkpoint goes only after the new
one has been read back; at least two stay, and a damaged one is passed over loudly for the one before.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from manifests.errors import IntegrityError
from manifests.fsops import crashpoint, sha256_of_file, write_atomic

__all__ = ["Checkpoint", "checkpoints", "load_latest", "save"]

logger = logging.getLogger(__name__)
STATE = "state.json"
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a run goes on from: groups of tensors (`weights`, `optimizer`, ...) and the facts of `state.json`."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def checkpoints(folder: Path) -> list[Path]:
    """Committed checkpoints, oldest first."""
    return sorted(path.parent for path in folder.glob(f"[0-9]*/{STATE}"))


def save(folder: Path, step: int, tensors: Mapping[str, Tensors], state: Mapping[str, Any], *, keep: int) -> Path:
    """Write a checkpoint, read it back, then remove what is older than the newest `keep`.

    Raises `IntegrityError` E613 for tensors that are not finite, before anything is written; E510 on a full disk.
    """
    for group, members in tensors.items():
        for name, tensor in members.items():
            if not torch.isfinite(tensor).all():
                raise IntegrityError(f"step {step}: {group} {name} is not finite and is not saved.", code="E613")
    target = folder / f"{step:06d}"
    sums = {}
    for group, members in tensors.items():
        content = safetensors.torch.save({name: tensor.detach().contiguous().cpu() for name, tensor in members.items()})
        write_atomic(target / f"{group}.safetensors", content)
        size, digest = sha256_of_file(target / f"{group}.safetensors")
        sums[group] = {"size": size, "sha256": digest}
    write_atomic(target / STATE, json.dumps({**state, "step": step, "files": sums}, indent=1).encode())
    read(target)
    there = checkpoints(folder)
    # a later one can only be damaged: the run was taken up before it
    later = [path for path in there if int(path.name) > step]
    for old in [*there[: -len(later) - keep], *later]:
        (old / STATE).unlink()  # first, so that half a folder is never taken for a checkpoint
        crashpoint(f"uncommitted {old.name}")
        shutil.rmtree(old)
    return target


def read(path: Path) -> Checkpoint:
    """A committed checkpoint, every file checked. Raises `IntegrityError` E401, E403 or E404."""
    try:
        state = json.loads((path / STATE).read_bytes())
        files, step = dict(state["files"]), int(state["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"checkpoint {path.name}: {STATE} cannot be read.", code="E404") from error
    tensors = {}
    for group, recorded in files.items():
        file = path / f"{group}.safetensors"
        if not file.is_file():
            raise IntegrityError(f"checkpoint {path.name}: {file.name} is not there.", code="E403")
        if list(sha256_of_file(file)) != [recorded["size"], recorded["sha256"]]:
            raise IntegrityError(f"checkpoint {path.name}: {file.name} differs from what was written.", code="E401")
        tensors[group] = safetensors.torch.load_file(file)
    return Checkpoint(step, tensors, state)


def load_latest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; None where there is none at all.

    Raises `IntegrityError` E615 when there are checkpoints and not one of them can be read.
    """
    found = checkpoints(folder)
    for path in reversed(found):
        try:
            return read(path)
        except IntegrityError as error:
            logger.warning("%s Going back to the checkpoint before it.", error.detail)
    if found:
        names = ", ".join(path.name for path in found)
        raise IntegrityError(f"none of the checkpoints {names} can be read.", code="E615")
    return None
