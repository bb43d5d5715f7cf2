"""Pattern, gloss and shape words from the pixels and the outline of a subject, and none where they give no reason.

Each measure asks for several independent signs at once (two clear tones, one direction, repeated parts of one size),
because fur, print and shadow each show one of them by chance.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from dataforge.backends.colour_names import FloatArray, lab_from_rgb
from manifests.pixels import ImageArray, MaskArray, box_from_mask

__all__ = ["Evidence", "shape_evidence", "surface_evidence"]

_MIN_EXTENT = 40.0  # square root of the area in pixels; below it a pattern is a handful of pixels


@dataclass(frozen=True, slots=True)
class Evidence:
    """One word that one photograph supports, with a score in 0..1."""

    category: str
    word: str
    score: float


def surface_evidence(image: ImageArray, mask: MaskArray) -> list[Evidence]:
    """Pattern and texture words of the pixels under the mask. `image` uint8 HxWx3 RGB, `mask` bool HxW."""
    extent = float(np.sqrt(mask.sum()))
    if extent < _MIN_EXTENT:
        return []
    lab = lab_from_rgb(image)
    radius = max(1, round(0.02 * extent))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    inner = np.asarray(cv2.erode(np.pad(mask, 1).astype(np.uint8), kernel)[1:-1, 1:-1] > 0)
    if inner.sum() < 0.3 * mask.sum():
        return []
    return _pattern(lab, inner, extent) + _gloss(lab, inner, extent)


def _pattern(lab: FloatArray, inner: MaskArray, extent: float) -> list[Evidence]:
    tone = _principal_tone(lab, inner, extent)
    if tone is None:
        return []
    values, threshold, clarity = tone
    high = inner & (values > threshold)
    minor = high if high.sum() <= 0.5 * inner.sum() else inner & ~high
    two, four, direction = _directions(values, inner)
    if two >= 0.5:
        score = _stripes(high, inner, direction)
        if score > 0:
            return [Evidence("pattern", "striped", float(min(1.0, score * clarity)))]
        return []
    squares = max(_alike(part, inner, extent, "square") for part in (minor, inner & ~minor)) if four >= 0.12 else 0.0
    discs = _alike(minor, inner, extent, "round") if minor.sum() < 0.45 * inner.sum() else 0.0
    if squares > 0 and four >= 0.5:
        return [Evidence("pattern", "checkered", float(min(1.0, squares * clarity)))]
    if discs > 0:
        return [Evidence("pattern", "dotted", float(min(1.0, discs * clarity)))]
    # on a curved surface the crossed directions bend; then the squares themselves must be very alike
    if squares > 0.8:
        return [Evidence("pattern", "checkered", float(min(1.0, squares * clarity)))]
    return []


def _principal_tone(lab: FloatArray, inner: MaskArray, extent: float) -> tuple[FloatArray, float, float] | None:
    """The surface along its strongest colour contrast, without slow shading: values, Otsu's threshold, clarity 0..1.

    None unless the values fall into two clear groups: Otsu's ratio of between-class to total variance is 0.64 for a
    normal distribution and 0.75 for a flat one, so only more than that speaks of two tones.
    """
    weight = inner.astype(np.float32)
    sigma = 0.16 * extent
    mass = np.maximum(cv2.GaussianBlur(weight, (0, 0), sigma), 1e-3)
    local = lab - cv2.GaussianBlur(lab * weight[..., None], (0, 0), sigma) / mass[..., None]
    samples = local[inner]
    _, vectors = np.linalg.eigh(np.cov(samples.T))
    values = (local @ vectors[:, -1]).astype(np.float32)
    inside = values[inner]
    spread = float(inside.std())
    if spread < 6:
        return None
    low, high = (float(value) for value in np.percentile(inside, [1, 99]))
    scaled = np.clip((inside - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    level, _ = cv2.threshold(scaled.reshape(-1, 1), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    threshold = low + float(level) / 255 * (high - low)
    upper = inside > threshold
    share = float(upper.mean())
    if not 0.03 < share < 0.97:
        return None
    gap = float(inside[upper].mean() - inside[~upper].mean())
    ratio = share * (1 - share) * gap**2 / max(spread**2, 1e-6)
    if ratio < 0.76 or gap < 14:
        return None
    return values, threshold, float(np.clip((ratio - 0.66) / 0.2, 0, 1))


def _directions(values: FloatArray, inner: MaskArray) -> tuple[float, float, float]:
    """How far gradients agree on one axis, on two crossed axes (0..1 each), and the angle of the one axis.

    The circular means of the doubled and fourfold gradient angle (Bigun and Granlund, 1987), weighted by strength.
    """
    smooth = cv2.GaussianBlur(values, (0, 0), 1.0)
    dx = cv2.Sobel(smooth, cv2.CV_32F, 1, 0)[inner]
    dy = cv2.Sobel(smooth, cv2.CV_32F, 0, 1)[inner]
    strength = dx**2 + dy**2
    angle = np.arctan2(dy, dx)
    total = float(strength.sum()) + 1e-9
    double = complex((strength * np.exp(2j * angle)).sum()) / total
    fourfold = complex((strength * np.exp(4j * angle)).sum()) / total
    return abs(double), abs(fourfold), float(np.angle(double) / 2)


def _stripes(high: MaskArray, inner: MaskArray, direction: float) -> float:
    """Score of parallel bands across `direction`: how much of the two tones the position alone explains."""
    rows, columns = np.nonzero(inner)
    position = np.round(columns * np.cos(direction) + rows * np.sin(direction)).astype(int)
    position -= position.min()
    count = np.bincount(position)
    profile = np.bincount(position, high[inner].astype(np.float64)) / np.maximum(count, 1)
    profile = profile[count > 0.15 * count.max()]
    mean = float(high[inner].mean())
    explained = float(profile.var()) / max(mean * (1 - mean), 1e-6)
    changes = int((np.diff((profile > 0.5).astype(int)) != 0).sum())
    if explained < 0.45 or changes < 5:
        return 0.0
    return float(np.clip((explained - 0.2) / 0.5, 0, 1))


def _alike(part: MaskArray, inner: MaskArray, extent: float, form: str) -> float:
    """Score of many separate pieces of one size and form (`round` or `square`) that lie all over the subject."""
    total, labels, stats, centres = cv2.connectedComponentsWithStats(part.astype(np.uint8), connectivity=4)
    least = max(6.0, (0.012 * extent) ** 2 * np.pi)
    rim = np.unique(labels[part & ~_shrunk(inner)])
    pieces = [i for i in range(1, total) if stats[i, cv2.CC_STAT_AREA] >= least and i not in rim]
    if len(pieces) < 6:
        return 0.0
    areas = np.array([stats[i, cv2.CC_STAT_AREA] for i in pieces], np.float64)
    typical = float(np.median(areas))
    similar = [i for i, area in zip(pieces, areas, strict=True) if 0.5 * typical <= area <= 2 * typical]
    whole = sum(stats[i, cv2.CC_STAT_AREA] for i in similar)
    loose = part.sum() - sum(stats[i, cv2.CC_STAT_AREA] for i in rim if i)
    if len(similar) < 6 or whole < 0.6 * loose or typical > 0.06 * inner.sum():
        return 0.0
    formed = [i for i in similar if _has_form(labels, stats[i], i, form)]
    if len(formed) < 6 or len(formed) < 0.6 * len(similar):
        return 0.0
    hull = cv2.convexHull(centres[formed].astype(np.float32))
    covered = cv2.contourArea(hull) / float(inner.sum())
    if covered < 0.3:
        return 0.0
    return float(np.clip(0.4 + 0.04 * len(formed), 0, 1) * min(1.0, len(formed) / len(similar)))


def _shrunk(mask: MaskArray) -> MaskArray:
    return np.asarray(cv2.erode(np.pad(mask, 1).astype(np.uint8), np.ones((3, 3), np.uint8))[1:-1, 1:-1] > 0)


def _has_form(labels: npt.NDArray[np.int32], stat: npt.NDArray[np.int32], label: int, form: str) -> bool:
    x, y, width, height = (int(value) for value in stat[:4])
    piece = np.pad((labels[y : y + height, x : x + width] == label).astype(np.uint8), 1)
    contours, _ = cv2.findContours(piece, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    contour = max(contours, key=len)
    area = float(stat[cv2.CC_STAT_AREA])
    (_, _), sides, _ = cv2.minAreaRect(contour)
    long, short = max(sides) + 1, min(sides) + 1
    filled = area / (long * short)
    if form == "square":
        return bool(short / long > 0.4 and filled > 0.72)
    _, radius = cv2.minEnclosingCircle(contour)
    # a disc fills 0.785 of its square and all of its circle; a square fills 0.64 of its circle
    return bool(short / long > 0.6 and area / (np.pi * (radius + 0.5) ** 2) > 0.68)


def _gloss(lab: FloatArray, inner: MaskArray, extent: float) -> list[Evidence]:
    """`shiny` for a few soft, bright, paler spots on a surface that is smooth elsewhere.

    Print, eyes and fur have bright spots too, but with hard edges, among dark ones, or on a busy surface; a shiny thing
    that is also busy gets no word.
    """
    lightness = cv2.GaussianBlur(lab[..., 0], (0, 0), 0.8)
    lightness = np.where(inner, lightness, np.median(lightness[inner])).astype(np.float32)
    reach = max(2, round(0.07 * extent))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    bright = cv2.morphologyEx(lightness, cv2.MORPH_TOPHAT, kernel)
    dark = cv2.morphologyEx(lightness, cv2.MORPH_BLACKHAT, kernel)
    clear = _shrunk(inner)
    spots = clear & (bright > 18) & (lightness > 66)
    share = float(spots.sum()) / float(inner.sum())
    fine = float(np.abs(lab[..., 0] - cv2.GaussianBlur(lab[..., 0], (0, 0), 1.5))[clear & ~spots].mean())
    busy = float((clear & (dark > 18)).sum()) / float(inner.sum())
    uneven = float((clear & (bright > 7)).sum()) / float(inner.sum())
    if not 0.0008 <= share <= 0.04 or fine > 1.6 or busy > 0.015 or uneven > 0.2:
        return []
    slope = np.hypot(
        cv2.Sobel(lightness, cv2.CV_32F, 1, 0, scale=0.125), cv2.Sobel(lightness, cv2.CV_32F, 0, 1, scale=0.125)
    )
    ring = clear & ~spots & (cv2.dilate(spots.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)
    if not ring.any() or float(slope[ring].mean()) > 16:
        return []
    body, glint = np.median(lab[clear & ~spots], axis=0), lab[spots].mean(0)
    body_chroma = float(np.hypot(body[1], body[2]))
    if body_chroma > 15 and float(np.hypot(glint[1], glint[2])) > 0.85 * body_chroma:
        return []
    return [Evidence("texture", "shiny", float(np.clip(0.4 + 40 * share, 0, 0.9)))]


def shape_evidence(mask: MaskArray) -> list[Evidence] | None:
    """Shape words of an outline (bool HxW); None where the picture's edge cuts it, so that it cannot tell.

    Thin parts (aerials, straps, handles) are left out: they are not the shape a person names.
    """
    height, width = mask.shape
    x0, y0, x1, y1 = box_from_mask(mask)
    if x0 <= 1 or y0 <= 1 or x1 >= width - 1 or y1 >= height - 1:
        return None
    scale = min(1.0, 160 / max(x1 - x0, y1 - y0))
    size = (max(4, round((x1 - x0) * scale)), max(4, round((y1 - y0) * scale)))
    outline = np.pad(cv2.resize(mask[y0:y1, x0:x1].astype(np.uint8), size, interpolation=cv2.INTER_AREA), 2)
    reach = max(1, round(0.06 * float(np.sqrt(outline.sum()))))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    body = cv2.morphologyEx(outline, cv2.MORPH_OPEN, kernel)
    contours, _ = cv2.findContours(body, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return None
    contour = max(contours, key=cv2.contourArea)
    _, _, across, down = cv2.boundingRect(contour)
    area = cv2.contourArea(contour)
    if area < 100:
        return None
    found = []
    tall = down / across
    if tall >= 1.6:
        found.append(Evidence("shape", "tall", float(np.clip((tall - 1.1) / 1.2, 0, 1))))
    elif tall <= 1 / 1.7:
        found.append(Evidence("shape", "wide", float(np.clip((1 / tall - 1.1) / 1.2, 0, 1))))
    _, radius = cv2.minEnclosingCircle(contour)
    disc = area / (np.pi * radius**2)
    if disc >= 0.82:
        found.append(Evidence("shape", "round", float(np.clip((disc - 0.7) / 0.25, 0, 1))))
    return found
