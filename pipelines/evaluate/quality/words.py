"""Words against what is known to be true, and regular pictures against the prompts they were made for."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from manifests.corpus import Corpus
from manifests.errors import UsageError
from manifests.pixels import ImageArray, MaskArray
from manifests.records import Sample
from pipelines.evaluate.intervals import bootstrap, mean
from pipelines.evaluate.metrics.clip import Clip
from pipelines.evaluate.quality import Measure
from pipelines.evaluate.reading import read_ahead

__all__ = ["COLOURS", "colour_measures", "colour_shares", "prompt_measures", "read_accepted_colours"]

# one prototype (sRGB) for each of the eleven basic colour terms of Berlin and Kay 1969; other words are not judged
COLOURS = {
    "black": (20, 20, 20), "white": (240, 240, 240), "grey": (128, 128, 128), "red": (200, 30, 35),
    "orange": (235, 130, 30), "yellow": (240, 215, 50), "green": (50, 140, 60), "blue": (40, 85, 180),
    "purple": (120, 50, 140), "pink": (240, 150, 180), "brown": (110, 70, 40),
}  # fmt: skip


def read_accepted_colours(path: Path) -> dict[str, frozenset[str]]:
    """Accepted main colours by subject from a CSV with `subject` and `accepted_main_colours` (words parted by `|`).

    Raises `UsageError` E503 and E502.
    """
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read.", code="E503") from error
    if not rows or not {"subject", "accepted_main_colours"} <= rows[0].keys():
        raise UsageError(f"{path.name}: columns subject and accepted_main_colours were expected.", code="E502")
    return {row["subject"]: frozenset((row["accepted_main_colours"] or "").split("|")) for row in rows}


def colour_measures(corpus: Corpus, accepted: Mapping[str, frozenset[str]]) -> list[Measure]:
    """Whether the first colour word of a subject, and each of its colour words, is an accepted one."""
    first: dict[str, list[float]] = {}
    every: dict[str, list[float]] = {}
    for subject in corpus.subjects.values():
        right = accepted.get(subject.name) or accepted.get(subject.id)
        words = [w for w in subject.attributes if w.origin == "source" and w.category == "colour"]
        if right is None:
            continue
        words.sort(key=lambda word: (-word.score, word.word))
        first[subject.id] = [float(bool(words) and words[0].word in right)]
        every[subject.id] = [float(word.word in right) for word in words]
    return [
        _measure("first_colour_accepted", first, "share of subjects whose strongest colour word is an accepted one"),
        _measure("colours_accepted", every, "share of the subjects' colour words that are accepted"),
    ]


def _measure(name: str, values: Mapping[str, list[float]], what: str) -> Measure:
    flat = [value for members in values.values() for value in members]
    low, high = bootstrap(values)
    return Measure(name=name, value=mean(flat), low=low, high=high, count=len(flat), what=what)


def colour_shares(image: ImageArray, mask: MaskArray) -> dict[str, float]:
    """Which share of the masked pixels lies nearest to each basic colour, in CIELAB (CIE 1976 distance)."""
    from skimage.color import rgb2lab

    pixels = image[mask]
    if not len(pixels):
        return {}
    centres = rgb2lab(np.array([list(COLOURS.values())]) / 255)[0]
    # squares written out: the array of all differences would be several times the picture
    lab = rgb2lab(pixels[None] / 255)[0]
    nearest = ((centres**2).sum(axis=1)[None] - 2 * lab @ centres.T).argmin(axis=1)
    counts = np.bincount(nearest, minlength=len(COLOURS))
    return {name: float(count) / len(pixels) for name, count in zip(COLOURS, counts, strict=True)}


def prompt_measures(
    corpus: Corpus, clip: Clip | None, *, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Measure]:
    """Regular pictures against their prompts: the colour asked for, and with CLIP the whole prompt."""
    regular = list(corpus.samples(role="reg"))

    def read(sample: Sample) -> tuple[Sample, ImageArray, MaskArray]:
        return sample, corpus.image(sample), corpus.mask(sample)

    shares: dict[str, list[float]] = defaultdict(list)
    shown: dict[str, list[float]] = defaultdict(list)
    similar: dict[str, list[float]] = defaultdict(list)
    for number, (sample, image, mask) in enumerate(read_ahead(regular, read), 1):
        asked = [word.word for word in sample.attributes if word.category == "colour" and word.word in COLOURS]
        if asked:
            found = colour_shares(image, mask)
            share = max(found.get(word, 0.0) for word in asked)
            shares[sample.subject].append(share)
            shown[sample.subject].append(float(bool(found) and share == max(found.values())))
        if clip is not None and sample.prompt:
            similar[sample.subject].append(_clip_text(clip, sample, image))
        on_progress(number, len(regular))
    how = f"nearest of {len(COLOURS)} basic colours in CIELAB"
    measures = [
        _measure(
            "asked_colour_first", shown, f"share of regular pictures whose most common colour was asked for, {how}"
        ),
        _measure("asked_colour_share", shares, f"mean share of the subject's pixels in the asked colour, {how}"),
    ]
    if clip is not None:
        steps = clip.preprocessing().describe()
        measures.append(
            _measure(
                "prompt_clip_t", similar, f"CLIP-T of regular pictures and prompts, box crop; {clip.weights}; {steps}"
            )
        )
    return [measure for measure in measures if not math.isnan(measure.value)]


def _clip_text(clip: Clip, sample: Sample, image: ImageArray) -> float:
    from pipelines.evaluate.metrics.similarity import cosine

    x0, y0, x1, y1 = sample.box_xyxy
    picture = clip.images([clip.preprocessing()(image[y0:y1, x0:x1])])[0]
    return cosine(picture, clip.texts([sample.prompt])[0])
