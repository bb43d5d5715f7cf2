"""Inpainting masks drawn from an object's mask (METHODS 2.3, 3.2, 4.5, 5).

All masks are bool HxW numpy arrays, True = to be painted. Every function takes its randomness from a numpy generator
keyed by (seed, sample ID, k), so that variant k of a sample is the same mask in every run.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.random import Generator

from manifests.pixels import MaskArray, box_from_mask, mask_from_box

__all__ = ["MaskKind", "bezier_extended", "box", "dilated", "draw_mask", "extend_by_bezier", "random_shape"]

MaskKind = Literal["exact", "dilated", "bezier", "box", "random"]

CURVE_TIMES = np.arange(1, 20) / 20  # t = 0.05 ... 0.95: 19 points a side, 76 in all


def draw_mask(kind: MaskKind, mask: MaskArray, rng: Generator, *, max_jitter: int) -> MaskArray:
    """A mask of one kind for an object mask that is not empty; `max_jitter` (pixels) is for `bezier`."""
    match kind:
        case "exact":
            return mask
        case "dilated":
            return dilated(mask, rng)
        case "bezier":
            return bezier_extended(mask, rng, max_jitter=max_jitter)
        case "box":
            return box(mask)
        case "random":
            return random_shape(mask.shape[0], mask.shape[1], rng)


def box(mask: MaskArray) -> MaskArray:
    """The filled bounding box of the mask (DreamCom). Raises ValueError for an empty mask."""
    return mask_from_box(box_from_mask(mask), *mask.shape)


def dilated(mask: MaskArray, rng: Generator) -> MaskArray:
    """The mask grown by a disc whose radius is uniform between 1 px and a tenth of the box's longer side."""
    x0, y0, x1, y1 = box_from_mask(mask)
    radius = int(rng.integers(1, max(1, max(x1 - x0, y1 - y0) // 10) + 1))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.asarray(cv2.dilate(mask.astype(np.uint8), disc)).astype(bool)


def random_shape(height: int, width: int, rng: Generator) -> MaskArray:
    """A rectangle or an ellipse, each half of the time, sides uniform in 0..size and centre uniform (METHODS 5).

    It need not meet the object. It is cut at the frame and is never empty: an empty draw is drawn again.
    """
    ys, xs = np.mgrid[:height, :width]
    while True:
        half_height, half_width = rng.integers(0, height + 1) / 2, rng.integers(0, width + 1) / 2
        y, x = rng.integers(0, height), rng.integers(0, width)
        ellipse = rng.random() < 0.5
        dy, dx = np.abs(ys - y) / max(half_height, 0.5), np.abs(xs - x) / max(half_width, 0.5)
        mask = (dy**2 + dx**2 <= 1) if ellipse else (dy <= 1) & (dx <= 1)
        if half_height and half_width and mask.any():
            return np.asarray(mask)


def bezier_extended(mask: MaskArray, rng: Generator, *, max_jitter: int) -> MaskArray:
    """DreamMix's mask extension with ratio drawn from {0.1, ..., 1.0} and jitter from {1, ..., max_jitter} pixels."""
    ratio = int(rng.integers(1, 11)) / 10
    jitter = int(rng.integers(1, max_jitter + 1)) if max_jitter else 0
    return extend_by_bezier(mask, ratio, jitter, rng)


def extend_by_bezier(mask: MaskArray, ratio: float, jitter: int, rng: Generator) -> MaskArray:
    """A box with bulging, ragged sides around every part of the mask (METHODS 2.3).

    Each side of a part's bounding box becomes a quadratic Bezier curve between its corners whose control point lies on
    the side moved out by `floor(ratio * side)`, cut at the image; every sampled point moves by up to `jitter` pixels.
    """
    height, width = mask.shape
    extended = np.zeros((height, width), np.uint8)
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    for contour in contours:
        x, y, w, h = cv2.boundingRect(contour)
        left, right = max(0, x - int(ratio * w)), min(width, x + w + int(ratio * w))
        top, bottom = max(0, y - int(ratio * h)), min(height, y + h + int(ratio * h))
        corners = [(x, y), (x + w, y), (x + w, y + h), (x, y + h), (x, y)]
        controls = [(x + w / 2, top), (right, y + h / 2), (x + w / 2, bottom), (left, y + h / 2)]
        points = np.concatenate(
            [
                _quadratic(start, control, end)
                for start, control, end in zip(corners, controls, corners[1:], strict=False)
            ]
        )
        points = np.rint(points) + rng.integers(-jitter, jitter + 1, points.shape)
        cv2.fillPoly(extended, [points.astype(np.int32)], 255)
    return extended.astype(bool)


def _quadratic(start: tuple[float, float], control: tuple[float, float], end: tuple[float, float]) -> np.ndarray:
    t = CURVE_TIMES[:, None]
    return np.asarray((1 - t) ** 2 * np.array(start) + 2 * t * (1 - t) * np.array(control) + t**2 * np.array(end))
