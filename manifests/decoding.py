"""Decode members straight into arrays that are already there, at the size asked for.

Pixels are those of Pillow, bit for bit: with `simplejpeg` (the extra `fast`) JPEGs are decoded by libjpeg-turbo in the
same accurate mode, without a copy and without the GIL; whatever it refuses is left to Pillow.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import numpy as np
from PIL import Image

from manifests.pixels import FORMATS, ImageArray, MaskArray, decode_mask
from manifests.records import Box

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

__all__ = ["Window", "box_in_window", "decode_image_into", "packed_mask", "show_mask", "window_for"]

_RESAMPLING = Image.Resampling.LANCZOS
# a JPEG is decoded at 1/2, 1/4 or 1/8 while that leaves twice the pixels asked for: Pillow's own `reducing_gap` rule
_REDUCING_GAP = 2
_SAME_AS_PILLOW = ("YCbCr", "Gray", "RGB")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a picture that a slot shows: `left, top, right, bottom` in pixels of the whole picture."""

    left: float
    top: float
    right: float
    bottom: float

    def is_whole(self, width: int, height: int) -> bool:
        """Whether nothing is cut off."""
        return (self.left, self.top, self.right, self.bottom) == (0, 0, width, height)


def window_for(
    picture_size: tuple[int, int], size: tuple[int, int], box: Box, draw: tuple[float, float] | None = None
) -> Window:
    """The largest window of the asked shape, holding the subject's box where it fits. Sizes are (height, width).

    Among the places that hold the box it is the one nearest the middle, or the one that two numbers in [0, 1) draw.
    """
    height, width = picture_size
    scale = max(size[0] / height, size[1] / width)
    window_height, window_width = min(height, size[0] / scale), min(width, size[1] / scale)

    def start(extent: int, window: float, first: int, last: int, number: float | None) -> float:
        low, high = max(0.0, last - window), min(extent - window, first)
        if low > high:  # the box is larger than the window: its middle
            return min(max(0.0, (first + last - window) / 2), extent - window)
        at = min(max((extent - window) / 2, low), high) if number is None else low + number * (high - low)
        # whole pixels where nothing is scaled: a cut must not blur
        return float(round(at)) if scale == 1 else at

    left = start(width, window_width, box[0], box[2], None if draw is None else draw[0])
    top = start(height, window_height, box[1], box[3], None if draw is None else draw[1])
    return Window(left, top, left + window_width, top + window_height)


def box_in_window(box: Box, window: Window, size: tuple[int, int]) -> Box:
    """A half-open box of the whole picture in pixels of a slot of that (height, width), clipped to it."""
    across = size[1] / (window.right - window.left)
    down = size[0] / (window.bottom - window.top)

    def clipped(value: float, extent: int) -> int:
        return min(max(0, value), extent).__trunc__()

    return (
        clipped(np.floor((box[0] - window.left) * across), size[1]),
        clipped(np.floor((box[1] - window.top) * down), size[0]),
        clipped(np.ceil((box[2] - window.left) * across), size[1]),
        clipped(np.ceil((box[3] - window.top) * down), size[0]),
    )


def decode_image_into(data: bytes, image_format: str, size: tuple[int, int], window: Window, out: ImageArray) -> None:
    """Decode a picture of recorded (height, width) `size` into `out`, uint8 HxWx3 RGB and contiguous.

    Where the window is not as large as `out`, it is resampled (Lanczos). Raises ValueError where the picture is not of
    the recorded size, OSError where it cannot be decoded.
    """
    height, width = size
    if out.shape[:2] == size and window.is_whole(width, height):
        if not (image_format == "jpg" and _decode_jpeg(data, size, out)):
            out[:] = _by_pillow(data, image_format, size, 1)
        return
    reduction = 1
    if image_format == "jpg":
        gap = min((window.bottom - window.top) / out.shape[0], (window.right - window.left) / out.shape[1])
        reduction = next((r for r in (8, 4, 2) if gap >= _REDUCING_GAP * r), 1)
    reduced: ImageArray = np.empty((-(-height // reduction), -(-width // reduction), 3), np.uint8)
    if not (image_format == "jpg" and _decode_jpeg(data, size, reduced)):
        reduced = _by_pillow(data, image_format, size, reduction)
    _show(reduced, size, window, out)


def show_mask(packed: ImageArray, size: tuple[int, int], window: Window, out: MaskArray) -> None:
    """Bring the bits of a mask of (height, width) `size` into `out`, bool HxW, True = the subject.

    Resampled where the window is not as large as `out`; a pixel is the subject's where at least half of it is.
    """
    height, width = size
    mask = np.unpackbits(packed, axis=1, count=width)
    if out.shape == size and window.is_whole(width, height):
        out[:] = mask.view(np.bool_)
        return
    grey = np.empty((*out.shape, 1), np.uint8)
    _show((mask * np.uint8(255))[..., None], size, window, grey, Image.Resampling.BILINEAR)
    np.greater_equal(grey[..., 0], 128, out=out)


def packed_mask(data: bytes, size: tuple[int, int]) -> ImageArray:
    """The bits of a mask's PNG as uint8 H x ceil(W/8), most significant first; 1 = the subject.

    Raises ValueError where it is not of the recorded (height, width) `size`, OSError where it cannot be decoded.
    """
    height, width = size
    stream = _one_bit_stream(data, width, height)
    if stream is None:
        mask = decode_mask(data)
        if mask.shape != size:
            raise ValueError(f"the mask is {mask.shape[0]}x{mask.shape[1]}, recorded is {height}x{width}")
        return np.packbits(mask, axis=1)
    # A row of 1-bit pixels and a row of 8-bit pixels of an eighth of the width are the same bytes and filtered alike
    # (PNG specification, 7.2 and 9.2): read as the latter, Pillow hands out bits, twice as fast as pixels.
    return np.asarray(Image.frombytes("L", (-(-width // 8), height), stream, "zip", "L", 0))


def _one_bit_stream(data: bytes, width: int, height: int) -> bytes | None:
    """The compressed pixels of a 1-bit grey PNG of that size; None where it is another kind of PNG."""
    begin = _PNG_SIGNATURE + struct.pack(">I4sIIBBBBB", 13, b"IHDR", width, height, 1, 0, 0, 0, 0)
    parts = []
    position = len(begin) + 4
    while data.startswith(begin) and position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kind = data[position + 4 : position + 8]
        if kind == b"IDAT":
            parts.append(data[position + 8 : position + 8 + length])
        elif kind == b"IEND":
            return b"".join(parts) if parts else None
        elif kind == b"tRNS":
            return None
        position += 12 + length
    return None


def _decode_jpeg(data: bytes, size: tuple[int, int], out: ImageArray) -> bool:
    """Decode at the scale that gives `out`, into it; False where simplejpeg is missing or will not."""
    if simplejpeg is None:
        return False
    try:
        # asked first: a larger picture than recorded would come out scaled down, and fit; CMYK is turned otherwise
        *found, colours, _ = simplejpeg.decode_jpeg_header(data)
        if tuple(found) != size or colours not in _SAME_AS_PILLOW:
            return False
        decoded = simplejpeg.decode_jpeg(data, "RGB", min_height=out.shape[0], min_width=out.shape[1], buffer=out)
    except ValueError:
        return False
    return bool(decoded.shape == out.shape)


def _by_pillow(data: bytes, image_format: str, size: tuple[int, int], reduction: int) -> ImageArray:
    with Image.open(io.BytesIO(data), formats=FORMATS[image_format]) as image:
        if image.size != (size[1], size[0]):
            raise ValueError(f"the picture is {image.height}x{image.width}, recorded is {size[0]}x{size[1]}")
        if reduction > 1:
            image.draft("RGB", (size[1] // reduction, size[0] // reduction))
        return np.asarray(image.convert("RGB"))


def _show(
    pixels: ImageArray,
    size: tuple[int, int],
    window: Window,
    out: ImageArray,
    resampling: Image.Resampling = _RESAMPLING,
) -> None:
    """Bring the window of a picture of that (height, width), which may be reduced already, to the size of `out`."""
    down, across = pixels.shape[0] / size[0], pixels.shape[1] / size[1]
    left, top, right, bottom = window.left * across, window.top * down, window.right * across, window.bottom * down
    if (bottom - top, right - left) == out.shape[:2] and left == int(left) and top == int(top):
        out[:] = pixels[int(top) : int(top) + out.shape[0], int(left) : int(left) + out.shape[1]]
        return
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    box = (left, top, min(right, pixels.shape[1]), min(bottom, pixels.shape[0]))
    resized = np.asarray(image.resize((out.shape[1], out.shape[0]), resampling, box=box))
    out[:] = resized[..., None] if pixels.shape[2] == 1 else resized
