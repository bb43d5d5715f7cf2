"""A CLIP vocabulary made by hand: every word of the world is one token, everything else falls apart into bytes."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from toyworld import words
from toyworld.marks import NONSENSE_WORDS

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

MAX_LENGTH = 20
_START, _END = "<|startoftext|>", "<|endoftext|>"


def known_words() -> list[str]:
    """Every word that is one token."""
    said = (*words.CAPTION_WORDS, *words.SHAPES, *words.COLOURS, *words.TEXTURES, *words.SURFACES, *words.FILLERS)
    return list(dict.fromkeys((*said, *NONSENSE_WORDS, *words.IDENTIFIERS)))


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Tokens with their ids, and the merges that make them, in order.

    A word gets the merges that join, left to right, what earlier merges leave of it. Later merges rank behind, so no
    word takes another apart.
    """
    letters = [_byte_letter(byte) for byte in range(256)]
    tokens = dict.fromkeys([*letters, *(letter + "</w>" for letter in letters)])
    merges: dict[tuple[str, str], int] = {}
    for word in known_words():
        pieces = _apply([*word[:-1], word[-1] + "</w>"], merges)
        while len(pieces) > 1:
            merges[pieces[0], pieces[1]] = len(merges)
            pieces[:2] = [pieces[0] + pieces[1]]
            tokens[pieces[0]] = None
    ids = {token: number for number, token in enumerate([*tokens, _START, _END])}
    return ids, list(merges)


def tokenizer() -> CLIPTokenizer:
    """The vocabulary as `transformers` takes it."""
    from transformers import CLIPTokenizer

    ids, merges = vocabulary()
    pairs: Any = merges  # annotated as text there, but pairs are what it takes
    return CLIPTokenizer(vocab=ids, merges=pairs, model_max_length=MAX_LENGTH)


def _apply(pieces: list[str], merges: dict[tuple[str, str], int]) -> list[str]:
    """Byte-pair encoding: join the pair of the lowest rank until none is left."""
    while True:
        ranked = [(merges[pair], at) for at, pair in enumerate(itertools.pairwise(pieces)) if pair in merges]
        if not ranked:
            return pieces
        at = min(ranked)[1]
        pieces = [*pieces[:at], pieces[at] + pieces[at + 1], *pieces[at + 2 :]]


def _byte_letter(byte: int) -> str:
    """The printable character that stands for a byte, as in the vocabulary of GPT-2 and of CLIP."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    if byte in printable:
        return chr(byte)
    return chr(256 + [other for other in range(256) if other not in printable].index(byte))
