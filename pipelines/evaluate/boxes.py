"""Boxes as the benchmarks write them, as half-open pixels of the picture they belong to.

DreamEditBench: `bbox.json`, `{found0.jpg: [x1, y1, x2, y2]}`, in a frame of 512 x 512, ends exclusive.
MureCom: `bbox.txt`, `<Class> <n>.jpg x1 y1 x2 y2`, in the picture's own pixels, ends inclusive.

Both number their scenes anew in each folder, so the folder of a file says which are meant: those of `dog/bbox.json`
came from a folder `dog`. A set in a folder named like a subject is for that subject; one named like a class is for its
subjects that have none of their own (DreamEditBench's dog2 to dog8 share dog's); any other is for every subject that
has its scenes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from manifests.corpus import Corpus
from manifests.errors import UsageError
from manifests.ids import slug
from manifests.records import Box, Sample, Subject

__all__ = ["DREAMEDIT_FRAME", "BoxSet", "boxes_of", "given_boxes", "read_boxes"]

DREAMEDIT_FRAME = 512
NAMES = ("bbox.json", "bbox.txt")
_Scenes = list[tuple[PurePosixPath, Sample]]  # with the path each came from


@dataclass(frozen=True)
class BoxSet:
    """Boxes by scene ID, and the subjects and classes that its folder names; none of them: it is for anyone."""

    boxes: Mapping[str, Box]
    names: frozenset[str]


def given_boxes(corpus: Corpus, places: Sequence[Path]) -> list[BoxSet]:
    """The sets of these files, and of folders with a `bbox.json` or `bbox.txt` somewhere below for each set.

    Of a folder, sets whose scenes the corpus does not have are left out. Raises `UsageError` E503 for a folder
    without any such file, E502 where two scenes have one name, and what `read_boxes` raises.
    """
    scenes = [(PurePosixPath(sample.source_uri), sample) for sample in corpus.samples(role="bg")]
    known = {_plain(name) for subject in corpus.subjects.values() for name in (subject.id, subject.class_noun)}
    sets = []
    for place in places:
        files = sorted(path for name in NAMES for path in place.rglob(name)) if place.is_dir() else [place]
        if not files:
            raise UsageError(f"{place} holds no {' or '.join(NAMES)}.", code="E503")
        for file in files:
            folder, beside = _beside(file, scenes)
            if beside or not place.is_dir():
                names = known & {_plain(part) for part in folder}
                sets.append(BoxSet(_read(file, beside or scenes), frozenset(names)))
    return sets


def boxes_of(subject: Subject, sets: Sequence[BoxSet], own: Mapping[str, Box]) -> dict[str, Box]:
    """The boxes to paint this subject into; `own` are its scenes as the corpus knows them."""
    for name in (_plain(subject.id), _plain(subject.class_noun)):
        named = [one for one in sets if name in one.names]
        if named:
            return _sorted(box for one in named for box in one.boxes.items())
    return _sorted((name, box) for one in sets if not one.names for name, box in one.boxes.items() if name in own)


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
            raise UsageError(f"{_shown(path)}: {name}: {box} is no box inside {width}x{height}.", code="E502")
        boxes[name] = box
    return boxes


def _dreamedit(path: Path, text: str) -> dict[str, tuple[float, ...]]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{_shown(path)} is not JSON.", code="E502") from error
    if not isinstance(value, dict):
        raise UsageError(f"{_shown(path)}: names with boxes were expected.", code="E502")
    for name, box in value.items():
        numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(edge, int | float) for edge in box)
        if not numbers:
            raise UsageError(f"{_shown(path)}: {name}: [x1, y1, x2, y2] was expected.", code="E502")
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
                f"{_shown(path)}:{number}: `<Class> <file> x1 y1 x2 y2` was expected, not {line!r}.", code="E502"
            ) from error
        entries[name] = (x0, y0, x1, y1)
    return entries


def _sorted(boxes: Iterable[tuple[str, Box]]) -> dict[str, Box]:
    return dict(sorted(boxes))


def _shown(path: Path) -> str:
    """A file with its folder: every set's is called alike."""
    return "/".join(path.parts[-2:])


def _plain(name: str) -> str:
    """`Coffee_cup`, a folder, and `coffee cup`, a class, alike."""
    return slug(name).replace("_", "-")


def _beside(file: Path, scenes: _Scenes) -> tuple[tuple[str, ...], _Scenes]:
    """The scenes that came from a folder named like the file's, with as many folders above it as they agree on."""
    above = file.resolve().parent.parts
    folder: tuple[str, ...] = ()
    beside: _Scenes = []
    for depth in range(1, len(above)):
        narrower = [(uri, sample) for uri, sample in scenes if _has(uri.parent.parts, above[-depth:])]
        if not narrower:
            break
        folder, beside = above[-depth:], narrower
    return folder, beside


def _has(parts: tuple[str, ...], run: tuple[str, ...]) -> bool:
    return any(parts[start : start + len(run)] == run for start in range(len(parts)))


def _read(file: Path, scenes: _Scenes) -> dict[str, Box]:
    """Boxes by scene ID; a scene is known by the name of the file it came from."""
    names: dict[str, Sample] = {}
    for uri, sample in scenes:
        if uri.name in names:
            raise UsageError(f"{_shown(file)}: two scenes of the corpus are named {uri.name}.", code="E502")
        names[uri.name] = sample
    boxes = read_boxes(file, {name: (sample.width, sample.height) for name, sample in names.items()})
    return {names[name].id: box for name, box in boxes.items()}
