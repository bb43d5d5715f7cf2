"""The batch of a micro-step as a pure function of its number: any worker, any start, the same tensors.

Dimension key: S subjects, B items (subject-major, S * items of a subject), h w latent cells.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from trainer.bank import Bank
from trainer.data import SubjectData
from trainer.keyed import generator
from trainer.recipe import Draw, Recipe, Step

if TYPE_CHECKING:
    from pipelines.backbones import Backbone, TextStates

__all__ = ["Batches", "step_of"]


class Batches(Dataset[dict[str, Any]]):
    """Micro-steps by number. Process `rank` of `world` sees its own draws; two runs with one seed see the same."""

    def __init__(
        self, bank: Bank, recipe: Recipe, subjects: Sequence[SubjectData], timesteps: int, rank: int = 0, world: int = 1
    ) -> None:
        self.bank, self.recipe, self.subjects = bank, recipe, tuple(subjects)
        self.timesteps, self.rank, self.world = timesteps, rank, world

    def draws(self, micro_step: int, subject: SubjectData) -> list[Draw]:
        """What a subject's items of a micro-step show, in their order."""
        size = self.recipe.settings.train_batch_size
        first = (micro_step * self.world + self.rank) * size
        return [draw for number in range(first, first + size) for draw in self.recipe.draw(subject, number)]

    def __getitem__(self, micro_step: int) -> dict[str, Any]:
        """The tensors of `Step`, on the CPU, float32; with a trained token the prompts in place of their states."""
        drawn = [
            (place, draw) for subject in self.subjects for place, draw in enumerate(self.draws(micro_step, subject))
        ]
        rows = [self._row(draw, micro_step, place) for place, draw in drawn]
        batch: dict[str, Any] = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        if self.recipe.settings.train_token:
            batch["prompts"] = [draw.prompt for _, draw in drawn]
        return batch

    def _row(self, draw: Draw, micro_step: int, place: int) -> dict[str, Tensor]:
        # keyed by the place among the subject's own items, so that company does not change what a subject sees
        settings = self.recipe.settings
        key = generator(settings.seed, "noise", micro_step, self.rank, place, draw.item.sample.id)
        view = self.bank.view(draw.item, draw.variant)
        row = {}
        for name, value in view.items():  # in the entry's order, which is sorted
            kind, _, part = name.rpartition("_")
            if part == "mean":
                row[kind] = value + view[f"{kind}_std"] * torch.randn(value.shape, generator=key)
            elif part != "std":
                row[name] = value
        row["latents"] = row.pop("image")
        row["noise"] = torch.randn(row["latents"].shape, generator=key)
        row["timesteps"] = torch.randint(self.timesteps, (), generator=key)
        row["share"] = torch.tensor(draw.share / settings.train_batch_size)
        row["whole"] = torch.tensor(draw.whole)
        return row if settings.train_token else row | self.bank.text(draw.prompt)


def step_of(
    batch: dict[str, Any], backbone: Backbone, encode: Callable[[Sequence[str]], TextStates] | None = None
) -> Step:
    """A batch on the base's device, as what a recipe's loss takes; `encode` makes the states of its prompts."""
    from pipelines.backbones import TextStates

    prompts = batch.pop("prompts", None)
    on_device = {name: tensor.to(backbone.device, non_blocking=True) for name, tensor in batch.items()}
    if prompts is None:
        # kept in half precision whatever the base's: its norms take no other type than their own
        text = TextStates(on_device.pop("tokens"), on_device.pop("pooled", None)).to(backbone.device, backbone.dtype)
    else:
        assert encode is not None
        text = encode(prompts)
    size: Any = on_device.pop("size")
    condition = backbone.size_condition(size[:, :2], size[:, 2:4], size[:, 4:])
    own = {field.name for field in dataclasses.fields(Step)}
    extras = {name: on_device.pop(name) for name in list(on_device) if name not in own}
    tensors: dict[str, Any] = on_device
    return Step(backbone=backbone, text=text, size=condition, extras=extras, **tensors)
