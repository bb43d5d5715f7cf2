"""The TIFF directory walker: declared size, pages, depth, orientation, and camera raw files in disguise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dataforge.config import Limits
from dataforge.ingest.container import MAX_PROFILE_BYTES, Container
from manifests.errors import Fault

__all__ = ["read_tiff"]

Directory = dict[int, npt.NDArray[np.unsignedinteger]]

_KIND, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION = 254, 256, 257, 258, 259, 262, 274
_SAMPLES, _STRIP_OFFSETS, _STRIP_COUNTS, _TILE_OFFSETS, _TILE_COUNTS = 277, 273, 279, 324, 325
_SUB_DIRECTORIES, _PROFILE, _DNG_VERSION = 330, 34675, 50706
_WANTED = frozenset(
    {_KIND, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _SAMPLES}
    | {_STRIP_OFFSETS, _STRIP_COUNTS, _TILE_OFFSETS, _TILE_COUNTS}
    | {_SUB_DIRECTORIES, _PROFILE, _DNG_VERSION}
)
_VALUE_BYTES = {1: 1, 3: 2, 4: 4, 7: 1, 13: 4, 16: 8, 18: 8}
_JPEG_COMPRESSIONS = (6, 7)
_MOST_PAGES = 1000
_MOST_SAMPLES = 5  # four inks and alpha


def read_tiff(data: bytes, limits: Limits) -> Container | Fault:
    """Walk the page directories of a TIFF file, classic or Big, of either byte order."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    if data[8:10] == b"CR":
        return Fault("E110", "looks like camera raw")
    offset = _number(data[8:16] if big else data[4:8], order)
    pages: list[Directory] = []
    visited: set[int] = set()
    while offset and offset not in visited and len(pages) < _MOST_PAGES:
        visited.add(offset)
        found = _directory(data, offset, order, big)
        if found is None:
            break
        pages.append(found[0])
        offset = found[1]
    if not pages:
        return Fault("E130", "the page directory lies past the end of the file")
    first = pages[0]
    # a reduced page is a thumbnail of another one; only camera raw files begin with it
    reduced = [bool(_one(page, _KIND) & 1) for page in pages]
    if _DNG_VERSION in first or (reduced[0] and _SUB_DIRECTORIES in first):
        return Fault("E110", "looks like camera raw")
    if _one(first, _SAMPLES) > _MOST_SAMPLES:
        return Fault("E199", f"a TIFF with {_one(first, _SAMPLES)} channels")
    if _one(first, _PHOTOMETRIC, 1) == 0 and _one(first, _BITS, 1) > 8:
        return Fault("E199", "a deep TIFF whose zero is white")  # Pillow turns only 8-bit ones the right way round
    if _one(first, _COMPRESSION) in _JPEG_COMPRESSIONS:
        # each strip or tile is a JPEG of its own, of one scan unless it is progressive
        pieces = max(len(first.get(_STRIP_OFFSETS, ())), len(first.get(_TILE_OFFSETS, ())))
        scans = data.count(b"\xff\xda") - pieces
        if scans > limits.max_jpeg_scans:
            return Fault("E121", f"{scans} scans > {limits.max_jpeg_scans} inside a TIFF")
    profile = first.get(_PROFILE)
    icc = None if profile is None else profile.tobytes() if len(profile) <= MAX_PROFILE_BYTES else b""
    return Container(
        "TIFF",
        data,
        (_one(first, _WIDTH), _one(first, _HEIGHT)),
        frames=max(1, reduced.count(False)),
        icc=icc,
        orientation=_one(first, _ORIENTATION, 1),
        depth=_one(first, _BITS, 1),
        truncated=_missing(first, len(data)),
    )


def _number(data: bytes, order: str) -> int:
    return int.from_bytes(data, "little" if order == "<" else "big")


def _directory(data: bytes, offset: int, order: str, big: bool) -> tuple[Directory, int] | None:
    """The wanted fields of the directory at an offset, and the offset of the next one; None past the end."""
    head, entry, pointer = (8, 20, 8) if big else (2, 12, 4)
    position = offset + head
    count = _number(data[offset:position], order)
    if position > len(data) or position + count * entry > len(data):
        return None
    fields: Directory = {}
    for _ in range(count):
        tag = _number(data[position : position + 2], order)
        kind = _number(data[position + 2 : position + 4], order)
        if tag in _WANTED and tag not in fields and kind in _VALUE_BYTES:
            values = _number(data[position + 4 : position + 4 + pointer], order)
            width = _VALUE_BYTES[kind]
            start = position + 4 + pointer
            if values * width > pointer:
                start = _number(data[start : start + pointer], order)
            if start + values * width <= len(data):
                fields[tag] = np.frombuffer(data, f"{order}u{width}", values, start)
        position += entry
    return fields, _number(data[position : position + pointer], order)


def _one(page: Directory, tag: int, default: int = 0) -> int:
    values = page.get(tag)
    return int(values[0]) if values is not None and len(values) else default


def _missing(page: Directory, total: int) -> str | None:
    """How much of the picture data lies past the end of the file."""
    for offsets, counts in ((_STRIP_OFFSETS, _STRIP_COUNTS), (_TILE_OFFSETS, _TILE_COUNTS)):
        if offsets in page and counts in page and len(page[offsets]) == len(page[counts]):
            ends = page[offsets].astype(np.float64) + page[counts].astype(np.float64)
            if len(ends) and ends.max() > total:
                return f"picture data up to byte {ends.max():.0f} of {total}"
    return None
