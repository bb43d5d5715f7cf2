"""SSIM of the background (Wang et al. 2004, through scikit-image: Gaussian window 11, sigma 1.5, data range 1).

The same numbers as torchmetrics, which the DreamCom lab's scripts use, but in float64: in float32 the variances cancel
so far that equal pictures come out at 0.999998.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

import numpy as np

from pipelines.evaluate.metrics import Column
from pipelines.evaluate.metrics.background import background
from pipelines.evaluate.pairs import Pair

__all__ = ["Ssim"]

WINDOW_RADIUS = 5


class Ssim:
    """`ssim_zeroed` counts the zeroed box as equal; `ssim_excluded` counts only windows that do not touch the box."""

    def __init__(self, *, side: int = 512, ways: Sequence[str] = ("zeroed", "excluded")) -> None:
        import skimage.metrics  # noqa: F401 a missing package is found before any work

        self._side, self._ways = side, tuple(ways)
        steps = f"box zeroed in both, to {side}x{side} (Pillow bilinear), RGB in [0,1], float64, window 11, sigma 1.5, "
        steps += "mirrored edges"
        crops = {"zeroed": "all, box counts as equal", "excluded": "only windows that do not touch the box"}
        self.columns = tuple(
            Column(f"ssim_{way}", "up", f"scikit-image {version('scikit-image')}", steps, crops[way])
            for way in self._ways
        )

    def score(self, pairs: Sequence[Pair]) -> list[dict[str, float]]:
        """Absent without a scene; `excluded` also where the box leaves no window."""
        return [self._one(pair) for pair in pairs]

    def _one(self, pair: Pair) -> dict[str, float]:
        from skimage.metrics import structural_similarity

        seen = background(pair, self._side)
        if seen is None:
            return {}
        # mirrored edges, as torchmetrics: scikit-image leaves out as many pixels as are put on here
        edges = ((0, 0), (WINDOW_RADIUS, WINDOW_RADIUS), (WINDOW_RADIUS, WINDOW_RADIUS))
        value, full = structural_similarity(
            np.pad(seen.composite[0].double().numpy(), edges, mode="reflect"),
            np.pad(seen.scene[0].double().numpy(), edges, mode="reflect"),
            channel_axis=0,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )
        scores = {"ssim_zeroed": float(value)}
        outside = seen.outside(WINDOW_RADIUS)
        if outside.any():
            inner = full[:, WINDOW_RADIUS:-WINDOW_RADIUS, WINDOW_RADIUS:-WINDOW_RADIUS]
            scores["ssim_excluded"] = float(inner.mean(axis=0)[outside].mean())
        return {name: score for name, score in scores.items() if name.removeprefix("ssim_") in self._ways}
