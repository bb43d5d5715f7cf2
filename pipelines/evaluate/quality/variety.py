"""How different the regular pictures of a subject are: too alike, and they teach the trainer nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

from manifests.corpus import Corpus
from manifests.pixels import ImageArray
from manifests.records import Sample
from pipelines.evaluate.intervals import bootstrap, mean
from pipelines.evaluate.metrics.dino import Dino
from pipelines.evaluate.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from pipelines.evaluate.quality import Measure
from pipelines.evaluate.reading import read_ahead

__all__ = ["mean_distance", "thumbnail", "variety_measures"]

SIDE = 32


def thumbnail(image: ImageArray) -> npt.NDArray[np.float64]:
    """float64 [32*32*3] in [0,1]: the picture at 32 x 32, each pixel the mean of what it covers (Pillow box)."""
    small = Image.fromarray(np.ascontiguousarray(image)).resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, np.float64).reshape(-1) / 255


def mean_distance(rows: npt.NDArray[np.float64]) -> float:
    """Mean over all pairs of the root mean square difference of rows [n, d]; n at least 2."""
    gram = rows @ rows.T
    squared = np.maximum(np.diag(gram)[:, None] + np.diag(gram)[None] - 2 * gram, 0) / rows.shape[1]
    return float(np.sqrt(squared)[np.triu_indices(len(rows), 1)].mean())


def variety_measures(
    corpus: Corpus, dino: Dino | None, *, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Measure]:
    """Pixel distance, share of distinct prompts, and with DINO the mean cosine distance, over subjects."""
    regular = list(corpus.samples(role="reg"))

    def read(sample: Sample) -> tuple[Sample, ImageArray]:
        return sample, corpus.image(sample)

    thumbnails: dict[str, list[npt.NDArray[np.float64]]] = defaultdict(list)
    tokens: dict[str, list[npt.NDArray[np.float64]]] = defaultdict(list)
    prompts: dict[str, set[str]] = defaultdict(set)
    preprocess = None
    if dino is not None:
        preprocess = Preprocessing(dino.side, IMAGENET_MEAN, IMAGENET_STD, short_side=dino.side * 256 // 224)
    for number, (sample, image) in enumerate(read_ahead(regular, read), 1):
        thumbnails[sample.subject].append(thumbnail(image))
        prompts[sample.subject].add(sample.prompt)
        if dino is not None and preprocess is not None:
            tokens[sample.subject].append(dino([preprocess(image)])[0].astype(np.float64))
        on_progress(number, len(regular))
    several = {subject: rows for subject, rows in thumbnails.items() if len(rows) > 1}
    apart = {subject: mean_distance(np.stack(rows)) for subject, rows in several.items()}
    distinct = {subject: len(prompts[subject]) / len(rows) for subject, rows in thumbnails.items()}
    measures = [
        _over_subjects("pixel_distance", apart, f"mean RMS difference of pairs of regular pictures at {SIDE}x{SIDE}"),
        _over_subjects("distinct_prompts", distinct, "distinct prompts per regular picture"),
    ]
    if dino is not None:
        far = {}
        for subject, rows in tokens.items():
            if len(rows) > 1:
                unit = np.stack([row / np.linalg.norm(row) for row in rows])
                far[subject] = float(1 - (unit @ unit.T)[np.triu_indices(len(rows), 1)].mean())
        measures.append(_over_subjects("dino_distance", far, f"mean 1 - cosine of pairs; {dino.weights} CLS"))
    return [measure for measure in measures if measure.count]


def _over_subjects(name: str, values: dict[str, float], what: str) -> Measure:
    low, high = bootstrap({subject: [value] for subject, value in values.items()})
    return Measure(
        name=name, value=mean(values.values()), low=low, high=high, count=len(values), what=f"{what}; over subjects"
    )
