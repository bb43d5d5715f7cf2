"""A second opinion on colours that shares nothing with the describer: Oklab and rules of lightness, chroma and hue.

Oklab: B. Ottosson, "A perceptual color space for image processing" (2020). The rules follow the hue ranges of the
ISCC-NBS dictionary (Kelly and Judd, NBS Special Publication 440, 1976): a hue name by angle, then brown, olive, pink
and beige carved out by lightness and chroma. The main colour is the most frequent name over the mask's pixels; black
and grey pixels that are dark count half, because shadow is not paint.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# what the table may say for words outside its own
ACCEPTED = {
    "beige": {"white", "yellow", "brown", "beige"},
    "cream": {"white", "yellow", "beige"},
    "tan": {"orange", "brown", "beige"},
    "maroon": {"red", "purple", "brown"},
    "navy": {"black", "blue"},
    "teal": {"green", "blue"},
    "turquoise": {"green", "blue"},
    "olive": {"yellow", "green", "brown"},
    "lime": {"yellow", "green"},
    "mint": {"green"},
    "gold": {"orange", "yellow", "brown"},
    "silver": {"white", "grey"},
    "lavender": {"purple"},
    "magenta": {"purple", "pink"},
    "salmon": {"red", "orange", "pink"},
    "peach": {"orange", "pink", "beige"},
}


def oklab(rgb: Any) -> Any:
    value = np.asarray(rgb, np.float64) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    lms = linear @ np.array(
        [
            [0.4122214708, 0.2119034982, 0.0883024619],
            [0.5363325363, 0.6806995451, 0.2817188376],
            [0.0514459929, 0.1073969566, 0.6299787005],
        ]
    )
    return np.cbrt(lms) @ np.array(
        [
            [0.2104542553, 1.9779984951, 0.0259040371],
            [0.7936177850, -2.4285922050, 0.7827717662],
            [-0.0040720468, 0.4505937099, -0.8086757660],
        ]
    )


def names(rgb: Any) -> Any:
    """uint8 Nx3 sRGB to N colour names."""
    lab = oklab(rgb)
    light, chroma = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])
    hue = np.degrees(np.arctan2(lab[:, 2], lab[:, 1])) % 360
    out = np.full(len(light), "grey", dtype="<U6")
    ranges = [(0, 40, "red"), (40, 70, "orange"), (70, 112, "yellow"), (112, 172, "green"), (172, 275, "blue")]
    ranges += [(275, 325, "purple"), (325, 350, "pink"), (350, 361, "red")]
    for low, high, name in ranges:
        out[(hue >= low) & (hue < high)] = name
    reddish = (hue < 40) | (hue >= 350)
    warm = (hue >= 35) & (hue < 95)
    out[reddish & (light > 0.70) & (chroma < 0.17)] = "pink"
    out[((hue >= 345) | (hue < 12)) & (light > 0.5)] = "pink"
    out[(hue >= 325) & (hue < 350) & (light < 0.45)] = "purple"
    out[warm & (light < 0.64)] = "brown"
    out[(hue >= 25) & (hue < 35) & (light < 0.5) & (chroma < 0.10)] = "brown"
    out[warm & (light < 0.74) & (chroma < 0.10)] = "brown"
    out[(hue >= 50) & (hue < 112) & (light >= 0.74) & (chroma < 0.075)] = "beige"
    out[(hue >= 95) & (hue < 112) & (light < 0.60)] = "green"
    neutral = chroma < np.where(light > 0.85, 0.022, np.where(light < 0.3, 0.035, 0.028))
    out[neutral] = np.where(light[neutral] > 0.84, "white", np.where(light[neutral] < 0.33, "black", "grey"))
    out[light < 0.16] = "black"
    return out


def main_colour(image: Any, mask: Any) -> str:
    pixels = image[mask]
    labels = names(pixels)
    dark = oklab(pixels)[:, 0] < 0.35
    weight = np.where(dark & np.isin(labels, ["black", "grey"]), 0.5, 1.0)
    found = sorted(set(labels.tolist()))
    return max(found, key=lambda name: float(weight[labels == name].sum()))


def agrees(image: Any, mask: Any, word: str) -> bool:
    return main_colour(image, mask) in ACCEPTED.get(word, {word})
