"""Cosine similarity of a composite with its references, and with its scene, under any image encoder."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from manifests.pixels import ImageArray
from pipelines.evaluate.metrics import Column
from pipelines.evaluate.pairs import Pair, View, as_seen
from pipelines.evaluate.preprocessing import Preprocessing

__all__ = ["ImageSimilarity", "cosine"]

Encoder = Callable[[Sequence[npt.NDArray[np.float32]]], npt.NDArray[np.float32]]
REFERENCES_KEPT = 4096  # embeddings of references, a few kilobytes each


def cosine(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> float:
    """Cosine of two vectors, computed in float64."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


class ImageSimilarity:
    """Mean cosine with all references of the subject per crop rule; `scene` compares whole composite and scene.

    `resize_references` brings each reference to the size of the composite's crop first, as the DreamCom lab does.
    """

    def __init__(
        self,
        name: str,
        encode: Encoder,
        preprocessing: Preprocessing,
        *,
        model: str,
        crops: Sequence[str],
        scale: float = 1.0,
        resize_references: bool = False,
    ) -> None:
        self._name, self._encode, self._preprocess = name, encode, preprocessing
        self._crops, self._scale, self._resize = tuple(crops), scale, resize_references
        self._known: OrderedDict[str, npt.NDArray[np.float32]] = OrderedDict()
        steps = preprocessing.describe()
        if resize_references:
            steps = f"references to the size of the crop (Pillow bilinear), then {steps}"
        if scale != 1:
            steps += f"; cosine x {scale:g}"
        self.columns = tuple(
            Column(f"{name}_{crop}", "up", model, steps, "whole, with the scene" if crop == "scene" else crop)
            for crop in self._crops
        )

    def score(self, pairs: Sequence[Pair]) -> list[dict[str, float]]:
        """Each pair's similarity per crop; a crop is absent where its mask, scene or references are."""
        wanted: OrderedDict[str, ImageArray] = OrderedDict()
        plans = [self._plan(pair, number, wanted) for number, pair in enumerate(pairs)]
        new = [key for key in wanted if key not in self._known]
        found = dict(self._known)
        if new:
            embedded = self._encode([self._preprocess(wanted[key]) for key in new])
            found |= dict(zip(new, embedded, strict=True))
        scores = [
            {
                f"{self._name}_{crop}": self._scale
                * math.fsum(cosine(found[own], found[other]) for other in others)
                / len(others)
                for crop, (own, others) in plan.items()
            }
            for plan in plans
        ]
        self._keep({key: found[key] for key in new if not key.startswith("pair ")})
        return scores

    def _plan(self, pair: Pair, number: int, wanted: OrderedDict[str, ImageArray]) -> dict[str, tuple[str, list[str]]]:
        plan = {}
        for crop in self._crops:
            if crop == "scene":
                if pair.scene is None:
                    continue
                wanted[own := f"pair {number} whole"] = pair.composite.image
                wanted[other := f"pair {number} scene"] = pair.scene
                plan[crop] = (own, [other])
                continue
            seen = as_seen(pair.composite, crop)
            if seen is None:
                continue
            others = [key for view in pair.references if (key := self._reference(view, crop, seen, wanted))]
            if others:
                wanted[own := f"pair {number} {crop}"] = seen
                plan[crop] = (own, others)
        return plan

    def _reference(self, view: View, crop: str, like: ImageArray, wanted: OrderedDict[str, ImageArray]) -> str | None:
        size = (like.shape[1], like.shape[0])
        key = f"{crop} {size if self._resize else ''} {view.key}"
        if key in self._known or key in wanted:
            return key
        seen = as_seen(view, crop)
        if seen is None:
            return None
        if self._resize:
            picture = Image.fromarray(np.ascontiguousarray(seen)).resize(size, Image.Resampling.BILINEAR)
            seen = np.asarray(picture)
        wanted[key] = seen
        return key

    def _keep(self, embeddings: dict[str, npt.NDArray[np.float32]]) -> None:
        self._known.update(embeddings)
        while len(self._known) > REFERENCES_KEPT:
            self._known.popitem(last=False)
