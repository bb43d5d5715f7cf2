"""One subject, several photographs: cuts whose colour models learn from each other.

Block-coordinate descent as in GrabCut (Rother, Kolmogorov, Blake, SIGGRAPH 2004), with three changes: the
subject's histogram is pooled over its photographs (the subject is in all of them, its surroundings differ; Rother,
Minka, Blake, Kolmogorov, "Cosegmentation by Histogram Matching", CVPR 2006), a texture histogram speaks beside the
colours, and the cut is the convex one of `weighted_tv`. Nothing is random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from dataforge.backends.colour_models import (
    COLOUR_SHAPE,
    TEXTURE_SHAPE,
    colour_bins,
    histogram,
    log_ratio,
    pooled,
    texture_bins,
)
from dataforge.backends.weighted_tv import edge_weight, weighted_cut
from manifests.pixels import ImageArray, MaskArray
from manifests.records import Box

__all__ = [
    "FIRST_LOOK",
    "INSIDE_A_BOX",
    "CutSettings",
    "View",
    "blank",
    "box_prior",
    "centre_prior",
    "cosegment",
    "main_piece",
    "subject_models",
    "view_of",
]

FloatMap = npt.NDArray[np.float32]
IntMap = npt.NDArray[np.int32]
MODELS = ((COLOUR_SHAPE, 2e-4), (TEXTURE_SHAPE, 1e-3))
Models = tuple[FloatMap, FloatMap]


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """A part of a photograph at working size, measured once and cut several times.

    `frame` is the part, in pixels of the full picture; `inside` bool hxw or None says where a subject may be.
    """

    frame: Box
    lab: FloatMap
    bins: tuple[IntMap, IntMap]
    weight: FloatMap
    inside: MaskArray | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width at working size."""
        return self.weight.shape[0], self.weight.shape[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class CutSettings:
    """How a cut weighs its evidence; the values were chosen on photographs at 128 to 160 px.

    `gain` evidence against outline, `bias` towards the subject, `own` share of a photograph's own colours in its
    subject model, `texture` weight of the texture model, `prior` weight of the prior, shrinking by `keep` each
    round, `surround` weight of what lies outside `inside` in the background model, `steps` of the cut per round.
    """

    gain: float = 0.03
    bias: float = -0.2
    own: float = 0.3
    texture: float = 0.6
    prior: float = 0.7
    keep: float = 0.7
    surround: float = 0.5
    steps: int = 70


FIRST_LOOK = CutSettings()
INSIDE_A_BOX = CutSettings(gain=0.05, bias=0.3, own=0.4, prior=0.0, steps=60)


def blank(image: ImageArray) -> bool:
    """Whether a uint8 HxWx3 picture has no contrast to speak of."""
    return int(np.ptp(image.reshape(-1, 3), axis=0).max()) < 8


def view_of(image: ImageArray, side: int, frame: Box | None = None, box: Box | None = None) -> View:
    """A view of `frame` (default: all) of a uint8 HxWx3 picture, at most `side` px; `box` bounds the subject."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = frame or (0, 0, width, height)
    scale = min(1.0, side / max(x1 - x0, y1 - y0))
    columns, rows = max(4, round((x1 - x0) * scale)), max(4, round((y1 - y0) * scale))
    small = cv2.resize(image[y0:y1, x0:x1], (columns, rows), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
    inside = None
    if box is not None:
        inside = np.zeros((rows, columns), bool)
        left, right = ((value - x0) * columns / (x1 - x0) for value in (box[0], box[2]))
        top, bottom = ((value - y0) * rows / (y1 - y0) for value in (box[1], box[3]))
        # at least one pixel, however thin the box
        inside[
            min(round(top), rows - 1) : max(round(bottom), min(round(top), rows - 1) + 1),
            min(round(left), columns - 1) : max(round(right), min(round(left), columns - 1) + 1),
        ] = True
    return View(
        frame=(x0, y0, x1, y1),
        lab=lab,
        bins=(colour_bins(lab), texture_bins(lab)),
        weight=edge_weight(lab),
        inside=inside,
    )


def centre_prior(shape: tuple[int, int], spread: float) -> FloatMap:
    """float32 hxw in [0.02, 0.98]: a Gaussian around the middle, `spread` as a share of each side."""
    rows = (np.arange(shape[0], dtype=np.float32) + 0.5) / shape[0] - 0.5
    columns = (np.arange(shape[1], dtype=np.float32) + 0.5) / shape[1] - 0.5
    bump = np.exp(-(rows[:, None] ** 2 + columns[None] ** 2) / (2 * spread**2))
    return np.clip(bump, 0.02, 0.98).astype(np.float32)


def box_prior(inside: MaskArray, centre: float = 0.98, fall: float = 0.3) -> FloatMap:
    """float32 hxw in (0, 1): `centre` in the middle of a box, `fall` less on the ellipse within it, 0.02 outside."""
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    down = (np.arange(inside.shape[0]) + 0.5 - (rows[0] + rows[-1] + 1) / 2) / (len(rows) / 2)
    across = (np.arange(inside.shape[1]) + 0.5 - (columns[0] + columns[-1] + 1) / 2) / (len(columns) / 2)
    bump = centre - fall * (down[:, None] ** 2 + across[None] ** 2)
    return np.where(inside, np.clip(bump, 0.05, 0.98), 0.02).astype(np.float32)


def main_piece(cut: FloatMap, prior: FloatMap) -> MaskArray:
    """The pieces of `cut` > 0.5 that the prior believes in, without specks and small holes. bool hxw."""
    mask: MaskArray = cut > 0.5
    count, labels = cv2.connectedComponents(mask.astype(np.uint8))
    if count < 2:
        return mask
    belief = np.bincount(labels.ravel(), prior.ravel(), minlength=count)
    belief[0] = 0
    keep = belief >= 0.3 * belief.max()
    keep[0] = False
    mask = keep[labels]
    # holes: 4-connected background that does not reach the border
    count, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    x, y, w, h, area = (stats[:, column] for column in range(5))
    closed = (x > 0) & (y > 0) & (x + w < mask.shape[1]) & (y + h < mask.shape[0]) & (area < 0.2 * mask.sum())
    closed[0] = False
    return np.asarray(mask | closed[labels], bool)


def subject_models(view: View, cut: FloatMap) -> tuple[Models, Models]:
    """Colour and texture histograms of subject and background under a soft cut."""
    front = tuple(histogram(bins, cut, shape) for bins, (shape, _) in zip(view.bins, MODELS, strict=True))
    back = tuple(histogram(bins, 1 - cut, shape) for bins, (shape, _) in zip(view.bins, MODELS, strict=True))
    return (front[0], front[1]), (back[0], back[1])


def cosegment(
    views: Sequence[View],
    starts: Sequence[FloatMap],
    rounds: int,
    settings: CutSettings,
    known: Sequence[Models] = (),
) -> list[FloatMap]:
    """u per view, float32 hxw in [0, 1], above 0.5 = subject.

    `starts` are first guesses in (0, 1), which also stay as a fading prior; `known` are models of the subject from
    photographs whose masks are better founded.
    """
    cuts = list(starts)
    if not cuts:
        return cuts
    priors = [np.log(start / (1 - start)) for start in starts]
    for turn in range(rounds):
        evidence = [
            np.float32(settings.prior * settings.keep**turn) * prior + np.float32(settings.bias) for prior in priors
        ]
        for kind, (shape, floor) in enumerate(MODELS):
            share = np.float32(1.0 if kind == 0 else settings.texture)
            fronts = [
                histogram(view.bins[kind], cut if view.inside is None else cut * view.inside, shape)
                for view, cut in zip(views, cuts, strict=True)
            ]
            everywhere = pooled([*fronts, *(models[kind] for models in known)])
            for index, (view, cut) in enumerate(zip(views, cuts, strict=True)):
                rest = 1 - cut
                if view.inside is not None:
                    rest = np.where(view.inside, rest, np.float32(settings.surround))
                front = settings.own * fronts[index] + (1 - settings.own) * everywhere
                ratio = log_ratio(front, histogram(view.bins[kind], rest, shape), floor)
                evidence[index] = evidence[index] + share * ratio[view.bins[kind]]
        for index, (view, cut) in enumerate(zip(views, cuts, strict=True)):
            pull = (np.float32(settings.gain) * evidence[index]).astype(np.float32)
            if view.inside is not None:
                pull = np.where(view.inside, pull, np.float32(-5))
            cuts[index] = weighted_cut(pull, view.weight, cut, settings.steps)
    return cuts
