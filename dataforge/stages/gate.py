"""The gate: what is kept, flagged or rejected; near-duplicates; the split. Pure functions, no pixels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any

import numpy as np

from dataforge.config import Gate, Split
from dataforge.model_config import ClipCheck
from dataforge.samples import Picture, WorkingSubject
from manifests.errors import Fault

__all__ = ["assign_splits", "flag_near_duplicates", "judge", "judge_again", "reject_made_twice"]

# distances in memory at once, eight bytes each
DISTANCES = 1 << 19


def judge(pictures: Iterable[Picture], settings: Gate) -> None:
    """Give each picture that is still on its way its verdict on mask area and mask quality.

    A picture whose quality is low is flagged, and the segmenter's doubts say why.
    """
    for picture in pictures:
        if not picture.alive:
            continue
        percent = 100 * picture.mask_area
        if not settings.min_area <= picture.mask_area <= settings.max_area:
            limits = f"{100 * settings.min_area:g} % to {100 * settings.max_area:g} %"
            picture.fault = Fault("E212", f"the mask covers {percent:.2f} % of the picture, allowed is {limits}")
        elif picture.mask_quality < settings.reject_below:
            picture.fault = Fault("E213", f"mask_quality {picture.mask_quality:.2f} < {settings.reject_below}")
        elif picture.mask_quality < settings.flag_below:
            picture.flags += ("low-mask-quality", *picture.doubts)


def judge_again(
    picture: Picture, look: dict[str, Any], photographs: Sequence[dict[str, Any]], settings: ClipCheck
) -> None:
    """Score a made picture by cosines of embeddings: with its prompt, and with each photograph of its subjects.

    A look is `{"picture", "cutout", "prompt"}`, lists of numbers; see `dataforge.stages.recheck`.
    """
    agreement = _cosine(look["picture"], look["prompt"])
    picture.scores = picture.scores | {"clip_agreement": agreement}
    if settings.min_agreement is not None and agreement < settings.min_agreement:
        picture.fault = Fault("E224", f"agreement {agreement:.3f} < {settings.min_agreement}")
    if picture.own_pixels or not photographs:
        return
    identity = max(_cosine(look["cutout"], photograph["cutout"]) for photograph in photographs)
    picture.scores = picture.scores | {"clip_identity": identity}
    if settings.max_identity is not None and identity > settings.max_identity and picture.fault is None:
        picture.fault = Fault("E225", f"cosine {identity:.3f} with a photograph > {settings.max_identity}")


def reject_made_twice(pictures: Sequence[Picture], settings: Gate) -> None:
    """Of made pictures of one owner that are nearly the same, keep the first by ID."""
    bits = settings.regular_duplicate_bits
    if bits is None:
        return
    kept: dict[str, list[Picture]] = defaultdict(list)
    for picture in sorted((picture for picture in pictures if picture.alive), key=lambda picture: picture.id):
        near = next(
            (
                f"differs from {p.id} in {distance} of 64 bits, asked is more than {bits}"
                for p in kept[picture.owner]
                if (distance := (p.perceptual_hash ^ picture.perceptual_hash).bit_count()) <= bits
            ),
            None,
        )
        if near is None:
            kept[picture.owner].append(picture)
        else:
            picture.fault = Fault("E226", near)


def _cosine(first: Sequence[float], second: Sequence[float]) -> float:
    return float(np.dot(first, second) / (np.linalg.norm(first) * np.linalg.norm(second)))


def flag_near_duplicates(photographs: Sequence[Picture], max_bits: int) -> list[tuple[str, str]]:
    """Flag photographs whose perceptual hashes differ in at most `max_bits` of 64; returns the pairs of their owners.

    All pairs are compared, a block of rows at a time.
    """
    photographs = [photo for photo in photographs if photo.alive]
    hashes = np.array([photo.perceptual_hash for photo in photographs], np.uint64)
    owners: set[tuple[str, str]] = set()
    step = max(1, DISTANCES // max(1, len(hashes)))
    for start in range(0, len(hashes), step):
        block = hashes[start : start + step, None]
        distance = np.bitwise_count(block ^ hashes[None, start:])
        rows, columns = np.nonzero(distance <= max_bits)
        for row, column in zip((rows + start).tolist(), (columns + start).tolist(), strict=True):
            if row < column:
                first, second = photographs[row], photographs[column]
                owners.add((first.owner, second.owner))
                for photo in (first, second):
                    if "near-duplicate" not in photo.flags:
                        photo.flags += ("near-duplicate",)
    return sorted(owners)


def assign_splits(subjects: Sequence[WorkingSubject], linked: Iterable[tuple[str, str]], settings: Split) -> None:
    """`train` or `validation` for each subject, the same for subjects that share near-duplicates.

    A group goes to validation where a hash of the seed and its first slug falls below the share asked for, so that a
    new subject does not move the others.
    """
    group = {subject.slug: subject.slug for subject in subjects}

    def root(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    for first, second in linked:
        low, high = sorted((root(first), root(second)))
        group[high] = low
    members: dict[str, list[WorkingSubject]] = defaultdict(list)
    for subject in subjects:
        members[root(subject.slug)].append(subject)
    for name, held in members.items():
        number = int.from_bytes(sha256(f"{settings.seed}:{name}".encode()).digest()[:8]) / 2**64
        for subject in held:
            subject.split = "validation" if number < settings.validation else "train"
