"""Naming colours as people do: CIELAB inside a mask to English colour words and their shares.

The words are the eleven basic colour terms of Berlin and Kay ("Basic Color Terms", 1969) and beige, which later
surveys of English list next (Sturges and Whitfield, "Locating basic colours in the Munsell space", 1995; the
xkcd colour survey, 2010, CC0). The anchors below are survey answers of the latter, with a few dull and dark ones
added because photographs hold far more of those than screens do. A pixel takes the term of its nearest anchor;
near the grey axis it takes white, grey or black by lightness alone.

Shares are not plain areas. People name an object by its body colour and see through light: shadows and highlights
count less, vivid pixels more, and the dark side of a surface counts for the surface.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from manifests.pixels import ImageArray, MaskArray

__all__ = [
    "BASIC_TERMS",
    "SHADES",
    "ColourShares",
    "basic_term",
    "colour_shares",
    "lab_from_rgb",
    "rgb_from_lab",
    "term_map",
]

FloatArray = npt.NDArray[np.float32]

BASIC_TERMS = (
    "black",
    "white",
    "grey",
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "brown",
    "beige",
)
ACHROMATIC = 3  # the first three terms are told apart by lightness

# (term, shade word or "", sRGB hex)
_ANCHORS: tuple[tuple[str, str, str], ...] = (
    ("red", "", "e50000"), ("red", "", "c1121f"), ("red", "", "ff2a1f"),
    ("red", "", "b5202b"), ("red", "", "d9473f"), ("red", "maroon", "650021"),
    ("red", "maroon", "840000"), ("red", "maroon", "6b1a1f"), ("red", "", "9b1c1c"),
    ("red", "", "a83232"), ("red", "maroon", "4a0e14"), ("red", "", "b84a4a"),
    ("orange", "", "f97306"), ("orange", "", "ff8c1a"), ("orange", "", "e06a1b"),
    ("orange", "", "fdaa48"), ("orange", "", "d2691e"), ("orange", "", "f0883e"),
    ("orange", "", "ff5a1f"), ("orange", "peach", "ffb07c"), ("orange", "peach", "f2bfa0"),
    ("orange", "", "d9825b"),
    ("yellow", "", "ffff14"), ("yellow", "", "f4d01c"), ("yellow", "gold", "dbb40c"),
    ("yellow", "", "fac205"), ("yellow", "", "ffff84"), ("yellow", "", "ceb301"),
    ("yellow", "", "f0e060"), ("yellow", "gold", "c9a227"), ("yellow", "", "fbdd7e"),
    ("yellow", "", "e8f090"),
    ("green", "", "15b01a"), ("green", "", "033500"), ("green", "", "3f9b0b"),
    ("green", "", "96f97b"), ("green", "", "06470c"), ("green", "olive", "6e750e"),
    ("green", "olive", "4b5d16"), ("green", "lime", "89fe05"), ("green", "lime", "aaff32"),
    ("green", "", "53fca1"), ("green", "", "2e6b3e"), ("green", "", "5a8f5a"),
    ("green", "", "8fbf8f"), ("green", "mint", "9ffeb0"), ("green", "", "4a6741"),
    ("green", "olive", "8a8b3a"), ("green", "", "8eab12"), ("green", "", "1f3d2a"),
    ("green", "teal", "029386"), ("green", "teal", "137e6d"), ("green", "", "769958"),
    ("green", "olive", "5b5a2c"), ("green", "turquoise", "13eac9"), ("green", "turquoise", "06c2ac"),
    ("green", "", "d0f0a0"), ("green", "", "c7fdb5"), ("green", "", "b8c890"),
    ("green", "", "98a480"),
    ("blue", "turquoise", "30d5d8"), ("blue", "turquoise", "00ffff"), ("blue", "", "0e7c8b"),
    ("blue", "", "014d5e"), ("blue", "", "0343df"), ("blue", "", "95d0fc"),
    ("blue", "", "75bbfd"), ("blue", "navy", "01153e"), ("blue", "navy", "00035b"),
    ("blue", "", "0485d1"), ("blue", "", "0165fc"), ("blue", "", "6b8ba4"),
    ("blue", "", "3b6ea8"), ("blue", "navy", "1f2f55"), ("blue", "", "4f74b8"),
    ("blue", "", "29b0dd"), ("blue", "", "0504aa"), ("blue", "", "a9c6dc"),
    ("blue", "", "3a4f72"), ("blue", "", "7fa6c9"), ("blue", "", "3d7f9c"),
    ("blue", "", "2048a0"), ("blue", "", "2850be"), ("blue", "", "1e3778"),
    ("blue", "", "4664d2"), ("blue", "", "6482dc"), ("blue", "", "3c3cbe"),
    ("blue", "", "2d3c8c"), ("blue", "", "6e8cc8"), ("blue", "", "0000ff"),
    ("blue", "", "1010c0"), ("blue", "navy", "0c0c80"),
    ("purple", "", "7e1e9c"), ("purple", "lavender", "c79fef"), ("purple", "", "bf77f6"),
    ("purple", "", "35063e"), ("purple", "", "9a0eea"), ("purple", "", "580f41"),
    ("purple", "", "8e82fe"), ("purple", "", "6a4c93"), ("purple", "lavender", "b8a6d0"),
    ("purple", "", "4b2e63"), ("purple", "", "380282"), ("purple", "", "8f5a9c"),
    ("purple", "lavender", "cea2fd"), ("purple", "", "a678b0"), ("purple", "", "4b22a0"),
    ("purple", "", "5a14c8"), ("purple", "", "5c14e8"),
    ("pink", "", "ff81c0"), ("pink", "", "ffd1df"), ("pink", "magenta", "c20078"),
    ("pink", "", "ff028d"), ("pink", "", "cb416b"), ("pink", "salmon", "ff9a8c"),
    ("pink", "", "cf6275"), ("pink", "", "e8a0b4"), ("pink", "", "fe46a5"),
    ("pink", "", "d98fa0"), ("pink", "magenta", "ed0dd9"), ("pink", "salmon", "e88880"),
    ("pink", "", "f4c2c2"),
    ("brown", "", "653700"), ("brown", "", "341c02"), ("brown", "tan", "ad8150"),
    ("brown", "", "8b5a2b"), ("brown", "", "a0522d"), ("brown", "", "5c4033"),
    ("brown", "tan", "d1b26f"), ("brown", "tan", "c8a070"), ("brown", "", "7b5a3c"),
    ("brown", "", "6f4e37"), ("brown", "", "4a2c2a"), ("brown", "", "967117"),
    ("brown", "", "a86a32"), ("brown", "", "3d2b1f"), ("brown", "tan", "b08d6a"),
    ("brown", "", "7f6a55"), ("brown", "", "8a6d58"), ("brown", "", "a9561e"),
    ("brown", "", "5a2d1a"), ("brown", "", "74483a"),
    ("beige", "", "e6daa6"), ("beige", "cream", "fff6d0"), ("beige", "", "d9c7a3"),
    ("beige", "cream", "f3e8cc"), ("beige", "", "c9b896"), ("beige", "", "e3cfb4"),
    ("beige", "", "d2bfa8"), ("beige", "", "bfae98"), ("beige", "cream", "ffffc2"),
)  # fmt: skip

# every shade word and the basic term a person would also accept for it; silver needs gloss, so no pixel has it alone
SHADES: dict[str, str] = {shade: term for term, shade, _ in _ANCHORS if shade} | {
    "silver": "grey",
    "turquoise": "blue",
}

_LIGHTNESS_WEIGHT = 0.75  # hue and chroma tell names apart better than lightness does
_BITS = 5  # the lookup table holds 32 levels per channel: 8 grey levels, well under a naming difference


def lab_from_rgb(image: ImageArray) -> FloatArray:
    """uint8 HxWx3 sRGB to float32 HxWx3 CIELAB (D65): L in 0..100, a and b about -110..110."""
    return np.asarray(cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2Lab), np.float32)


def rgb_from_lab(lab: FloatArray) -> ImageArray:
    """float32 HxWx3 CIELAB to uint8 HxWx3 sRGB, clipped to what a screen can show."""
    rgb = cv2.cvtColor(np.ascontiguousarray(lab, np.float32), cv2.COLOR_Lab2RGB)
    return np.asarray(np.clip(rgb * 255 + 0.5, 0, 255), np.uint8)


def basic_term(word: str) -> str | None:
    """The basic term of a colour word (`navy` is `blue`), or None for a word this file does not know."""
    if word in BASIC_TERMS:
        return word
    return SHADES.get(word)


@cache
def _anchors() -> tuple[FloatArray, npt.NDArray[np.int64]]:
    rgb = np.array([[int(hexes[i : i + 2], 16) for i in (0, 2, 4)] for _, _, hexes in _ANCHORS], np.uint8)
    terms = np.array([BASIC_TERMS.index(term) for term, _, _ in _ANCHORS])
    return lab_from_rgb(rgb[None])[0], terms


@cache
def _tables() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Term index and anchor index (255 for the grey axis) for each quantised sRGB colour."""
    levels = ((np.arange(1 << _BITS) << (8 - _BITS)) + (1 << (7 - _BITS))).astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(1, -1, 3)
    lab = lab_from_rgb(grid)[0]
    anchors, terms = _anchors()
    scale = np.array([_LIGHTNESS_WEIGHT, 1, 1], np.float32)
    scaled, scaled_anchors = lab * scale, anchors * scale
    squared = (scaled**2).sum(1)[:, None] - 2 * scaled @ scaled_anchors.T + (scaled_anchors**2).sum(1)
    nearest = squared.argmin(1).astype(np.uint8)
    term = terms[nearest].astype(np.uint8)
    lightness, chroma = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])
    hue = np.degrees(np.arctan2(lab[:, 2], lab[:, 1])) % 360
    # the eye forgives a tint more in the dark, and a warm or bluish tint more than a pink or green one
    limit = np.interp(lightness, [0, 12, 25, 50, 80, 92, 100], [14, 12, 8.5, 8.0, 7.5, 7.0, 7.0])
    cool = (hue > 200) & (hue < 300)
    limit = np.where(cool, limit * np.interp(lightness, [20, 35], [1.5, 1.25]), limit)
    neutral = (chroma < limit) | (lightness < 9)
    term[neutral] = np.digitize(lightness, [21, 80])[neutral].astype(np.uint8)
    term[neutral] = np.array([0, 2, 1], np.uint8)[term[neutral]]
    nearest[neutral] = 255
    return term, nearest


def _codes(image: ImageArray) -> npt.NDArray[np.int32]:
    high = (image >> (8 - _BITS)).astype(np.int32)
    return np.asarray((high[..., 0] << (2 * _BITS)) | (high[..., 1] << _BITS) | high[..., 2], np.int32)


def term_map(image: ImageArray) -> npt.NDArray[np.uint8]:
    """uint8 ...x3 RGB to the index in `BASIC_TERMS` of each pixel."""
    return np.asarray(_tables()[0][_codes(image)], np.uint8)


@dataclass(frozen=True, slots=True)
class ColourShares:
    """How much of a subject each word covers, by eye rather than by area; `terms` sum to 1.

    `shades` holds finer words (navy, beige's cream, ...) with their own share; `lab` the mean colour of each term.
    """

    terms: dict[str, float]
    shades: dict[str, float]
    lab: dict[str, tuple[float, float, float]]

    @property
    def main(self) -> str:
        """The basic term a person would say first; empty for an empty mask."""
        return max(self.terms, key=lambda term: self.terms[term], default="")


def colour_shares(image: ImageArray, mask: MaskArray) -> ColourShares:
    """Colour words of the pixels under the mask.

    `image` uint8 HxWx3 RGB, `mask` bool HxW. The mask is eroded a little, so that a rim of background does not count.
    """
    inner = _eroded(mask)
    pixels = image[inner][None]
    if not pixels.size:
        return ColourShares({}, {}, {})
    term_table, anchor_table = _tables()
    codes = _codes(pixels)[0]
    terms, anchors = term_table[codes], anchor_table[codes]
    lab = lab_from_rgb(pixels)[0]
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    weight = 0.6 + 0.9 * np.minimum(chroma, 50) / 50
    weight *= np.interp(lab[:, 0], [0, 10, 28], [0.35, 0.4, 1.0])
    weight *= _centrality(inner)
    mass: npt.NDArray[np.float64] = np.bincount(terms, weight, len(BASIC_TERMS)).astype(np.float64)
    total = float(mass.sum())
    sums = np.stack([np.bincount(terms, weight * lab[:, i], len(BASIC_TERMS)) for i in range(3)], 1)
    means: npt.NDArray[np.float64] = sums / np.maximum(mass, 1e-9)[:, None]
    mass = _merged(mass / total, means, lab, terms)
    shades: dict[str, float] = {}
    by_anchor = np.bincount(anchors, weight, 256) / total
    for index, (_, shade, _) in enumerate(_ANCHORS):
        if shade and by_anchor[index] > 0:
            shades[shade] = shades.get(shade, 0.0) + float(by_anchor[index])
    named = [index for index in range(len(BASIC_TERMS)) if mass[index] > 1e-4]
    return ColourShares(
        {BASIC_TERMS[index]: float(mass[index]) for index in named},
        shades,
        {
            BASIC_TERMS[index]: (float(means[index, 0]), float(means[index, 1]), float(means[index, 2]))
            for index in named
        },
    )


def _eroded(mask: MaskArray) -> MaskArray:
    area = int(mask.sum())
    radius = int(np.clip(round(np.sqrt(area) * 0.015), 1, 6))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    inner = np.asarray(cv2.erode(mask.astype(np.uint8), kernel) > 0)
    return inner if inner.sum() > 0.3 * area else mask


def _centrality(mask: MaskArray) -> npt.NDArray[np.float64]:
    """Weights of the mask's pixels: the rim, where masks err and light grazes, counts about half."""
    distance = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1][mask]
    reach = max(0.12 * float(np.sqrt(mask.sum())), 1.0)
    return np.asarray(0.5 + 0.5 * np.minimum(distance / reach, 1.0), np.float64)


def _merged(
    mass: npt.NDArray[np.float64],
    means: npt.NDArray[np.float64],
    lab: FloatArray,
    terms: npt.NDArray[np.uint8],
) -> npt.NDArray[np.float64]:
    """Give the shares that are only light and shadow of another colour to that colour."""
    mass = mass.copy()
    black, white, grey = range(ACHROMATIC)
    neutral = lab[terms < ACHROMATIC, 0]
    if len(neutral):
        bright, middle = (float(value) for value in np.percentile(neutral, [90, 50]))
        if bright > 84:  # a white thing's shaded side
            _pour(mass, grey, white, 0.85 * float(np.interp(middle, [64, 76], [0, 1])))
        if middle < 30:  # a black thing's lit side
            _pour(mass, grey, black, 0.8 * float(np.interp(middle, [18, 30], [1, 0])))
    chromatic = [int(i) for i in np.argsort(-mass) if i >= ACHROMATIC and mass[i] > 0.02]
    for position, larger in enumerate(chromatic):
        for smaller in chromatic[position + 1 :]:
            # one surface under uneven light keeps its hue
            if abs((_hue(means[larger]) - _hue(means[smaller]) + 180) % 360 - 180) < 16:
                dull = BASIC_TERMS[larger] in ("brown", "beige") and np.hypot(*means[smaller, 1:]) > 45
                if dull and mass[smaller] > 0.3 * mass[larger]:
                    # a vivid thing has dull shadows, a dull thing has no vivid lights
                    _pour(mass, larger, smaller, 0.6)
                else:
                    _pour(mass, smaller, larger, 0.6)
    return np.asarray(mass / mass.sum(), np.float64)


def _pour(mass: npt.NDArray[np.float64], source: int, target: int, part: float) -> None:
    mass[target] += part * mass[source]
    mass[source] *= 1 - part


def _hue(mean: npt.NDArray[np.float64]) -> float:
    return float(np.degrees(np.arctan2(mean[2], mean[1])) % 360)
