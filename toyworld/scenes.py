"""Random scenes. Every draw is a function of (seed, stream, number): any scene can be drawn again alone."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from toyworld import words
from toyworld.marks import TRAINING_MARKS, Mark
from toyworld.render import Backdrop, Box, Scene, Thing, View

SMALLEST, SMALL, LARGEST = 10, 24, 46
"""Sizes of things, in pixels: the share of small ones is drawn apart, or there would be too few to learn from."""

MARKED_SHARE, SMALL_SHARE, STRONG_WALL_SHARE = 0.35, 0.25, 0.25
OTHERS = (0.4, 0.35, 0.25)
"""How probable no, one and two other things in a scene are."""
TILT = 0.12
"""How far a thing leans, in radians. What a silhouette says is lost in its poses if these are many: with 0.3, and with
things anywhere in their boxes, shapes were still blobs after 150,000 samples."""


@dataclass(frozen=True, slots=True)
class Captioned:
    """A scene and what is said of its last thing."""

    scene: Scene
    caption: str


def generator(seed: int, stream: str, number: int) -> np.random.Generator:
    """The generator of one scene; `stream` keeps what training draws apart from what scores are measured on."""
    return np.random.default_rng((seed, *stream.encode(), number))


def training_scene(seed: int, number: int, canvas: int = 64) -> Captioned:
    """Draw scene `number` of base training: no held-out combination, no mark of a subject, in it or about it."""
    rng = generator(seed, "train", number)
    small = rng.random() < SMALL_SHARE
    largest = min(LARGEST, 0.8 * canvas)
    size = float(rng.uniform(SMALLEST, SMALL) if small else rng.uniform(SMALL, largest))
    mark = TRAINING_MARKS[int(rng.integers(len(TRAINING_MARKS)))] if rng.random() < MARKED_SHARE else None
    scene = random_scene(rng, seen_combination(rng, mark), size, canvas, mark)
    thing = scene.things[-1]
    said = words.training_caption(
        rng, thing.shape, thing.colour, thing.texture, mark.name if mark else "", scene.backdrop.surface
    )
    return Captioned(scene, said)


def seen_combination(rng: np.random.Generator, mark: Mark | None = None) -> words.Combination:
    """Draw one of the combinations that training may show; a marked thing is plain."""
    while True:
        combination = words.SEEN[int(rng.integers(len(words.SEEN)))]
        if mark is None or combination[2] == "plain":
            return combination


def random_scene(
    rng: np.random.Generator,
    combination: words.Combination,
    size: float,
    canvas: int = 64,
    mark: Mark | None = None,
    strong_wall: float = STRONG_WALL_SHARE,
    same_shape: float = 0.5,
    others: tuple[float, float, float] = OTHERS,
) -> Scene:
    """A thing of this combination before a random backdrop, with up to two others about it that do not cover it.

    strong_wall: how probable a wall of a strong colour is; same_shape: how probable it is that one of the others is of
    the same shape in another colour, so that the box alone says where to paint what.
    """
    backdrop = random_backdrop(rng, canvas, strong_wall)
    thing = random_thing(rng, combination, random_view(rng, canvas, size), mark)
    about: list[Thing] = []
    for _ in range(int(rng.choice(3, p=others))):
        other = _distractor(rng, thing, canvas, same_shape)
        if other is not None and all(_apart(other.view, far.view) for far in about):
            about.append(other)
    return Scene(backdrop, (*about, thing))


def random_view(rng: np.random.Generator, canvas: int, size: float) -> View:
    """Somewhere on the canvas, wholly inside, turned a little."""
    room = min(size / 2 + 3, canvas / 2 - 1)
    x, y = rng.uniform(room, canvas - room, 2)
    tilt, yaw, stretch = rng.uniform(-TILT, TILT), rng.uniform(-0.35, 0.35), rng.uniform(0.92, 1.06)
    return View(float(x), float(y), size, float(tilt), float(yaw), float(stretch), bool(rng.random() < 0.5))


def random_thing(
    rng: np.random.Generator, combination: words.Combination, view: View, mark: Mark | None = None
) -> Thing:
    """A thing in a colour of its own tint."""
    shape, colour, texture = combination
    r, g, b = (int(tint) for tint in rng.integers(-12, 13, 3))
    return Thing(shape, colour, texture, view, mark, (r, g, b))


def random_backdrop(rng: np.random.Generator, canvas: int, strong_wall: float = STRONG_WALL_SHARE) -> Backdrop:
    """A wall, pastel or now and then of a strong colour, over one of the surfaces; the horizon may be out of sight."""
    if rng.random() < strong_wall:
        hue, saturation, value = rng.random(), rng.uniform(0.45, 0.85), rng.uniform(0.55, 0.95)
        r, g, b = (round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, saturation, value))
    else:
        r, g, b = (int(channel) for channel in rng.integers(150, 246, 3))
    horizon = int(rng.uniform(0.3, 0.8) * canvas) if rng.random() < 0.75 else int(rng.choice([0, canvas]))
    surface = words.SURFACES[int(rng.integers(len(words.SURFACES)))]
    return Backdrop(canvas, (r, g, b), surface, horizon, int(rng.integers(2**31)), float(rng.choice([-1.0, 1.0])))


def _distractor(rng: np.random.Generator, thing: Thing, canvas: int, same_shape: float) -> Thing | None:
    """Something beside `thing`, perhaps cut by the edge of the canvas; none where there is no room."""
    combination = seen_combination(rng)
    if rng.random() < same_shape:
        allowed = [c for c in words.SEEN if c[0] == thing.shape and c[1] != thing.colour]
        combination = allowed[int(rng.integers(len(allowed)))]
    size = float(rng.uniform(SMALLEST, 26))
    for _ in range(8):
        x, y = rng.uniform(0, canvas, 2)
        view = View(float(x), float(y), size, float(rng.uniform(-0.3, 0.3)), mirrored=bool(rng.random() < 0.5))
        if _apart(view, thing.view):
            return random_thing(rng, combination, view)
    return None


def _apart(one: View, other: View) -> bool:
    away = max(abs(one.x - other.x), abs(one.y - other.y))
    return away > 0.62 * (one.size + other.size) + 2


def mask_box(rng: np.random.Generator, box: Box, canvas: int) -> Box:
    """A box to paint in about a thing: mostly square, so that its sides say nothing of the shape, with a margin."""
    x0, y0, x1, y1 = box
    width, height = x1 - x0, y1 - y0
    margin = rng.uniform(0.02, 0.16) if rng.random() < 0.85 else rng.uniform(0.16, 0.4)
    pad = 2 * max(1, round(margin * max(width, height)))
    square = rng.random() < 0.75
    across, down = (max(width, height) + pad,) * 2 if square else (width + pad, height + pad)
    across, down = min(across, canvas), min(down, canvas)
    # the thing about in the middle, as in a box that a person draws
    left, top = (x0 + x1 - across) // 2, (y0 + y1 - down) // 2
    jitter = max(1, pad // 4)
    left, top = left + int(rng.integers(-jitter, jitter + 1)), top + int(rng.integers(-jitter, jitter + 1))
    left, top = min(max(left, 0), canvas - across), min(max(top, 0), canvas - down)
    return left, top, left + across, top + down
