"""Means that do not depend on order, and intervals that take subjects, not pictures, for the independent draws."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

__all__ = ["bootstrap", "mean", "wilson"]

DRAWS = 2000


def mean(values: Iterable[float]) -> float:
    """The mean, exact in its sum and so the same in any order; NaN of nothing."""
    known = list(values)
    return math.fsum(known) / len(known) if known else math.nan


def bootstrap(by_cluster: Mapping[str, Sequence[float]], *, seed: int = 0, draws: int = DRAWS) -> tuple[float, float]:
    """The 95 % percentile interval of the mean over all values when clusters (subjects) are drawn with replacement.

    Efron and Tibshirani 1993, ch. 13, over clusters: pictures of one subject are no independent evidence.
    NaN, NaN for fewer than two clusters.
    """
    names = sorted(name for name, values in by_cluster.items() if values)
    if len(names) < 2:
        return math.nan, math.nan
    sums = np.array([math.fsum(by_cluster[name]) for name in names])
    counts = np.array([len(by_cluster[name]) for name in names])
    drawn = np.random.default_rng(seed).integers(len(names), size=(draws, len(names)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def wilson(successes: float, trials: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion; NaN, NaN for no trials."""
    if trials == 0:
        return math.nan, math.nan
    z = 1.959963984540054
    share = successes / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(middle - half, 0.0), min(middle + half, 1.0)
