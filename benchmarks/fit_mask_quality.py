"""Fits the weights of `dataforge.backends.mask_quality`: `python -m benchmarks.fit_mask_quality`.

Every subject under DATAFORGE_TEST_DATA is segmented as a whole, photograph by photograph, and mirrored in halves, with
boxes guessed and given. Figures are of leave-subjects-out cross-validation: all photographs of one subject (of one
class, for murecom) are predicted by weights that saw none of them; only whole subjects are counted in the figures.
The choice of evidence and of the penalty was made on the same figures, so they are a little bright.
Prints the constants to put into mask_quality.py: weights fitted on everything, CALIBRATION of the left-out figures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.masks import GOOD, auroc, iou, segment, subjects
from dataforge.backends.mask_quality import EVIDENCE, FLAG_BELOW
from dataforge.protocols import Grounding, Photo, Segmentation
from manifests.pixels import MaskArray, box_from_mask

Floats = npt.NDArray[np.float64]
PENALTY = 6.0
BINS = (0.0, 0.4, 0.5, 0.6, 0.7, FLAG_BELOW, 0.85, 1.0)
# Size, place of contact and saliency say more about these collections than about masks: left-out AUROC is better
# without them.
LEFT_OUT = ("stands_out", "bottom", "area", "area_squared", "fill")
WEIGHED = tuple(name for name in EVIDENCE if name not in LEFT_OUT)


@dataclass
class Row:
    """One mask: what was measured, how good it is, and where it came from."""

    collection: str
    group: str
    whole: bool
    iou: float
    measured: list[float]


def variants(photos: list[Photo], truths: list[MaskArray]) -> Iterator[tuple[bool, list[Photo], list[MaskArray]]]:
    yield True, photos, truths
    for photo, truth in zip(photos, truths, strict=True):
        yield False, [photo], [truth]
    mirrored = [dataclasses.replace(photo, image=np.ascontiguousarray(photo.image[:, ::-1])) for photo in photos]
    for half in (slice(0, None, 2), slice(1, None, 2)):
        yield False, mirrored[half], [np.ascontiguousarray(truth[:, ::-1]) for truth in truths[half]]


def collect(given: bool) -> list[Row]:
    rows = []
    for collection in ("dreambench", "murecom"):
        for name, photos, truths in subjects(collection):
            for whole, some, masks in variants(photos, truths):
                boxes = [Grounding(box=box_from_mask(mask), score=1.0) for mask in masks] if given else None
                for answer, mask in zip(segment(some, boxes), masks, strict=True):
                    if isinstance(answer, Segmentation):
                        measured = {score.name: score.value for score in answer.scores}
                        rows.append(
                            Row(
                                collection,
                                name.split("-")[0],
                                whole,
                                iou(answer.mask, mask),
                                [measured[key] for key in WEIGHED],
                            )
                        )
    return rows


def fit(evidence: Floats, target: Floats) -> Floats:
    """Offset and weights of a fractional logit with a ridge penalty, by Newton's method."""
    design = np.c_[np.ones(len(evidence)), evidence]
    weights = np.zeros(design.shape[1])
    ridge = np.r_[1e-6, np.full(evidence.shape[1], PENALTY)]
    for _ in range(50):
        expected = 1 / (1 + np.exp(-design @ weights))
        slope = design.T @ (expected - target) + ridge * weights
        bend = (design * (expected * (1 - expected))[:, None]).T @ design + np.diag(ridge)
        weights -= np.linalg.solve(bend, slope)
    return weights


def scaled(evidence: Floats, means: Floats, scales: Floats) -> Floats:
    return np.clip((evidence - means) / scales, -2.5, 2.5)


def calibration(predicted: Floats, measured: Floats) -> Iterator[str]:
    """A line per stretch of estimates: how many masks, their mean estimate, mean IoU and share of good ones."""
    for low, high in pairwise(BINS):
        held = (predicted >= low) & ((predicted < high) | (high == 1.0))
        if held.any():
            values = (predicted[held].mean(), measured[held].mean(), (measured[held] >= GOOD).mean())
            yield f"    Reliability({low}, {high}, {held.sum()}, {', '.join(f'{value:.3f}' for value in values)}),"


def main() -> None:
    cv2.setNumThreads(1)
    left_out: list[tuple[float, float]] = []
    for name, given in (("GUESSED_BOX", False), ("EXACT_BOX", True)):
        rows = collect(given)
        evidence = np.array([row.measured for row in rows])
        target = np.array([row.iou for row in rows])
        # Given a box, hardly any mask is bad and an IoU fitted alone says 0.85 of all of them. Half of the target is
        # therefore whether the mask is good, so that one threshold serves guessed and given boxes.
        aim = 0.5 * target + 0.5 * (target >= GOOD) if given else target
        groups = np.array([row.group for row in rows])
        predicted = np.zeros(len(rows))
        for group in np.unique(groups):
            held = groups == group
            means, scales = evidence[~held].mean(axis=0), evidence[~held].std(axis=0) + 1e-6
            weights = fit(scaled(evidence[~held], means, scales), aim[~held])
            predicted[held] = 1 / (1 + np.exp(-weights[0] - scaled(evidence[held], means, scales) @ weights[1:]))
        left_out += [(guess, row.iou) for guess, row in zip(predicted, rows, strict=True) if row.whole]
        for collection in ("dreambench", "murecom"):
            chosen = np.array([row.whole and row.collection == collection for row in rows])
            good = target[chosen] >= GOOD
            print(
                f"# {name} {collection} left out: AUROC {auroc(list(predicted[chosen]), list(good)):.3f}"
                f"  mean |quality - IoU| {np.abs(predicted[chosen] - target[chosen]).mean():.3f}"
            )
            for threshold in np.arange(0.5, 0.9, 0.04):
                passed = good[predicted[chosen] >= threshold]
                share = float(passed.mean()) if len(passed) else float("nan")
                print(f"#   quality >= {threshold:.2f}: {len(passed) / len(good):.2f} unflagged, {share:.2f} good")
        means, scales = evidence.mean(axis=0), evidence.std(axis=0) + 1e-6
        weights = fit(scaled(evidence, means, scales), aim)
        print(f"{name} = QualityModel(\n    offset={weights[0]:.4f},")
        for field, values in (("weights", weights[1:]), ("means", means), ("scales", scales)):
            listed = ", ".join(f'"{key}": {value:.4f}' for key, value in zip(WEIGHED, values, strict=True))
            print(f"    {field}={{{listed}}},")
        print(")")
    print("CALIBRATION = (", *calibration(*np.array(left_out).T), ")", sep="\n")


if __name__ == "__main__":
    main()
