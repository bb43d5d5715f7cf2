"""CLIP-T: cosine of the CLIP embeddings of the composite and of its prompt, the identifier taken out.

The identifier means nothing to CLIP; scores with and without it differ, and papers do not say which theirs are.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.evaluate.metrics import Column
from pipelines.evaluate.metrics.clip import Clip
from pipelines.evaluate.metrics.similarity import cosine
from pipelines.evaluate.pairs import Pair, as_seen

__all__ = ["ClipText"]


class ClipText:
    """Cosine of picture and prompt per crop rule."""

    def __init__(self, clip: Clip, *, crops: Sequence[str]) -> None:
        self._clip, self._crops = clip, tuple(crops)
        self._preprocess = clip.preprocessing()
        steps = f"{self._preprocess.describe()}; prompt without identifier"
        self.columns = tuple(Column(f"clip_t_{crop}", "up", str(clip.weights), steps, crop) for crop in self._crops)

    def score(self, pairs: Sequence[Pair]) -> list[dict[str, float]]:
        """Each pair's similarity per crop; absent where there is no prompt or no mask."""
        prompts = sorted({pair.prompt for pair in pairs if pair.prompt})
        texts = dict(zip(prompts, self._clip.texts(prompts), strict=True)) if prompts else {}
        seen = [
            (number, crop, pixels)
            for number, pair in enumerate(pairs)
            for crop in self._crops
            if pair.prompt and (pixels := as_seen(pair.composite, crop)) is not None
        ]
        scores: list[dict[str, float]] = [{} for _ in pairs]
        if seen:
            images = self._clip.images([self._preprocess(pixels) for _, _, pixels in seen])
            for (number, crop, _), image in zip(seen, images, strict=True):
                scores[number][f"clip_t_{crop}"] = cosine(image, texts[pairs[number].prompt])
        return scores
