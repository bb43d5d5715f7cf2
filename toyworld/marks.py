"""Marks: looks outside the vocabulary, by which a subject is known.

An emblem is one figure inside another, each in an ink of its own; a pattern covers the whole of a plain thing. Base
training shows `TRAINING_MARKS`, each under its nonsense word; `SUBJECT_MARKS` are kept for subjects and appear in no
training picture of the base model or of its decoder. Their pairs of figures and their patterns are new, some of their
figures too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.floating]

INKS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 250),
    "dark": (24, 24, 34),
    "cyan": (70, 222, 232),
    "pink": (252, 140, 196),
    "lime": (176, 240, 80),
    "brown": (116, 66, 26),
}

# Figures fill the unit disc about the origin; negative inside, about a distance near the edge.
FIGURES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "disc": lambda s, t: np.hypot(s, t) - 0.95,
    "ring": lambda s, t: abs(np.hypot(s, t) - 0.72) - 0.25,
    "square": lambda s, t: np.maximum(abs(s), abs(t)) - 0.8,
    "diamond": lambda s, t: (abs(s) + abs(t)) * 0.72 - 0.7,
    "triangle": lambda s, t: np.maximum(abs(s) * 0.86 + t * 0.5 - 0.42, -t - 0.9),
    "bar": lambda s, t: np.maximum(abs(s) - 0.95, abs(t) - 0.36),
    "post": lambda s, t: np.maximum(abs(t) - 0.95, abs(s) - 0.36),
    "plus": lambda s, t: np.maximum(np.maximum(abs(s), abs(t)) - 0.95, np.minimum(abs(s), abs(t)) - 0.3),
    "cross": lambda s, t: np.maximum(
        np.maximum(abs(s), abs(t)) - 0.85, (np.minimum(abs(s + t), abs(s - t)) - 0.45) * 0.7
    ),
    "crescent": lambda s, t: np.maximum(np.hypot(s, t) - 0.95, 0.72 - np.hypot(s - 0.5, t)),
    "chevron": lambda s, t: np.maximum(abs(abs(s) * 0.8 + t - 0.1) - 0.38, abs(s) - 0.92),
    "hourglass": lambda s, t: np.maximum(abs(t) - 0.9, abs(s) - abs(t) * 0.85 - 0.1),
}

# Patterns are periodic with period 1 in both directions; negative where there is ink.
PATTERNS: dict[str, Callable[[Plane, Plane], Plane]] = {
    "zigzag": lambda s, t: abs((t + abs(s % 1 - 0.5) + 0.25) % 1 - 0.5) - 0.2,
    "tiles": lambda s, t: np.maximum(abs(s % 1 - 0.5), abs(t % 1 - 0.5)) - 0.3,
    "rings": lambda s, t: abs(np.hypot(s % 1 - 0.5, t % 1 - 0.5) - 0.3) - 0.11,
    "lattice": lambda s, t: 0.16 - np.minimum(abs((s + t) % 1 - 0.5), abs((s - t) % 1 - 0.5)) - 0.02,
    "bricks": lambda s, t: (
        0.36 - np.maximum(abs((s + 0.5 * np.floor(2 * t % 2)) % 1 - 0.5) * 0.9, abs(2 * t % 1 - 0.5))
    ),
    "rays": lambda s, t: np.where(np.sin(np.arctan2(t, s) * 8) > 0, -0.1, 0.1).astype(np.float32),
}


@dataclass(frozen=True, slots=True)
class Mark:
    """One look: `outer` is a figure or a pattern in `ink`; a figure holds `inner`, a figure half as large."""

    name: str
    outer: str
    ink: str
    inner: str = ""
    inner_ink: str = ""

    @property
    def is_pattern(self) -> bool:
        """Whether it covers the whole thing."""
        return self.outer in PATTERNS

    def paint(self, albedo: npt.NDArray[np.float32], s: Plane, t: Plane) -> None:
        """Lay the mark over `albedo` [H, W, 3] (0..255) in place; `s`, `t` [H, W] are its own coordinates."""
        if self.is_pattern:
            albedo[PATTERNS[self.outer](s, t) < 0] = INKS[self.ink]
            return
        albedo[FIGURES[self.outer](s, t) < 0] = INKS[self.ink]
        albedo[FIGURES[self.inner](s / 0.52, t / 0.52) < 0] = INKS[self.inner_ink]


TRAINING_MARKS = (
    Mark("wug", "disc", "white", "diamond", "dark"),
    Mark("dax", "disc", "white", "bar", "pink"),
    Mark("blick", "disc", "cyan", "square", "dark"),
    Mark("zorp", "disc", "lime", "plus", "brown"),
    Mark("fep", "disc", "pink", "disc", "dark"),
    Mark("koba", "square", "white", "disc", "cyan"),
    Mark("lorn", "square", "white", "plus", "dark"),
    Mark("mip", "square", "cyan", "triangle", "brown"),
    Mark("quib", "square", "lime", "diamond", "dark"),
    Mark("snerk", "square", "pink", "bar", "white"),
    Mark("toma", "diamond", "white", "square", "brown"),
    Mark("vash", "diamond", "white", "disc", "dark"),
    Mark("yilt", "diamond", "cyan", "plus", "pink"),
    Mark("grom", "diamond", "lime", "bar", "dark"),
    Mark("hesp", "diamond", "pink", "diamond", "white"),
    Mark("juke", "triangle", "white", "disc", "brown"),
    Mark("kleb", "triangle", "cyan", "diamond", "dark"),
    Mark("plon", "triangle", "lime", "square", "pink"),
    Mark("rasp", "triangle", "pink", "post", "dark"),
    Mark("swib", "plus", "white", "disc", "dark"),
    Mark("trell", "plus", "cyan", "square", "white"),
    Mark("vorn", "plus", "pink", "diamond", "lime"),
    Mark("wilm", "ring", "white", "disc", "pink"),
    Mark("zeft", "ring", "lime", "disc", "cyan"),
    Mark("brux", "ring", "cyan", "post", "brown"),
    Mark("crald", "ring", "pink", "plus", "dark"),
    Mark("drimp", "zigzag", "white"),
    Mark("elb", "zigzag", "cyan"),
    Mark("flont", "tiles", "pink"),
    Mark("gazz", "tiles", "white"),
    Mark("hink", "rings", "white"),
    Mark("ivor", "rings", "lime"),
)

SUBJECT_MARKS = (
    Mark("ankh", "disc", "white", "cross", "dark"),
    Mark("moon", "square", "cyan", "crescent", "dark"),
    Mark("sand-timer", "disc", "lime", "hourglass", "dark"),
    Mark("rank", "square", "pink", "chevron", "dark"),
    Mark("gate", "hourglass", "white", "disc", "pink"),
    Mark("kite", "plus", "lime", "cross", "dark"),
    Mark("eye", "crescent", "white", "disc", "cyan"),
    Mark("stamp", "triangle", "white", "cross", "pink"),
    Mark("net", "lattice", "white"),
    Mark("wall", "bricks", "cyan"),
    Mark("sun", "rays", "pink"),
    Mark("mesh", "lattice", "lime"),
)

NONSENSE_WORDS = tuple(mark.name for mark in TRAINING_MARKS)
