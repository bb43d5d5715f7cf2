"""Which part of a scene is painted at full resolution, and how it is put back so that nothing else changes.

Images are uint8 HxWx3 RGB, masks bool HxW (True = paint here), boxes `(x0, y0, x1, y1)` in pixels, half-open.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from manifests.pixels import ImageArray, MaskArray, box_from_mask
from manifests.records import Box

__all__ = [
    "band_px", "blend", "cut", "cut_mask", "dreamcom_crop", "fill", "fooocus_crop", "paste", "soft_mask", "whole",
    "working_size",
]  # fmt: skip

# radius and repeats of the release's fill (METHODS 2.5-1e)
FILL_PASSES = ((512, 2), (256, 2), (128, 4), (64, 4), (33, 8), (15, 8), (5, 16), (3, 16))
# at the 1024 px of the release's frame; wider would change pixels that METHODS 2.10-8 keeps
BLEND_PX, BLEND_SIDE = 32, 1024


def whole(mask: MaskArray) -> Box:
    """The whole scene."""
    return 0, 0, mask.shape[1], mask.shape[0]


def fooocus_crop(mask: MaskArray, field: float) -> Box:
    """The crop DreamMix paints locally (METHODS 2.5-1a and b): a square about the mask, grown to `field` of each side.

    It always holds the mask. Raises ValueError for an empty mask.
    """
    height, width = mask.shape
    x0, y0, x1, y1 = box_from_mask(mask)
    if field >= 1:
        return whole(mask)
    top, bottom, left, right = y0, y1 - 1, x0, x1 - 1  # inclusive, as in the source
    reach = int(1.15 * max((bottom - top) // 2, (right - left) // 2))
    middle_y, middle_x = (top + bottom) // 2, (left + right) // 2
    # a mask two pixels wide would lose one of them to the integer middle: the mask's own box is kept in
    a, b = max(0, min(middle_y - reach, y0)), min(height, max(middle_y + reach + 1, y1))
    c, d = max(0, min(middle_x - reach, x0)), min(width, max(middle_x + reach + 1, x1))
    while b - a < field * height or d - c < field * width:
        taller = b - a < d - c or d - c == width
        wider = not b - a < d - c or b - a == height
        if taller:
            a, b = max(0, a - 1), min(height, b + 1)
        if wider:
            c, d = max(0, c - 1), min(width, d + 1)
    return c, a, d, b


def dreamcom_crop(mask: MaskArray) -> Box:
    """DreamCom's crop (METHODS 3.5): the mask's box grown by half its sides, or everything if it fills a quarter."""
    height, width = mask.shape
    x0, y0, x1, y1 = box_from_mask(mask)
    if 4 * (x1 - x0) * (y1 - y0) >= height * width:
        return whole(mask)
    grow_x, grow_y = (x1 - x0) // 2, (y1 - y0) // 2
    return max(0, x0 - grow_x), max(0, y0 - grow_y), min(width, x1 + grow_x), min(height, y1 + grow_y)


def working_size(height: int, width: int, resolution: int, multiple: int) -> tuple[int, int]:
    """(height, width) a model paints a crop at: its shape at about resolution^2 pixels, in multiples of `multiple`."""
    scale = resolution / math.sqrt(height * width)
    rows, columns = (max(multiple, multiple * round(side * scale / multiple)) for side in (height, width))
    return rows, columns


def cut(image: ImageArray, box: Box, size_hw: tuple[int, int]) -> ImageArray:
    """The crop at the model's size (Lanczos)."""
    x0, y0, x1, y1 = box
    return _resize(image[y0:y1, x0:x1], size_hw)


def cut_mask(mask: MaskArray, box: Box, size_hw: tuple[int, int]) -> MaskArray:
    """The crop of the mask at the model's size: Lanczos, then above 127 of 255 (METHODS 2.5-1d).

    A mask too small to be seen at that size is kept as the cells it touches: a mask is never lost.
    """
    x0, y0, x1, y1 = box
    crop = mask[y0:y1, x0:x1]
    if crop.shape == size_hw:
        return crop
    resized = np.asarray(Image.fromarray(crop.astype(np.uint8) * 255).resize(size_hw[::-1], Image.Resampling.LANCZOS))
    small: MaskArray = resized > 127
    if crop.any() and not small.any():
        small = np.zeros(size_hw, bool)
        rows, columns = np.nonzero(crop)
        small[rows * size_hw[0] // crop.shape[0], columns * size_hw[1] // crop.shape[1]] = True
    return small


def paste(scene: ImageArray, painted: ImageArray, box: Box) -> ImageArray:
    """The scene with what was painted back at the crop's own size (Lanczos) in its box."""
    x0, y0, x1, y1 = box
    result = scene.copy()
    result[y0:y1, x0:x1] = _resize(painted, (y1 - y0, x1 - x0))
    return result


def band_px(height: int, width: int) -> int:
    """How far a result is blended into a scene of that size: 32 px from 1024 x 1024 on, below it in proportion.

    The release stretches every scene to 1024 first; 32 px of a scene of 64 would be most of it.
    """
    return max(1, min(BLEND_PX, round(BLEND_PX * math.sqrt(height * width) / BLEND_SIDE)))


def soft_mask(mask: MaskArray, width_px: int = BLEND_PX) -> npt.NDArray[np.uint8]:
    """uint8 HxW: 255 on the mask, falling to 0 at a Chebyshev distance of `width_px` from it (METHODS 2.5-1f).

    At 32 px: 255, 248, 240, ... 8, 0 at distance 0, 1, 2, ... 31, 32.
    """
    if not mask.any() or width_px < 1:
        return mask.astype(np.uint8) * 255
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_C, 3)
    soft: npt.NDArray[np.uint8] = np.clip(256 - np.ceil(distance * 256 / width_px), 0, 255).astype(np.uint8)
    return soft


def blend(scene: ImageArray, painted: ImageArray, soft: npt.NDArray[np.uint8]) -> ImageArray:
    """painted where soft is 255, the scene's own bytes where it is 0, a mixture between."""
    weight = soft[..., None].astype(np.float32) / 255
    mixed = np.rint(weight * painted + (1 - weight) * scene).astype(np.uint8)
    return np.where(soft[..., None] == 0, scene, np.where(soft[..., None] == 255, painted, mixed))


def fill(image: ImageArray, mask: MaskArray) -> ImageArray:
    """The masked part filled with blurred surroundings: box blurs, wide to narrow, known pixels put back each time."""
    known = ~mask[..., None]
    current = image
    for radius, repeats in FILL_PASSES:
        for _ in range(repeats):
            blurred = np.asarray(Image.fromarray(current).filter(ImageFilter.BoxBlur(radius)))
            current = np.where(known, image, blurred)
    return current


def _resize(image: ImageArray, size_hw: tuple[int, int]) -> ImageArray:
    if image.shape[:2] == size_hw:
        return image
    return np.asarray(Image.fromarray(image).resize(size_hw[::-1], Image.Resampling.LANCZOS))
