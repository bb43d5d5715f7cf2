"""Attribute words and captions measured from the pixels inside the mask; needs no weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from dataforge.backends.colour_names import SHADES, ColourShares, colour_shares
from dataforge.backends.surface_words import Evidence, shape_evidence, surface_evidence
from dataforge.backends.vocabulary import candidate_words, kind_of
from dataforge.protocols import Description, Photo
from manifests.overrides import CATEGORIES
from manifests.pixels import ImageArray, MaskArray, box_from_mask
from manifests.records import SubjectAttribute

__all__ = ["EmbeddedDescriber"]

CANDIDATE_SCORE = 0.0  # a candidate word is not measured: nothing in the pixels supports it


class EmbeddedDescriber:
    """Colour (CIELAB), pattern, gloss and shape words, each with a score and the photographs that support it.

    A word is given only where the pixels of at least one photograph support it with `min_score`, and its mean over
    the photographs reaches `min_score` too; pattern, gloss and shape words need most of the photographs that can tell.
    Photographs are measured at `max_side` pixels around the subject.
    """

    name = "embedded"
    model = ""
    version = "1"

    def __init__(self, min_score: float = 0.15, max_side: int = 256) -> None:
        self.min_score = min_score
        self.max_side = max_side

    def describe(self, photos: Sequence[Photo], masks: Sequence[MaskArray]) -> Description:
        """Words and captions of one subject.

        `photos` hold uint8 HxWx3 RGB, `masks` bool HxW, in the same order. Words come sorted by category (in the
        order of `manifests.overrides.CATEGORIES`), source before candidate, higher score first: the first colour word
        is the main colour. Candidate words have score 0 and no photographs.
        """
        views = [_view(photo.image, mask, self.max_side) for photo, mask in zip(photos, masks, strict=True)]
        colours = [colour_shares(image, mask) for image, mask in views]
        measured: dict[tuple[str, str], dict[int, float]] = {}
        usable = [index for index, (_, mask) in enumerate(views) if mask.any()]
        telling = {category: list(usable) for category in CATEGORIES}
        for index in usable:
            image, mask = views[index]
            found = [*_colour_evidence(colours[index]), *surface_evidence(image, mask)]
            # an animal's outline is its pose, and a cut outline is no shape
            outline = None if kind_of(photos[index].class_noun) == "animal" else shape_evidence(masks[index])
            if outline is None:
                telling["shape"].remove(index)
            for evidence in [*found, *(outline or [])]:
                measured.setdefault((evidence.category, evidence.word), {})[index] = evidence.score
        words = []
        for (category, word), scores in measured.items():
            support = [index for index, score in scores.items() if score >= self.min_score]
            mean = sum(scores.values()) / len(telling[category])
            # light changes the colours that show; a pattern, gloss or shape is there in most photographs or not at all
            often = category == "colour" or 2 * len(support) > len(telling[category])
            if mean >= self.min_score and support and often:
                ids = tuple(photos[index].id for index in support)
                words.append(_attribute(category, word, min(mean, 1.0), "source", ids))
        present = {(word.category, word.word) for word in words}
        noun = photos[0].class_noun if photos else ""
        words += [
            _attribute(category, word, CANDIDATE_SCORE, "candidate", ())
            for category, word in candidate_words(noun)
            if (category, word) not in present
        ]
        words.sort(
            key=lambda word: (
                CATEGORIES.index(word.category),
                word.origin == "candidate",
                -word.score,
                word.word in SHADES,
            )
        )
        captions = {
            photo.id: _caption(photo, mask, colour) for photo, mask, colour in zip(photos, masks, colours, strict=True)
        }
        return Description(words=tuple(words), captions=captions)


def _attribute(category: str, word: str, score: float, origin: str, sample_ids: tuple[str, ...]) -> SubjectAttribute:
    return SubjectAttribute(
        category=category,
        word=word,
        score=round(score, 4),
        origin="source" if origin == "source" else "candidate",
        sample_ids=sample_ids,
    )


def _view(image: ImageArray, mask: MaskArray, max_side: int) -> tuple[ImageArray, MaskArray]:
    """The subject's box with a small margin, no larger than `max_side`."""
    if not mask.any():
        return image[:1, :1], mask[:1, :1]
    x0, y0, x1, y1 = box_from_mask(mask)
    margin = max(2, round(0.03 * max(x1 - x0, y1 - y0)))
    y0, x0 = max(0, y0 - margin), max(0, x0 - margin)
    image, mask = image[y0 : y1 + margin, x0 : x1 + margin], mask[y0 : y1 + margin, x0 : x1 + margin]
    scale = max_side / max(mask.shape)
    if scale < 1:
        size = (max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        mask = cv2.resize(mask.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA) > 127
    return np.ascontiguousarray(image), np.asarray(mask)


def _colour_evidence(shares: ColourShares) -> Iterable[Evidence]:
    for term, share in shares.terms.items():
        yield Evidence("colour", term, share)
    for shade, share in shares.shades.items():
        # a shade is worth a word only where most of its colour has it
        if share >= 0.5 * shares.terms.get(SHADES[shade], 0.0):
            yield Evidence("colour", shade, min(share, 0.95 * shares.terms.get(SHADES[shade], 0.0)))


def _caption(photo: Photo, mask: MaskArray, colour: ColourShares) -> str:
    """One plain sentence of measured facts: colours, place in the picture, colour of the background."""
    noun = photo.class_noun
    if not mask.any():
        return _with_article(noun)
    ranked = sorted(colour.terms.items(), key=lambda item: -item[1])
    # a mask of single pixels may be too thin to be measured: then no colour is said
    words = [word for word, share in ranked[:2] if share >= 0.3] or [word for word, _ in ranked[:1]]
    subject = _with_article(f"{' and '.join(words)} {noun}".strip())
    return f"{subject}, {_place(mask)}, on {_background(photo.image, mask)}"


def _with_article(words: str) -> str:
    last = words.split()[-1] if words.split() else ""
    if last.endswith("s") and not last.endswith(("ss", "us", "is")):
        return words
    return f"{'an' if words[:1].lower() in 'aeiou' else 'a'} {words}"


def _place(mask: MaskArray) -> str:
    height, width = mask.shape
    x0, y0, x1, y1 = box_from_mask(mask)
    if mask.mean() > 0.45:
        return "close up"
    across, down = (x0 + x1) / 2 / width, (y0 + y1) / 2 / height
    column = "left" if across < 0.36 else "right" if across > 0.64 else ""
    row = "top" if down < 0.33 else "bottom" if down > 0.67 else ""
    if not column and not row:
        return "centred"
    return f"at the {' '.join(part for part in (row, column) if part)}"


def _background(image: ImageArray, mask: MaskArray) -> str:
    radius = max(3, round(0.01 * max(mask.shape)))
    outside = cv2.dilate(mask.astype(np.uint8), np.ones((2 * radius + 1,) * 2, np.uint8)) == 0
    if outside.mean() < 0.03:
        return "a background that hardly shows"
    step = max(1, min(mask.shape) // 128)
    shares = colour_shares(image[::step, ::step], outside[::step, ::step])
    ranked = sorted(shares.terms.items(), key=lambda item: -item[1])
    if ranked and ranked[0][1] >= 0.8:
        return _with_article(f"{ranked[0][0]} background")
    if ranked and ranked[0][1] >= 0.5:
        return f"a mostly {ranked[0][0]} background"
    return "a background of several colours"
