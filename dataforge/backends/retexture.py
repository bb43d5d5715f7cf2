"""Procedural materials, textures and patterns laid over a subject, following its shading.

Every treatment takes the cut-out picture (uint8 HxWx3 RGB), its mask (bool HxW), a seeded generator and whether the
prompt already fixed the colour; it returns a picture of the same shape.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from dataforge.backends.colour_names import FloatArray, lab_from_rgb, rgb_from_lab
from dataforge.backends.recolour import paint
from manifests.pixels import ImageArray, MaskArray

__all__ = ["noise", "retexture"]

Rng = np.random.Generator
Treatment = Callable[[ImageArray, MaskArray, Rng, bool], ImageArray]
Pattern = Callable[[ImageArray, MaskArray, Rng, bool, FloatArray], ImageArray]


def noise(rng: Rng, height: int, width: int, cell: float, *, octaves: int = 3, stretch: float = 1.0) -> FloatArray:
    """Value noise, float32 HxW, mean 0 and deviation 1: features `cell` pixels across, `stretch` times as long in x."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        size = max(cell / 2**octave, 1.0)
        rows, columns = max(2, round(height / size) + 1), max(2, round(width / (size * stretch)) + 1)
        grid = rng.standard_normal((rows, columns), np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / 2**octave
    return np.asarray((total - total.mean()) / (total.std() + 1e-6), np.float32)


def retexture(
    treatment: str,
    image: ImageArray,
    mask: MaskArray,
    rng: Rng,
    *,
    keep_colour: bool,
    region: FloatArray,
    photograph: ImageArray,
) -> ImageArray:
    """Lay a treatment over the subject where `region` (float32 HxW, 0..1) says, so that eyes and print stay.

    `image` may have been recoloured; `photograph`, of the same shape, is what the light is read from. Raises KeyError
    for a name this file does not know.
    """
    if treatment in _PATTERNS:
        treated = _PATTERNS[treatment](image, mask, rng, keep_colour, _light(photograph, mask))
    else:
        treated = _TREATMENTS[treatment](image, mask, rng, keep_colour)
    if treatment in _WHOLE or float(region[mask].mean()) < 0.5:
        return treated
    mixed = region[..., None] * treated.astype(np.float32) + (1 - region[..., None]) * image.astype(np.float32)
    return np.asarray(np.clip(mixed + 0.5, 0, 255), np.uint8)


def _extent(mask: MaskArray) -> float:
    return float(np.sqrt(mask.sum()))


def _smoothstep(value: FloatArray, low: float, high: float) -> FloatArray:
    t = np.clip((value - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def _surface(image: ImageArray, mask: MaskArray, rng: Rng) -> tuple[FloatArray, FloatArray]:
    """Coordinates on the subject, turned by a random angle and bent by its shading so that patterns follow relief."""
    height, width = mask.shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    extent = _extent(mask)
    lightness = cv2.GaussianBlur(lab_from_rgb(image)[..., 0], (0, 0), max(2.0, extent * 0.04))
    relief = np.clip((lightness - np.median(lightness[mask])) / 40, -1, 1) * extent * 0.05
    angle = rng.uniform(0, np.pi)
    c, s = np.cos(angle), np.sin(angle)
    return np.asarray(c * x + s * y + relief, np.float32), np.asarray(-s * x + c * y + relief, np.float32)


def _second_colour(lab: FloatArray, mask: MaskArray, rng: Rng) -> FloatArray:
    """A second colour that a pattern can be seen in: light on dark and dark on light."""
    middle = [float(value) for value in np.median(lab[mask], axis=0)]
    choices: list[tuple[float, float, float]]
    if middle[0] > 80 and np.hypot(middle[1], middle[2]) < 20:
        choices = [(38, 45, 25), (38, 5, -42), (25, 0, 0), (45, -30, 20)]
    elif middle[1] > 12 and middle[2] > 25:  # dark bands would turn orange and its kin brown
        choices = [(94, 0, 4), (90, 2, 14)]
    elif middle[0] > 55:
        choices = [(94, 0, 4), (26, middle[1] * 0.4, middle[2] * 0.4), (22, 4, -18)]
    else:
        choices = [(92, 0, 5), (86, 2, 22)]
    return np.asarray(choices[rng.integers(len(choices))], np.float32)


def _light(photograph: ImageArray, mask: MaskArray) -> FloatArray:
    """Light and relief of the photographed subject in CIELAB lightness, 0 in the middle: what any print lies in."""
    lightness = lab_from_rgb(photograph)[..., 0]
    spread = float(lightness[mask].std()) + 1e-3
    return np.asarray((lightness - np.median(lightness[mask])) * min(1.6, 14 / spread), np.float32)


def _lay(image: ImageArray, light: FloatArray, cover: FloatArray, colour: FloatArray) -> ImageArray:
    """Print `colour` where `cover` (0..1) says, in the light that falls on the subject."""
    lab = lab_from_rgb(image)
    shade = np.clip(0.8 * light, -0.6 * float(colour[0]), 0.8 * (98 - float(colour[0])))
    lightness = np.clip(colour[0] + shade, 3, 98)
    ink = np.dstack([lightness, np.full_like(lightness, colour[1]), np.full_like(lightness, colour[2])])
    return rgb_from_lab((cover[..., None] * ink + (1 - cover[..., None]) * lab).astype(np.float32))


def _striped(image: ImageArray, mask: MaskArray, rng: Rng, keep_colour: bool, light: FloatArray) -> ImageArray:
    u, _ = _surface(image, mask, rng)
    period = _extent(mask) * rng.uniform(0.11, 0.2)
    wave = np.cos(2 * np.pi * u / period).astype(np.float32)
    cover = _smoothstep(wave, 0.48, 0.48 + 9 / period)
    return _lay(image, light, cover, _second_colour(lab_from_rgb(image), mask, rng))


def _checkered(image: ImageArray, mask: MaskArray, rng: Rng, keep_colour: bool, light: FloatArray) -> ImageArray:
    u, v = _surface(image, mask, rng)
    period = _extent(mask) * rng.uniform(0.12, 0.2)
    # crossing bands mix the two colours; black and white bear less of it before they turn grey
    middle = float(np.median(lab_from_rgb(image)[mask][:, 0]))
    edge = 0.6 if 25 < middle < 80 else 0.74
    bands = [_smoothstep(np.cos(2 * np.pi * w / period).astype(np.float32), edge, edge + 7 / period) for w in (u, v)]
    cover = 0.5 * (bands[0] + bands[1]) * 0.95
    return _lay(image, light, cover.astype(np.float32), _second_colour(lab_from_rgb(image), mask, rng))


def _dotted(image: ImageArray, mask: MaskArray, rng: Rng, keep_colour: bool, light: FloatArray) -> ImageArray:
    u, v = _surface(image, mask, rng)
    period = _extent(mask) * rng.uniform(0.11, 0.18)
    row = np.floor(v / period)
    du = (u / period + 0.5 * (row % 2)) % 1 - 0.5
    dv = (v / period) % 1 - 0.5
    radius = np.hypot(du, dv)
    cover = 1 - _smoothstep(radius.astype(np.float32), 0.27 - 0.7 / period, 0.27 + 0.7 / period)
    return _lay(image, light, cover, _second_colour(lab_from_rgb(image), mask, rng))


def _spotted(image: ImageArray, mask: MaskArray, rng: Rng, keep_colour: bool, light: FloatArray) -> ImageArray:
    height, width = mask.shape
    field = noise(rng, height, width, _extent(mask) * 0.12, octaves=2)
    lightness = lab_from_rgb(image)[..., 0]
    field += 0.03 * (lightness - cv2.GaussianBlur(lightness, (0, 0), 3.0))  # edges follow fur and relief
    level = float(np.percentile(field[mask], 72))
    cover = 0.9 * _smoothstep(field, level, level + 0.35)
    return _lay(image, light, cover, _second_colour(lab_from_rgb(image), mask, rng))


def _camouflage(image: ImageArray, mask: MaskArray, rng: Rng, keep_colour: bool, light: FloatArray) -> ImageArray:
    height, width = mask.shape
    if not keep_colour:
        image = paint(image, mask, (46.0, -9.0, 24.0), relief=0.8)
    middle = np.median(lab_from_rgb(image)[mask], axis=0)
    tones = [(-20.0, 0.7), (16.0, 0.6), (-9.0, 1.2)] if keep_colour else [(-22.0, 0.5), (20.0, 0.7), (-8.0, -0.4)]
    for lightness, chroma in tones:
        field = noise(rng, height, width, _extent(mask) * 0.22, octaves=3)
        level = float(np.percentile(field[mask], 76))
        a = middle[1] * chroma if chroma > 0 else 9.0
        b = middle[2] * abs(chroma) + (0 if chroma > 0 else 10)
        colour = np.array([np.clip(middle[0] + lightness, 10, 92), a, b], np.float32)
        image = _lay(image, light, _smoothstep(field, level, level + 0.08), colour)
    return image


def _grained(image: ImageArray, mask: MaskArray, change: FloatArray, *, warmth: float = 0.0) -> ImageArray:
    """Add a lightness change (CIELAB units), and redder where it is darker by `warmth`."""
    lab = lab_from_rgb(image)
    lab[..., 0] = np.clip(lab[..., 0] + change, 2, 98)
    lab[..., 1] -= warmth * change
    return rgb_from_lab(lab)


def _emboss(height_map: FloatArray, strength: float) -> FloatArray:
    """Light from the upper left on a height map: a lightness change."""
    dx = cv2.Sobel(height_map, cv2.CV_32F, 1, 0, ksize=3)
    dy = cv2.Sobel(height_map, cv2.CV_32F, 0, 1, ksize=3)
    slope = -(dx + dy)
    return np.asarray(np.clip(slope / (slope.std() + 1e-6), -2.5, 2.5) * strength, np.float32)


def _folded(coordinate: FloatArray, length: float) -> FloatArray:
    """A coordinate that goes back and forth within 0..length, so that a finite texture has no seam."""
    return np.asarray(length - np.abs(np.mod(coordinate, 2 * length) - length), np.float32)


def _wooden(image: ImageArray, mask: MaskArray, rng: Rng, keep_colour: bool) -> ImageArray:
    height, width = mask.shape
    if not keep_colour:
        wood = [(56.0, 15.0, 33.0), (46.0, 17.0, 30.0), (66.0, 11.0, 30.0), (36.0, 14.0, 20.0)]
        image = paint(image, mask, wood[rng.integers(len(wood))], relief=0.8)
    extent = _extent(mask)
    u, v = _surface(image, mask, rng)
    v = v + 0.05 * extent * noise(rng, height, width, extent * 0.7, octaves=2)
    streaks = np.zeros((height, width), np.float32)
    for cell, strength in ((0.075, 5.0), (0.025, 3.5), (0.009, 2.5)):
        field = noise(rng, 512, 64, 4.0, octaves=1)
        along, across = u * (1.3 / (cell * extent * 22)), v * (4.0 / (cell * extent))
        streaks += strength * cv2.remap(field, _folded(along, 62), _folded(across, 510), cv2.INTER_CUBIC)
    return _grained(image, mask, streaks, warmth=0.2)


def _mirror(image: ImageArray, mask: MaskArray, rng: Rng, colour: tuple[float, float, float] | None) -> ImageArray:
    """Polished metal: what is reflected turns quickly with the surface, so light and dark bands follow the shading."""
    lab = lab_from_rgb(image)
    extent = _extent(mask)
    smooth = cv2.GaussianBlur(lab[..., 0], (0, 0), max(1.5, extent * 0.02))
    middle, spread = float(np.median(smooth[mask])), float(smooth[mask].std()) + 4
    turn = (smooth - middle) / spread + 0.35 * noise(rng, mask.shape[0], mask.shape[1], extent * 0.5, octaves=1)
    bands = np.sin(1.9 * turn + rng.uniform(-0.4, 0.4))
    fine = lab[..., 0] - smooth
    goal, a, b = colour if colour is not None else tuple(float(value) for value in np.median(lab[mask], axis=0))
    swing = min(20.0, 98 - goal, 0.4 * goal)
    light = goal + swing * np.clip(bands, 0, 1) ** 1.5 - swing * np.clip(-bands, 0, 1) + 0.7 * fine
    light = light + 0.8 * swing * _smoothstep(turn.astype(np.float32), 1.1, 1.9)
    light = np.clip(light, 4, 99)
    strength = np.minimum(np.clip((100 - light) / (100 - goal), 0, 1) ** 0.6, np.clip(light / goal, 0, 1) ** 0.5)
    return rgb_from_lab(np.dstack([light, a * strength, b * strength]).astype(np.float32))


def _metal(image: ImageArray, mask: MaskArray, rng: Rng, keep_colour: bool) -> ImageArray:
    return _mirror(image, mask, rng, None if keep_colour else (66.0, -0.5, -2.0))


def _golden(image: ImageArray, mask: MaskArray, rng: Rng, keep_colour: bool) -> ImageArray:
    return _mirror(image, mask, rng, (70.0, 6.0, 56.0))


def _veins(rng: Rng, mask: MaskArray) -> FloatArray:
    height, width = mask.shape
    extent = _extent(mask)
    field = noise(rng, height, width, extent * 0.45, octaves=5)
    second = noise(rng, height, width, extent * 0.25, octaves=4)
    thin = np.exp(-np.abs(field) / 0.07) + 0.5 * np.exp(-np.abs(second) / 0.04)
    return np.asarray(np.clip(thin, 0, 1), np.float32)


def _marble(image: ImageArray, mask: MaskArray, rng: Rng, keep_colour: bool) -> ImageArray:
    if not keep_colour:
        image = paint(image, mask, (89.0, 0.0, 2.0), relief=0.8)
    cloud = noise(rng, mask.shape[0], mask.shape[1], _extent(mask) * 0.4, octaves=3)
    light = float(np.median(lab_from_rgb(image)[mask][:, 0]))
    veins = _veins(rng, mask) * (-30 if light > 45 else 32)
    return _grained(image, mask, (veins + 2.0 * cloud).astype(np.float32))


def _stone(image: ImageArray, mask: MaskArray, rng: Rng, keep_colour: bool) -> ImageArray:
    if not keep_colour:
        image = paint(image, mask, (60.0, 0.5, 3.0), relief=0.8)
    height, width = mask.shape
    speckle = noise(rng, height, width, 2.5, octaves=2)
    bumps = _emboss(noise(rng, height, width, max(4.0, _extent(mask) * 0.05), octaves=4), 3.5)
    return _grained(image, mask, (3.5 * speckle + bumps).astype(np.float32))


def _rough(image: ImageArray, mask: MaskArray, rng: Rng, keep_colour: bool) -> ImageArray:
    height, width = mask.shape
    return _grained(image, mask, _emboss(noise(rng, height, width, max(3.5, _extent(mask) * 0.03), octaves=3), 6.0))


def _ceramic(image: ImageArray, mask: MaskArray, rng: Rng, keep_colour: bool) -> ImageArray:
    smooth = cv2.bilateralFilter(image, 7, 40, 5)
    if not keep_colour:
        smooth = paint(smooth, mask, (88.0, -0.5, 3.0), relief=0.8)
    return _shiny(smooth, mask, rng, True)


def _clay(image: ImageArray, mask: MaskArray, rng: Rng, keep_colour: bool) -> ImageArray:
    if not keep_colour:
        image = paint(image, mask, (52.0, 25.0, 30.0), relief=0.7)
    height, width = mask.shape
    return _matte(
        _grained(image, mask, _emboss(noise(rng, height, width, max(3.0, _extent(mask) * 0.02), octaves=2), 1.8)),
        mask,
        rng,
        True,
    )


def _leather(image: ImageArray, mask: MaskArray, rng: Rng, keep_colour: bool) -> ImageArray:
    if not keep_colour:
        hides = [(36.0, 17.0, 24.0), (24.0, 8.0, 10.0), (50.0, 20.0, 34.0)]
        image = paint(image, mask, hides[rng.integers(len(hides))], relief=0.9)
    height, width = mask.shape
    creases = -np.exp(-np.abs(noise(rng, height, width, max(4.0, _extent(mask) * 0.03), octaves=2)) / 0.18)
    return _grained(image, mask, _emboss(creases.astype(np.float32), 3.2))


def _denim(image: ImageArray, mask: MaskArray, rng: Rng, keep_colour: bool) -> ImageArray:
    if not keep_colour:
        image = paint(image, mask, (38.0, 0.0, -27.0), relief=1.0)
    height, width = mask.shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    twill = np.sin(2 * np.pi * (x + y) / 4.5)
    worn = noise(rng, height, width, _extent(mask) * 0.2, octaves=3)
    threads = noise(rng, height, width, 2.0, octaves=1)
    return _grained(image, mask, (3.2 * twill + 2.5 * worn + 2.5 * threads).astype(np.float32))


def _knitted(image: ImageArray, mask: MaskArray, rng: Rng, keep_colour: bool) -> ImageArray:
    """Stockinette: columns of V-shaped stitches, drawn as the shading of their rounded legs."""
    image = cv2.bilateralFilter(image, 7, 50, 6)
    height, width = mask.shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    stitch = max(9.0, _extent(mask) * 0.055)
    x = x + 1.2 * noise(rng, height, width, stitch * 4, octaves=1)
    across = (x / stitch) % 1 - 0.5
    along = (y / (0.75 * stitch) - 1.1 * np.abs(across)) % 1
    leg = np.sin(np.pi * along) * (np.sin(np.pi * 2 * np.abs(across)) * 0.75 + 0.25)
    yarn = noise(rng, height, width, 2.0, octaves=1)
    return _grained(image, mask, (22 * (leg - leg.mean()) + 1.6 * yarn).astype(np.float32))


def _shiny(image: ImageArray, mask: MaskArray, rng: Rng, keep_colour: bool) -> ImageArray:
    """Deeper darks and bright, colourless highlights where the light already falls."""
    lab = lab_from_rgb(image)
    extent = _extent(mask)
    smooth = cv2.GaussianBlur(lab[..., 0], (0, 0), max(1.5, extent * 0.015))
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    # thin and dim subjects have no light of their own to follow: a soft window from the upper left lights them too
    dome = cv2.GaussianBlur(np.minimum(depth, extent * 0.2), (0, 0), max(2.0, extent * 0.03))
    facing = _emboss(dome.astype(np.float32), 1.0)
    field = (smooth - np.median(smooth[mask])) / (smooth[mask].std() + 4) + 0.5 * facing
    low, high = (float(value) for value in np.percentile(field[mask], [90, 97]))
    glint = _smoothstep(field.astype(np.float32), low, max(high, low + 0.05))
    middle = float(np.median(lab[mask][:, 0]))
    lab[..., 0] = middle + 1.12 * (lab[..., 0] - middle)
    top = np.maximum(lab[..., 0], 96)
    lab[..., 0] = np.clip((1 - 0.8 * glint) * lab[..., 0] + 0.8 * glint * top, 2, 99)
    lab[..., 1:] *= (1 - 0.75 * glint)[..., None]
    return rgb_from_lab(lab)


def _matte(image: ImageArray, mask: MaskArray, rng: Rng, keep_colour: bool) -> ImageArray:
    """Highlights taken down to the paint's own lightness, soft shading, dry chroma."""
    lab = lab_from_rgb(image)
    light = lab[mask][:, 0]
    middle, knee = float(np.median(light)), float(np.percentile(light, 75))
    over = np.maximum(lab[..., 0] - knee, 0)
    lab[..., 0] = np.minimum(lab[..., 0], knee) + 5 * np.tanh(over / 20)
    lab[..., 0] = middle + 0.8 * (lab[..., 0] - middle)
    strong = _smoothstep(over.astype(np.float32), 4, 22)
    body = np.median(lab[mask], axis=0)[1:]
    lab[..., 1:] = lab[..., 1:] * (1 - strong[..., None]) + body * strong[..., None]
    return rgb_from_lab(lab)


_PATTERNS: dict[str, Pattern] = {
    "camouflage": _camouflage,
    "checkered": _checkered,
    "dotted": _dotted,
    "spotted": _spotted,
    "striped": _striped,
}

_WHOLE = frozenset({"matte", "rough", "shiny"})  # a finish covers everything, details too

_TREATMENTS: dict[str, Treatment] = {
    "ceramic": _ceramic,
    "clay": _clay,
    "denim": _denim,
    "golden": _golden,
    "knitted": _knitted,
    "leather": _leather,
    "marble": _marble,
    "matte": _matte,
    "metal": _metal,
    "rough": _rough,
    "shiny": _shiny,
    "stone": _stone,
    "wooden": _wooden,
}
