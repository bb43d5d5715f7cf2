"""A word per subject, trained along with its adapter (textual inversion, Gal et al. 2022, beside LoRA).

The word, `<sks>`, is one token more in the base's tokenizers; its embedding row starts at the identifier's and is the
only thing of the text encoders that moves. So states of prompts are made at every step and not taken from the bank.

Dimension key: S subjects, D width of a text encoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch
import torch
from torch import Tensor, nn

from manifests.fsops import write_atomic
from pipelines.backbones import TextStates
from pipelines.backbones.textual_inversion import EMBEDS_NAME, AddedWord, embeds_of, rows_of

if TYPE_CHECKING:
    from pipelines.backbones import Backbone
    from trainer.recipe import Recipe
    from trainer.settings import Settings

__all__ = ["TrainedToken"]


class TrainedToken(nn.Module):
    """`rows`, one [S,D] per text encoder: subject s reads the word as row s."""

    def __init__(self, backbone: Backbone, subjects: Sequence[str], settings: Settings) -> None:
        super().__init__()
        self._backbone, self._subjects = backbone, len(subjects)
        start = rows_of(backbone, settings.identifier)
        self.rows = nn.ParameterList(nn.Parameter(row.repeat(len(subjects), 1)) for row in start)
        self._added = AddedWord(backbone, settings.word)

    @contextmanager
    def alone(self, index: int) -> Iterator[None]:
        """For the length of the block the word is this subject's."""
        self._added.rows = tuple(rows[index] for rows in self.rows)
        try:
            yield
        finally:
            self._added.rows = ()

    def states(self, recipe: Recipe, prompts: Sequence[str]) -> TextStates:
        """States [B,T,D] of subject-major prompts, each with its own subject's word, with gradients to the rows."""
        size = len(prompts) // self._subjects
        parts = []
        for index in range(self._subjects):
            own = prompts[index * size : (index + 1) * size]
            different = list(dict.fromkeys(own))
            with self.alone(index):
                states = recipe.text(self._backbone, different)
            order = torch.tensor([different.index(prompt) for prompt in own], device=states.tokens.device)
            parts.append(
                TextStates(states.tokens[order], None if states.pooled is None else states.pooled[order])
            )  # fmt: skip
        return TextStates.cat(parts)

    def write(self, folder: Path, index: int, values: Mapping[str, Tensor]) -> None:
        """`learned_embeds.safetensors`; `values` hold `token.rows.<n>`, the parameters or averages of them."""
        rows = [values[f"token.rows.{number}"][index] for number in range(len(self.rows))]
        write_atomic(folder / EMBEDS_NAME, safetensors.torch.save(embeds_of(self._added.word, rows)))

    def remove(self) -> None:
        """Leave the base without the word."""
        self._added.remove()
