"""The sets of a benchmark: which scenes a file of boxes is for, and which subjects are painted into them.

The benchmarks number their scenes anew in each folder, so the folder of a file says which are meant: those of
`dog/bbox.json` came from a folder `dog`. A set in a folder named like a subject is for that subject; one named like a
class is for its subjects that have none of their own (DreamEditBench's dog2 to dog8 share dog's); any other is for
every subject that has its scenes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from manifests.corpus import Corpus
from manifests.errors import UsageError
from manifests.ids import slug
from manifests.records import Box, Sample, Subject
from pipelines.evaluate.boxes import read_boxes

__all__ = ["BoxSet", "boxes_of", "given_boxes"]

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


def _sorted(boxes: Iterable[tuple[str, Box]]) -> dict[str, Box]:
    return dict(sorted(boxes))


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
            raise UsageError(f"{file.name}: two scenes of the corpus are named {uri.name}.", code="E502")
        names[uri.name] = sample
    boxes = read_boxes(file, {name: (sample.width, sample.height) for name, sample in names.items()})
    return {names[name].id: box for name, box in boxes.items()}
