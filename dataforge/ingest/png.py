"""The PNG chunk walker: checks every checksum and hands on only the chunks that pixels are made of."""

from __future__ import annotations

import struct
import zlib

from dataforge.ingest.container import MAX_PROFILE_BYTES, Container
from manifests.errors import Fault

__all__ = ["PNG_SIGNATURE", "read_png"]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SRGB_GAMMA = 45455
_PALETTE = 3


def read_png(data: bytes) -> Container | Fault:
    """Walk the chunks of a PNG file to its end chunk.

    `data` of the result holds IHDR, PLTE and tRNS of a palette, IDAT and IEND. Text is never inflated, and
    frames after the first are gone.
    """
    kept: list[bytes] = [PNG_SIGNATURE]
    seen: set[bytes] = set()
    header = b""
    frames = 1
    exif: bytes | None = None
    icc: bytes | None = None
    transparent: tuple[int, ...] | None = None
    foreign_colour = False
    position = len(PNG_SIGNATURE)
    view = memoryview(data)
    while b"IEND" not in seen:
        if position + 12 > len(data):
            return Fault("E131", f"the file ends after {len(data)} bytes without an end chunk")
        length, kind = int.from_bytes(view[position : position + 4], "big"), data[position + 4 : position + 8]
        end = position + 12 + length
        if not kind.isalpha():
            return Fault("E131", f"a chunk at byte {position} with no valid type")
        name = kind.decode("ascii")
        if end > len(data):
            return Fault("E131", f"the file ends inside chunk {name}")
        if zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            return Fault("E131", f"the checksum of chunk {name} at byte {position} is wrong")
        body = view[position + 8 : end - 4]
        if (kind == b"IHDR") != (not seen):
            return Fault("E131", f"chunk {name} out of its place")
        if kind == b"IHDR":
            if length != 13:
                return Fault("E131", "a header chunk of the wrong size")
            header = bytes(body)
        colour_type = header[9]
        if kind in (b"IHDR", b"IDAT", b"IEND") or (colour_type == _PALETTE and kind in (b"PLTE", b"tRNS")):
            kept.append(data[position:end])
        elif kind == b"tRNS" and length == {0: 2, 2: 6}.get(colour_type):
            transparent = struct.unpack(f">{length // 2}H", body)
        elif kind == b"acTL" and length == 8:
            frames = max(1, int.from_bytes(body[:4], "big"))
        elif kind == b"eXIf" and exif is None:
            exif = bytes(body)
        elif kind == b"iCCP" and icc is None:
            icc = _inflated_profile(bytes(body))
        elif kind == b"gAMA" and length == 4:
            foreign_colour |= abs(int.from_bytes(body, "big") - _SRGB_GAMMA) > _SRGB_GAMMA // 20
        elif kind == b"cICP" and length == 4:
            foreign_colour |= bytes(body[:2]) not in (b"\x01\x0d", b"\x01\x01", b"\x01\x06")
        elif kind[:1].isupper() and kind != b"PLTE":
            return Fault("E131", f"unknown critical chunk {name}")
        seen.add(kind)
        position = end
    if b"IDAT" not in seen:
        return Fault("E131", "no picture data")
    # an embedded profile or an sRGB chunk outranks gamma
    ignored = foreign_colour and icc is None and b"sRGB" not in seen
    notes = ("colour-tag-ignored",) * ignored + ("trailing-bytes",) * (position < len(data))
    width, height = struct.unpack(">II", header[:8])
    return Container(
        "PNG",
        b"".join(kept),
        (width, height),
        frames=frames,
        exif=exif,
        icc=icc,
        depth=header[8],
        transparent=transparent,
        notes=notes,
    )


def _inflated_profile(body: bytes) -> bytes:
    compressed = body[body.find(b"\0") + 2 :]
    try:
        profile = zlib.decompressobj().decompress(compressed, MAX_PROFILE_BYTES + 1)
    except zlib.error:
        return b""
    return profile if len(profile) <= MAX_PROFILE_BYTES else b""
