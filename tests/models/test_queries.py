"""Which of the boxes a detector gives is the subject's: hand-made probabilities, and transformers' own reading of them.

The text is `mug. spoon. small fork.`: tokens 1, 3 and 5 to 6 name something, the others are stops and special tokens.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers.models.grounding_dino import GroundingDinoProcessor

from dataforge.backends.queries import caption_of, nearest_box, pick, token_spans
from dataforge.protocols import Grounding
from manifests.errors import Fault
from tests.models.tiny import tiny

CLS, MUG, STOP, SPOON, SMALL, FORK, SEP, PAD = range(8)
TEXT = [CLS, MUG, STOP, SPOON, STOP, SMALL, FORK, STOP, SEP, PAD]
SPANS = [[1], [3], [5, 6]]
HEIGHT, WIDTH = 100, 200

# centre and size in [0, 1] -> whole pixels
LEFT, LEFT_XYXY = (0.25, 0.5, 0.3, 0.6), (20, 20, 80, 80)
NEAR_LEFT = (0.26, 0.5, 0.3, 0.6)  # overlaps LEFT by 0.94
RIGHT, RIGHT_XYXY = (0.75, 0.5, 0.3, 0.6), (120, 20, 180, 80)
MIDDLE, MIDDLE_XYXY = (0.5, 0.5, 0.1, 0.2), (90, 40, 110, 60)

Row = tuple[tuple[float, float, float, float], dict[int, float]]


def picked(*rows: Row, box_threshold: float = 0.3, text_threshold: float = 0.25) -> Grounding | Fault:
    """What is picked of boxes, each with the probabilities of a few tokens."""
    probabilities = np.full((len(rows), len(TEXT)), 0.01, np.float32)
    for number, (_, said) in enumerate(rows):
        for token, probability in said.items():
            probabilities[number, token] = probability
    boxes = np.array([box for box, _ in rows], np.float32)
    return pick(
        probabilities,
        boxes,
        SPANS,
        size=(HEIGHT, WIDTH),
        box_threshold=box_threshold,
        text_threshold=text_threshold,
    )


def test_text_and_the_places_of_its_queries():
    assert caption_of("mug", ["spoon", "small fork"]) == "mug. spoon. small fork."
    # a second time the same would be a rival of the noun
    assert caption_of("Mug", ["spoon. ", " mug", "spoon"]) == "mug. spoon."
    assert token_spans(TEXT, STOP, {CLS, SEP, PAD}) == SPANS
    assert token_spans([CLS, STOP, STOP, SEP], STOP, {CLS, SEP}) == []


FOUND: dict[str, tuple[list[Row], tuple[int, ...], float, list[tuple[int, ...]]]] = {
    "the best of the noun's boxes": ([(LEFT, {1: 0.5}), (RIGHT, {1: 0.6})], RIGHT_XYXY, 0.6, [LEFT_XYXY]),
    "a better box of another query is another": (
        [(LEFT, {3: 0.9, 1: 0.6}), (RIGHT, {1: 0.5})],
        RIGHT_XYXY,
        0.5,
        [LEFT_XYXY],
    ),
    "a query's second token counts as its first": (
        [(LEFT, {6: 0.9, 1: 0.6}), (RIGHT, {1: 0.5})],
        RIGHT_XYXY,
        0.5,
        [LEFT_XYXY],
    ),
    "of equal queries the noun": ([(LEFT, {1: 0.5, 3: 0.5})], LEFT_XYXY, 0.5, []),
    "of equal boxes the first": ([(LEFT, {1: 0.5}), (RIGHT, {1: 0.5})], LEFT_XYXY, 0.5, [RIGHT_XYXY]),
    # a box counts by its best token of all, even one that names nothing
    "a token outside of every query": ([(LEFT, {8: 0.9, 1: 0.28})], LEFT_XYXY, 0.28, []),
    "of the noun's boxes the one that the noun says most": (
        [(LEFT, {8: 0.9, 1: 0.4}), (RIGHT, {1: 0.5})],
        RIGHT_XYXY,
        0.5,
        [LEFT_XYXY],
    ),
    "under the box threshold is nothing": ([(LEFT, {1: 0.5}), (RIGHT, {3: 0.29})], LEFT_XYXY, 0.5, []),
    "one thing drawn twice is one": (
        [(LEFT, {1: 0.5}), (NEAR_LEFT, {1: 0.45}), (RIGHT, {3: 0.4}), (RIGHT, {5: 0.6})],
        LEFT_XYXY,
        0.5,
        [RIGHT_XYXY],
    ),
    "others by what their best token says": (
        [(LEFT, {1: 0.5}), (RIGHT, {3: 0.4}), (MIDDLE, {5: 0.6})],
        LEFT_XYXY,
        0.5,
        [MIDDLE_XYXY, RIGHT_XYXY],
    ),
    "outside of the picture is nothing": (
        [((1.5, 0.5, 0.3, 0.6), {1: 0.9}), (LEFT, {1: 0.5}), ((0.5, np.nan, 0.1, 0.1), {1: 0.8})],
        LEFT_XYXY,
        0.5,
        [],
    ),
    "never as sure as a person": ([(LEFT, {1: 1.0})], LEFT_XYXY, 0.999, []),
}


@pytest.mark.parametrize("case", FOUND)
def test_box_of_the_noun_is_picked(case):
    rows, box, score, others = FOUND[case]
    found = picked(*rows)
    assert isinstance(found, Grounding)
    assert (found.box, list(found.other_boxes)) == (box, others)
    assert found.score == pytest.approx(score)


NOT_FOUND: dict[str, tuple[list[Row], dict[str, float], str]] = {
    "only another query's": ([(LEFT, {3: 0.9, 1: 0.6})], {}, "best score 0.60, asked is 0.3"),
    "under the box threshold": ([(LEFT, {1: 0.29})], {}, "best score 0.29, asked is 0.3"),
    # both thresholds are to be exceeded, and each alone decides
    "at the box threshold": ([(LEFT, {1: 0.5})], {"box_threshold": 0.5}, "best score 0.50, asked is 0.5"),
    "at the text threshold": ([(LEFT, {1: 0.5})], {"text_threshold": 0.5}, "best score 0.50, asked is 0.3"),
    "under the text threshold": ([(LEFT, {8: 0.9, 1: 0.24})], {}, "best score 0.24, asked is 0.3"),
    "outside of the picture": ([((-0.5, 0.5, 0.3, 0.6), {1: 0.9})], {}, "best score 0.90, asked is 0.3"),
}


@pytest.mark.parametrize("case", NOT_FOUND)
def test_no_box_of_the_noun_is_a_fault(case):
    rows, thresholds, sentence = NOT_FOUND[case]
    assert picked(*rows, **thresholds) == Fault("E210", sentence)


def test_there_are_sixteen_others_at_most():
    squares = [((x / 10 + 0.05, y / 4 + 0.125, 0.08, 0.2), {3: 0.5}) for x in range(10) for y in range(4)]
    found = picked((LEFT, {1: 0.9}), *squares)
    assert isinstance(found, Grounding)
    assert len(found.other_boxes) == len(set(found.other_boxes)) == 16


@pytest.mark.parametrize(
    ("box", "pixels"),
    [
        (LEFT, LEFT_XYXY),
        ((0.5, 0.5, 3.0, 3.0), (0, 0, WIDTH, HEIGHT)),
        ((0.0, 0.0, 0.5, 0.5), (0, 0, 50, 25)),
        ((1.0, 1.0, 0.5, 0.5), (150, 75, WIDTH, HEIGHT)),
        ((0.5, 0.5, 0.0, 0.5), None),
        ((0.5, 0.5, -0.1, 0.5), None),
        ((0.5, 1.5, 0.5, 0.5), None),
        ((0.5, 0.5, np.inf, 0.5), None),
    ],
)
def test_box_is_clipped_to_whole_pixels_of_the_picture(box, pixels):
    assert nearest_box(np.array(box, np.float32), HEIGHT, WIDTH) == pixels


@pytest.mark.parametrize("seed", range(5))
def test_box_is_the_best_of_those_that_transformers_own_reading_gives_the_noun(seed):
    """Where each box speaks of one query; transformers does not say which of a box's queries is the stronger."""
    processor = GroundingDinoProcessor.from_pretrained(tiny("grounding-dino"), local_files_only=True)
    tokenizer = processor.tokenizer
    ids = tokenizer(caption_of("mug", ["spoon", "red can"]))["input_ids"]
    spans = token_spans(ids, tokenizer.convert_tokens_to_ids("."), set(tokenizer.all_special_ids))
    assert [tokenizer.decode([ids[place] for place in span]) for span in spans] == ["mug", "spoon", "red can"]
    rng = np.random.default_rng(seed)
    probabilities = np.full((15, len(ids)), 0.001, np.float32)
    for row, span in zip(probabilities, rng.permutation(np.repeat(range(3), 5)), strict=True):
        row[spans[span]] = rng.uniform(0.05, 0.6)
    # a grid: none overlaps another
    boxes = np.array([(x / 5 + 0.1, y / 4 + 0.125, 0.1, 0.15) for x in range(5) for y in range(3)], np.float32)
    outputs = SimpleNamespace(
        logits=torch.from_numpy(probabilities)[None].logit(), pred_boxes=torch.tensor(boxes)[None]
    )
    (theirs,) = processor.post_process_grounded_object_detection(
        outputs, torch.tensor([ids]), threshold=0.2, text_threshold=0.3, target_sizes=[(HEIGHT, WIDTH)]
    )
    kept = [tuple(box) for box in theirs["boxes"].round().int().tolist()]
    score, box = max(
        (score, box)
        for score, box, label in zip(theirs["scores"].tolist(), kept, theirs["text_labels"], strict=True)
        if label == "mug"
    )
    ours = pick(probabilities, boxes, spans, size=(HEIGHT, WIDTH), box_threshold=0.2, text_threshold=0.3)
    assert isinstance(ours, Grounding)
    assert ours.box == box
    assert ours.score == pytest.approx(score)
    assert sorted((ours.box, *ours.other_boxes)) == sorted(kept)
