"""From a picture and its mask to what a UNet of one resolution sees: resize, crop, scale (METHODS 2.3, 3.2).

A view holds square arrays of side `resolution`; picture and mask always go through the same geometry.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from PIL import Image

from manifests.pixels import ImageArray, MaskArray, box_from_mask

__all__ = ["View", "random_crop", "scaled_crop"]

MIN_KEPT = 0.8  # share of the object that a crop has to keep
CROP_TRIES = 20


@dataclass(frozen=True, slots=True)
class View:
    """One way to look at a picture.

    image uint8 RxRx3 RGB; object bool RxR; original_size (height, width) and crop_top_left in pixels, as SDXL's size
    conditioning takes them; valid bool RxR, False on padding, None where there is none.
    """

    image: ImageArray
    object: MaskArray
    original_size: tuple[int, int]
    crop_top_left: tuple[int, int]
    valid: MaskArray | None = None


def _resized(image: ImageArray, mask: MaskArray, resolution: int) -> tuple[ImageArray, MaskArray]:
    """Short side to the resolution, bilinear, the mask nearest."""
    height, width = mask.shape
    scale = resolution / min(height, width)
    size = (max(resolution, round(width * scale)), max(resolution, round(height * scale)))
    if size == (width, height):
        return image, mask
    picture = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(picture), np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def random_crop(image: ImageArray, mask: MaskArray, resolution: int, rng: Generator) -> View:
    """Short side to the resolution, then a random square that keeps at least 80 % of the object.

    After 20 crops that lose more, the square is centred on the object. The object is empty in the view only if its
    mask vanished in resizing; the caller checks that.
    """
    original = mask.shape[0], mask.shape[1]
    image, mask = _resized(image, mask, resolution)
    area = int(mask.sum())
    rows, columns = mask.shape[0] - resolution, mask.shape[1] - resolution
    for _ in range(CROP_TRIES):
        top, left = int(rng.integers(0, rows + 1)), int(rng.integers(0, columns + 1))
        if mask[top : top + resolution, left : left + resolution].sum() >= MIN_KEPT * area:
            break
    else:
        x0, y0, x1, y1 = box_from_mask(mask)
        top = int(np.clip((y0 + y1 - resolution) // 2, 0, rows))
        left = int(np.clip((x0 + x1 - resolution) // 2, 0, columns))
    window = np.s_[top : top + resolution, left : left + resolution]
    return View(np.ascontiguousarray(image[window]), np.ascontiguousarray(mask[window]), original, (top, left))


def scaled_crop(image: ImageArray, mask: MaskArray, resolution: int, rng: Generator, *, probability: float) -> View:
    """DreamCom's augmentation: random crop, and with a probability a scale uniform in [0.8, 1.2] with black padding.

    Accepted when more than 80 % of the object's pixels before the crop stay visible; the threshold falls by 0.02 after
    each 20 rejections (METHODS 3.2).
    """
    original = mask.shape[0], mask.shape[1]
    image, mask = _resized(image, mask, resolution)
    area = int(mask.sum())
    rows, columns = mask.shape[0] - resolution, mask.shape[1] - resolution
    threshold, tries = MIN_KEPT, 0
    while True:
        top, left = int(rng.integers(0, rows + 1)), int(rng.integers(0, columns + 1))
        window = np.s_[top : top + resolution, left : left + resolution]
        scale = float(rng.uniform(0.8, 1.2)) if rng.random() < probability else 1.0
        picture, object_, valid = _scaled(image[window], mask[window], scale)
        if object_.sum() > threshold * area or area == 0:
            return View(picture, object_, original, (top, left), valid)
        tries += 1
        if tries % CROP_TRIES == 0:
            threshold -= 0.02


def _scaled(image: ImageArray, mask: MaskArray, scale: float) -> tuple[ImageArray, MaskArray, MaskArray]:
    """Scale about the centre, same size; what comes from outside is black and not valid."""
    side = mask.shape[0]
    if scale == 1.0:
        return np.ascontiguousarray(image), np.ascontiguousarray(mask), np.ones(mask.shape, bool)
    matrix = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), 0, scale)
    picture = cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR)
    marks = [
        np.asarray(cv2.warpAffine(part.astype(np.uint8), matrix, (side, side), flags=cv2.INTER_NEAREST)).astype(bool)
        for part in (mask, np.ones_like(mask))
    ]
    return np.asarray(picture), marks[0], marks[1]
