"""A scene -> pixels, masks and boxes. Everything is a function of the scene: the same scene gives the same bytes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from toyworld.marks import Mark, Plane
from toyworld.shapes import SHAPES
from toyworld.words import COLOURS

Image = npt.NDArray[np.uint8]
Bits = npt.NDArray[np.bool_]
Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels, half-open."""

TEXTURE_INK = dict.fromkeys(COLOURS, (248, 242, 228)) | {"yellow": (120, 66, 20)}
_FINE, _COARSE = 3, 2  # samples a pixel each way, for small things and for others


@dataclass(frozen=True, slots=True)
class View:
    """Where a thing is and how it is seen: what may differ between two pictures of one subject.

    x, y: middle, in pixels; size: longer side, in pixels; tilt: radians; yaw: how far the near side is turned away, in
    half sizes; stretch: width against height; mirrored: left for right.
    """

    x: float
    y: float
    size: float
    tilt: float = 0.0
    yaw: float = 0.0
    stretch: float = 1.0
    mirrored: bool = False


@dataclass(frozen=True, slots=True)
class Thing:
    """What stands in a scene. `tint` is added to its colour: no two reds are quite the same."""

    shape: str
    colour: str
    texture: str
    view: View
    mark: Mark | None = None
    tint: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Backdrop:
    """A wall over a surface. `horizon` is the row, in pixels, where the one meets the other; it may lie outside."""

    canvas: int
    wall: tuple[int, int, int]
    surface: str
    horizon: int
    seed: int = 0
    light: float = 1.0


@dataclass(frozen=True, slots=True)
class Scene:
    """A backdrop and the things before it, far to near; the last is the one the caption speaks of."""

    backdrop: Backdrop
    things: tuple[Thing, ...] = ()


@dataclass(frozen=True, slots=True)
class Picture:
    """`image` [H, W, 3]; for each thing its visible pixels [H, W] and the box about them and the shadow at its foot."""

    image: Image
    masks: tuple[Bits, ...]
    boxes: tuple[Box, ...]


def render(scene: Scene) -> Picture:
    """Paint a scene."""
    image = _backdrop(scene.backdrop)
    masks: list[Bits] = []
    boxes: list[Box] = []
    for thing in scene.things:
        mask, box = _paint(image, thing, scene.backdrop.light)
        for behind in masks:
            behind &= ~mask
        masks.append(mask)
        boxes.append(box)
    return Picture((image + 0.5).clip(0, 255).astype(np.uint8), tuple(masks), tuple(boxes))


def paint(image: Image, thing: Thing, light: float = 1.0) -> tuple[Image, Bits]:
    """A picture with a thing painted into it, and the thing's pixels [H, W]."""
    canvas = image.astype(np.float32)
    mask, _ = _paint(canvas, thing, light)
    return (canvas + 0.5).clip(0, 255).astype(np.uint8), mask


@cache
def _grid(height: int, width: int) -> tuple[Plane, Plane]:
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return y, x


def _backdrop(backdrop: Backdrop) -> npt.NDArray[np.float32]:
    """Paint wall and surface: float32 [H, W, 3], 0..255."""
    size = backdrop.canvas
    y, x = _grid(size, size)
    rng = np.random.default_rng(backdrop.seed)
    phase, slope = rng.uniform(0, 6.28, 3), rng.uniform(-0.12, 0.12, 2)
    noise = rng.standard_normal((size, size), np.float32)
    fall = 1 + (slope[0] * (x / size - 0.5) + slope[1] * (y / size - 0.5)) * backdrop.light
    image = np.empty((size, size, 3), np.float32)
    image[:] = np.array(backdrop.wall, np.float32)
    image *= fall.astype(np.float32)[..., None]
    row = min(max(backdrop.horizon, 0), size)
    if row < size:
        below = slice(row, size)
        image[below] = _surface(backdrop.surface, x[below], y[below] - backdrop.horizon, phase, noise[below])
        image[row : row + 1] *= 0.82  # the line where the wall meets the surface
    return image


def _surface(name: str, x: Plane, y: Plane, phase: npt.NDArray[np.float64], noise: Plane) -> npt.NDArray[np.float32]:
    if name == "wood":
        base, amount = (176, 124, 76), 10 * np.sin(y * 1.5 + 2 * np.sin(x * 0.09 + phase[0])) - 26 * (y % 11 < 1)
    elif name == "grass":
        base, amount = (104, 158, 78), 7 * noise + 8 * np.sin(x * 1.1 + 0.6 * y + phase[0])
    elif name == "sand":
        base, amount = (222, 198, 148), 6 * noise + 3 * np.sin(x * 0.15 + y * 0.4 + phase[0])
    else:
        base, amount = (92, 152, 196), 16 * np.sin(y * 0.9 + 1.2 * np.sin(x * 0.22 + phase[0]) + phase[1])
    surface: npt.NDArray[np.float32] = np.array(base, np.float32) + amount.astype(np.float32)[..., None]
    return surface


def _paint(image: npt.NDArray[np.float32], thing: Thing, light: float) -> tuple[Bits, Box]:
    """Paint a thing into `image` in place; give its pixels and the box about them and its shadow."""
    height, width = image.shape[:2]
    view, shape = thing.view, SHAPES[thing.shape]
    half = view.size / 2
    reach = int(half * 1.35) + 2
    left, top = round(view.x) - reach, round(view.y) - reach
    side, n = 2 * reach, _FINE if view.size < 24 else _COARSE
    rows, columns = _grid(side * n, side * n)
    step = np.float32(1 / n)
    dx = ((columns + 0.5) * step + np.float32(left - view.x)) / np.float32(half)
    dy = ((rows + 0.5) * step + np.float32(top - view.y)) / np.float32(half)
    cos, sin = np.float32(np.cos(view.tilt)), np.float32(np.sin(view.tilt))
    x, y = (cos * dx + sin * dy) / np.float32(view.stretch), cos * dy - sin * dx
    if view.mirrored:
        x = -x
    edge, relief = shape.draw(x, y)
    cover = _shrink((edge < 0).astype(np.float32), n)

    albedo = _albedo(thing, x, y, half)
    # light from the upper left or right; darker towards the edge, as a round body is and as an outline would be
    shade = (0.98 - 0.16 * light * dx - 0.14 * dy) * relief * (1 - 0.4 * np.clip(1 + edge * half / 2.2, 0, 1))
    albedo *= shade[..., None] * (edge < 0)[..., None]
    colour = _shrink(albedo, n) / np.maximum(cover, 1e-6)[..., None]

    inside = _clip((left, top, left + side, top + side), width, height)
    x0, y0, x1, y1 = inside
    if x0 >= x1 or y0 >= y1:
        return np.zeros((height, width), np.bool_), (0, 0, 0, 0)
    part = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
    foot = np.flatnonzero(cover.max(1) > 0.5)
    canvas = image[y0:y1, x0:x1]
    shadow = _shadow(cover, int(foot[-1]) if len(foot) else side - 1, half)
    canvas *= 1 - shadow[part][..., None]
    canvas += cover[part][..., None] * (colour[part] - canvas)
    mask = np.zeros((height, width), np.bool_)
    mask[y0:y1, x0:x1] = cover[part] >= 0.5
    touched = np.zeros((height, width), np.bool_)
    touched[y0:y1, x0:x1] = (cover[part] > 0) | (shadow[part] > 0)
    return mask, bounding_box(touched)


def _albedo(thing: Thing, x: Plane, y: Plane, half: float) -> npt.NDArray[np.float32]:
    """Colour, texture and mark before light falls on them: float32 [H, W, 3], 0..255."""
    view, shape = thing.view, SHAPES[thing.shape]
    albedo = np.empty((*x.shape, 3), np.float32)
    albedo[:] = np.clip(np.array(COLOURS[thing.colour]) + thing.tint, 0, 255)
    s, t = x * (1 + 0.15 * x * x) + np.float32(view.yaw), y  # bent about the upright axis, and turned
    period = max(0.5, 4.5 / half)
    if thing.texture == "striped":
        albedo[(t + 0.2 * s) % period < 0.42 * period] = TEXTURE_INK[thing.colour]
    elif thing.texture == "dotted":
        row = np.floor(t / period)
        ds, dt = (s + 0.5 * period * (row % 2)) % period - period / 2, t % period - period / 2
        albedo[ds * ds + dt * dt < (0.32 * period) ** 2] = TEXTURE_INK[thing.colour]
    elif thing.texture == "checkered":
        cell = max(0.36, 3 / half)
        albedo[(np.floor(s / cell) + np.floor(t / cell)) % 2 > 0] = TEXTURE_INK[thing.colour]
    if thing.mark is not None:
        if thing.mark.is_pattern:
            wave = max(0.62, 5.5 / half)
            middle = wave if thing.mark.outer != "rays" else 1.0  # rays have one middle, not many
            thing.mark.paint(albedo, s / middle, t / middle)
        else:
            turned = 0.5 * view.yaw
            radius = shape.radius * (1 - abs(turned) / 2)
            across = (x - shape.x + turned) / radius
            thing.mark.paint(albedo, -across if view.mirrored else across, (y - shape.y) / shape.radius)
    return albedo


def _shadow(cover: Plane, foot: int, half: float) -> Plane:
    """How much light the ground at the foot of a thing loses: an ellipse with an edge, [H, W] 0..1."""
    rows, columns = _grid(*cover.shape)
    standing = np.flatnonzero(cover[max(foot - int(half / 4), 0) : foot + 1].max(0) > 0.5)
    if not len(standing):
        return np.zeros_like(cover)
    middle, reach = (standing[0] + standing[-1]) / 2, (standing[-1] - standing[0]) / 2 + 1.5
    away = ((columns - middle) / reach) ** 2 + ((rows - foot) / max(0.14 * half, 1.5)) ** 2
    darkness: Plane = (0.5 * np.clip(1 - away, 0, 1)).astype(np.float32)
    return darkness


def _shrink(plane: npt.NDArray[np.float32], n: int) -> npt.NDArray[np.float32]:
    """Mean over blocks of n x n."""
    height, width = plane.shape[:2]
    blocks: npt.NDArray[np.float32] = plane.reshape(height // n, n, width // n, n, *plane.shape[2:])
    mean: npt.NDArray[np.float32] = blocks.mean((1, 3), dtype=np.float32)
    return mean


def _clip(box: Box, width: int, height: int) -> Box:
    x0, y0, x1, y1 = box
    return max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)


def bounding_box(mask: Bits) -> Box:
    """Tight box about the set pixels; all zeros for none."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
