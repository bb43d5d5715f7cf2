"""Pixels: colour order, mask polarity and boxes mean one thing, on disk and in memory."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from manifests.pixels import box_from_mask, decode_image, decode_mask, encode_image, encode_mask, mask_from_box


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 64)])
def test_made_picture_comes_back_exactly_as_lossless_webp(size):
    image = random_image(*size)
    data, image_format = encode_image(image)
    assert image_format == "webp"
    np.testing.assert_array_equal(decode_image(data, image_format), image)
    assert encode_image(image)[0] == data


def test_picture_too_long_for_webp_becomes_png():
    image = random_image(1, 16384)
    data, image_format = encode_image(image)
    assert image_format == "png"
    np.testing.assert_array_equal(decode_image(data, "png"), image)


def test_channels_are_red_green_blue():
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 255
    buffer = io.BytesIO()
    Image.fromarray(red).save(buffer, "JPEG", quality=95)
    assert decode_image(buffer.getvalue(), "jpg")[0, 0].argmax() == 0
    assert decode_image(encode_image(red)[0], "webp")[0, 0].tolist() == [255, 0, 0]


def test_grey_and_palette_pictures_become_three_channels():
    for mode in ("L", "P", "1"):
        buffer = io.BytesIO()
        Image.new("L", (5, 4), 200).convert(mode).save(buffer, "PNG")
        assert decode_image(buffer.getvalue(), "png").shape == (4, 5, 3)


def test_decoder_is_the_one_named_and_no_other():
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    for other in ("jpg", "webp"):
        with pytest.raises(OSError, match="cannot identify"):
            decode_image(buffer.getvalue(), other)
    with pytest.raises(KeyError):
        decode_image(buffer.getvalue(), "gif")


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1000))
def test_mask_comes_back_exactly(height, width, seed):
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    again = decode_mask(encode_mask(mask))
    assert again.dtype == np.bool_
    np.testing.assert_array_equal(again, mask)


def test_mask_on_disk_is_one_bit_and_white_where_the_subject_is():
    mask = np.zeros((4, 6), bool)
    mask[1, 2] = True
    with Image.open(io.BytesIO(encode_mask(mask))) as image:
        assert (image.mode, image.size, image.format) == ("1", (6, 4), "PNG")
        assert image.convert("L").getpixel((2, 1)) == 255
        assert image.convert("L").getpixel((0, 0)) == 0


@pytest.mark.parametrize(
    "mask", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 1), bool), np.zeros(4, bool), np.zeros((4, 4), float)]
)
def test_mask_of_another_kind_is_refused(mask):
    with pytest.raises(ValueError, match="a mask is bool HxW"):
        encode_mask(mask)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4, 3), float), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)]
)
def test_image_of_another_kind_is_refused(image):
    with pytest.raises(ValueError, match="an image is uint8 HxWx3"):
        encode_image(image)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 20), st.integers(1, 20))
def test_box_is_half_open_and_tight(x0, y0, width, height):
    box = (x0, y0, x0 + width, y0 + height)
    mask = mask_from_box(box, 45, 44)
    assert mask.shape == (45, 44)
    assert mask.sum() == width * height
    assert box_from_mask(mask) == box


def test_box_of_scattered_pixels_holds_them_all():
    mask = np.zeros((10, 20), bool)
    mask[2, 3] = mask[7, 15] = True
    assert box_from_mask(mask) == (3, 2, 16, 8)
    with pytest.raises(ValueError, match="an empty mask has no box"):
        box_from_mask(np.zeros((3, 3), bool))
