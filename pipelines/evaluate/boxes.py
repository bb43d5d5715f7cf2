"""Boxes as the benchmarks write them, as half-open pixels of the picture they belong to.

DreamEditBench: `bbox.json`, `{found0.jpg: [x1, y1, x2, y2]}`, in a frame of 512 x 512, ends exclusive.
MureCom: `bbox.txt`, `<Class> <n>.jpg x1 y1 x2 y2`, in the picture's own pixels, ends inclusive.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from manifests.errors import UsageError
from manifests.records import Box

__all__ = ["DREAMEDIT_FRAME", "read_boxes"]

DREAMEDIT_FRAME = 512


def read_boxes(path: Path, sizes: dict[str, tuple[int, int]]) -> dict[str, Box]:
    """Boxes by file name for pictures of these sizes (width, height); a name without a size is left out.

    `.json` is read as DreamEditBench's, anything else as MureCom's. Raises `UsageError` E503 for a file that is not
    there and E502 naming the entry that is no box or lies outside its picture.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read.", code="E503") from error
    entries = _dreamedit(path, text) if path.suffix == ".json" else _murecom(path, text)
    boxes = {}
    for name, (x0, y0, x1, y1) in entries.items():
        if name not in sizes:
            continue
        width, height = sizes[name]
        if path.suffix == ".json":
            across, down = width / DREAMEDIT_FRAME, height / DREAMEDIT_FRAME
            box = (math.floor(x0 * across), math.floor(y0 * down), math.ceil(x1 * across), math.ceil(y1 * down))
        else:
            # some of its boxes end one pixel past the last one
            box = (int(x0), int(y0), min(int(x1) + 1, width), min(int(y1) + 1, height))
        if not (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height):
            raise UsageError(f"{path.name}: {name}: {box} is no box inside {width}x{height}.", code="E502")
        boxes[name] = box
    return boxes


def _dreamedit(path: Path, text: str) -> dict[str, tuple[float, ...]]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{path.name} is not JSON.", code="E502") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path.name}: names with boxes were expected.", code="E502")
    for name, box in value.items():
        numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(edge, int | float) for edge in box)
        if not numbers:
            raise UsageError(f"{path.name}: {name}: [x1, y1, x2, y2] was expected.", code="E502")
    return {name: tuple(float(edge) for edge in box) for name, box in value.items()}


def _murecom(path: Path, text: str) -> dict[str, tuple[float, ...]]:
    entries: dict[str, tuple[float, ...]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        parts = line.split()
        if not parts:
            continue
        try:
            _, name, *edges = parts
            x0, y0, x1, y1 = (int(edge) for edge in edges)
        except ValueError as error:
            raise UsageError(
                f"{path.name}:{number}: `<Class> <file> x1 y1 x2 y2` was expected, not {line!r}.", code="E502"
            ) from error
        entries[name] = (x0, y0, x1, y1)
    return entries
