"""Every random draw is a function of a key, never of what was drawn before.

That is what makes a run resumable bit for bit, its data cacheable, and a subject's draws the same alone and in company
(RELIABILITY: counter-based designs resume exactly, saved generator states did not).
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["generator", "rng", "seed_of", "uniform"]


def seed_of(*key: object) -> int:
    """A 63-bit seed from a key of strings and numbers; `("a", "b")` and `("a:b",)` give different seeds."""
    text = "\0".join(map(str, key))
    return int.from_bytes(sha256(text.encode("utf-8", "surrogateescape")).digest()[:8]) >> 1


def uniform(*key: object) -> float:
    """One number, uniform in [0, 1)."""
    return (seed_of(*key) >> 10) / 2**53


def rng(*key: object) -> np.random.Generator:
    """A numpy generator for several draws under one key."""
    return np.random.default_rng(seed_of(*key))


def generator(*key: object) -> torch.Generator:
    """A torch generator on the CPU, so that a key draws the same numbers whatever device they are used on."""
    import torch

    return torch.Generator().manual_seed(seed_of(*key))
