"""Masks against true ones, and `mask_quality` against the IoU it estimates."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from manifests.corpus import Corpus
from manifests.errors import UsageError
from manifests.fsops import check_relative
from manifests.pixels import MaskArray, decode_mask
from manifests.records import Sample
from pipelines.evaluate.intervals import bootstrap, mean
from pipelines.evaluate.quality import Measure
from pipelines.evaluate.reading import read_ahead

__all__ = ["GOOD", "MaskScore", "calibration", "iou", "mask_measures", "score_masks"]

GOOD = 0.75
BINS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskScore:
    """One photograph: the IoU of its mask with the true one, and what the corpus thought of it."""

    id: str
    subject: str
    iou: float
    mask_quality: float
    flagged: bool


def iou(mask: MaskArray, truth: MaskArray) -> float:
    """Intersection over union of two bool HxW; 1 for two empty ones."""
    union = int((mask | truth).sum())
    return int((mask & truth).sum()) / union if union else 1.0


def true_mask_path(truth: Path, source_uri: str) -> Path | None:
    """The true mask of a photograph: same path with `.png`, or `mask/` or `masks/` in place of its `image(s)/`."""
    if not source_uri:
        return None
    try:
        relative = PurePosixPath(check_relative(source_uri)).with_suffix(".png")
    except ValueError:
        return None
    folders = {"image": "mask", "images": "masks"}
    swapped = PurePosixPath(*(folders.get(part, part) for part in relative.parts[:-1]), relative.name)
    for candidate in (relative, swapped):
        if (path := truth / candidate).is_file():
            return path
    return None


def score_masks(
    corpus: Corpus, truth: Path, *, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> list[MaskScore]:
    """Every photograph whose mask was made (not given) and has a true one. Raises `UsageError` E502 for none."""
    found = [
        (sample, path)
        for sample in corpus.samples(role="src")
        if not _given(sample) and (path := true_mask_path(truth, sample.source_uri)) is not None
    ]
    if not found:
        raise UsageError(
            f"no photograph of {corpus.root.name} has a mask of its own and a true one in {truth}; "
            "<subject>/<photograph>.png was expected.",
            code="E502",
        )

    def read(pair: tuple[Sample, Path]) -> MaskScore:
        sample, path = pair
        true = decode_mask(path.read_bytes())
        mask = corpus.mask(sample)
        if mask.shape != true.shape:
            raise UsageError(f"{path} is {true.shape[::-1]}, its photograph {mask.shape[::-1]} pixels.", code="E201")
        return MaskScore(
            id=sample.id,
            subject=sample.subject,
            iou=iou(mask, true),
            mask_quality=sample.mask_quality,
            flagged=bool(sample.flags),
        )

    scores = []
    for score in read_ahead(found, read):
        scores.append(score)
        on_progress(len(scores), len(found))
    return scores


def _given(sample: Sample) -> bool:
    return any(step.stage == "segment" and step.backend in ("given", "override") for step in sample.provenance)


def calibration(scores: Sequence[MaskScore], bins: int = BINS) -> tuple[float, list[tuple[float, float, int]]]:
    """Expected calibration error (Guo et al. 2017) of `mask_quality` as an estimate of IoU, and its bins.

    Bins of equal width over [0,1], the last one closed; a bin is (mean quality, mean IoU, count). The error is the
    mean over photographs of the distance in their bin.
    """
    binned: dict[int, list[MaskScore]] = defaultdict(list)
    for score in scores:
        binned[min(int(score.mask_quality * bins), bins - 1)].append(score)
    rows = [
        (mean(s.mask_quality for s in members), mean(s.iou for s in members), len(members))
        for _, members in sorted(binned.items())
    ]
    error = math.fsum(abs(quality - found) * count for quality, found, count in rows) / max(len(scores), 1)
    return error, rows


def mask_measures(scores: Sequence[MaskScore]) -> list[Measure]:
    """The numbers of a list of masks."""
    by_subject: dict[str, list[MaskScore]] = defaultdict(list)
    for score in scores:
        by_subject[score.subject].append(score)

    def over(name: str, value: Callable[[MaskScore], float], what: str) -> Measure:
        low, high = bootstrap({subject: [value(s) for s in members] for subject, members in by_subject.items()})
        return Measure(
            name=name, value=mean(map(value, scores)), low=low, high=high, count=len(scores), what=what
        )  # fmt: skip

    error, rows = calibration(scores)
    flagged = [score.iou for score in scores if score.flagged]
    trusted = [score.iou for score in scores if not score.flagged]
    measures = [
        over("mask_iou", lambda s: s.iou, "mean IoU of masks that were made with the true ones"),
        over("masks_good", lambda s: float(s.iou >= GOOD), f"share of those masks with IoU of at least {GOOD}"),
        over("mask_quality", lambda s: s.mask_quality, "mean of what the corpus thinks that IoU is"),
        Measure(
            name="calibration_error", value=error, low=math.nan, high=math.nan, count=len(scores),
            what=f"expected calibration error of mask_quality, {BINS} bins of equal width, {len(rows)} of them filled",
        ),
        Measure(
            name="quality_correlation", value=_correlation(scores), low=math.nan, high=math.nan, count=len(scores),
            what="Pearson correlation of mask_quality and IoU",
        ),
    ]  # fmt: skip
    for name, values in (("flagged", flagged), ("not flagged", trusted)):
        measures.append(
            Measure(
                name=f"mask_iou, {name}", value=mean(values), low=math.nan, high=math.nan, count=len(values),
                what=f"mean IoU of photographs that are {name}",
            )
        )  # fmt: skip
    return measures


def _correlation(scores: Sequence[MaskScore]) -> float:
    quality, found = (np.array([getattr(s, name) for s in scores]) for name in ("mask_quality", "iou"))
    if len(scores) < 2 or quality.std() == 0 or found.std() == 0:
        return math.nan
    return float(np.corrcoef(quality, found)[0, 1])
