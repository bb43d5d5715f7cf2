"""The six silhouettes, each a function of the plane.

A shape fills the square -1..1 (x to the right, y down) along its longer side. Its function gives, for every point, the
distance to its edge (negative inside, exact enough near the edge to smooth it) and a factor on the brightness, which
draws what is more than a silhouette: the faces of a box, the opening of a mug, the cap of a bottle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from toyworld.marks import Plane

_SIN36, _COS36 = 0.5878, 0.8090


def _box(x: Plane, y: Plane, half_width: float, half_height: float) -> Plane:
    """Distance to an upright rectangle about the origin."""
    edge: Plane = np.maximum(abs(x) - half_width, abs(y) - half_height)
    return edge


def ball(x: Plane, y: Plane) -> tuple[Plane, Plane]:
    """A disc with a highlight."""
    return np.hypot(x, y) - 0.98, 1 + 0.45 * np.exp(-((x + 0.4) ** 2 + (y + 0.42) ** 2) / 0.09)


def box(x: Plane, y: Plane) -> tuple[Plane, Plane]:
    """A cube seen from the right and above: a square front, a lighter top, a darker side."""
    edge = np.maximum(_box(x, y, 0.96, 0.96), (abs(x + y) - 1.42) * 0.707)
    top, side = y < -0.5, x > 0.46
    face = np.where(top & (x + y < -0.04), 1.22, np.where(side, 0.62, np.where(top, 1.22, 1.0)))
    return edge, face.astype(np.float32)


def star(x: Plane, y: Plane) -> tuple[Plane, Plane]:
    """Five points."""
    y = y - 0.06
    radius, angle = np.hypot(x, y), np.arctan2(x, -y)
    angle = abs((angle + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
    inner = 0.46
    # the line from the tip (1, 0) to the notch (inner * cos 36, inner * sin 36)
    normal = np.array([inner * _SIN36, 1.04 - inner * _COS36])
    normal /= np.hypot(*normal)
    edge = (radius * np.cos(angle) - 1.04) * normal[0] + radius * np.sin(angle) * normal[1]
    return edge, np.ones_like(x)


def heart(x: Plane, y: Plane) -> tuple[Plane, Plane]:
    """A square on its corner with two discs on its upper sides."""
    y, d = y - 0.1, 0.82
    across = abs(x)
    edge = np.minimum((across + abs(y) - d) * 0.707, np.hypot(across - d / 2, y + d / 2) - d * 0.707)
    return edge, np.ones_like(x)


def mug(x: Plane, y: Plane) -> tuple[Plane, Plane]:
    """A body with a handle on the right and an opening on top."""
    body = _box(x + 0.26, y - 0.06, 0.7, 0.86)
    handle = np.maximum(abs(np.hypot(x - 0.44, y - 0.02) - 0.4) - 0.14, 0.4 - x)
    opening = ((x + 0.26) / 0.56) ** 2 + ((y + 0.64) / 0.13) ** 2 < 1
    return np.minimum(body, handle), np.where(opening, 0.35, 1.0).astype(np.float32)


def bottle(x: Plane, y: Plane) -> tuple[Plane, Plane]:
    """A body, round shoulders, a neck with a cap."""
    body = _box(x, y - 0.5, 0.5, 0.48)
    shoulders = np.hypot(x, (y - 0.06) * 1.1) - 0.5
    neck = _box(x, y + 0.45, 0.2, 0.53)
    return np.minimum(np.minimum(body, shoulders), neck), np.where(y < -0.72, 0.5, 1.0).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Shape:
    """A silhouette and where on it an emblem sits: the emblem's middle and its radius."""

    draw: Callable[[Plane, Plane], tuple[Plane, Plane]]
    x: float
    y: float
    radius: float


SHAPES: dict[str, Shape] = {
    "ball": Shape(ball, 0.0, 0.05, 0.62),
    "box": Shape(box, -0.24, 0.23, 0.56),
    "star": Shape(star, 0.0, 0.08, 0.46),
    "heart": Shape(heart, 0.0, -0.06, 0.54),
    "mug": Shape(mug, -0.26, 0.16, 0.56),
    "bottle": Shape(bottle, 0.0, 0.42, 0.44),
}
