"""Read files back out of the store that `hf_xet` writes on disk: which blocks a file is made of, and the blocks' bytes.

Formats: metadata shards and xorbs of the Xet protocol (https://huggingface.co/docs/xet).
"""

from __future__ import annotations

import struct
from functools import lru_cache
from pathlib import Path

import pyarrow as pa

RECORD = 48
END = b"\xff" * 32
# (xorb hash, first chunk, chunk after the last)
Segment = tuple[str, int, int]


def _hex(raw: bytes) -> str:
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", raw))


@lru_cache(maxsize=4096)
def _parse_shard(path: Path) -> dict[str, tuple[str, tuple[Segment, ...]]]:
    data = path.read_bytes()
    found: dict[str, tuple[str, tuple[Segment, ...]]] = {}
    position = RECORD  # after the shard's own header
    while data[position : position + 32] != END:
        file_hash = _hex(data[position : position + 32])
        flags, count = struct.unpack_from("<II", data, position + 32)
        position += RECORD
        segments = []
        for _ in range(count):
            first, last = struct.unpack_from("<II", data, position + 40)
            segments.append((_hex(data[position : position + 32]), first, last))
            position += RECORD
        if flags & 1 << 31:  # a verification record a segment
            position += count * RECORD
        if flags & 1 << 30:  # the sha256 of the whole file
            found[_hex(data[position : position + 32])] = (file_hash, tuple(segments))
            position += RECORD
    return found


def files(folder: Path) -> dict[str, tuple[str, tuple[Segment, ...]]]:
    """sha256 -> (xet hash, segments) of every file whose upload was finished."""
    found = {}
    for path in sorted((folder / "xet" / "xorbs" / "shards").glob("*.mdb")):
        found |= _parse_shard(path)
    return found


@lru_cache(maxsize=256)
def _chunks(path: Path) -> tuple[bytes, ...]:
    data = path.read_bytes()
    chunks = []
    position = 0
    while data[position : position + 1] == b"\0":  # chunk header, version 0; the footer begins with letters
        packed = int.from_bytes(data[position + 1 : position + 4], "little")
        scheme = data[position + 4]
        size = int.from_bytes(data[position + 5 : position + 8], "little")
        raw = data[position + 8 : position + 8 + packed]
        if scheme:
            raw = pa.Codec("lz4").decompress(raw, size, asbytes=True)
        if scheme == 2:  # bytes grouped by their place in four
            grouped, raw, start = raw, bytearray(size), 0
            for lane in range(4):
                length = len(range(lane, size, 4))
                raw[lane::4] = grouped[start : start + length]
                start += length
        chunks.append(bytes(raw))
        position += 8 + packed
    return tuple(chunks)


def read_file(folder: Path, sha256: str) -> bytes:
    """The bytes of a file, put together from its blocks."""
    xorbs = folder / "xet" / "xorbs" / "xorbs"
    parts: list[bytes] = []
    for xorb, first, last in files(folder)[sha256][1]:
        parts += _chunks(xorbs / f"default.{xorb}")[first:last]
    return b"".join(parts)


def stored_bytes(folder: Path) -> int:
    """Bytes of all blocks in the store: what was really sent."""
    xorbs = (folder / "xet" / "xorbs" / "xorbs").glob("default.*")
    return sum(path.stat().st_size for path in xorbs if path.suffix != ".tagset")
