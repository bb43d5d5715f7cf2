"""The order of an epoch: a pure function of (seed, epoch, sample IDs) in whole numbers, so that all machines agree.

Nothing is shuffled in a buffer. Each sample has a 64-bit key, the head of the sha256 of its ID; a draw is that key and
the seed, the epoch and what the draw is for, mixed by the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast
splittable pseudorandom number generators", OOPSLA 2014). An order is the sorted draws: a sample more or less moves no
other two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["draw_fractions", "mixed_order", "sample_keys", "shuffled"]

Keys = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]
ORDER, REGULAR_NEXT, FIRST_FREE = 1, 2, 3


def sample_keys(ids: Sequence[str]) -> Keys:
    """One key per ID."""
    heads = b"".join(hashlib.sha256(sample_id.encode()).digest()[:8] for sample_id in ids)
    return np.frombuffer(heads, ">u8").astype(np.uint64)


def _mix(values: Keys) -> Keys:
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _draws(keys: Keys, seed: int, epoch: int, purpose: int, number: int = 0) -> Keys:
    """64 random bits per key."""
    text = f"{seed} {epoch} {purpose} {number}".encode()
    salt = np.frombuffer(hashlib.sha256(text).digest()[:8], ">u8").astype(np.uint64)
    return _mix(_mix(keys) ^ salt)


def draw_fractions(keys: Keys, seed: int, epoch: int, purpose: int, number: int = 0) -> npt.NDArray[np.float64]:
    """One number in [0, 1) per key. Purposes below `FIRST_FREE` belong to the order itself."""
    bits = _draws(keys, seed, epoch, purpose, number) >> np.uint64(11)
    fractions: npt.NDArray[np.float64] = bits.astype(np.float64) * 2.0**-53
    return fractions


def shuffled(keys: Keys, seed: int, epoch: int, number: int = 0) -> Indices:
    """A permutation of the keys' indices; equal draws stay in the order given."""
    return np.argsort(_draws(keys, seed, epoch, ORDER, number), kind="stable")


def mixed_order(
    source_keys: Keys, regular_keys: Keys, seed: int, epoch: int, probability: float
) -> tuple[npt.NDArray[np.bool_], Indices]:
    """An epoch that has every source sample once, and before each as many regular ones as a coin of that probability
    shows in a row: so any place in the stream is a regular sample's with that probability.

    Returns, per place, whether it is a regular sample's, and the index into the keys of its kind. Regular samples come
    in their own shuffled order, and anew once all of them were shown.
    """
    threshold = np.uint64(min(int(probability * 2**64), 2**64 - 1))
    sources = shuffled(source_keys, seed, epoch)
    before = np.zeros(len(source_keys), np.int64)
    tossing = np.arange(len(source_keys))
    toss = 0
    while len(tossing):
        tossing = tossing[_draws(source_keys[tossing], seed, epoch, REGULAR_NEXT, toss) < threshold]
        before[tossing] += 1
        toss += 1
    places = np.arange(len(sources)) + np.cumsum(before[sources])
    total = len(sources) + int(before.sum())
    is_regular = np.ones(total, np.bool_)
    is_regular[places] = False
    index = np.empty(total, np.int64)
    index[places] = sources
    wanted = total - len(sources)
    if wanted:
        rounds = [shuffled(regular_keys, seed, epoch, 1 + n) for n in range(-(-wanted // len(regular_keys)))]
        index[is_regular] = np.concatenate(rounds)[:wanted]
    return is_regular, index
