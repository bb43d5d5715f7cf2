"""The WebP chunk walker: declared size, frames, and whether all of the file is there."""

from __future__ import annotations

from dataforge.ingest.container import MAX_PROFILE_BYTES, Container
from manifests.errors import Fault

__all__ = ["read_webp"]

_MOST_CHUNKS = 100_000


def read_webp(data: bytes) -> Container | Fault:
    """Walk the RIFF chunks of a WebP file."""
    end = 8 + int.from_bytes(data[4:8], "little")
    truncated = None
    size: tuple[int, int] | None = None
    exif: bytes | None = None
    icc: bytes | None = None
    frames = chunks = 0
    position = 12
    while position + 8 <= min(end, len(data)):
        kind = data[position : position + 4]
        body, length = position + 8, int.from_bytes(data[position + 4 : position + 8], "little")
        chunks += 1
        if chunks > _MOST_CHUNKS:
            return Fault("E199", f"more than {_MOST_CHUNKS:,} WebP chunks")
        if kind in (b"VP8X", b"VP8 ", b"VP8L") and size is None:
            size = _declared_size(kind, data[body : body + 10])
        elif kind == b"ANMF":
            frames += 1
        elif kind == b"EXIF" and exif is None:
            exif = data[body : body + length]
        elif kind == b"ICCP" and icc is None:
            icc = data[body : body + length] if length <= MAX_PROFILE_BYTES else b""
        position = body + length + (length & 1)
        if body + length > min(end, len(data)):
            truncated = f"ends inside a chunk of {length} bytes"
            break
    if end > len(data) and position < end:
        truncated = truncated or f"{len(data)} of {end} bytes"
    if size is None:
        return Fault("E130", truncated or "a WebP without a picture in it")
    notes = ("trailing-bytes",) if end < len(data) else ()
    return Container(
        "WEBP", data[:end], size, frames=max(1, frames), exif=exif, icc=icc, truncated=truncated, notes=notes
    )


def _declared_size(kind: bytes, head: bytes) -> tuple[int, int] | None:
    if len(head) < 10:
        return None
    if kind == b"VP8X":
        return int.from_bytes(head[4:7], "little") + 1, int.from_bytes(head[7:10], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF
