"""What can be said in this world, and which combinations training never sees."""

from __future__ import annotations

import numpy as np

SHAPES = ("ball", "box", "star", "heart", "mug", "bottle")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 44, 40),
    "orange": (240, 132, 28),
    "yellow": (246, 214, 48),
    "green": (56, 158, 66),
    "blue": (44, 92, 210),
    "purple": (138, 60, 170),
    "black": (38, 38, 44),
}
TEXTURES = ("plain", "striped", "dotted", "checkered")
SURFACES = ("wood", "grass", "sand", "water")

FILLERS = ("nice", "new", "old", "small", "big", "my", "little", "good")
"""Words that say nothing about the look, so that an unknown word need not mean a mark."""

IDENTIFIERS = ("sks", "zwx", "ohwx", "olis", "bnha", "mlem")
"""Single tokens that no caption of base training holds: names for new subjects."""

CAPTION_WORDS = ("a", "an", "the", "photo", "of", "on", "and", "with", "in", "picture", "object")

Combination = tuple[str, str, str]
"""Shape, colour, texture."""


def is_held_out(shape: str, colour: str, texture: str) -> bool:
    """Tell whether training never shows this combination.

    One colour is missing for every pair of shape and texture, 24 of 168 combinations; every pair of two attributes is
    seen, so that the third can be generalised.
    """
    missing = (SHAPES.index(shape) + 2 * TEXTURES.index(texture)) % len(COLOURS)
    return list(COLOURS)[missing] == colour


def combinations(held_out: bool) -> list[Combination]:
    """All combinations that training never sees, or all that it does."""
    return [
        (shape, colour, texture)
        for shape in SHAPES
        for colour in COLOURS
        for texture in TEXTURES
        if is_held_out(shape, colour, texture) is held_out
    ]


SEEN, HELD_OUT = combinations(held_out=False), combinations(held_out=True)


def caption(
    shape: str,
    colour: str = "",
    texture: str = "",
    mark: str = "",
    surface: str = "",
    filler: str = "",
    photo: bool = False,
) -> str:
    """Say what is to be seen; an empty attribute is left unsaid.

    >>> caption("mug", "red", "striped", surface="grass", photo=True)
    'a photo of a red striped mug on grass'
    """
    words = [word for word in (filler, colour, texture, mark, shape) if word]
    article = "" if words[0] == "my" else "an " if words[0][0] in "aeiou" else "a "
    said = ("a photo of " if photo else "") + article + " ".join(words)
    return f"{said} on {surface}" if surface else said


def training_caption(rng: np.random.Generator, shape: str, colour: str, texture: str, mark: str, surface: str) -> str:
    """A caption as base training sees it: now and then an attribute is unsaid, or a word is added that says nothing.

    "plain" is said every other time only, so that a thing with no texture named is mostly plain.
    """
    said = rng.random(6)
    unsaid = 0.5 if texture == "plain" else 0.1
    return caption(
        shape,
        colour if said[0] > 0.1 else "",
        texture if said[1] > unsaid and not mark else "",
        mark,
        surface if said[2] > 0.5 else "",
        FILLERS[int(rng.integers(len(FILLERS)))] if said[3] < 0.15 else "",
        said[4] < 0.4,
    )
