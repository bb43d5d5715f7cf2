"""Crop, paste and blend: METHODS 2.10 points 6 to 8 and 10, 3.8 points 8 and 9."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.pixels import box_from_mask, mask_from_box
from pipelines import crop, dif
from pipelines.settings import PRESETS


def rows_columns(mask, field):
    x0, y0, x1, y1 = crop.fooocus_crop(mask, field)
    return y0, y1, x0, x1


# (rows, columns) of the mask, inclusive; least share of each side; rows and columns of the crop, half-open
GOLDEN = [
    (((400, 499), (600, 699)), 0.0, (393, 506, 593, 706)),
    (((400, 499), (600, 699)), 0.5, (193, 706, 393, 906)),
    (((400, 499), (600, 699)), 0.618, (133, 766, 333, 966)),
    (((400, 499), (600, 699)), 1.0, (0, 1024, 0, 1024)),
    (((10, 39), (10, 39)), 0.0, (8, 41, 8, 41)),
    (((10, 39), (10, 39)), 0.5, (0, 512, 0, 512)),
    (((0, 99), (0, 899)), 0.0, (0, 566, 0, 966)),
    (((0, 99), (0, 899)), 0.5, (0, 566, 0, 966)),
]


@pytest.mark.parametrize(("place", "field", "expected"), GOLDEN)
def test_crop_golden_boxes(place, field, expected):
    (top, bottom), (left, right) = place
    mask = mask_from_box((left, top, right + 1, bottom + 1), 1024, 1024)
    assert rows_columns(mask, field) == expected


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_crop_always_holds_the_mask_and_lies_in_the_image(data):
    height, width = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 90))
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    mask = mask_from_box((x0, y0, x1, y1), height, width)
    for left, top, right, bottom in (crop.fooocus_crop(mask, data.draw(st.floats(0, 1))), crop.dreamcom_crop(mask)):
        assert 0 <= left <= x0 < x1 <= right <= width
        assert 0 <= top <= y0 < y1 <= bottom <= height


def test_dreamcom_crop_golden():
    mask = mask_from_box((100, 100, 200, 200), 800, 1000)
    assert crop.dreamcom_crop(mask) == (50, 50, 250, 250)
    assert crop.dreamcom_crop(mask_from_box((0, 0, 500, 400), 800, 1000)) == (0, 0, 1000, 800)


def test_soft_mask_table_is_exact():
    mask = np.zeros((100, 100), bool)
    mask[50, 50] = True
    soft = crop.soft_mask(mask)
    rows, columns = np.indices(mask.shape)
    distance = np.maximum(abs(rows - 50), abs(columns - 50))
    assert (soft == np.clip(256 - 8 * distance, 0, 255)).all()
    assert [soft[50, 50 + d] for d in (0, 1, 2, 15, 31, 32)] == [255, 248, 240, 136, 8, 0]


def test_painted_pixels_are_the_generated_and_far_ones_the_scene_in_200_random_jobs():
    rng = np.random.default_rng(0)
    for number in range(200):
        height, width = rng.integers(8, 160, 2)
        scene = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        mask = np.zeros((height, width), bool)
        if number % 4 == 0:  # one pixel, at the border every other time
            y, x = (rng.integers(0, height), rng.integers(0, width)) if number % 8 else (0, width - 1)
            mask[y, x] = True
        else:
            y0, x0 = rng.integers(0, height), rng.integers(0, width)
            mask[y0 : y0 + rng.integers(1, height + 1), x0 : x0 + rng.integers(1, width + 1)] = True
        box = crop.fooocus_crop(mask, float(rng.random()))
        size = crop.working_size(box[3] - box[1], box[2] - box[0], 64, 16)
        generated = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        result = dif.put_back(scene, generated, mask, box, PRESETS["paper"])
        far = crop.soft_mask(mask, crop.band_px(*mask.shape)) == 0
        assert result.shape == scene.shape
        assert (result[far] == scene[far]).all()
        assert (result[mask] == crop.paste(scene, generated, box)[mask]).all()
        assert crop.cut_mask(mask, box, size).any()


def test_a_byte_changed_outside_the_band_would_be_seen():
    scene = np.zeros((200, 200, 3), np.uint8)
    mask = mask_from_box((90, 90, 110, 110), 200, 200)
    generated = np.full((64, 64, 3), 255, np.uint8)
    whole_crop = dif.put_back(scene, generated, mask, (20, 20, 180, 180), PRESETS["dreamcom-released"])
    far = crop.soft_mask(mask, crop.band_px(*mask.shape)) == 0
    assert (whole_crop[far] != scene[far]).any()  # the release replaces the entire crop
    outside = np.ones((200, 200), bool)
    outside[20:180, 20:180] = False
    assert (whole_crop[outside] == scene[outside]).all()


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_working_size_is_in_multiples_and_near_the_resolution(height, width):
    rows, columns = crop.working_size(height, width, 512, 64)
    assert rows % 64 == columns % 64 == 0
    if max(height, width) <= 4 * min(height, width):
        assert 0.7 < rows * columns / 512**2 < 1.4


def test_fill_keeps_what_is_known_and_takes_nothing_of_what_is_hidden():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    mask = mask_from_box((10, 10, 30, 30), 40, 40)
    filled = crop.fill(image, mask)
    assert (filled[~mask] == image[~mask]).all()
    assert filled[mask].std() < image[mask].std()
    assert box_from_mask(mask) == (10, 10, 30, 30)


def test_blend_band_is_32_px_of_the_release_frame_and_narrower_in_small_scenes():
    assert [crop.band_px(side, side) for side in (16, 64, 128, 512, 1024, 4000)] == [1, 2, 4, 16, 32, 32]
    assert crop.band_px(512, 2048) == 32
