"""The JPEG marker walker: counts scans, finds the end, leaves all metadata out and the pixels alone."""

from __future__ import annotations

import re

from dataforge.config import Limits
from dataforge.ingest.container import MAX_PROFILE_BYTES, Container
from manifests.errors import Fault

__all__ = ["read_jpeg"]

# The decoder looks for the next marker in just this way, so nothing that it sees can hide from the walk.
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_MARKER_AFTER_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")

_SOI, _EOI, _SOS, _DHT, _DQT, _DRI = 0xD8, 0xD9, 0xDA, 0xC4, 0xDB, 0xDD
_APP0, _APP1, _APP2, _APP14 = 0xE0, 0xE1, 0xE2, 0xEE
_BARE = frozenset({0x01, *range(0xD0, 0xD8)})
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
_FOREIGN_FRAMES = frozenset({0xC3, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xCB, 0xCC, 0xCD, 0xCE, 0xCF})
_KEPT = frozenset({_DHT, _DQT, _DRI})

# Whether there is a JFIF or an Adobe segment decides how decoders read the colours, so their presence is
# kept; density, thumbnail and flags are not.
_JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"


def read_jpeg(data: bytes, limits: Limits) -> Container | Fault:
    """Walk the markers of a JPEG file.

    `data` of the result decodes to the same pixels and holds tables, frame and scans only: every APPn,
    comment and unknown segment and everything after the end marker is left out.
    """
    kept: list[bytes] = [b"\xff\xd8"]
    notes: list[str] = []
    exif: bytes | None = None
    profile: dict[int, bytes] = {}
    profile_parts = 0
    size: tuple[int, int] | None = None
    truncated: str | None = None
    multi_picture = False
    scans = 0
    pattern = _MARKER
    position = data_start = 2
    while True:
        found = pattern.search(data, position)
        if pattern is _MARKER_AFTER_SCAN and scans <= limits.max_jpeg_scans:
            kept.append(data[data_start : found.start() if found else len(data)])
        if found is None:
            truncated = "no end-of-image marker"
            break
        pattern = _MARKER
        start, marker = found.start(), data[found.start() + 1]
        position = start + 2
        if marker in _BARE:
            continue
        if marker == _EOI:
            break
        if marker == _SOI:
            return Fault("E199", "a second start-of-image marker inside the JPEG")
        length = int.from_bytes(data[position : position + 2], "big")
        end = position + length
        if length < 2 and position + 2 <= len(data):
            return Fault("E199", f"a JPEG segment of {length} bytes")
        if end > len(data):
            truncated = f"ends inside JPEG segment {marker:02X}"
            break
        body = data[position + 2 : end]
        if marker in _FRAMES:
            if size is not None or length < 8:
                return Fault("E199", "a JPEG with two frames or a short frame header")
            size = (int.from_bytes(body[3:5], "big"), int.from_bytes(body[1:3], "big"))
            kept.append(data[start:end])
        elif marker in _FOREIGN_FRAMES:
            return Fault("E110", "looks like a lossless, hierarchical or arithmetic-coded JPEG")
        elif marker == _SOS:
            scans += 1
            if scans <= limits.max_jpeg_scans:
                kept.append(data[start:end])
            pattern, data_start = _MARKER_AFTER_SCAN, end
        elif marker in _KEPT:
            kept.append(data[start:end])
        elif marker == _APP0 and length >= 16 and body.startswith(b"JFIF\0"):
            kept.append(_JFIF)
        elif marker == _APP14 and length >= 14 and body.startswith(b"Adobe"):
            kept.append(_ADOBE + body[11:12])
        elif marker == _APP1 and not exif and body.startswith(b"Exif\0"):
            exif = body[6:]
        elif marker == _APP2 and body.startswith(b"ICC_PROFILE\0") and len(body) >= 14:
            profile.setdefault(body[12], body[14:])
            profile_parts = max(profile_parts, body[13])
        elif marker == _APP2 and body.startswith(b"MPF\0"):
            multi_picture = True
        position = end
    if scans > limits.max_jpeg_scans:
        return Fault("E121", f"{scans} scans > {limits.max_jpeg_scans}")
    if size is None or not scans:
        return Fault("E130", truncated or "a JPEG without a picture in it")
    tail = data[position:] if truncated is None else b""
    if tail:
        notes.append("trailing-bytes")
    if tail.startswith(b"\xff\xd8") or (multi_picture and b"\xff\xd8\xff" in tail):
        notes.append("multi-picture")
    icc: bytes | None = None
    if profile:
        whole = sorted(profile) == list(range(1, profile_parts + 1))
        icc = b"".join(profile[number] for number in sorted(profile)) if whole else b""
        icc = icc if len(icc) <= MAX_PROFILE_BYTES else b""
    kept.append(b"\xff\xd9")
    return Container("JPEG", b"".join(kept), size, exif=exif, icc=icc, truncated=truncated, notes=tuple(notes))
