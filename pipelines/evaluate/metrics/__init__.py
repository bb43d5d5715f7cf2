"""One file per metric. A metric scores pairs, or turns pictures into features whose distributions are compared.

metric.columns                           what it measures, and everything that made the numbers
metric.score(pairs) -> [{column: value}] a column is absent where it is not defined for the pair
metric.features(views) -> [n, d]         of `FeatureMetric`s (FID): compared over a whole set, not pair by pair
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from pipelines.evaluate.pairs import Pair, View

__all__ = ["Column", "FeatureMetric", "PairMetric"]


@dataclass(frozen=True, slots=True)
class Column:
    """A number in the table and what made it. `better` is `up` or `down`."""

    name: str
    better: str
    model: str
    preprocessing: str
    crop: str


class PairMetric(Protocol):
    """Scores pair by pair."""

    columns: tuple[Column, ...]

    def score(self, pairs: Sequence[Pair]) -> list[dict[str, float]]:
        """One dictionary per pair, in order."""


@runtime_checkable
class FeatureMetric(Protocol):
    """Compares two sets of pictures by the distributions of their features."""

    columns: tuple[Column, ...]
    crop: str

    def features(self, views: Sequence[View]) -> npt.NDArray[np.float32]:
        """float32 [n, d] for n views."""
