"""Pictures and masks of a corpus: one truth for colour order, mask polarity and box convention.

An image is uint8 HxWx3 RGB, upright, sRGB. A mask is bool HxW, True = the subject; on disk a 1-bit PNG with
white = the subject. These functions read what the corpus already vouches for by sha256; pictures from outside
go through `dataforge.ingest` first.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from manifests.records import Box

__all__ = ["box_from_mask", "decode_image", "decode_mask", "encode_image", "encode_mask", "image_size", "mask_from_box"]

# decoders are named, never guessed from 40 parsers
FORMATS = {"jpg": ("JPEG",), "png": ("PNG",), "webp": ("WEBP",)}

ImageArray = npt.NDArray[np.uint8]
MaskArray = npt.NDArray[np.bool_]


def image_size(data: bytes, image_format: str) -> tuple[int, int]:
    """(height, width) that the header of a member declares; nothing is decoded. Raises OSError where it has none."""
    size = _jpeg_size(data) if image_format == "jpg" else _png_size(data) if image_format == "png" else None
    if size is not None:
        return size
    with Image.open(io.BytesIO(data), formats=FORMATS[image_format]) as image:
        return image.height, image.width


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """From the frame header (ITU-T T.81, B.2.2), a tenth of what opening the picture costs; None for anything odd."""
    position = 2
    while data.startswith(b"\xff\xd8") and position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[position + 5 : position + 7]), int.from_bytes(data[position + 7 : position + 9])
        if not 0xC0 <= marker <= 0xFE or 0xD0 <= marker <= 0xDA:
            return None
        position += 2 + int.from_bytes(data[position + 2 : position + 4])
    return None


def _png_size(data: bytes) -> tuple[int, int] | None:
    if not data.startswith(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR") or len(data) < 57:
        return None
    return int.from_bytes(data[20:24]), int.from_bytes(data[16:20])


def decode_image(data: bytes, image_format: str) -> ImageArray:
    """Bytes of a `jpg`, `png` or `webp` member to uint8 HxWx3 RGB."""
    with Image.open(io.BytesIO(data), formats=FORMATS[image_format]) as image:
        return np.asarray(image.convert("RGB"))


def decode_mask(data: bytes) -> MaskArray:
    """Bytes of a mask member to bool HxW, True = the subject."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        return np.asarray(image.convert("L")) >= 128


def encode_mask(mask: MaskArray) -> bytes:
    """bool HxW to a 1-bit PNG, white = the subject. Raises ValueError for any other array."""
    if mask.dtype != np.bool_ or mask.ndim != 2:
        raise ValueError(f"a mask is bool HxW, not {mask.dtype} {mask.shape}")
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return buffer.getvalue()


def encode_image(image: ImageArray) -> tuple[bytes, str]:
    """uint8 HxWx3 RGB to lossless bytes and their format: `webp`, or `png` beyond WebP's 16383 px."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an image is uint8 HxWx3, not {image.dtype} {image.shape}")
    buffer = io.BytesIO()
    if max(image.shape) <= 16383:
        Image.fromarray(image).save(buffer, "WEBP", lossless=True, quality=0, method=0, exact=True)
        return buffer.getvalue(), "webp"
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue(), "png"


def box_from_mask(mask: MaskArray) -> Box:
    """The tight half-open box around a mask. Raises ValueError for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise ValueError("an empty mask has no box")
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def mask_from_box(box: Box, height: int, width: int) -> MaskArray:
    """A bool HxW mask, True inside the half-open box."""
    mask = np.zeros((height, width), bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask
