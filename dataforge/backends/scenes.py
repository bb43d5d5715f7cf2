"""Places to stand a subject in: given photographs cropped to size, or painted floors and walls.

A painted scene is a floor texture seen in perspective below a horizon and a defocused wall or distance above it, under
uneven light. Kinds are the pairs of `_FLOORS` and `_WALLS` that go together, each with many palettes.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from dataforge.backends.colour_names import FloatArray, rgb_from_lab
from dataforge.backends.retexture import noise
from manifests.pixels import ImageArray

__all__ = ["Scene", "given_scene", "painted_scene"]

Rng = np.random.Generator
Lab = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Scene:
    """A square picture, uint8 SxSx3 RGB, and where its floor begins (share of the height from the top)."""

    image: ImageArray
    horizon: float


def given_scene(image: ImageArray, size: int, rng: Rng) -> Scene:
    """A photograph (uint8 HxWx3 RGB) cropped to a random large square and resized."""
    height, width = image.shape[:2]
    side = max(2, round(min(height, width) * rng.uniform(0.82, 1.0)))
    y, x = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    crop = image[y : y + side, x : x + side]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    method = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    picture = cv2.resize(np.ascontiguousarray(crop), (size, size), interpolation=method)
    # out of focus, as what lies behind a photographed thing is: its own things do not compete with the subject
    picture = cv2.GaussianBlur(picture, (0, 0), max(0.3, size / 512 * float(rng.uniform(0.9, 2.2))))
    return Scene(picture, 0.6)


def painted_scene(size: int, rng: Rng) -> Scene:
    """A floor and a wall drawn from the generator; equal generators give equal pixels."""
    kind = rng.random()
    if kind < 0.14:
        return Scene(rgb_from_lab(_lit(_studio(size, rng), rng)), 0.5)
    if kind < 0.26:
        return Scene(rgb_from_lab(_lit(_cloth(size, rng), rng)), 0.25)
    outdoors = rng.random() < 0.45
    floors = (
        ("grass", "sand", "asphalt", "snow", "dirt")
        if outdoors
        else ("planks", "planks", "tiles", "carpet", "marble", "table")
    )
    walls = (
        ("sky", "trees", "trees", "sea", "brick")
        if outdoors
        else ("plain", "plain", "stripes", "panels", "brick", "lights")
    )
    floor, wall = floors[rng.integers(len(floors))], walls[rng.integers(len(walls))]
    horizon = float(rng.uniform(0.36, 0.6))
    edge = round(horizon * size)
    scene = np.empty((size, size, 3), np.float32)
    blur = size * (0.012 if wall in ("brick", "panels", "stripes") else 0.02) * rng.uniform(0.5, 1.3)
    scene[:edge] = cv2.GaussianBlur(_wall(wall, edge, size, rng), (0, 0), max(blur, 0.5))
    ground = _floor(floor, size - edge, size, rng)
    far = max(2, (size - edge) // 4)
    soft = cv2.GaussianBlur(ground, (0, 0), max(size * 0.005, 0.5))
    fade = np.clip(np.arange(size - edge, dtype=np.float32) / far, 0, 1)[:, None, None]
    scene[edge:] = fade * ground + (1 - fade) * soft
    if wall in ("plain", "stripes", "panels", "brick", "lights"):
        # light does not reach the corner of floor and wall
        y = np.arange(size, dtype=np.float32)[:, None] - edge
        scene[..., 0] *= 1 - 0.16 * np.exp(-np.abs(y) / (size * 0.035))
    seam = slice(max(edge - 4, 0), edge + 4)
    scene[seam] = (
        cv2.GaussianBlur(scene, (0, 0), 1.6)[seam]
        if floor not in ("grass", "snow")
        else cv2.GaussianBlur(scene, (0, 0), 3.0)[seam]
    )
    return Scene(rgb_from_lab(_lit(scene, rng)), horizon)


def _flat(height: int, width: int, colour: Lab) -> FloatArray:
    return np.broadcast_to(np.asarray(colour, np.float32), (height, width, 3)).copy()


def _pick(rng: Rng, colours: tuple[Lab, ...]) -> Lab:
    lightness, a, b = colours[rng.integers(len(colours))]
    return lightness + float(rng.uniform(-6, 6)), a + float(rng.uniform(-3, 3)), b + float(rng.uniform(-3, 3))


def _lit(scene: FloatArray, rng: Rng) -> FloatArray:
    """Light from one side and darker corners."""
    size = scene.shape[0]
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    light = (
        1 + rng.uniform(0.03, 0.14) * (np.cos(angle) * x + np.sin(angle) * y) - rng.uniform(0.05, 0.3) * (x * x + y * y)
    )
    scene[..., 0] = np.clip(scene[..., 0] * light, 0, 99)
    return scene


def _studio(size: int, rng: Rng) -> FloatArray:
    pastel = (
        (78.0, 4.0, 6.0),
        (86.0, 0.0, 2.0),
        (70.0, -6.0, -12.0),
        (74.0, 12.0, 4.0),
        (72.0, -12.0, 8.0),
        (62.0, 0.0, 0.0),
        (80.0, 4.0, 24.0),
        (40.0, 0.0, -4.0),
        (66.0, 12.0, -14.0),
    )
    colour = _pick(rng, pastel)
    y = np.linspace(0, 1, size, dtype=np.float32)[:, None]
    bend = rng.uniform(0.5, 0.65)
    light = 7 / (1 + np.exp(-(y - bend) / 0.06)) - 5 * np.abs(y - bend)
    scene = _flat(size, size, colour)
    scene[..., 0] += light + 0.6 * noise(rng, size, size, size / 3, octaves=2)
    return scene


def _cloth(size: int, rng: Rng) -> FloatArray:
    colour = _pick(
        rng,
        (
            (90.0, 0.0, 3.0),
            (60.0, 4.0, -20.0),
            (76.0, 6.0, 12.0),
            (50.0, 22.0, 10.0),
            (58.0, -14.0, 8.0),
            (40.0, 2.0, -8.0),
        ),
    )
    field = noise(rng, size, size, size / 3.5, octaves=2, stretch=2.2)
    angle = float(rng.uniform(0, 360))
    turn = cv2.getRotationMatrix2D((size / 2, size / 2), angle, 1.5)
    field = cv2.warpAffine(field, turn, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    dx, dy = cv2.Sobel(field, cv2.CV_32F, 1, 0, ksize=5), cv2.Sobel(field, cv2.CV_32F, 0, 1, ksize=5)
    slope = dx + 0.7 * dy
    scene = _flat(size, size, colour)
    y, x = np.mgrid[0:size, 0:size]
    weave = ((x + y) % 3 - 1) * 0.6
    scene[..., 0] += np.clip(slope / slope.std(), -2.2, 2.2) * 5 + weave + 0.8 * noise(rng, size, size, 2, octaves=1)
    return scene


def _wall(kind: str, height: int, width: int, rng: Rng) -> FloatArray:
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / width
    if kind == "sky":
        sky = _pick(rng, ((80.0, -5.0, -20.0), (88.0, 0.0, -6.0), (78.0, 8.0, 8.0)))
        wall = _flat(height, width, sky)
        wall[..., 0] += 18 * y
        cloud = np.clip(noise(rng, height, width, width / 4, octaves=4, stretch=2) - 0.3, 0, 2)[..., None] / 2
        return np.asarray(wall * (1 - 0.6 * cloud) + 0.6 * cloud * np.array([95, 0, 0], np.float32), np.float32)
    if kind == "trees":
        wall = _flat(height, width, _pick(rng, ((42.0, -16.0, 20.0), (34.0, -10.0, 14.0), (50.0, -8.0, 26.0))))
        leaves = noise(rng, height, width, width / 8, octaves=4)
        wall[..., 0] += 11 * leaves
        gaps = np.clip(leaves - 1.4, 0, 1)[..., None]
        return np.asarray(wall * (1 - gaps) + gaps * np.array([90, -2, -4], np.float32), np.float32)
    if kind == "sea":
        shore = 0.55 * height / width
        wall = _flat(height, width, (84.0, -3.0, -12.0))
        water = y > shore
        wall[water] = _pick(rng, ((48.0, -12.0, -18.0), (42.0, -4.0, -22.0), (58.0, -14.0, -10.0)))
        wall[..., 0] += np.where(water, 4 * noise(rng, height, width, width / 50, octaves=2, stretch=6), 6 * y)
        return wall
    if kind == "brick":
        wall = _flat(height, width, _pick(rng, ((48.0, 22.0, 20.0), (72.0, 2.0, 6.0), (38.0, 14.0, 12.0))))
        tall = rng.uniform(0.045, 0.06)
        row = np.floor(y / tall)
        column = np.floor(x / (2.6 * tall) + 0.5 * (row % 2))
        tone = rng.standard_normal((64, 64)).astype(np.float32)
        wall[..., 0] += 4 * tone[row.astype(int) % 64, column.astype(int) % 64] + 2 * noise(
            rng, height, width, 3, octaves=2
        )
        mortar = ((y / tall) % 1 < 0.12) | ((x / (2.6 * tall) + 0.5 * (row % 2)) % 1 < 0.05)
        wall[mortar] = (74.0, 1.0, 5.0)
        return wall
    if kind == "lights":
        wall = _flat(height, width, _pick(rng, ((22.0, 2.0, -6.0), (30.0, 8.0, 12.0), (64.0, 4.0, 12.0))))
        spots = np.zeros((height, width, 3), np.float32)
        for _ in range(int(rng.integers(10, 22))):
            centre = (int(rng.integers(width)), int(rng.integers(max(height, 1))))
            glow = _pick(rng, ((60.0, 6.0, 40.0), (55.0, 20.0, 20.0), (50.0, -4.0, -14.0), (60.0, 0.0, 8.0)))
            spot = np.zeros((height, width), np.uint8)
            cv2.circle(spot, centre, int(rng.integers(width // 40 + 1, width // 14 + 2)), 255, -1, cv2.LINE_AA)
            strength = np.array([glow[0] * 0.35, glow[1] * 0.5, glow[2] * 0.5], np.float32) / 255
            spots += spot[..., None].astype(np.float32) * strength
        return np.asarray(np.clip(wall + spots, [0, -60, -60], [96, 60, 70]), np.float32)
    wall = _flat(
        height,
        width,
        _pick(
            rng,
            (
                (84.0, 0.0, 4.0),
                (76.0, 2.0, 12.0),
                (70.0, -6.0, -8.0),
                (66.0, -8.0, 10.0),
                (60.0, 10.0, 10.0),
                (52.0, 0.0, -2.0),
                (80.0, 8.0, 4.0),
            ),
        ),
    )
    wall[..., 0] += noise(rng, height, width, width / 3, octaves=2) + 0.5 * noise(rng, height, width, 3, octaves=1)
    if kind == "stripes":
        wall[..., 0] += 5 * np.sign(np.sin(2 * np.pi * x / rng.uniform(0.05, 0.12)))
    if kind == "panels":
        wide = rng.uniform(0.11, 0.17)
        wall[..., 0] += 2.5 * rng.standard_normal(64).astype(np.float32)[np.floor(x / wide).astype(int) % 64]
        wall[..., 0] -= 16 * ((x / wide) % 1 < 0.04)
    return wall


def _floor(kind: str, height: int, width: int, rng: Rng) -> FloatArray:
    """A texture made flat, then laid down: far rows show more of it, smaller."""
    side = max(64, width)
    texture = _ground(kind, side, rng)
    source = np.array([[0, 0], [side, 0], [side, side], [0, side]], np.float32)
    spread = 0.55 * width
    target = np.array(
        [[-0.1 * width, 0], [1.1 * width, 0], [width + spread * 1.6, height], [-spread * 1.6, height]],
        np.float32,
    )
    turn = cv2.getPerspectiveTransform(source, target)
    laid = cv2.warpPerspective(texture, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    # enlarging blurs the near floor; grain at the picture's own scale gives it back its tooth
    tooth = {"grass": 4.0, "sand": 2.6, "asphalt": 4.0, "dirt": 4.0, "carpet": 3.2, "snow": 1.0}.get(kind, 0.8)
    laid[..., 0] += tooth * noise(rng, height, width, 1.6, octaves=1)
    if kind == "grass":
        laid[..., 0] += 5 * noise(rng, height, width, max(2.0, width / 200), octaves=1, stretch=0.25)
    return np.asarray(laid, np.float32)


def _ground(kind: str, side: int, rng: Rng) -> FloatArray:
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    if kind in ("planks", "table"):
        ground = _flat(
            side,
            side,
            _pick(
                rng,
                (
                    (58.0, 11.0, 28.0),
                    (44.0, 13.0, 22.0),
                    (70.0, 7.0, 22.0),
                    (34.0, 10.0, 14.0),
                    (76.0, 2.0, 8.0),
                ),
            ),
        )
        wide = rng.uniform(0.07, 0.13) if kind == "planks" else 2.0
        upright = rng.random() < 0.6
        along, across = (y, x) if upright else (x, y)
        board = np.floor(across / wide).astype(int) % 64
        offset = rng.uniform(0, 9, 64).astype(np.float32)[board]
        bend = noise(rng, side, side, side / 5, octaves=2)
        grain = np.sin(2 * np.pi * (across * 26 + offset + 0.55 * bend + along * 1.2))
        fibre = noise(rng, side, side, 4, octaves=2, stretch=12)
        ground[..., 0] += (
            2.2 * grain + 2.0 * (fibre.T if upright else fibre) + 3 * rng.standard_normal(64).astype(np.float32)[board]
        )
        if kind == "planks":
            ground[..., 0] -= 14 * ((across / wide) % 1 < 0.03)
        return ground
    if kind == "tiles":
        ground = _flat(side, side, _pick(rng, ((82.0, 0.0, 4.0), (66.0, 4.0, 10.0), (50.0, -2.0, -6.0))))
        wide = rng.uniform(0.1, 0.17)
        row, column = np.floor(y / wide).astype(int) % 64, np.floor(x / wide).astype(int) % 64
        ground[..., 0] += 2.5 * rng.standard_normal((64, 64)).astype(np.float32)[row, column] + 1.2 * noise(
            rng, side, side, side / 12, octaves=4
        )
        if rng.random() < 0.35:
            ground[..., 0] -= 26 * ((row + column) % 2)
        ground[..., 0] -= 15 * (((x / wide) % 1 < 0.035) | ((y / wide) % 1 < 0.035))
        return ground
    if kind == "marble":
        ground = _flat(side, side, _pick(rng, ((88.0, 0.0, 2.0), (40.0, -4.0, 2.0), (76.0, 4.0, 10.0))))
        field = noise(rng, side, side, side / 3, octaves=5)
        ground[..., 0] += 1.5 * noise(rng, side, side, side / 4) - 16 * np.exp(-np.abs(field) / 0.08)
        return ground
    colours: dict[str, tuple[Lab, ...]] = {
        "grass": ((46.0, -20.0, 32.0), (54.0, -16.0, 36.0), (38.0, -16.0, 24.0)),
        "sand": ((78.0, 4.0, 20.0), (70.0, 5.0, 18.0)),
        "asphalt": ((46.0, 0.0, 0.0), (58.0, 0.0, 2.0), (36.0, 0.0, -2.0)),
        "snow": ((92.0, -1.0, -3.0),),
        "dirt": ((42.0, 9.0, 16.0), (52.0, 7.0, 18.0)),
        "carpet": (
            (58.0, 4.0, 8.0),
            (42.0, 2.0, -16.0),
            (70.0, 2.0, 8.0),
            (38.0, 26.0, 12.0),
            (46.0, -10.0, 4.0),
        ),
    }
    strength = {"grass": 6.0, "sand": 2.6, "asphalt": 4.0, "snow": 1.6, "dirt": 5.0, "carpet": 2.4}[kind]
    ground = _flat(side, side, _pick(rng, colours[kind]))
    fine, broad = noise(rng, side, side, 3, octaves=2), noise(rng, side, side, side / 8, octaves=4)
    ground[..., 0] += strength * fine + 0.6 * strength * broad
    ground[..., 1] += 0.25 * strength * broad
    ground[..., 2] += 0.5 * strength * broad
    return ground
