"""What is learnt about a file from its container alone, before any decoder sees a byte of it."""

from __future__ import annotations

from dataclasses import dataclass

from dataforge.config import Limits
from manifests.errors import Fault

__all__ = ["MAX_PROFILE_BYTES", "NOTES", "Container", "check_size"]

# No real colour profile is larger; a compressed one is inflated up to here and no further.
MAX_PROFILE_BYTES = 4 << 20

# Every note that an accepted photograph can carry.
NOTES: dict[str, str] = {
    "alpha-on-white": "transparent pixels were laid on white",
    "bad-exif": "unreadable EXIF; taken as upright",
    "bad-orientation": "an EXIF orientation outside 1..8; taken as upright",
    "cmyk": "printing colours were converted to sRGB",
    "colour-tag-ignored": "a PNG gamma or coded colour space that is not sRGB was not applied",
    "depth": "more than 8 bits per channel were scaled to 8",
    "first-frame": "only the first frame or page was taken",
    "float": "floating point pixels were scaled to 8 bits",
    "icc-ignored": "a broken or foreign colour profile was not applied",
    "icc-to-srgb": "colours were converted from the file's profile to sRGB",
    "multi-picture": "a second picture inside the same JPEG was dropped",
    "re-encoded": "the stored bytes are a new encoding of the decoded pixels",
    "rotated": "the EXIF orientation was applied",
    "trailing-bytes": "bytes after the end of the picture were dropped",
    "transparency-ignored": "the one transparent colour of a 16-bit picture was not applied",
}


@dataclass(frozen=True, slots=True)
class Container:
    """A file that passed its container's checks."""

    kind: str
    """Pillow's name of the one decoder that may read it."""
    data: bytes
    """What that decoder is given; without metadata where the container could be rebuilt."""
    size: tuple[int, int]
    """Width and height as declared, before any orientation."""
    frames: int = 1
    exif: bytes | None = None
    icc: bytes | None = None
    """The colour profile; empty where there is one that cannot be read."""
    orientation: int | None = None
    """Set where the container itself, not EXIF, says it."""
    depth: int = 8
    """Bits per channel."""
    transparent: tuple[int, ...] | None = None
    """The one grey or RGB value that means transparent, at the file's own depth."""
    truncated: str | None = None
    """How the file is seen to end early."""
    notes: tuple[str, ...] = ()


def check_size(width: int, height: int, limits: Limits) -> Fault | None:
    """The limits that need nothing but the declared size."""
    sides = f"{width}x{height}"
    if width * height > limits.max_pixels:
        return Fault("E120", f"{sides} = {width * height / 1e6:.1f} MP > {limits.max_pixels / 1e6:g} MP")
    if min(width, height) < max(limits.min_side, 1):
        return Fault("E122", f"{sides}, a side is shorter than {limits.min_side} px")
    if max(width, height) > limits.max_aspect * min(width, height):
        return Fault("E123", f"{sides} is longer than {limits.max_aspect:g} to 1")
    return None
