"""The papers' ablations, row by row: adapters from `dataforge train`, pictures from `dataforge inpaint`.

DreamMix (arXiv 2411.17223 table 3, cumulative): baseline, +DIF, ++TAS, +++ADM. The baseline is DreamMix's training
without regular data and without region weights, painted on the whole frame; the weights belong to +DIF here.
DreamCom (arXiv 2309.15508 table 4): full, without masked cross-attention, without masked self-attention, without both:
the former is masked in training and painting or in neither, the latter in painting only; and the number of references.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from manifests.errors import EnvironmentFault, UsageError
from manifests.fsops import write_atomic
from manifests.ids import digest_of
from pipelines.evaluate.painting import Method
from pipelines.evaluate.verbs import run_verb

__all__ = ["ABLATIONS", "Ablation", "Setup", "Training", "train_all"]


@dataclass(frozen=True)
class Training:
    """One set of adapters: recipe, what is set on top of it, how many photographs (None: all)."""

    recipe: str
    sets: tuple[str, ...] = ()
    references: int | None = None


@dataclass(frozen=True)
class Setup:
    """One row of an ablation: how its adapters are trained and how it paints."""

    name: str
    training: Training
    preset: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ablation:
    """The rows of an ablation over a protocol, and the published tables beside it.

    `references` are the numbers of photographs that the paper trained on besides, on `full`; their table is its own.
    """

    name: str
    protocol: str
    published: tuple[str, ...]
    setups: tuple[Setup, ...]
    full: Setup
    references: tuple[int, ...] = ()
    published_references: tuple[str, ...] = ()

    def with_references(self, counts: Sequence[int], photographs: int) -> tuple[Setup, ...]:
        """The rows, and one for each number of references; as many as there are is the full row's own training."""
        full = self.full
        return self.setups + tuple(
            Setup(
                f"{count} reference{'s' if count > 1 else ''}",
                replace(full.training, references=count if count < photographs else None),
                full.preset,
                full.settings,
            )
            for count in counts
        )


_PLAIN = Training("dreammix:released", ("regular_prob=0", "object_weight=1", "background_weight=1"))
_WEIGHTED = Training("dreammix:released", ("regular_prob=0",))
_ADM = Setup("+++ADM", Training("dreammix:released"), "paper")
_MASKED = Training("dreamcom:paper")
_UNMASKED = Training("dreamcom:paper", ("cross_attention=none",))
_DREAMCOM = Setup("full", _MASKED, "dreamcom")

ABLATIONS = {
    "dreammix": Ablation(
        "dreammix",
        "dreammix",
        ("dreammix-ablation",),
        (
            Setup("baseline", _PLAIN, "paper", {"lambda_gch": 1.0, "tas": None}),
            Setup("+DIF", _WEIGHTED, "paper", {"tas": None}),
            Setup("++TAS", _WEIGHTED, "paper"),
            _ADM,
        ),
        _ADM,
    ),
    "dreamcom": Ablation(
        "dreamcom",
        "murecom",
        ("dreamcom-ablation",),
        (
            _DREAMCOM,
            Setup("without masked cross-attention", _UNMASKED, "dreamcom", {"masks.cross": "none"}),
            Setup("without masked self-attention", _MASKED, "dreamcom", {"masks.self_layers": "none"}),
            Setup("without both", _UNMASKED, "dreamcom", {"masks": None}),
        ),
        _DREAMCOM,
        references=(1, 2, 3, 4, 5),
        published_references=("dreamcom-references",),
    ),
}


def train_all(
    setups: Sequence[Setup],
    corpus: str,
    base: str,
    output: Path,
    *,
    train_sets: Sequence[str] = (),
    paint_settings: dict[str, Any] | None = None,
) -> list[Method]:
    """Train what the rows need, each set of adapters once, and give the rows as methods that paint with them.

    A training that ended is not begun again; one that was stopped goes on. `train_sets` and `paint_settings` are
    for all rows; what a row itself sets wins. Raises what `dataforge train` raises.
    """
    methods = []
    for setup in setups:
        folder = _train(setup.training, corpus, base, output, train_sets)
        methods.append(
            Method(
                name=setup.name,
                base=base,
                adapters=folder,
                preset=setup.preset,
                settings={**(paint_settings or {}), **setup.settings},
            )
        )
    return methods


def _train(training: Training, corpus: str, base: str, output: Path, sets: Sequence[str]) -> Path:
    arguments = ["train", corpus, "--recipe", training.recipe, "--base", base]
    for assignment in (*sets, *training.sets):  # what a row is about wins
        arguments += ["--set", assignment]
    if training.references is not None:
        arguments += ["--references", str(training.references)]
    folder = output / "adapters" / digest_of(arguments)[:12]
    ended = folder / "ended.json"
    if ended.is_file():
        return folder
    status = run_verb([*arguments, "-o", str(folder), "--bank", str(output / "bank")])
    if status == 3:
        raise UsageError(
            f"{training.recipe}: some subjects could not be trained; name the others with CORPUS#ID,...", code="E502"
        )
    if status != 0:
        raise EnvironmentFault(f"`dataforge train` ended with {status}.", code="E511")
    write_atomic(ended, f"{json.dumps(arguments, indent=1)}\n".encode())
    return folder
