"""Evidence for and against a mask, measured without knowing the truth, and the IoU it lets one expect.

`evidence` measures, `expected_iou` weighs. The weights are a fractional logit (Papke and Wooldridge, 1996) fitted by
benchmarks/fit_mask_quality.py, which prints its leave-subjects-out figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from dataforge.backends.colour_models import overlap
from dataforge.backends.cosegmentation import Models, View, subject_models
from manifests.pixels import MaskArray
from manifests.records import Box

__all__ = [
    "CALIBRATION", "EVIDENCE", "EXACT_BOX", "FLAG_BELOW", "GUESSED_BOX", "QualityModel", "Reliability", "agreement",
    "doubts", "evidence", "expected_iou",
]  # fmt: skip

FloatMap = npt.NDArray[np.float32]

EVIDENCE = (
    "agreement",  # mean IoU with the other hypotheses of the photograph
    "mixture",  # IoU with GrabCut's mixture of Gaussians in the same box
    "edges",  # share of the outline that lies on an edge of the picture
    "colour_overlap",  # of subject and background, 0 to 1
    "texture_overlap",
    "near_overlap",  # colours of the subject and of a ring around it
    "family",  # how much more the subject looks like itself in the other photographs than like their backgrounds
    "certainty",  # how far the soft cut is from one half
    "border",  # share of the picture's border that the mask covers
    "bottom",  # the same for the lower border, which a sitting dog may well touch
    "area",  # square root of the mask's share of the picture
    "area_squared",
    "solidity",  # share of its convex hull that the mask fills
    "wholeness",  # share of the largest piece
    "off_centre",  # distance of its middle from the picture's, in sides
    "stands_out",  # saliency inside less outside
    "roughness",  # outline over the square root of the area, log
    "fill",  # share of the box that the mask fills
    "reach",  # share of the box's four sides that the mask nearly touches
)


def evidence(
    view: View,
    cut: FloatMap,
    others: Sequence[FloatMap],
    family: Sequence[tuple[Models, Models]],
    stand_out: FloatMap,
    box: Box,
    mixture: float,
) -> dict[str, float]:
    """What speaks for a soft cut of a whole picture, float32 hxw, by the names of `EVIDENCE`.

    `others` are rival cuts of the same view, `family` the (subject, background) models of the other photographs,
    `stand_out` its saliency, `box` where the subject was looked for, in pixels of the view,
    `mixture` the IoU with a cut by another method.
    """
    mask = cut > 0.5
    height, width = mask.shape
    area = float(mask.mean())
    if not 0 < area < 1:
        return dict.fromkeys(EVIDENCE, 0.0)
    bytes_ = mask.astype(np.uint8)
    inner = cv2.erode(bytes_, np.ones((3, 3), np.uint8), borderValue=1) > 0
    outline = mask & ~inner
    length = max(1, int(outline.sum()))
    # an edge may lie a pixel off the outline
    strongest = cv2.erode(view.weight, np.ones((3, 3), np.uint8))
    (colour, texture), (back_colour, back_texture) = subject_models(view, mask.astype(np.float32))
    reach = max(3, round(0.25 * np.sqrt(float(mask.sum())))) | 1
    ring = (cv2.dilate(bytes_, np.ones((reach, reach), np.uint8)) > 0) & ~mask
    near = subject_models(view, ring.astype(np.float32))[0][0]
    pieces = cv2.connectedComponentsWithStats(bytes_)[2][1:, cv2.CC_STAT_AREA]
    hull = cv2.convexHull(cv2.findNonZero(bytes_))
    filled = cv2.fillConvexPoly(np.zeros((height, width), np.uint8), hull, 1)
    rows, columns = np.nonzero(mask)
    edge = np.concatenate([mask[0], mask[:, 0], mask[:, -1]])
    x0, y0, x1, y1 = box
    near_side = max(1.5, 0.04 * max(x1 - x0, y1 - y0))
    gaps = (columns.min() - x0, rows.min() - y0, x1 - 1 - columns.max(), y1 - 1 - rows.max())
    kinship = [overlap(colour, front[0]) - overlap(colour, back[0]) for front, back in family]
    return {
        "agreement": float(np.mean([agreement(mask, other > 0.5) for other in others])) if others else 0.5,
        "mixture": mixture,
        "edges": float(1 - strongest[outline].mean(dtype=np.float64)) if outline.any() else 0.0,
        "colour_overlap": overlap(colour, back_colour),
        "texture_overlap": overlap(texture, back_texture),
        "near_overlap": overlap(colour, near),
        "family": float(np.mean(kinship)) if kinship else 0.0,
        "certainty": float(np.abs(2 * cut - 1)[mask | ring].mean(dtype=np.float64)),
        "border": float(edge.mean()),
        "bottom": float(mask[-1].mean()),
        "area": float(np.sqrt(area)),
        "area_squared": area,
        "solidity": float(mask.sum() / max(1, int(filled.sum()))),
        "wholeness": float(pieces.max() / pieces.sum()),
        "off_centre": float(np.hypot(rows.mean() / height - 0.5, columns.mean() / width - 0.5)),
        "stands_out": float(stand_out[mask].mean() - stand_out[~mask].mean()),
        "roughness": float(np.log(length / np.sqrt(float(mask.sum())))),
        "fill": float(mask[y0:y1, x0:x1].mean()),
        "reach": float(np.mean([gap <= near_side for gap in gaps])),
    }


def agreement(first: MaskArray, second: MaskArray) -> float:
    """IoU of two masks, bool hxw."""
    return float((first & second).sum() / max(1, int((first | second).sum())))


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityModel:
    """Weights of a logit over named evidence, each centred and scaled by what was seen in fitting."""

    offset: float
    weights: Mapping[str, float]
    means: Mapping[str, float]
    scales: Mapping[str, float]


def expected_iou(measured: Mapping[str, float], model: QualityModel) -> float:
    """The expected IoU in [0, 1]. Evidence beyond what was seen in fitting counts no more than its extreme."""
    total = model.offset
    for name, weight in model.weights.items():
        total += weight * min(2.5, max(-2.5, (measured[name] - model.means[name]) / model.scales[name]))
    return float(1 / (1 + np.exp(-total)))


def doubts(measured: Mapping[str, float], *, exact: bool) -> tuple[str, ...]:
    """Why a person should look, in words. Remarks only: whether a mask is flagged is for its quality to say."""
    found = {
        "hypotheses-disagree": measured["agreement"] < (0.7 if exact else 0.5),
        "touches-border": measured["border"] > 0.1,
        "weak-edges": measured["edges"] < 0.45,
        "low-colour-separation": measured["colour_overlap"] > 0.5,
        "small": measured["area"] < 0.1,
        "fragmented": measured["wholeness"] < 0.8,
        "short-of-box": exact and measured["reach"] < 1.0,
    }
    return tuple(name for name, holds in found.items() if holds)


@dataclass(frozen=True, slots=True)
class Reliability:
    """What estimates of `low` to `high` were worth: of how many masks, their means, share with IoU >= 0.75."""

    low: float
    high: float
    masks: int
    estimate: float
    iou: float
    good: float


# A mask of less quality should be looked at: at this value, left-out subjects with guessed boxes gave about nine good
# masks in ten (IoU >= 0.75). The default of gate.flag_below.
FLAG_BELOW = 0.78

# printed by benchmarks/fit_mask_quality.py: photographs of 15 subjects and 4 classes, boxes guessed and given, each
# predicted by weights that saw nothing of its subject or class
CALIBRATION = (
    Reliability(0.0, 0.4, 32, 0.299, 0.411, 0.125),
    Reliability(0.4, 0.5, 8, 0.451, 0.545, 0.250),
    Reliability(0.5, 0.6, 17, 0.553, 0.510, 0.235),
    Reliability(0.6, 0.7, 26, 0.659, 0.673, 0.423),
    Reliability(0.7, 0.78, 29, 0.741, 0.705, 0.517),
    Reliability(0.78, 0.85, 39, 0.813, 0.805, 0.821),
    Reliability(0.85, 1.0, 125, 0.917, 0.918, 0.960),
)

# fitted by benchmarks/fit_mask_quality.py
GUESSED_BOX = QualityModel(
    offset=0.5386,
    weights={
        "agreement": 0.2884,
        "mixture": 0.3606,
        "edges": -0.1925,
        "colour_overlap": 0.1405,
        "texture_overlap": 0.1886,
        "near_overlap": -0.2627,
        "family": 0.2572,
        "certainty": 0.1167,
        "border": -0.5678,
        "solidity": -0.0759,
        "wholeness": 0.1884,
        "off_centre": -0.2471,
        "roughness": -0.132,
        "reach": -0.1431,
    },
    means={
        "agreement": 0.7338,
        "mixture": 0.7292,
        "edges": 0.8946,
        "colour_overlap": 0.3773,
        "texture_overlap": 0.6576,
        "near_overlap": 0.3839,
        "family": 0.2048,
        "certainty": 0.9463,
        "border": 0.0382,
        "solidity": 0.824,
        "wholeness": 0.994,
        "off_centre": 0.1108,
        "roughness": 1.7376,
        "reach": 0.6461,
    },
    scales={
        "agreement": 0.1738,
        "mixture": 0.2746,
        "edges": 0.0536,
        "colour_overlap": 0.2047,
        "texture_overlap": 0.218,
        "near_overlap": 0.2061,
        "family": 0.2185,
        "certainty": 0.0341,
        "border": 0.0827,
        "solidity": 0.0926,
        "wholeness": 0.0499,
        "off_centre": 0.0628,
        "roughness": 0.177,
        "reach": 0.2904,
    },
)
EXACT_BOX = QualityModel(
    offset=1.9208,
    weights={
        "agreement": 0.0492,
        "mixture": 0.423,
        "edges": 0.0586,
        "colour_overlap": 0.104,
        "texture_overlap": 0.1448,
        "near_overlap": -0.2756,
        "family": 0.3169,
        "certainty": 0.2274,
        "border": -0.4898,
        "solidity": 0.0255,
        "wholeness": 0.2294,
        "off_centre": -0.0983,
        "roughness": -0.3943,
        "reach": 0.2324,
    },
    means={
        "agreement": 0.9396,
        "mixture": 0.7657,
        "edges": 0.9021,
        "colour_overlap": 0.3668,
        "texture_overlap": 0.6582,
        "near_overlap": 0.385,
        "family": 0.2193,
        "certainty": 0.942,
        "border": 0.0053,
        "solidity": 0.8469,
        "wholeness": 0.998,
        "off_centre": 0.1245,
        "roughness": 1.7181,
        "reach": 0.9463,
    },
    scales={
        "agreement": 0.0909,
        "mixture": 0.2722,
        "edges": 0.055,
        "colour_overlap": 0.1964,
        "texture_overlap": 0.2126,
        "near_overlap": 0.2002,
        "family": 0.2264,
        "certainty": 0.0329,
        "border": 0.0268,
        "solidity": 0.0888,
        "wholeness": 0.0282,
        "off_centre": 0.0836,
        "roughness": 0.1656,
        "reach": 0.1252,
    },
)
