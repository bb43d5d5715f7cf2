"""Pixels: bit for bit those of Pillow, with simplejpeg and without; windows that hold the subject."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from manifests import decoding
from manifests.decoding import Window, box_in_window, decode_image_into, packed_mask, show_mask, window_for
from manifests.pixels import encode_mask, image_size

SIZES = [(64, 64), (63, 65), (101, 77), (17, 300), (1, 9), (257, 255)]


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (max(2, height // 8), max(2, width // 8), 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def jpegs(height: int, width: int) -> list[bytes]:
    """Every subsampling, baseline and progressive, grey, CMYK."""
    pixels, found = Image.fromarray(smooth(height, width)), []
    for subsampling, progressive in itertools.product((0, 1, 2), (False, True)):
        buffer = io.BytesIO()
        pixels.save(buffer, "JPEG", quality=88, subsampling=subsampling, progressive=progressive)
        found.append(buffer.getvalue())
    for mode in ("L", "CMYK"):
        buffer = io.BytesIO()
        pixels.convert(mode).save(buffer, "JPEG", quality=88)
        found.append(buffer.getvalue())
    return found


@pytest.fixture(params=["with simplejpeg", "without"])
def either(request, monkeypatch):
    if request.param == "without":
        monkeypatch.setattr(decoding, "simplejpeg", None)
    else:
        pytest.importorskip("simplejpeg")
    return request.param


def by_pillow(data: bytes, reduction: int = 1) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    if reduction > 1:
        image.draft("RGB", (image.width // reduction, image.height // reduction))
    return image.convert("RGB")


def whole(size: tuple[int, int]) -> Window:
    return Window(0, 0, size[1], size[0])


@pytest.mark.parametrize("size", SIZES)
def test_jpeg_of_the_asked_size_is_pillows_bit_for_bit(either, size):
    for data in jpegs(*size):
        out = np.full((*size, 3), 7, np.uint8)
        decode_image_into(data, "jpg", size, whole(size), out)
        np.testing.assert_array_equal(out, np.asarray(by_pillow(data)))


@pytest.mark.parametrize(("size", "asked"), [((512, 512), 64), ((512, 400), 100), ((300, 300), 128), ((90, 60), 100)])
def test_jpeg_of_another_size_is_what_pillow_reduces_and_resamples(either, size, asked):
    for data in jpegs(*size):
        window = window_for(size, (asked, asked), (0, 0, *size[::-1]))
        side = min(size)
        reduction = max(r for r in (1, 2, 4, 8) if r == 1 or side / asked >= 2 * r)
        out = np.empty((asked, asked, 3), np.uint8)
        decode_image_into(data, "jpg", size, window, out)
        image = by_pillow(data, reduction)
        across, down = image.width / size[1], image.height / size[0]
        box = (
            window.left * across,
            window.top * down,
            min(image.width, window.right * across),
            min(image.height, window.bottom * down),
        )
        expected = image.resize((asked, asked), Image.Resampling.LANCZOS, box=box)
        np.testing.assert_array_equal(out, np.asarray(expected))


def test_reduced_jpeg_is_near_to_the_whole_one_resampled():
    """Decoding at half size is a shortcut: what it changes stays below what anyone sees."""
    pixels = Image.fromarray(smooth(64, 64)).resize((512, 512), Image.Resampling.BICUBIC)
    for subsampling in (0, 2):
        buffer = io.BytesIO()
        pixels.save(buffer, "JPEG", quality=90, subsampling=subsampling)
        data = buffer.getvalue()
        out = np.empty((64, 64, 3), np.uint8)
        decode_image_into(data, "jpg", (512, 512), whole((512, 512)), out)
        full = by_pillow(data).resize((64, 64), Image.Resampling.LANCZOS)
        assert np.abs(out.astype(int) - np.asarray(full)).mean() < 2


@pytest.mark.parametrize("image_format", ["png", "webp"])
def test_other_formats_are_pillows(image_format):
    pixels = smooth(50, 70)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format.upper(), lossless=True)
    out = np.empty((50, 70, 3), np.uint8)
    decode_image_into(buffer.getvalue(), image_format, (50, 70), whole((50, 70)), out)
    np.testing.assert_array_equal(out, pixels)
    cut = np.empty((20, 20, 3), np.uint8)
    decode_image_into(buffer.getvalue(), image_format, (50, 70), Window(11, 5, 31, 25), cut)
    np.testing.assert_array_equal(cut, pixels[5:25, 11:31])  # a cut is no resampling


@pytest.mark.parametrize("size", [(60, 60), (64, 65), (128, 128), (32, 32)])
def test_picture_that_is_not_of_the_recorded_size_is_refused(either, size):
    data = jpegs(64, 64)[0]
    out = np.empty((*size, 3), np.uint8)
    with pytest.raises(ValueError, match=rf"64x64, recorded is {size[0]}x{size[1]}"):
        decode_image_into(data, "jpg", size, whole(size), out)


def test_damaged_jpeg_is_an_error_and_not_grey(either):
    data = jpegs(64, 64)[0]
    with pytest.raises(OSError, match="truncated"):
        decode_image_into(data[: len(data) // 2], "jpg", (64, 64), whole((64, 64)), np.empty((64, 64, 3), np.uint8))


def mask_of(size: tuple[int, int], seed: int) -> np.ndarray:
    return smooth(*size, seed)[..., 0] > 120


@pytest.mark.parametrize("size", [*SIZES, (512, 512), (8, 8)])
def test_mask_comes_back_bit_for_bit(size):
    for seed in range(4):
        mask = mask_of(size, seed) if seed else np.random.default_rng(0).random(size) > 0.5
        packed = packed_mask(encode_mask(mask), size)
        np.testing.assert_array_equal(packed, np.packbits(mask, axis=1))
        out = np.empty(size, np.bool_)
        show_mask(packed, size, whole(size), out)
        np.testing.assert_array_equal(out, mask)
        assert set(np.unique(out.view(np.uint8))) <= {0, 1}


@pytest.mark.parametrize("how", ["8 bit", "palette", "many chunks", "transparency"])
def test_mask_in_another_dress_is_read_all_the_same(how):
    mask = mask_of((50, 61), 1)
    buffer = io.BytesIO()
    if how == "8 bit":
        Image.fromarray(mask.view(np.uint8) * 255).save(buffer, "PNG")
    elif how == "palette":
        image = Image.fromarray(mask.view(np.uint8))
        image = image.convert("P")
        image.putpalette([0, 0, 0, 255, 255, 255])
        image.save(buffer, "PNG", bits=1)
    elif how == "transparency":
        Image.fromarray(mask).save(buffer, "PNG", transparency=0)
    data = buffer.getvalue() or split_idat(encode_mask(mask))
    np.testing.assert_array_equal(packed_mask(data, (50, 61)), np.packbits(mask, axis=1))


def split_idat(data: bytes) -> bytes:
    """The same PNG with its pixels in chunks of 9 bytes."""
    import struct
    import zlib

    start = data.index(b"IDAT") - 4
    (length,) = struct.unpack_from(">I", data, start)
    pixels = data[start + 8 : start + 8 + length]
    chunks = b""
    for at in range(0, length, 9):
        part = pixels[at : at + 9]
        chunks += struct.pack(">I", len(part)) + b"IDAT" + part + struct.pack(">I", zlib.crc32(b"IDAT" + part))
    return data[:start] + chunks + data[start + 12 + length :]


@pytest.mark.parametrize("size", [(50, 62), (51, 61), (50, 8)])
def test_mask_that_is_not_of_the_recorded_size_is_refused(size):
    with pytest.raises(ValueError, match="the mask is 50x61"):
        packed_mask(encode_mask(mask_of((50, 61), 1)), size)


def test_mask_that_is_cut_is_an_error():
    data = encode_mask(np.random.default_rng(0).random((64, 64)) > 0.5)
    for end in (30, 60, len(data) // 2):
        with pytest.raises((OSError, ValueError, SyntaxError)):
            packed_mask(data[:end], (64, 64))


def test_resampled_mask_keeps_its_area_and_place():
    mask = np.zeros((200, 200), bool)
    mask[50:150, 20:120] = True
    out = np.empty((50, 50), np.bool_)
    show_mask(np.packbits(mask, axis=1), (200, 200), whole((200, 200)), out)
    expected = np.zeros((50, 50), bool)
    expected[12:38, 5:30] = True
    assert (out != expected).sum() <= 60
    assert abs(out.mean() - 0.25) < 0.01


def test_window_holds_the_box_wherever_it_fits_and_has_the_asked_shape():
    rng = np.random.default_rng(0)
    for _ in range(500):
        height, width = (int(n) for n in rng.integers(20, 400, 2))
        size = (int(rng.integers(8, 300)), int(rng.integers(8, 300)))
        x = sorted(rng.choice(width + 1, 2, replace=False).tolist())
        y = sorted(rng.choice(height + 1, 2, replace=False).tolist())
        box = (x[0], y[0], x[1], y[1])
        for draw in (None, (0.0, 0.0), (0.999, 0.999), tuple(rng.random(2))):
            window = window_for((height, width), size, box, draw)
            wide, high = window.right - window.left, window.bottom - window.top
            assert 0 <= window.left <= window.right <= width + 1e-9
            assert 0 <= window.top <= window.bottom <= height + 1e-9
            assert abs(wide / high - size[1] / size[0]) < 1e-6 * size[1] / size[0]
            assert min(width - wide, height - high) < 1e-6  # as large as it can be
            slack = 1.0 if max(size[0] / height, size[1] / width) == 1 else 1e-9
            if box[2] - box[0] <= wide:
                assert window.left - slack <= box[0]
                assert box[2] <= window.right + slack
            if box[3] - box[1] <= high:
                assert window.top - slack <= box[1]
                assert box[3] <= window.bottom + slack
            shown = box_in_window(box, window, size)
            assert 0 <= shown[0] < shown[2] <= size[1]
            assert 0 <= shown[1] < shown[3] <= size[0]


def test_random_window_moves_and_the_middle_one_does_not():
    starts = {window_for((100, 300), (50, 50), (140, 10, 160, 90), (x, 0.5)).left for x in (0.1, 0.5, 0.9)}
    assert len(starts) == 3
    assert window_for((100, 300), (50, 50), (140, 10, 160, 90)).left == 100
    assert window_for((100, 300), (50, 50), (0, 10, 20, 90)).left == 0


def test_box_lies_on_the_same_thing_in_the_window():
    window = window_for((100, 200), (50, 50), (120, 20, 160, 60))
    assert box_in_window((120, 20, 160, 60), window, (50, 50)) == (
        int((120 - window.left) / 2),
        10,
        int((160 - window.left) / 2),
        30,
    )


@pytest.mark.parametrize("size", SIZES)
def test_size_in_the_header_is_the_pictures(size):
    for data in jpegs(*size):
        assert image_size(data, "jpg") == size
    assert image_size(encode_mask(mask_of(size, 1)), "png") == size
    for data in (b"", b"no picture", b"\xff\xd8\xff\xd9", b"\x89PNG\r\n\x1a\n" + b"\xff" * 40):
        for image_format in ("jpg", "png", "webp"):
            with pytest.raises(OSError, match="cannot identify"):
                image_size(data, image_format)
