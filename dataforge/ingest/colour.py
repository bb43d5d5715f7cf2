"""From what a decoder returns to upright, opaque, 8-bit sRGB."""

from __future__ import annotations

import io
import struct
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from dataforge.ingest.container import MAX_PROFILE_BYTES, Container
from manifests.errors import Fault

__all__ = ["exif_orientation", "perceptual_hash", "to_srgb", "upright"]

Array = npt.NDArray[Any]

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PROFILE_SPACES = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK"}
# A profile that moves no colour by more than this is sRGB under another name.
_SAME_COLOUR = 2


def exif_orientation(exif: bytes) -> int | None:
    """The orientation an EXIF block states; 1 where it states none, None where it cannot be read.

    Only this one field of the first directory is ever looked at.
    """
    block = exif[6:] if exif.startswith(b"Exif\0") else exif
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None or len(block) < 10:
        return None
    (offset,) = struct.unpack_from(order + "I", block, 4)
    if offset + 2 > len(block):
        return None
    (count,) = struct.unpack_from(order + "H", block, offset)
    for position in range(offset + 2, min(offset + 2 + 12 * count, len(block) - 11), 12):
        tag, kind, values = struct.unpack_from(order + "HHI", block, position)
        if tag == 0x0112:
            if kind not in (3, 4) or values != 1:
                return None
            (value,) = struct.unpack_from(order + ("H" if kind == 3 else "I"), block, position + 8)
            return int(value)
    return 1


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """The picture turned as an EXIF orientation asks."""
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def to_srgb(image: Image.Image, container: Container, icc: bytes | None) -> tuple[Image.Image, tuple[str, ...]] | Fault:
    """A decoded picture as `L` or `RGB`, 8-bit, sRGB, opaque, and the notes on what was done for that."""
    notes: list[str] = []
    alpha: Image.Image | None = None
    if image.mode == "F":
        scaled = _scaled_float(np.asarray(image))
        if isinstance(scaled, Fault):
            return scaled
        image = Image.fromarray(scaled)
        notes.append("float")
    elif image.mode == "I":
        return Fault("E199", "32-bit or signed integer pixels, whose range nobody agreed on")
    elif image.mode.startswith("I"):
        values = np.asarray(image)
        alpha = _keyed(values, container.transparent)
        image = Image.fromarray(_high_byte(values, container.depth))
        notes.append("depth")
    else:
        if container.depth > 8:  # the decoder has kept the high byte
            notes += ["depth"] + ["transparency-ignored"] * (container.transparent is not None)
        elif container.transparent is not None:
            scale = 255 // ((1 << container.depth) - 1) if len(container.transparent) == 1 else 1
            image = image.convert("L") if image.mode == "1" else image
            alpha = _keyed(np.asarray(image), tuple(value * scale for value in container.transparent))
        if image.mode == "LA":
            image, alpha = image.getchannel("L"), image.getchannel("A")
        elif image.mode in ("La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
            full = image.convert("RGBA")
            alpha = full.getchannel("A")
            image = full.convert("RGB")
        elif image.mode == "1":
            image = image.convert("L")
        elif image.mode not in ("L", "RGB", "CMYK"):
            image = image.convert("RGB")
    if image.mode == "CMYK":
        notes.append("cmyk")
    if icc is not None:
        converted = _through_profile(image, icc)
        if converted is None:
            notes.append("icc-ignored")
        elif converted is not image:
            image = converted
            notes.append("icc-to-srgb")
    if image.mode == "CMYK":
        image = image.convert("RGB")
    if alpha is not None and alpha.getextrema() != (255, 255):
        white = Image.new(image.mode, image.size, "white")
        white.paste(image, mask=alpha)
        image = white
        notes.append("alpha-on-white")
    return image, tuple(notes)


def perceptual_hash(image: Image.Image) -> int:
    """64 bits that near-duplicates share but for a few: signs of the lowest frequencies against their median.

    Whole numbers throughout, so that every machine finds the same bits.
    """
    small = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX), np.int64)
    low = (_COSINES @ small @ _COSINES.T).ravel()
    bits = low > np.median(low[1:])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


_ANGLES = np.pi / 32 * np.arange(8)[:, None] * (np.arange(32)[None, :] + 0.5)
_COSINES = np.rint(4096 * np.cos(_ANGLES)).astype(np.int64)


def _keyed(values: Array, transparent: tuple[int, ...] | None) -> Image.Image | None:
    """The alpha of a picture one of whose values means transparent."""
    if transparent is None:
        return None
    same = values == np.array(transparent if values.ndim == 3 else transparent[0])
    same = same.all(axis=2) if values.ndim == 3 else same
    return Image.fromarray(np.where(same, np.uint8(0), np.uint8(255)))


def _high_byte(values: Array, depth: int) -> npt.NDArray[np.uint8]:
    return (values.astype(np.uint16) >> min(max(depth - 8, 0), 8)).astype(np.uint8)


def _scaled_float(values: Array) -> npt.NDArray[np.uint8] | Fault:
    if not np.isfinite(values).all():
        wrong = values.size - int(np.isfinite(values).sum())
        return Fault("E150", f"{wrong:,} of {values.size:,} pixels are NaN or infinite")
    top = float(values.max())
    # resizing and denoising overshoot: a picture of 0..1 may reach a little above 1
    scale = 255.0 if top <= 1.5 else 1.0 if top <= 255 else 255.0 / top
    scaled: npt.NDArray[np.uint8] = np.rint((values * scale).clip(0, 255)).astype(np.uint8)
    return scaled


def _through_profile(image: Image.Image, icc: bytes) -> Image.Image | None:
    """The picture in sRGB; itself where the profile is sRGB, None where the profile cannot be used."""
    transform = _transform(icc, image.mode) if len(icc) <= MAX_PROFILE_BYTES else None
    if transform is None and image.mode == "L":
        # grey pixels under an RGB profile
        transform = _transform(icc, "RGB")
        if transform is not None and transform != "same":
            image = image.convert("RGB")
    if transform is None or transform == "same":
        return image if transform else None
    converted: Image.Image = transform.apply(image)
    return converted


@lru_cache(maxsize=16)
def _transform(icc: bytes, mode: str) -> Any:
    """A transform from a profile to sRGB; "same" where it changes nothing, None where it cannot be had."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        if profile.profile.xcolor_space != _PROFILE_SPACES[mode]:
            return None
        transform = ImageCms.buildTransform(
            profile,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if mode != "CMYK":
            probe = _probe(mode)
            moved = np.asarray(transform.apply(probe), np.int16) - np.asarray(probe.convert("RGB"), np.int16)
            if np.abs(moved).max() <= _SAME_COLOUR:
                return "same"
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return transform


def _probe(mode: str) -> Image.Image:
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    steps = np.arange(0, 256, 17, dtype=np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(steps, steps, steps), -1).reshape(16, -1, 3))
