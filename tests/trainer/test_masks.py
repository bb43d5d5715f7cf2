"""METHODS 2.10-15, 3.8-7, 5: masks and views."""

from __future__ import annotations

import math

import numpy as np
import pytest

from manifests.pixels import box_from_mask
from pipelines.places import Reference, on_white
from trainer import masks
from trainer.keyed import rng
from trainer.views import MIN_KEPT, random_crop, scaled_crop


def disc(height: int = 96, width: int = 120, centre: tuple[int, int] = (40, 60), radius: int = 14) -> np.ndarray:
    ys, xs = np.mgrid[:height, :width]
    return (ys - centre[0]) ** 2 + (xs - centre[1]) ** 2 <= radius**2


def outward(extended: np.ndarray, mask: np.ndarray) -> tuple[int, int, int, int]:
    """How far a mask reaches beyond the box of another: left, top, right, bottom."""
    x0, y0, x1, y1 = box_from_mask(mask)
    left, top, right, bottom = box_from_mask(extended)
    return x0 - left, y0 - top, right - x1, bottom - y1


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_2_10_15_bezier_without_jitter_bulges_by_half_of_what_is_asked(ratio, seed):
    draw = np.random.default_rng(seed)
    # far from the frame, which would cut the extension
    centre = (int(draw.integers(60, 100)), int(draw.integers(60, 140)))
    mask = disc(160, 200, centre=centre, radius=int(draw.integers(4, 16)))
    x0, y0, x1, y1 = box_from_mask(mask)
    extended = masks.extend_by_bezier(mask, ratio, 0, rng(seed))
    reach = outward(extended, mask)
    for distance, side in zip(reach, (x1 - x0, y1 - y0, x1 - x0, y1 - y0), strict=True):
        assert distance <= math.ceil(0.5 * ratio * side) + 1
        assert distance >= math.floor(0.5 * math.floor(ratio * side)) - 2


def test_2_10_15_bezier_is_binary_in_the_frame_and_the_same_under_one_seed():
    at_edge = disc(centre=(3, 116), radius=10)
    first, second = (masks.bezier_extended(at_edge, rng(7, "a"), max_jitter=20) for _ in range(2))
    other = masks.bezier_extended(at_edge, rng(8, "a"), max_jitter=20)
    assert first.dtype == bool
    assert first.shape == at_edge.shape
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


def test_bezier_jitter_makes_the_outline_ragged():
    smooth = masks.extend_by_bezier(disc(), 0.5, 0, rng(0))
    ragged = masks.extend_by_bezier(disc(), 0.5, 6, rng(0))
    assert (smooth != ragged).any()


def test_bezier_extends_every_part_of_a_mask():
    mask = disc(centre=(20, 20), radius=6) | disc(centre=(70, 100), radius=6)
    extended = masks.extend_by_bezier(mask, 0.4, 0, rng(0))
    assert extended[20, 20]
    assert extended[70, 100]
    assert not extended[45, 60]


def test_5_random_masks_are_binary_in_the_frame_never_empty_and_both_shapes():
    rectangles = 0
    areas = []
    for number in range(300):
        mask = masks.random_shape(48, 64, rng("random", number))
        assert mask.shape == (48, 64)
        assert mask.dtype == bool
        assert mask.any()
        x0, y0, x1, y1 = box_from_mask(mask)
        rectangles += bool(mask[y0:y1, x0:x1].all())
        areas.append(mask.mean())
    assert 100 < rectangles < 220  # half are rectangles; thin or cut ellipses may fill their boxes too
    assert min(areas) < 0.02
    assert max(areas) > 0.5


def test_box_dilated_and_exact_hold_the_object():
    mask = disc()
    assert (masks.box(mask) & mask).sum() == mask.sum()
    grown = masks.dilated(mask, rng(1))
    assert grown[mask].all()
    assert grown.sum() > mask.sum()
    assert masks.draw_mask("exact", mask, rng(0), max_jitter=0) is mask


def picture(mask: np.ndarray) -> np.ndarray:
    return np.repeat((mask * 200).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("seed", range(20))
def test_random_crop_keeps_the_object_and_moves_picture_and_mask_together(seed):
    mask = disc(height=64, width=200, centre=(30, 150), radius=12)
    view = random_crop(picture(mask), mask, 64, rng(seed))
    assert view.image.shape == (64, 64, 3)
    assert view.object.sum() >= MIN_KEPT * mask.sum()
    np.testing.assert_array_equal(view.image[..., 0] > 100, view.object)
    assert view.original_size == (64, 200)
    top, left = view.crop_top_left
    np.testing.assert_array_equal(view.object, mask[top : top + 64, left : left + 64])


def test_an_object_wider_than_the_crop_is_centred():
    mask = np.zeros((64, 400), bool)
    mask[20:40, 50:350] = True
    assert random_crop(picture(mask), mask, 64, rng(0)).crop_top_left == (0, (50 + 350 - 64) // 2)


@pytest.mark.parametrize("seed", range(40))
def test_3_8_7_accepted_samples_keep_the_object_and_their_mask_is_one_rectangle(seed):
    mask = disc(height=80, width=150, centre=(40, 90), radius=15)
    box = masks.box(mask)
    view = scaled_crop(picture(box), box, 64, rng(seed), probability=0.6)
    area = np.asarray(random_crop(picture(box), box, 64, rng(0)).object).sum()
    resized = box.sum() * (64 / 80) ** 2
    # 20 draws are made for each threshold, so in practice the first one, 0.8, is in force
    assert view.object.sum() > 0.78 * min(area, resized) * 0.97
    x0, y0, x1, y1 = box_from_mask(view.object)
    assert view.object[y0:y1, x0:x1].all()
    assert view.valid is not None
    assert (view.image[~view.valid] <= 1).all()


def test_scaling_happens_with_its_probability_and_pads_with_black():
    mask = disc(height=64, width=64, centre=(32, 32), radius=8)
    views = [scaled_crop(picture(mask) + 50, mask, 64, rng(n), probability=0.6) for n in range(200)]
    # shrinking below sqrt(0.8) is always refused and drawn again, so padding is rarer than scaling
    padded = [view for view in views if not view.valid.all()]
    assert 0.05 < len(padded) / 200 < 0.35
    never = [scaled_crop(picture(mask), mask, 64, rng(n), probability=0.0) for n in range(20)]
    assert all(view.valid.all() for view in never)
    scales = {int(view.object.sum()) for view in views}
    assert len(scales) > 10


def test_reference_is_the_object_on_white_in_a_square():
    mask = disc(height=96, width=120)
    cut = on_white(Reference(picture(mask), mask), 64)
    assert cut.shape == (64, 64, 3)
    assert (cut[0, 0] == 255).all()
    assert (cut[32, 32] == 200).all()
