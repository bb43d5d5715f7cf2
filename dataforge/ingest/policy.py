"""What becomes of a file somebody else made: a photograph or a mask in the corpus's own form, or a fault.

Nothing that is wrong with a file raises. The container is checked before a decoder runs, one decoder is
named, all pixels are decoded, and no metadata is handed on.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# Only plugins that are imported are known by name; an unknown name in `formats=` is a bare KeyError.
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from dataforge.config import Ingest, Limits
from dataforge.ingest.colour import exif_orientation, perceptual_hash, to_srgb, upright
from dataforge.ingest.container import Container, check_size
from dataforge.ingest.sniff import examine
from manifests.errors import CODES, EnvironmentFault, Fault
from manifests.fsops import open_below
from manifests.pixels import encode_image, encode_mask

__all__ = ["ACCEPTED_FORMATS", "Photograph", "normalise_mask", "normalise_photograph", "read_file"]

ACCEPTED_FORMATS = tuple(
    plugin.format
    for plugin in (
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        WebPImagePlugin.WebPImageFile,
        TiffImagePlugin.TiffImageFile,
        BmpImagePlugin.BmpImageFile,
        GifImagePlugin.GifImageFile,
        AvifImagePlugin.AvifImageFile,
    )
)

_ITEM_ERRNOS = frozenset({errno.ELOOP, errno.ENOTDIR, errno.EINVAL, errno.ENXIO, errno.EISDIR, errno.ENODEV})
# Notes that say that a JPEG's pixels are no longer those of its bytes.
_PIXELS_CHANGED = frozenset({"alpha-on-white", "cmyk", "depth", "icc-to-srgb", "rotated"})
# Above this the lossless WebP encoder needs more memory and time than a worker has; PNG needs neither.
_LARGEST_WEBP = 24_000_000
_ADDRESS = re.compile(r"<[^<>]* at 0x[0-9a-fA-F]+>")


@dataclass(frozen=True, slots=True)
class Photograph:
    """A photograph as the corpus keeps it: upright, sRGB, 8-bit, without metadata."""

    data: bytes
    """The bytes to store."""
    format: str
    """`jpg`, `webp` or `png`: what those bytes are."""
    width: int
    height: int
    sha256: str
    """Of the file as it was found."""
    perceptual_hash: int
    """64 bits; near-duplicates differ in a few."""
    notes: tuple[str, ...]
    """Keys of `dataforge.ingest.container.NOTES`, sorted."""
    source_format: str
    """What the file really was, whatever its name: `JPEG`, `PNG`, ..."""


def read_file(root: Path, relative: str, limits: Limits) -> bytes | Fault:
    """All bytes of a regular file below a root; no symbolic link is followed, nothing over the limit read.

    Raises `EnvironmentFault` E512 where the machine and not the file is at fault.
    """
    try:
        descriptor = open_below(root, relative)
    except ValueError:
        return Fault("E107", "the name is absolute, climbs, or holds a backslash or a drive letter")
    except OSError as error:
        return _open_fault(error)
    with os.fdopen(descriptor, "rb") as file:
        before = os.fstat(descriptor)
        if before.st_size > limits.max_bytes:
            return Fault("E103", f"{before.st_size:,} bytes > {limits.max_bytes:,}")
        try:
            data = file.read(before.st_size + 1)
        except OSError as error:
            return _open_fault(error)
        after = os.fstat(descriptor)
    if not before.st_size == len(data) == after.st_size or before.st_mtime_ns != after.st_mtime_ns:
        return Fault("E104", f"{before.st_size:,} bytes at first, then {after.st_size:,}, {len(data):,} read")
    return data or Fault("E102", "0 bytes")


def normalise_photograph(data: bytes, settings: Ingest) -> Photograph | Fault:
    """A photograph in the corpus's form, or why it was not taken. Never raises for what is in the bytes."""
    try:
        with _guarded_decoders():
            return _photograph(data, settings)
    except Exception as error:  # the one seam: decoders raise whatever they like
        return _decoder_fault(error, data)


def normalise_mask(data: bytes, *, width: int, height: int, limits: Limits) -> bytes | Fault:
    """A given mask as a 1-bit PNG of the upright photograph's size; the brighter value is the subject.

    One channel and two values or nothing: a mask that has to be guessed at is refused.
    """
    try:
        with _guarded_decoders():
            return _mask(data, width, height, limits)
    except Exception as error:  # as above
        return Fault("E203", _decoder_fault(error, data).detail)


@dataclass(frozen=True, slots=True)
class _Decoded:
    """A picture in its final pixels, not yet encoded."""

    picture: Image.Image
    notes: tuple[str, ...]


def _photograph(data: bytes, settings: Ingest) -> Photograph | Fault:
    container = examine(data, settings.limits)
    if isinstance(container, Fault):
        return container
    # decoding is a function of its own, so that no intermediate picture is alive while the result is encoded
    decoded = _header_fault(container, settings.limits) or _decoded(container, settings)
    if isinstance(decoded, Fault):
        return decoded
    picture, notes = decoded.picture, set(decoded.notes)
    picture.info = {}  # encoders write a comment or a profile that they find there
    if not settings.keep_blank and _is_blank(picture):
        return Fault("E160", f"all {picture.width}x{picture.height} pixels are alike")
    stored, stored_format = container.data, "jpg"
    if container.kind != "JPEG":
        stored, stored_format = _encode_lossless(picture)
        notes.add("re-encoded")
    elif notes & _PIXELS_CHANGED:
        stored = _encoded(picture, "JPEG", quality=95, subsampling=0)
        notes.add("re-encoded")
    return Photograph(
        stored,
        stored_format,
        picture.width,
        picture.height,
        hashlib.sha256(data).hexdigest(),
        perceptual_hash(picture),
        tuple(sorted(notes)),
        container.kind,
    )


def _decoded(container: Container, settings: Ingest) -> _Decoded | Fault:
    limits = settings.limits
    with _opened(container) as image:
        # AVIF declares its size deep inside, and a GIF frame may be larger than the GIF
        if image.size != container.size:
            width, height = image.size
            fault = check_size(width, height, limits) or _ratio_fault(width * height, container, limits)
            if fault:
                return fault
        frames = _frames(container, image)
        if frames > 1 and not settings.first_frame:
            return Fault("E140", f"{frames if frames > 2 else '2 or more'} frames or pages")
        _load(image)
        exif, icc = container.exif, container.icc
        if container.kind == "AVIF":
            exif, icc = image.info.get("exif"), image.info.get("icc_profile")
        converted = to_srgb(image, container, icc)
    if isinstance(converted, Fault):
        return converted
    picture, notes = converted
    orientation, orientation_notes = _orientation(container, exif)
    if container.kind != "TIFF":  # whose decoder has turned it already
        picture = upright(picture, orientation)
    first_frame = ["first-frame"] * (frames > 1)
    return _Decoded(picture, (*container.notes, *notes, *orientation_notes, *first_frame))


def _mask(data: bytes, width: int, height: int, limits: Limits) -> bytes | Fault:
    container = examine(data, limits)
    if isinstance(container, Fault):
        return Fault("E203", f"{CODES[container.code].slug}, {container.detail}")
    if container.kind == "JPEG":
        return Fault("E202", "a JPEG blurs the edge between its two values")
    if container.truncated:
        return Fault("E203", f"{CODES['E130'].slug}, {container.truncated}")
    # before a pixel is decoded, so that a mask costs no more than its photograph; turned sizes are told later
    if container.kind != "AVIF" and sorted(container.size) != sorted((width, height)):
        return _mask_size_fault(container.size, width, height)
    with _opened(container) as image:
        if sorted(image.size) != sorted((width, height)):
            return _mask_size_fault(image.size, width, height)
        if _frames(container, image) > 1:
            return Fault("E202", "several frames or pages")
        _load(image)
        if "transparency" in image.info or container.transparent is not None:
            return Fault("E202", f"mode {image.mode} with transparency")
        if image.mode == "P":
            image_rgb = np.asarray(image.convert("RGB"))
            if (image_rgb != image_rgb[..., :1]).any():
                return Fault("E202", "a palette with colours that are not grey")
            values = image_rgb[..., 0]
        elif image.mode in ("1", "L") or image.mode.startswith("I"):
            values = np.asarray(image)
        else:
            return Fault("E202", f"{len(image.getbands())} channels, mode {image.mode}")
        exif = image.info.get("exif") if container.kind == "AVIF" else container.exif
    if container.kind != "TIFF":
        orientation, _ = _orientation(container, exif)
        turned = upright(Image.fromarray(values), orientation) if orientation > 1 else None
        values = np.asarray(turned) if turned else values
    if values.shape != (height, width):
        return _mask_size_fault((values.shape[1], values.shape[0]), width, height)
    low, high = values.min(), values.max()
    if low == high:
        return Fault("E212", f"every pixel is {int(low)}")
    subject = values == high
    if not (subject | (values == low)).all():
        return Fault("E202", f"{len(np.unique(values))} values from {int(low)} to {int(high)}")
    return encode_mask(subject)


def _mask_size_fault(size: tuple[int, int], width: int, height: int) -> Fault:
    return Fault("E201", f"mask {size[0]}x{size[1]}, photograph {width}x{height}")


def _header_fault(container: Container, limits: Limits) -> Fault | None:
    width, height = container.size
    if container.kind != "AVIF":
        fault = check_size(width, height, limits)
        if fault:
            return fault
    if container.truncated:
        return Fault("E130", container.truncated)
    return _ratio_fault(width * height, container, limits)


def _ratio_fault(pixels: int, container: Container, limits: Limits) -> Fault | None:
    found = len(container.data)  # what the picture is made of, not what was put beside it
    if found < limits.min_bytes_per_megapixel * pixels / 1e6:
        return Fault("E124", f"{found:,} bytes for {pixels / 1e6:.1f} MP")
    return None


def _orientation(container: Container, exif: bytes | None) -> tuple[int, list[str]]:
    orientation = container.orientation
    if orientation is None:
        orientation = exif_orientation(exif) if exif else 1
    if orientation is None:
        return 1, ["bad-exif"]
    if not 1 <= orientation <= 8:
        return 1, ["bad-orientation"]
    return orientation, ["rotated"] * (orientation > 1)


def _frames(container: Container, image: ImageFile.ImageFile) -> int:
    """How many frames or pages; for a GIF 2 stands for all beyond, for the rest would have to be decoded."""
    if container.kind == "GIF":
        return 2 if getattr(image, "is_animated", False) else 1
    return max(container.frames, getattr(image, "n_frames", 1)) if container.kind == "AVIF" else container.frames


def _is_blank(picture: Image.Image) -> bool:
    extrema = picture.getextrema()
    pairs = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return all(pair[0] == pair[1] for pair in pairs)


def _encode_lossless(picture: Image.Image) -> tuple[bytes, str]:
    picture = picture if picture.mode == "RGB" else picture.convert("RGB")
    if picture.width * picture.height > _LARGEST_WEBP:
        return _encoded(picture, "PNG", compress_level=1), "png"
    return encode_image(np.asarray(picture))


def _encoded(picture: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _load(image: ImageFile.ImageFile) -> None:
    """Decode all pixels; without what libtiff prints about a damaged file, which nobody can place."""
    if image.format != "TIFF":
        image.load()
        return
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        image.load()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _opened(container: Container) -> ImageFile.ImageFile:
    return Image.open(io.BytesIO(container.data), formats=(container.kind,))


@contextlib.contextmanager
def _guarded_decoders() -> Iterator[None]:
    """Pillow as this policy wants it, whatever else in the process has set, and put back afterwards.

    Its own pixel limit only warns between one and two times its value; ours is checked first and is exact.
    """
    kept = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, AvifImagePlugin.DEFAULT_MAX_THREADS
    Image.MAX_IMAGE_PIXELS = None
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, AvifImagePlugin.DEFAULT_MAX_THREADS = kept


def _open_fault(error: OSError) -> Fault:
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _ITEM_ERRNOS:
        return Fault("E101", "a symbolic link" if error.errno in (errno.ELOOP, errno.ENOTDIR) else reason)
    if error.errno in (errno.EACCES, errno.EPERM):
        return Fault("E106", reason)
    if error.errno == errno.ENOENT:
        return Fault("E104", "it is gone")
    raise EnvironmentFault(f"{reason} while reading a photograph.", code="E512") from error


def _decoder_fault(error: Exception, data: bytes) -> Fault:
    if isinstance(error, UnidentifiedImageError):
        return Fault("E199", "the decoder does not accept the file's header")
    text = _ADDRESS.sub("object", str(error))
    if data.startswith(b"\x89PNG") and isinstance(error, OSError | SyntaxError):
        return Fault("E131", text)
    if "truncated" in text.lower() or isinstance(error, EOFError):
        return Fault("E130", text)
    return Fault("E199", f"{type(error).__name__}: {text}"[:200].rstrip(": "))
