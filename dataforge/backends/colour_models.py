"""Colours and textures of subject and background as smoothed histograms, which can be pooled across photographs.

Histograms rather than a mixture of five Gaussians: a cluttered background has more colours than that, and the
overlap of two histograms says directly how separable they are (Tang, Gorelick, Veksler, Boykov, "GrabCut in One
Cut", ICCV 2013).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

__all__ = [
    "COLOUR_SHAPE",
    "TEXTURE_SHAPE",
    "colour_bins",
    "histogram",
    "log_ratio",
    "overlap",
    "pooled",
    "texture_bins",
]

FloatMap = npt.NDArray[np.float32]
IntMap = npt.NDArray[np.int32]
COLOUR_SHAPE = (16, 32, 32)
TEXTURE_SHAPE = (12, 12)


def colour_bins(lab: FloatMap) -> IntMap:
    """The histogram bin of each pixel of a float32 HxWx3 CIELAB picture (L 0..100, a and b about -128..127)."""
    lightness, green_red, blue_yellow = COLOUR_SHAPE
    first = np.clip(lab[..., 0] * (lightness / 100), 0, lightness - 1).astype(np.int32)
    # 5 units of a and b per bin; photographs hardly ever leave -80..80
    second = np.clip((lab[..., 1] + 80) / 5, 0, green_red - 1).astype(np.int32)
    third = np.clip((lab[..., 2] + 80) / 5, 0, blue_yellow - 1).astype(np.int32)
    return np.asarray((first * green_red + second) * blue_yellow + third, np.int32)


def texture_bins(lab: FloatMap) -> IntMap:
    """The bin of each pixel by how strong lightness edges are around it, at a fine and a coarse scale."""
    lightness = np.ascontiguousarray(lab[..., 0])
    across = cv2.Sobel(lightness, cv2.CV_32F, 1, 0, scale=0.125)
    down = cv2.Sobel(lightness, cv2.CV_32F, 0, 1, scale=0.125)
    strength = np.sqrt(across * across + down * down)
    fine, coarse = (
        np.clip(np.log2(cv2.GaussianBlur(strength, (0, 0), sigma) * 4 + 1) * 2.2, 0, 11).astype(np.int32)
        for sigma in (1.5, 5.0)
    )
    return np.asarray(fine * TEXTURE_SHAPE[1] + coarse, np.int32)


def histogram(bins: IntMap, weight: FloatMap, shape: tuple[int, ...]) -> FloatMap:
    """float32 [product of `shape`] that sums to 1 (all zero where the weights are), smoothed over near bins."""
    weights = weight.ravel().astype(np.float64)
    counts = np.asarray(np.bincount(bins.ravel(), weights, minlength=int(np.prod(shape))), np.float64).reshape(shape)
    for axis in range(len(shape)):
        # a Gaussian of half a bin
        moved = np.moveaxis(counts, axis, 0)
        smooth = 0.78 * moved
        smooth[1:] += 0.11 * moved[:-1]
        smooth[:-1] += 0.11 * moved[1:]
        counts = np.moveaxis(smooth, 0, axis)
    flat = np.ascontiguousarray(counts).ravel()
    total = float(flat.sum())
    return (flat / total if total > 0 else flat).astype(np.float32)


def pooled(histograms: Sequence[FloatMap], power: float = 0.3) -> FloatMap:
    """One histogram from several photographs. A power below 1 favours colours that are in all of them."""
    if len(histograms) == 1:
        return histograms[0]
    mixed = np.asarray(np.mean([each.astype(np.float64) ** power for each in histograms], axis=0) ** (1 / power))
    total = float(mixed.sum())
    return np.asarray(mixed / total if total > 0 else mixed, np.float32)


def log_ratio(subject: FloatMap, background: FloatMap, floor: float) -> FloatMap:
    """log of how much likelier each bin is under the subject; near 0 for bins that neither has shown."""
    return np.log((subject + np.float32(floor)) / (background + np.float32(floor))).astype(np.float32)


def overlap(subject: FloatMap, background: FloatMap) -> float:
    """Bhattacharyya coefficient, 0 (nothing in common) to 1 (the same histogram)."""
    return float(np.sqrt(subject * background).sum())
