"""Backends that cost nothing and always answer alike: for tests of what lies around the models, yours included.

A box in the middle, an ellipse in it, one word, a flat picture. Choose them in a recipe with `kind: fake`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

import numpy as np

from dataforge.protocols import Description, GeneratedImage, GenerationRequest, Grounding, Photo, Segmentation
from manifests.errors import Fault
from manifests.pixels import MaskArray
from manifests.records import SubjectAttribute

__all__ = ["FakeDescriber", "FakeGenerator", "FakeGrounder", "FakeSegmenter"]


class FakeGrounder:
    """The middle half of each picture."""

    name, model, version = "fake", "", "1"
    scope: Literal["sample", "subject"] = "sample"

    def __init__(self, delay_s: float = 0.0, batch_size: int = 8) -> None:
        del batch_size  # as many as are given
        self._delay_s = delay_s

    def ground(self, photos: Sequence[Photo]) -> list[Grounding | Fault]:
        """One box per photograph."""
        time.sleep(self._delay_s)
        sizes = [photo.image.shape[:2] for photo in photos]
        return [Grounding(box=(w // 4, h // 4, w - w // 4, h - h // 4), score=0.5) for h, w in sizes]


class FakeSegmenter:
    """The ellipse that fits the box."""

    name, model, version = "fake", "", "1"
    scope: Literal["sample", "subject"] = "sample"

    def segment(self, photos: Sequence[Photo], groundings: Sequence[Grounding]) -> list[Segmentation | Fault]:
        """One mask per photograph."""
        answers: list[Segmentation | Fault] = []
        for photo, grounding in zip(photos, groundings, strict=True):
            rows, columns = np.ogrid[: photo.image.shape[0], : photo.image.shape[1]]
            x0, y0, x1, y1 = grounding.box
            x, y = (columns + 0.5 - (x0 + x1) / 2) / (x1 - x0), (rows + 0.5 - (y0 + y1) / 2) / (y1 - y0)
            answers.append(Segmentation(mask=x**2 + y**2 <= 0.25, quality=0.9))
        return answers


class FakeDescriber:
    """The colour red, supported by every photograph."""

    name, model, version = "fake", "", "1"

    def describe(self, photos: Sequence[Photo], masks: Sequence[MaskArray]) -> Description:
        """One source word, one candidate word, one caption per photograph."""
        ids = tuple(photo.id for photo in photos)
        words = (
            SubjectAttribute(category="colour", word="red", score=0.9, origin="source", sample_ids=ids),
            SubjectAttribute(category="material", word="wooden", score=0.5, origin="candidate", sample_ids=()),
        )
        return Description(words=words, captions={photo.id: f"a {photo.class_noun}" for photo in photos})


class FakeGenerator:
    """A flat picture whose colour follows from the seed; shared by the class, and segmented like a photograph."""

    name, model, version = "fake", "", "1"
    own_pixels = False

    def __init__(self, size: int) -> None:
        self._size = size

    @staticmethod
    def can_show(category: str, word: str) -> bool:
        """Anything."""
        return bool(category and word)

    def generate(self, requests: Sequence[GenerationRequest]) -> list[GeneratedImage | Fault]:
        """One picture per request, without a mask."""
        colours = [np.random.default_rng(request.seed).integers(0, 256, 3, np.uint8) for request in requests]
        return [GeneratedImage(image=np.full((self._size, self._size, 3), colour, np.uint8)) for colour in colours]
