"""The embedded grounder and segmenter on drawn pictures whose truth is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dataforge.backends.embedded_grounder import EmbeddedGrounder
from dataforge.backends.embedded_segmenter import EmbeddedSegmenter
from dataforge.protocols import Grounding, Photo, Segmentation
from manifests.errors import Fault
from manifests.pixels import ImageArray, MaskArray, box_from_mask


def draw(
    seed: int, size: tuple[int, int] = (192, 224), at: tuple[float, float] = (0.5, 0.5)
) -> tuple[ImageArray, MaskArray]:
    """A red mug-like shape with a white label on a mildly textured ground of its own colour."""
    rng = np.random.default_rng(seed)
    height, width = size
    ground = np.array([[70, 110, 60], [60, 80, 130], [140, 140, 150], [120, 100, 70]][seed % 4], float)
    image = np.clip(ground + rng.normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8)
    mask = np.zeros((height, width), np.uint8)
    middle = (round(at[0] * width), round(at[1] * height))
    radius = min(height, width) // 4
    cv2.ellipse(mask, middle, (radius, round(radius * 1.2)), 0, 0, 360, 1, -1)
    cv2.rectangle(mask, (middle[0], middle[1] - radius // 3), (middle[0] + round(1.4 * radius), middle[1]), 1, -1)
    image[mask > 0] = np.clip(np.array([200, 40, 50]) + rng.normal(0, 6, (int(mask.sum()), 3)), 0, 255).astype(np.uint8)
    cv2.circle(image, middle, radius // 3, (240, 235, 230), -1)
    return image, mask > 0


def noise(seed: int) -> ImageArray:
    return np.random.default_rng(seed).integers(0, 256, (160, 160, 3), dtype=np.uint8)


def photo(image: ImageArray, name: str = "a") -> Photo:
    return Photo(id=name, subject="mug", class_noun="mug", image=image)


def masks_of(images: list[ImageArray]) -> list[Segmentation]:
    photos = [photo(image, str(index)) for index, image in enumerate(images)]
    boxes = EmbeddedGrounder().ground(photos)
    found = EmbeddedSegmenter().segment(photos, [box for box in boxes if isinstance(box, Grounding)])
    assert len(found) == len(images)
    return [answer for answer in found if isinstance(answer, Segmentation)]


def iou(first: MaskArray, second: MaskArray) -> float:
    return float((first & second).sum() / (first | second).sum())


@pytest.fixture(scope="module")
def planted() -> list[Segmentation]:
    return masks_of([draw(seed)[0] for seed in range(3)])


def test_a_clear_object_is_found_in_every_photograph(planted: list[Segmentation]) -> None:
    for seed, answer in enumerate(planted):
        truth = draw(seed)[1]
        assert answer.mask.dtype == np.bool_
        assert answer.mask.shape == truth.shape
        assert iou(answer.mask, truth) > 0.9


def test_quality_tells_a_clear_object_from_noise(planted: list[Segmentation]) -> None:
    noisy = masks_of([noise(1), noise(2)])
    assert max(answer.quality for answer in noisy) < min(answer.quality for answer in planted)
    assert max(answer.quality for answer in noisy) < 0.6
    assert all(answer.flags for answer in noisy)


def test_one_photograph_alone() -> None:
    image, truth = draw(0)
    (answer,) = masks_of([image])
    assert iou(answer.mask, truth) > 0.9


def test_same_input_same_bytes_whatever_went_before(planted: list[Segmentation]) -> None:
    cv2.setRNGSeed(99)
    masks_of([noise(3)])
    again = masks_of([draw(seed)[0] for seed in range(3)])
    for first, second in zip(planted, again, strict=True):
        assert first.mask.tobytes() == second.mask.tobytes()
        assert (first.quality, first.scores, first.flags) == (second.quality, second.scores, second.flags)


def test_a_given_box_is_kept_to_and_filled() -> None:
    image, truth = draw(1, at=(0.3, 0.6))
    other = draw(2, at=(0.7, 0.4))[1]
    image[other & ~truth] = (200, 40, 50)  # a second red thing outside the box
    box = box_from_mask(truth)
    (answer,) = EmbeddedSegmenter().segment([photo(image)], [Grounding(box=box, score=1.0)])
    assert isinstance(answer, Segmentation)
    found = box_from_mask(answer.mask)
    assert found[0] >= box[0]
    assert found[1] >= box[1]
    assert found[2] <= box[2]
    assert found[3] <= box[3]
    assert max(abs(one - two) for one, two in zip(found, box, strict=True)) <= 4


def test_given_and_guessed_boxes_mix_in_one_call() -> None:
    drawn = [draw(seed) for seed in range(3)]
    photos = [photo(image, str(index)) for index, (image, _) in enumerate(drawn)]
    boxes = [found for found in EmbeddedGrounder().ground(photos) if isinstance(found, Grounding)]
    boxes[1] = Grounding(box=box_from_mask(drawn[1][1]), score=1.0)
    for answer, (_, truth) in zip(EmbeddedSegmenter().segment(photos, boxes), drawn, strict=True):
        assert isinstance(answer, Segmentation)
        assert iou(answer.mask, truth) > 0.9


def test_a_tiny_picture() -> None:
    image, _ = draw(0, size=(32, 32))
    (answer,) = masks_of([image])
    assert answer.mask.shape == (32, 32)
    assert 0 <= answer.quality <= 1


def test_a_long_thin_picture_and_a_box_of_one_pixel() -> None:
    image = noise(5)[:16]
    (guess,) = EmbeddedGrounder().ground([photo(image)])
    assert isinstance(guess, Grounding | Fault)
    (answer,) = EmbeddedSegmenter().segment([photo(image)], [Grounding(box=(3, 3, 4, 4), score=1.0)])
    assert isinstance(answer, Segmentation | Fault)


def test_a_uniform_picture_is_a_fault_among_sound_ones() -> None:
    flat = np.full((100, 120, 3), 77, np.uint8)
    photos = [photo(flat, "flat"), photo(draw(0)[0], "sound")]
    first, second = EmbeddedGrounder().ground(photos)
    assert first == Fault("E210", "the picture has one colour")
    assert isinstance(second, Grounding)
    given = Grounding(box=(10, 10, 60, 60), score=1.0)
    fault, answer = EmbeddedSegmenter().segment(photos, [given, second])
    assert isinstance(fault, Fault)
    assert isinstance(answer, Segmentation)


def test_an_empty_box_is_a_fault() -> None:
    (answer,) = EmbeddedSegmenter().segment([photo(draw(0)[0])], [Grounding(box=(20, 20, 20, 40), score=1.0)])
    assert isinstance(answer, Fault)
    assert answer.code == "E211"


def test_no_photographs() -> None:
    assert EmbeddedGrounder().ground([]) == []
    assert EmbeddedSegmenter().segment([], []) == []


def test_the_rival_is_shown_where_hypotheses_differ_and_nowhere_else(planted: list[Segmentation]) -> None:
    clear = [answer for answer in planted if {s.name: s.value for s in answer.scores}["agreement"] > 0.95]
    assert clear
    assert all(answer.rival is None for answer in clear)
    doubtful = masks_of([noise(1), noise(2)])
    shown = [answer for answer in doubtful if answer.rival is not None]
    assert shown
    for answer in shown:
        assert answer.rival is not None
        assert answer.rival.shape == answer.mask.shape
        assert iou(answer.rival, answer.mask) < 0.95
