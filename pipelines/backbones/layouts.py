"""How a prompt's states are laid out over the text positions, where a method has a layout of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from manifests.errors import UsageError
from pipelines.backbones.interface import TextStates

if TYPE_CHECKING:
    from pipelines.backbones.interface import Backbone

__all__ = ["RELEASED_TOKENS", "released_layout"]

# DreamCom's release: text positions of the object; as many follow for `background` (METHODS 3.4)
RELEASED_TOKENS = range(1, 39)


def released_layout(backbone: Backbone, prompts: Sequence[str]) -> TextStates:
    """DreamCom's released rows [B,77,D]: an empty prompt's first state, 38 of the prompt, 38 of `background`.

    The same in training and in painting (METHODS C2). Raises `UsageError` E601 for a base that reads fewer positions,
    E602 for a prompt that fills more than its own.
    """
    states = backbone.encode_text(["", "background", *prompts])
    needed = 1 + 2 * len(RELEASED_TOKENS)
    if states.tokens.shape[1] < needed:
        raise UsageError(
            f"{backbone.base.model}: it reads {states.tokens.shape[1]} text positions; DreamCom's released layout "
            f"fills {needed}.",
            code="E601",
        )
    for prompt in prompts:
        tokens = len(backbone.token_spans(prompt))
        if tokens > len(RELEASED_TOKENS):
            raise UsageError(
                f"prompt {prompt!r} has {tokens} tokens; DreamCom's released layout reads {len(RELEASED_TOKENS)}.",
                code="E602",
            )
    words = slice(RELEASED_TOKENS.start, RELEASED_TOKENS.stop)
    empty, background, inside = states.tokens[:1], states.tokens[1:2], states.tokens[2:]
    outer = [part.expand(len(inside), -1, -1) for part in (empty[:, :1], background[:, words])]
    rows = torch.cat([outer[0], inside[:, words], outer[1]], dim=1)
    return TextStates(rows, None if states.pooled is None else states.pooled[2:])
