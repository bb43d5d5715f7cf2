"""Giving a subject another colour in CIELAB while its shading and texture stay.

The lightness of a painted thing is its paint's lightness plus light and relief. So the paint's lightness is taken
away (the median of the main colour), the rest is squeezed into the room the new paint leaves above and below, and
chroma follows lightness as it does on real surfaces: less towards white and towards black.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from dataforge.backends.colour_names import (
    FloatArray,
    lab_from_rgb,
    rgb_from_lab,
)
from manifests.pixels import ImageArray, MaskArray

__all__ = ["nudge", "paint", "painted_region"]

_LIGHT = 0.5  # lightness differs inside one surface far more than hue and chroma do
_CLUSTERS = 7


def painted_region(image: ImageArray, mask: MaskArray, *, cover: float) -> FloatArray:
    """float32 HxW in 0..1: where the subject shows its body colours rather than details such as eyes or print.

    Names of colours change inside one shaded surface, so the body is found among clusters of similar colour instead:
    clusters that pass into one another belong together, and groups are added, largest first, until they make up
    `cover` of the subject. Between body and detail the weight passes over smoothly.
    """
    scaled = lab_from_rgb(image) * np.array([_LIGHT, 1, 1], np.float32)
    samples = scaled[mask]
    centres, sizes = _clusters(samples[:: max(1, len(samples) // 3000)])
    groups = _linked(centres)
    vivid = 1 + np.hypot(centres[:, 1], centres[:, 2]) / 60  # as the eye weighs colours in `colour_shares`
    weights = sizes * vivid / float((sizes * vivid).sum())
    order = sorted(set(groups.tolist()), key=lambda group: -float(weights[groups == group].sum()))
    body: list[int] = []
    for group in order:
        body.append(group)
        if float(weights[np.isin(groups, body)].sum()) >= cover:
            break
    inside = np.isin(groups, body)
    if inside.all():
        return np.ones(mask.shape, np.float32)
    near = _nearest(scaled, centres[inside])
    far = _nearest(scaled, centres[~inside])
    weight = np.clip(0.5 + 1.6 * (far - near) / (far + near), 0, 1).astype(np.float32)
    kernel = 2 * max(1, round(0.008 * float(np.sqrt(mask.sum())))) + 1
    smooth = cv2.medianBlur((weight * 255).astype(np.uint8), kernel)
    return np.asarray(cv2.GaussianBlur(smooth, (0, 0), 1.0).astype(np.float32) / 255, np.float32)


def _nearest(colours: FloatArray, centres: FloatArray) -> FloatArray:
    """Distance of each pixel to the nearest centre; one centre at a time, so that memory stays at one plane."""
    least = np.full(colours.shape[:2], np.inf, np.float32)
    for centre in centres:
        least = np.minimum(least, ((colours - centre) ** 2).sum(-1))
    return np.asarray(np.sqrt(np.maximum(least, 1e-6)), np.float32)


def _clusters(samples: FloatArray) -> tuple[FloatArray, npt.NDArray[np.float64]]:
    """k-means centres and their shares, started from far points so that no random choice is made."""
    centres = samples.mean(0, keepdims=True)
    for _ in range(_CLUSTERS - 1):
        gap = ((samples[:, None] - centres) ** 2).sum(-1).min(1)
        # the 98th percentile rather than the farthest: single odd pixels found no cluster
        centres = np.vstack([centres, samples[np.argsort(gap)[int(0.98 * (len(gap) - 1))]]])
    nearest = np.zeros(len(samples), int)
    for _ in range(8):
        nearest = ((samples[:, None] - centres) ** 2).sum(-1).argmin(1)
        for index in range(_CLUSTERS):
            if (nearest == index).any():
                centres[index] = samples[nearest == index].mean(0)
    sizes = np.bincount(nearest, minlength=_CLUSTERS) / len(samples)
    return np.asarray(centres[sizes > 0], np.float32), sizes[sizes > 0]


def _linked(centres: FloatArray) -> npt.NDArray[np.int64]:
    """Group numbers of centres: linked where one passes into the other, by nearness or as light and dark of one hue."""
    count = len(centres)
    groups = np.arange(count)
    for i in range(count):
        for j in range(i):
            light, chroma = abs(centres[i, 0] - centres[j, 0]), float(np.hypot(*(centres[i, 1:] - centres[j, 1:])))
            same_hue = False
            strong = np.hypot(centres[[i, j], 1], centres[[i, j], 2])
            if strong.min() > 10:
                same_hue = float((centres[i, 1:] * centres[j, 1:]).sum()) > 0.93 * float(strong.prod()) and chroma < 40
            if (chroma < 11 and light < 26 * _LIGHT) or (same_hue and light < 36 * _LIGHT):
                groups[groups == groups[i]] = groups[j]
    return np.asarray(groups, np.int64)


def paint(
    image: ImageArray,
    mask: MaskArray,
    target: tuple[float, float, float],
    region: FloatArray | None = None,
    *,
    relief: float = 1.0,
) -> ImageArray:
    """The picture with its body colours replaced by `target` (CIELAB).

    `image` uint8 HxWx3 RGB, `mask` bool HxW, `region` float32 HxW weights of what is painted (None: everything);
    `relief` scales light and texture.
    """
    lab = lab_from_rgb(image)
    where = mask if region is None else mask & (region > 0.5)
    if not where.any():
        where = mask
    lightness = lab[..., 0]
    middle = float(np.median(lightness[where]))
    goal, a, b = target
    # dim photographs have little contrast; a face must still be seen in the new paint
    relief *= float(np.clip(13.0 / (lightness[where].std() + 1e-3), 0.7, 1.7))
    difference = (lightness - middle) * relief
    above, below = min(24.0, 0.9 * (99.0 - goal)), min(26.0, 0.75 * goal)
    if goal < 20:  # black is black only near black
        above = 8.0
    if goal > 85 and np.hypot(a, b) < 8:  # and white near white
        below = 17.0
    if goal > 60 and np.hypot(a, b) > 40:  # dark orange is brown, dark yellow olive, dark pink red
        below = 17.0
    lit = above * np.tanh(np.maximum(difference, 0) / (1.3 * above))
    shaded = below * np.tanh(np.minimum(difference, 0) / (1.3 * below))
    new_lightness = goal + lit + shaded
    # highlights are the lamp's colour, whatever the paint
    glint = np.clip((lightness - 88) / 9, 0, 1) * float(np.interp(middle, [60, 78], [0.7, 0.0]))
    strength = np.minimum(
        np.clip((100 - new_lightness) / (100 - goal), 0, 1) ** 0.7, np.clip(new_lightness / goal, 0, 1) ** 0.6
    )
    new_lightness += glint * (97 - new_lightness)
    strength *= 1 - glint
    # a little of the fine colour grain keeps cloth and fur from looking sprayed
    grain = 0.2 * (lab[..., 1:] - cv2.GaussianBlur(lab[..., 1:], (0, 0), 4.0))
    if np.hypot(a, b) < 5:
        grain *= 0.3
    painted = np.dstack([new_lightness, a * strength + grain[..., 0], b * strength + grain[..., 1]])
    if region is not None:
        painted = region[..., None] * painted + (1 - region[..., None]) * lab
    return rgb_from_lab(painted.astype(np.float32))


def nudge(
    image: ImageArray,
    mask: MaskArray,
    target: tuple[float, float, float],
    region: FloatArray,
    *,
    reach: float = 22.0,
) -> ImageArray:
    """Move the body colour towards `target` until it is within `reach` (CIE76), keeping all differences as they are."""
    lab = lab_from_rgb(image)
    where = mask & (region > 0.5)
    if not where.any():
        return image
    offset = np.asarray(target, np.float32) - np.median(lab[where], axis=0)
    distance = float(np.linalg.norm(offset))
    if distance <= reach:
        return image
    shift: npt.NDArray[np.float32] = (offset * (1 - reach / distance)).astype(np.float32)
    return rgb_from_lab(lab + region[..., None] * shift)
