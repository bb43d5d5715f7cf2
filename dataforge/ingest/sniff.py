"""Which container a file is, by its first bytes alone, so that one named decoder sees it and no other."""

from __future__ import annotations

from dataforge.config import Limits
from dataforge.ingest.container import Container
from dataforge.ingest.jpeg import read_jpeg
from dataforge.ingest.png import PNG_SIGNATURE, read_png
from dataforge.ingest.tiff import read_tiff
from dataforge.ingest.webp import read_webp
from manifests.errors import Fault

__all__ = ["examine"]

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_BITMAP_HEADERS = frozenset(size.to_bytes(4, "little") for size in (12, 16, 40, 52, 56, 64, 108, 124))
_LFS_START = b"version https://git-lfs.github.com/spec/"

# What people find under a picture's name; only said, never acted on.
_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"\0\x05\x16\x07", "an AppleDouble resource file"),
    (b"%PDF", "application/pdf"),
    (b"%!PS", "application/postscript"),
    (b"\xc5\xd0\xd3\xc6", "application/postscript"),
    (b"PK\x03\x04", "application/zip"),
    (b"\x1f\x8b", "application/gzip"),
    (b"Rar!", "application/vnd.rar"),
    (b"7z\xbc\xaf", "application/x-7z-compressed"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"8BPS", "image/vnd.adobe.photoshop"),
    (b"\0\0\0\x0cJXL ", "image/jxl"),
    (b"\xff\x0a", "image/jxl"),
    (b"\0\0\0\x0cjP  ", "image/jp2"),
    (b"\xff\x4f\xff\x51", "image/jp2"),
    (b"\0\0\x01\0", "image/x-icon"),
    (b"FUJIFILMCCD-RAW", "camera raw"),
    (b"IIRO", "camera raw"),
    (b"IIU\0", "camera raw"),
    (b"\x93NUMPY", "a NumPy array"),
)


def examine(data: bytes, limits: Limits) -> Container | Fault:
    """Tell the container and check it, without decoding a pixel."""
    if not data:
        return Fault("E102", "0 bytes")
    if data.startswith(b"\xff\xd8\xff"):
        return read_jpeg(data, limits)
    if data.startswith(PNG_SIGNATURE):
        return read_png(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return read_webp(data)
    if data.startswith(_TIFF_STARTS):
        return read_tiff(data, limits)
    if data.startswith((b"GIF87a", b"GIF89a")):
        return _sized("GIF", data, data[6:8], data[8:10])
    if data.startswith(b"BM") and data[14:18] in _BITMAP_HEADERS:
        short = data[14:18] == b"\x0c\0\0\0"
        return _sized("BMP", data, *((data[18:20], data[20:22]) if short else (data[18:22], data[22:26])))
    if data[4:8] == b"ftyp":
        return _boxes(data)
    if data.startswith(_LFS_START):
        return Fault("E105", f"{len(data)} bytes of pointer, no picture")
    return Fault("E110", f"looks like {_looks_like(data)}")


def _sized(kind: str, data: bytes, width: bytes, height: bytes) -> Container | Fault:
    if len(data) < 32:
        return Fault("E130", f"a {kind} header of {len(data)} bytes")
    # a bitmap stored top-down has a negative height
    tall = abs(int.from_bytes(height, "little", signed=len(height) == 4))
    return Container(kind, data, (int.from_bytes(width, "little"), tall))


def _boxes(data: bytes) -> Container | Fault:
    """AVIF, HEIC or another user of the same boxes, by the brands of the first box."""
    first = int.from_bytes(data[:4], "big")
    brands = {data[at : at + 4] for at in (8, *range(16, min(first, len(data), 512), 4))}
    if not brands & _AVIF_BRANDS:
        brand = data[8:12].decode("ascii", "replace")
        if brands & _HEIF_BRANDS:
            return Fault("E111", f"brand {brand}")
        return Fault("E110", f"looks like a video or another media file, brand {brand}")
    position, truncated = 0, None
    while position + 8 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        if length == 1:
            length = int.from_bytes(data[position + 8 : position + 16], "big")
        if length == 0:  # to the end of the file
            break
        if length < 8:
            return Fault("E199", f"an AVIF box of {length} bytes")
        position += length
        if position > len(data):
            truncated = f"{len(data)} of {position} bytes"
    return Container("AVIF", data, (0, 0), truncated=truncated)


def _looks_like(data: bytes) -> str:
    for start, name in _STARTS:
        if data.startswith(start):
            return name
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"<svg") or (head.startswith(b"<?xml") and b"<svg" in head):
        return "image/svg+xml"
    if head.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<script")):
        return "text/html"
    if head.startswith((b"<?xml", b"<")):
        return "text/xml"
    if head.startswith((b"{", b"[")):
        return "application/json"
    if not any(byte < 9 or 13 < byte < 32 for byte in data[:1024]):
        return "text/plain"
    if not any(data):
        return "nothing but zero bytes"
    return "application/octet-stream"
