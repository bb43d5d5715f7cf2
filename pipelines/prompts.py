"""Prompts and TAS, DreamMix's textual attribute substitution (arXiv 2411.17223; METHODS 2.6).

An edit asks for another colour or material. TAS takes what the subject's own words say out of the prompt's embedding:
every token of the prompt's words is projected away from the tokens of those words. Text encoders stay as they are.

B batch, T token positions, D text width, n removed tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from manifests.errors import UsageError
from pipelines.backbones import Backbone, TextStates
from pipelines.settings import TAS
from pipelines.words import removed_words, word_pattern

__all__ = ["TAS", "project_away", "substitute"]


def project_away(
    embeddings: Tensor, directions: Tensor, method: Literal["qr", "sequential"] = "qr", alpha: float = 0.0
) -> Tensor:
    """Embeddings [..., D] without their part along the directions [n, D]: a new tensor, computed in float32.

    `qr` removes the whole span, in any order; `sequential` one direction after the other, so that the result is
    orthogonal to the last one only. A direction of zeros removes nothing.
    """
    directions = directions.float()
    directions = directions[directions.norm(dim=-1) > 0]
    if not len(directions) or alpha == 1:
        return embeddings.clone()
    rest = embeddings.float()
    if method == "qr":
        for direction in _orthonormal(directions):
            rest = rest - (rest @ direction)[..., None] * direction
    else:
        for direction in directions:
            rest = rest - ((rest @ direction) / (direction @ direction))[..., None] * direction
    return (alpha * embeddings.float() + (1 - alpha) * rest).to(embeddings.dtype)


def _orthonormal(directions: Tensor) -> Tensor:
    # the right singular vectors span the directions whatever their order and rank
    _, sizes, basis = torch.linalg.svd(directions.double(), full_matrices=False)
    kept: Tensor = basis[sizes > sizes[0] * 1e-6].float()
    return kept


def substitute(
    backbone: Backbone, prompt: str, words: Sequence[str], *, prefix: str, identifier: str = "", tas: TAS | None = None
) -> TextStates:
    """The prompt encoded (batch of 1) with the words' part taken out; the plain states if no word is left to remove.

    The words are encoded behind `prefix` ("a photo of a sks"), because what a word means depends on what it follows.
    Start, end and padding positions stay bit-equal; so does SDXL's pooled vector unless words are removed.
    """
    tas = tas or TAS()
    states = backbone.encode_text([prompt])
    words = removed_words(words, prompt)
    if not words:
        return states
    text = f"{prefix} {' '.join(words)}".strip()
    source = backbone.encode_text([text])
    start = len(prefix)
    removed = [position for position, (_, last) in enumerate(backbone.token_spans(text), start=1) if last > start]
    changed = _positions(backbone, prompt, identifier, tas.positions)
    tokens = states.tokens.clone()
    for part in _parts(backbone, tokens.shape[-1], tas.space):
        tokens[0, changed, part] = project_away(
            states.tokens[0, changed, part], source.tokens[0, removed, part], tas.method, tas.alpha
        )
    pooled = states.pooled
    if pooled is not None and source.pooled is not None:
        pooled = project_away(pooled, source.pooled, tas.method, tas.alpha)
    return TextStates(tokens, pooled)


def _positions(backbone: Backbone, prompt: str, identifier: str, which: str) -> list[int]:
    spans = backbone.token_spans(prompt)
    if which == "prompt_words":
        return list(range(1, len(spans) + 1))
    found = [match.span() for match in word_pattern(identifier).finditer(prompt)] if identifier else []
    if not found:
        raise UsageError(f"prompt {prompt!r} does not name the identifier {identifier!r}.")
    return [
        position
        for position, (first, last) in enumerate(spans, start=1)
        if any(first < end and last > begin for begin, end in found)
    ]


def _parts(backbone: Backbone, width: int, space: Literal["concat", "per_encoder"]) -> list[slice]:
    if space == "concat":
        return [slice(0, width)]
    widths = [encoder.config.hidden_size for encoder in backbone.text_encoders]
    ends = [sum(widths[: number + 1]) for number in range(len(widths))]
    return [slice(end - own, end) for own, end in zip(widths, ends, strict=True)]
