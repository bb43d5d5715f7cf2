"""The embedded segmenter: box to mask by colours shared across a subject's photographs, and doubts about it.

Needs no weights. A box of score 1 was given by a person and is exact: the subject touches its sides and nothing of
it lies outside. Any other box is a guess: it is widened, and rival masks are made without it, from the middle of the
picture and from saliency; how far they agree is the best evidence of the mask's quality.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from dataforge.backends.cosegmentation import (
    FIRST_LOOK,
    INSIDE_A_BOX,
    CutSettings,
    Models,
    View,
    blank,
    box_prior,
    centre_prior,
    cosegment,
    main_piece,
    subject_models,
    view_of,
)
from dataforge.backends.mask_quality import EXACT_BOX, GUESSED_BOX, agreement, doubts, evidence, expected_iou
from dataforge.backends.saliency import saliency_of
from dataforge.protocols import Grounding, Photo, Scope, Segmentation
from manifests.errors import Fault
from manifests.pixels import ImageArray, MaskArray
from manifests.records import Box, Score

__all__ = ["EmbeddedSegmenter"]

FloatMap = npt.NDArray[np.float32]
# share of a box's longer side that is shown around it, as known background
_MARGIN = 0.25
# how far a subject may reach beyond a guessed box
_SLACK = 0.08
# rivals of a mask in a guessed box: spreads of the centre prior
_SPREADS = (0.18, 0.33)
# IoU from which two masks tell a person the same
_SAME = 0.9
# the rival of a mask in an exact box believes each photograph more than the others, and outlines less
_RIVAL = CutSettings(gain=0.1, bias=0.0, own=0.9, texture=0.3, prior=0.2, keep=1.0, steps=60)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """One photograph to cut: its place in the call, the box the subject must lie in, whether that box is exact."""

    index: int
    image: ImageArray
    box: Box
    exact: bool


class EmbeddedSegmenter:
    """Cuts in boxes, with subject colours pooled over the call; `max_side` is the working size of a box in pixels.

    `iterations` is the number of rounds between colour models and outline.
    """

    name = "embedded"
    model = ""
    version = "1"
    scope: Scope = "subject"

    def __init__(self, max_side: int = 160, iterations: int = 4) -> None:
        self.max_side = max_side
        self.iterations = iterations

    def segment(self, photos: Sequence[Photo], groundings: Sequence[Grounding]) -> list[Segmentation | Fault]:
        """One mask per photograph of one subject; E211 for an empty box, E210 where nothing stands apart in it."""
        answers: list[Segmentation | Fault] = [Fault("E210", "nothing stands apart from the background")] * len(photos)
        exact: list[_Job] = []
        guessed: list[_Job] = []
        for index, (photo, grounding) in enumerate(zip(photos, groundings, strict=True)):
            height, width = photo.image.shape[:2]
            x0, y0, x1, y1 = grounding.box
            box = (max(0, x0), max(0, y0), min(width, x1), min(height, y1))
            if box[2] <= box[0] or box[3] <= box[1]:
                answers[index] = Fault("E211", f"the box {grounding.box} is empty in a picture of {width}x{height}")
            elif blank(photo.image):
                answers[index] = Fault("E210", "the picture has one colour")
            elif grounding.score >= 1.0:
                exact.append(_Job(index=index, image=photo.image, box=box, exact=True))
            else:
                box = _widened(box, _SLACK, height, width)
                guessed.append(_Job(index=index, image=photo.image, box=box, exact=False))
        jobs = exact + guessed
        if not jobs:
            return answers
        wholes = [view_of(job.image, self._glance) for job in jobs]
        stand_outs = [saliency_of(view.lab) for view in wholes]
        # exact boxes first: what they show of the subject helps to find it where its place is a guess
        found, known = self._in_boxes(exact, INSIDE_A_BOX, ())
        rivals = [[cut] for _, cut in self._in_boxes(exact, _RIVAL, ())[0]]
        rivals = [[_seen(view, cut, whole)] for (view, _), (cut,), whole in zip(found, rivals, wholes, strict=False)]
        if guessed:
            found += self._in_boxes(guessed, INSIDE_A_BOX, known)[0]
            start = len(exact)
            rivals += self._elsewhere(wholes[start:], stand_outs[start:], known)
        seen = [_seen(view, cut, whole) for (view, cut), whole in zip(found, wholes, strict=True)]
        models = [subject_models(view, (cut > 0.5).astype(np.float32)) for view, cut in zip(wholes, seen, strict=True)]
        for place, job in enumerate(jobs):
            view, cut = found[place]
            mask = _full_mask(view, cut, job)
            if not mask.any():
                continue
            measured = evidence(
                wholes[place],
                seen[place],
                rivals[place],
                models[:place] + models[place + 1 :],
                stand_outs[place],
                box=_scaled(job.box, job.image, wholes[place]),
                mixture=_mixture_agreement(view, cut),
            )
            quality = expected_iou(measured, EXACT_BOX if job.exact else GUESSED_BOX)
            answers[job.index] = Segmentation(
                mask=mask,
                quality=round(quality, 4),
                scores=tuple(Score(name=name, value=round(value, 4)) for name, value in measured.items()),
                flags=doubts(measured, exact=job.exact),
                rival=_lost(seen[place], rivals[place], job.image),
            )
        return answers

    @property
    def _glance(self) -> int:
        """The working size of whole pictures."""
        return max(16, self.max_side * 4 // 5)

    def _in_boxes(
        self, jobs: Sequence[_Job], settings: CutSettings, known: Sequence[Models]
    ) -> tuple[list[tuple[View, FloatMap]], list[Models]]:
        """A view around each box with its soft cut, and the subject's models."""
        views = []
        for job in jobs:
            height, width = job.image.shape[:2]
            views.append(view_of(job.image, self.max_side, _widened(job.box, _MARGIN, height, width), job.box))
        starts = [box_prior(view.inside) for view in views if view.inside is not None]
        cuts = cosegment(views, starts, self.iterations, settings, known)
        models = [subject_models(view, cut)[0] for view, cut in zip(views, cuts, strict=True)]
        cuts = [_tidy(cut, start) for cut, start in zip(cuts, starts, strict=True)]
        return list(zip(views, cuts, strict=True)), models

    def _elsewhere(
        self, views: Sequence[View], stand_outs: Sequence[FloatMap], known: Sequence[Models]
    ) -> list[list[FloatMap]]:
        """Per picture, the soft cuts that do without its box."""
        starts = [[centre_prior(view.shape, spread) for view in views] for spread in _SPREADS]
        starts.append(
            [
                np.clip(centre_prior(view.shape, 0.25) * (0.4 + 0.6 * stand_out), 0.02, 0.98).astype(np.float32)
                for view, stand_out in zip(views, stand_outs, strict=True)
            ]
        )
        cuts = [cosegment(views, start, self.iterations, FIRST_LOOK, known) for start in starts]
        return [list(rivals) for rivals in zip(*cuts, strict=True)]


def _widened(box: Box, share: float, height: int, width: int) -> Box:
    """The box, larger on every side by a share of its longer side, within the picture."""
    more = share * max(box[2] - box[0], box[3] - box[1])
    return (
        max(0, int(box[0] - more)),
        max(0, int(box[1] - more)),
        min(width, int(np.ceil(box[2] + more))),
        min(height, int(np.ceil(box[3] + more))),
    )


def _tidy(cut: FloatMap, prior: FloatMap) -> FloatMap:
    """The cut without specks and small holes."""
    mask = main_piece(cut, prior)
    return np.where(mask, np.maximum(cut, np.float32(0.51)), np.minimum(cut, np.float32(0.49))).astype(np.float32)


def _scaled(box: Box, image: ImageArray, view: View) -> Box:
    """A box of the full picture in pixels of a view of all of it; never empty."""
    height, width = image.shape[:2]
    rows, columns = view.shape
    x0, y0 = min(columns - 1, round(box[0] * columns / width)), min(rows - 1, round(box[1] * rows / height))
    x1, y1 = round(box[2] * columns / width), round(box[3] * rows / height)
    return x0, y0, max(x0 + 1, min(columns, x1)), max(y0 + 1, min(rows, y1))


def _seen(view: View, cut: FloatMap, whole: View) -> FloatMap:
    """A cut of a part of the picture, at the size of a view of all of it."""
    rows, columns = whole.shape
    height, width = whole.frame[3], whole.frame[2]
    x0, y0, x1, y1 = view.frame
    left, top = round(x0 * columns / width), round(y0 * rows / height)
    right, bottom = max(left + 1, round(x1 * columns / width)), max(top + 1, round(y1 * rows / height))
    canvas = np.zeros((rows, columns), np.float32)
    part = cv2.resize(cut, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
    canvas[top:bottom, left:right] = part[: rows - top, : columns - left]
    return canvas


def _mixture_agreement(view: View, cut: FloatMap) -> float:
    """IoU of a cut with GrabCut's in the same box: two mixtures of Gaussians of this photograph alone."""
    rows, columns = view.shape
    scale = min(1.0, 112 / max(rows, columns))
    size = (max(4, round(columns * scale)), max(4, round(rows * scale)))
    bytes_ = np.clip(view.lab * np.array([2.55, 1, 1]) + np.array([0, 128, 128]), 0, 255).astype(np.uint8)
    lab = cv2.resize(bytes_, size, interpolation=cv2.INTER_AREA)
    mask = cv2.resize((cut > 0.5).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    if view.inside is None:
        return 0.0
    inside = cv2.resize(view.inside.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    marks = np.where(inside > 0, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    if not 20 < int(inside.sum()) < inside.size - 20:
        return 0.0
    cv2.setRNGSeed(0)
    cv2.grabCut(lab, marks, None, np.zeros((1, 65)), np.zeros((1, 65)), 3, cv2.GC_INIT_WITH_MASK)
    rival = (marks == cv2.GC_FGD) | (marks == cv2.GC_PR_FGD)
    return float((mask & rival).sum() / max(1, int((mask | rival).sum())))


def _lost(cut: FloatMap, rivals: Sequence[FloatMap], image: ImageArray) -> MaskArray | None:
    """The rival the other rivals agree with most, bool HxW of the picture; None where it says the same as the cut."""
    masks = [rival > 0.5 for rival in rivals]
    if not masks:
        return None
    backing = [sum(agreement(mask, other) for other in masks) for mask in masks]
    best = int(np.argmax(backing))
    if agreement(cut > 0.5, masks[best]) >= _SAME:
        return None
    height, width = image.shape[:2]
    return np.asarray(cv2.resize(rivals[best], (width, height), interpolation=cv2.INTER_LINEAR) > 0.5)


def _full_mask(view: View, cut: FloatMap, job: _Job) -> MaskArray:
    """bool HxW at the picture's own size, nothing outside the job's box."""
    x0, y0, x1, y1 = view.frame
    large = cv2.resize(cut, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR) > 0.5
    mask = np.zeros(job.image.shape[:2], bool)
    left, top, right, bottom = job.box
    mask[top:bottom, left:right] = large[top - y0 : bottom - y0, left - x0 : right - x0]
    return mask
