"""The same picture where it must not be: in two subjects, or on both sides of a split."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
from PIL import Image

from manifests.corpus import Corpus
from manifests.pixels import ImageArray
from manifests.records import Sample
from pipelines.evaluate.quality import Measure
from pipelines.evaluate.reading import read_ahead

__all__ = ["NEAR_BITS", "Leak", "difference_hash", "find_leaks", "leak_measures"]

NEAR_BITS = 3
_ROWS = 2048
KINDS = {
    "subject in two splits": "subjects with photographs or scenes in more than one split",
    "same picture in two subjects": f"pairs of photographs of two subjects within {NEAR_BITS} bits of a 64-bit dHash",
    "same picture in two splits": f"pairs of photographs in two splits within {NEAR_BITS} bits of a 64-bit dHash",
    "made from another split": "regular pictures in another split than what they were made from",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Leak:
    """One case: two samples, or a subject and a split, that must not go together."""

    kind: Annotated[str, "one of KINDS"]
    first: str
    second: str
    bits: Annotated[int, "how many bits of their hashes differ; -1 where nothing was hashed"]


def difference_hash(image: ImageArray) -> int:
    """64-bit dHash: greyscale 9 x 8 (Pillow Lanczos), a bit is set where a pixel is darker than its right neighbour."""
    grey = Image.fromarray(np.ascontiguousarray(image)).convert("L").resize((9, 8), Image.Resampling.LANCZOS)
    values = np.asarray(grey, np.int16)
    bits = (values[:, :-1] < values[:, 1:]).reshape(-1)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def find_leaks(corpus: Corpus, *, on_progress: Callable[[int, int], None] = lambda done, total: None) -> list[Leak]:
    """Every leak of the corpus, by kind and ID."""
    photographs = list(corpus.samples(role="src"))
    split_of = {sample.id: sample.split for sample in corpus.samples()}
    splits: dict[str, set[str]] = defaultdict(set)
    for sample in photographs:
        splits[sample.subject].add(sample.split)
    leaks = [
        Leak(kind="subject in two splits", first=subject, second=", ".join(sorted(found)), bits=-1)
        for subject, found in splits.items()
        if len(found) > 1
    ]
    leaks += [
        Leak(kind="made from another split", first=sample.id, second=parent, bits=-1)
        for sample in corpus.samples(role="reg")
        for parent in sample.parents
        if split_of.get(parent, sample.split) != sample.split and not parent.startswith("scenes/")
    ]

    def read(sample: Sample) -> int:
        return difference_hash(corpus.image(sample))

    hashes = []
    for value in read_ahead(photographs, read):
        hashes.append(value)
        on_progress(len(hashes), len(photographs))
    for first, second, bits in _near(np.array(hashes, np.uint64)):
        one, other = photographs[first], photographs[second]
        if one.subject != other.subject:
            leaks.append(Leak(kind="same picture in two subjects", first=one.id, second=other.id, bits=bits))
        if one.split != other.split:
            leaks.append(Leak(kind="same picture in two splits", first=one.id, second=other.id, bits=bits))
    return sorted(leaks, key=lambda leak: (leak.kind, leak.first, leak.second))


def _near(hashes: npt.NDArray[np.uint64]) -> list[tuple[int, int, int]]:
    """Pairs (first, second, bits) with at most `NEAR_BITS` different bits; in pieces, so that memory stays flat."""
    found = []
    for start in range(0, len(hashes), _ROWS):
        bits = np.bitwise_count(hashes[start : start + _ROWS, None] ^ hashes[None])
        for row, column in np.argwhere(bits <= NEAR_BITS):
            if start + row < column:
                found.append((int(start + row), int(column), int(bits[row, column])))
    return found


def leak_measures(leaks: list[Leak]) -> list[Measure]:
    """How many of each kind; 0 is what is hoped for."""
    counts = {kind: sum(leak.kind == kind for leak in leaks) for kind in KINDS}
    return [
        Measure(name=kind, value=float(count), low=math.nan, high=math.nan, count=count, what=KINDS[kind])
        for kind, count in counts.items()
    ]
