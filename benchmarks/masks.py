"""How good the embedded masks are, and whether their quality knows: `python -m benchmarks.masks [--threshold 0.78]`.

CPU time is that of grounding and segmenting. Reads the photographs and
true masks under DATAFORGE_TEST_DATA (default: ../shared/data beside the repository).
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from dataforge.backends.embedded_grounder import EmbeddedGrounder
from dataforge.backends.embedded_segmenter import EmbeddedSegmenter
from dataforge.backends.mask_quality import FLAG_BELOW
from dataforge.protocols import Grounding, Photo, Segmentation
from manifests.errors import Fault
from manifests.pixels import MaskArray, box_from_mask

DATA = Path(os.environ.get("DATAFORGE_TEST_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
GOOD = 0.75


def read_photo(path: Path, subject: str) -> Photo:
    image = cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return Photo(id=f"{subject}/{path.stem}", subject=subject, class_noun=subject, image=image)


def read_mask(path: Path) -> MaskArray:
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)) > 127


def subjects(collection: str) -> Iterator[tuple[str, list[Photo], list[MaskArray]]]:
    """Name, photographs and true masks of every subject of `dreambench` or `murecom`."""
    if collection == "dreambench":
        for folder in sorted((DATA / "dreambench" / "subjects").iterdir()):
            files = sorted(folder.glob("*.jpg"))
            masks = [read_mask(DATA / "dreambench" / "masks" / folder.name / f"{file.stem}.png") for file in files]
            yield folder.name, [read_photo(file, folder.name) for file in files], masks
    else:
        for folder in sorted((DATA / "murecom").glob("*/fg*")):
            files = sorted(folder.glob("*.jpg"))
            name = f"{folder.parent.name}-{folder.name}"
            yield name, [read_photo(file, name) for file in files], [read_mask(f.with_suffix(".png")) for f in files]


def iou(mask: MaskArray, truth: MaskArray) -> float:
    return float((mask & truth).sum() / max(1, (mask | truth).sum()))


def auroc(score: list[float], good: list[bool]) -> float:
    """Chance that a good mask scores higher than a bad one."""
    positive = np.array([s for s, g in zip(score, good, strict=True) if g])
    negative = np.array([s for s, g in zip(score, good, strict=True) if not g])
    if not len(positive) or not len(negative):
        return float("nan")
    above = (positive[:, None] > negative).mean() + 0.5 * (positive[:, None] == negative).mean()
    return float(above)


def segment(photos: list[Photo], boxes: list[Grounding] | None) -> list[Segmentation | Fault]:
    groundings: list[Grounding | Fault] = list(boxes) if boxes else EmbeddedGrounder().ground(photos)
    kept = [index for index, found in enumerate(groundings) if isinstance(found, Grounding)]
    answers = EmbeddedSegmenter().segment(
        [photos[index] for index in kept], [found for found in groundings if isinstance(found, Grounding)]
    )
    results: list[Segmentation | Fault] = [
        found if isinstance(found, Fault) else Fault("E210", "") for found in groundings
    ]
    for index, answer in zip(kept, answers, strict=True):
        results[index] = answer
    return results


def measure(collection: str, given: bool, threshold: float, verbose: bool) -> None:
    ious: list[float] = []
    qualities: list[float] = []
    spent = 0.0
    for name, photos, truths in subjects(collection):
        boxes = [Grounding(box=box_from_mask(truth), score=1.0) for truth in truths] if given else None
        began = time.process_time()
        answers = segment(photos, boxes)
        spent += time.process_time() - began
        found = [iou(a.mask, t) if isinstance(a, Segmentation) else 0.0 for a, t in zip(answers, truths, strict=True)]
        quality = [a.quality if isinstance(a, Segmentation) else 0.0 for a in answers]
        ious += found
        qualities += quality
        if verbose:
            pairs = " ".join(f"{i:.2f}/{q:.2f}" for i, q in zip(found, quality, strict=True))
            print(f"    {name:24s} {np.mean(found):.3f}  {pairs}")
    good = [value >= GOOD for value in ious]
    passed = [g for g, q in zip(good, qualities, strict=True) if q >= threshold]
    print(
        f"{collection:10s} {'true boxes' if given else 'unaided':10s} n {len(ious):3d}  mean IoU {np.mean(ious):.3f}"
        f"  good {np.mean(good):.2f}  unflagged {len(passed) / len(ious):.2f}"
        f"  of which good {np.mean(passed) if passed else float('nan'):.2f}  AUROC {auroc(qualities, good):.3f}"
        f"  mean |quality - IoU| {np.mean(np.abs(np.array(qualities) - ious)):.3f}"
        f"  CPU s per photograph {spent / len(ious):.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threshold", type=float, default=FLAG_BELOW, help="quality below which a mask is flagged")
    parser.add_argument("--verbose", action="store_true", help="IoU/quality of every photograph")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    for collection in ("dreambench", "murecom"):
        for given in (False, True):
            measure(collection, given, arguments.threshold, arguments.verbose)


if __name__ == "__main__":
    main()
