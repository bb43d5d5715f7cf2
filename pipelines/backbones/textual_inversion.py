"""A word added to a base's tokenizers whose embedding row comes from outside its text encoders (Gal et al. 2022).

diffusers' `load_textual_inversion` lengthens the embedding matrix by the row. Here the row stands beside the matrix, so
that the base stays as it is, rows change in no time, and one in training gets its gradient. IDs and states are the
same; so is SDXL's pooled vector, which its old configuration takes at the highest ID, the added word.

`learned_embeds.safetensors` holds `{word: row}` for a base with one text encoder, which `load_textual_inversion` reads
as it is, and `{"clip_l": row, "clip_g": row}` for SDXL, of which it is given one at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from manifests.errors import UsageError

if TYPE_CHECKING:
    from pipelines.backbones.interface import Backbone

__all__ = ["EMBEDS_NAME", "AddedWord", "embeds_of", "put_adapter_word", "rows_of"]

EMBEDS_NAME = "learned_embeds.safetensors"
SDXL_KEYS = ("clip_l", "clip_g")


class AddedWord:
    """`word` as one token of every tokenizer of a base; `rows`, one [D] per text encoder, stand for it."""

    def __init__(self, backbone: Backbone, word: str, rows: Sequence[Tensor] = (), *, of_adapter: bool = False) -> None:
        if backbone.added_word is not None:
            backbone.added_word.remove()
        self.word, self.rows, self.of_adapter, self._backbone = word, tuple(rows), of_adapter, backbone
        self._hooks: list[Any] = []
        for number, (tokenizer, encoder) in enumerate(zip(backbone.tokenizers, backbone.text_encoders, strict=True)):
            matrix = encoder.get_input_embeddings()
            known = tokenizer.convert_tokens_to_ids(word)  # of the unknown token where it is none
            if known in range(matrix.num_embeddings) and tokenizer.convert_ids_to_tokens(known) == word:
                raise UsageError(f"{word!r} is a word of the base's vocabulary already.", code="E502")
            tokenizer.add_tokens(word)
            self._hooks += self._hook(matrix, tokenizer.convert_tokens_to_ids(word), number)
        backbone.added_word = self

    def _hook(self, matrix: Any, token_id: int, number: int) -> list[Any]:
        here: Tensor

        def look(_: Any, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            nonlocal here
            here = arguments[0] == token_id
            return (arguments[0].masked_fill(here, 0),)

        def fill(_: Any, __: Any, states: Tensor) -> Tensor:
            if not self.rows:  # no prompt has the word then
                return states
            return torch.where(here[..., None], self.rows[number].to(states), states)

        return [matrix.register_forward_pre_hook(look), matrix.register_forward_hook(fill)]

    def remove(self) -> None:
        """Take the rows off; the tokenizers keep the word, which is then refused in a prompt."""
        for hook in self._hooks:
            hook.remove()
        if self._backbone.added_word is self:
            self._backbone.added_word = None


def rows_of(backbone: Backbone, words: str) -> list[Tensor]:
    """The mean row [D] float32 of the tokens of `words`, in each text encoder: where a new word starts."""
    rows = []
    for tokenizer, encoder in zip(backbone.tokenizers, backbone.text_encoders, strict=True):
        ids = tokenizer(words, add_special_tokens=False).input_ids
        rows.append(encoder.get_input_embeddings().weight[ids].detach().float().mean(dim=0))
    return rows


def embeds_of(word: str, rows: Sequence[Tensor]) -> dict[str, Tensor]:
    """The tensors of `learned_embeds.safetensors`."""
    keys = (word,) if len(rows) == 1 else SDXL_KEYS
    return {key: row.detach().float().cpu().contiguous() for key, row in zip(keys, rows, strict=True)}


def put_adapter_word(backbone: Backbone, folder: Path | None, word: str) -> None:
    """Read prompts with the word an adapter was trained with; where it has none, without any.

    Raises `UsageError` E603 for a file that does not fit the base.
    """
    if backbone.added_word is not None and backbone.added_word.of_adapter:  # one in training stays
        backbone.added_word.remove()
    if folder is None or not (folder / EMBEDS_NAME).is_file():
        return
    from safetensors.torch import load_file

    found: Mapping[str, Tensor] = load_file(folder / EMBEDS_NAME)
    keys = (word,) if len(backbone.text_encoders) == 1 else SDXL_KEYS
    widths = [encoder.get_input_embeddings().embedding_dim for encoder in backbone.text_encoders]
    if {key: list(row.shape) for key, row in found.items()} != {
        key: [width] for key, width in zip(keys, widths, strict=True)
    }:
        raise UsageError(f"{folder / EMBEDS_NAME} does not hold a row of {word!r} for this base.", code="E603")
    AddedWord(backbone, word, [found[key].to(backbone.device) for key in keys], of_adapter=True)
