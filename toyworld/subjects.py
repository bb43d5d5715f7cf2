"""Subjects: things known by a mark, in pictures from several views, and the exact picture an edit should give.

    python -m toyworld.subjects FOLDER

writes photographs, masks, scenes to paint into and the `subjects.yaml` that `dataforge build` takes. Every picture is a
function of (subject, seed, number): `photograph` gives its scene again, and `edited` the same scene with the subject in
another colour or texture, its pose, mark and surroundings untouched.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml
from PIL import Image as PillowImage

from toyworld.marks import SUBJECT_MARKS, Mark
from toyworld.render import Box, Picture, Scene, render
from toyworld.scenes import OTHERS, STRONG_WALL_SHARE, generator, mask_box, random_scene, seen_combination

LIKENESS = (29.0, 43.0)
"""Sizes of a subject in its photographs, in pixels."""
LICENCE, CREDIT = "CC0-1.0", "drawn by the toy world's renderer"


@dataclass(frozen=True, slots=True)
class Subject:
    """Its identity is shape and mark; colour and texture can be edited."""

    name: str
    shape: str
    colour: str
    texture: str
    mark: Mark


_LOOKS = (
    ("mug", "orange", "plain"),
    ("box", "purple", "plain"),
    ("ball", "blue", "plain"),
    ("heart", "yellow", "plain"),
    ("star", "red", "plain"),
    ("bottle", "black", "plain"),
    ("mug", "blue", "striped"),
    ("box", "yellow", "dotted"),
    ("ball", "yellow", "plain"),
    ("heart", "purple", "plain"),
    ("star", "orange", "plain"),
    ("bottle", "red", "plain"),
)
SUBJECTS = tuple(
    Subject(f"{mark.name}-{shape}", shape, colour, texture, mark)
    for mark, (shape, colour, texture) in zip(SUBJECT_MARKS, _LOOKS, strict=True)
)
"""Twelve, one for each mark that base training never shows; all in combinations that it does show."""


def photograph(subject: Subject, number: int, seed: int = 0, canvas: int = 64) -> Scene:
    """Scene `number` of a subject: another view before another backdrop each time, large enough to be known.

    canvas: pixels of a side, 48 at least: with fewer the picture is a close-up, the subject is as large.
    """
    rng = generator(seed, subject.name, number)
    size = float(rng.uniform(*LIKENESS))
    return random_scene(rng, (subject.shape, subject.colour, subject.texture), size, canvas, subject.mark)


def edited(scene: Scene, colour: str | None = None, texture: str | None = None) -> Scene:
    """The same scene with its subject in another colour or texture: what an ideal edit would paint."""
    subject = scene.things[-1]
    subject = dataclasses.replace(subject, colour=colour or subject.colour, texture=texture or subject.texture)
    return dataclasses.replace(scene, things=(*scene.things[:-1], subject))


def emptied(scene: Scene) -> Scene:
    """The same scene without its subject."""
    return dataclasses.replace(scene, things=scene.things[:-1])


@dataclass(frozen=True, slots=True)
class Places:
    """Scenes to paint into, each with a box and nothing in it; scene `number` is a function of these and the number.

    size: the range of what the box has room for, in canvases; others: how probable no, one and two other things are.
    """

    canvas: int = 64
    size: tuple[float, float] = (0.4, 0.65)
    strong_wall: float = STRONG_WALL_SHARE
    same_shape: float = 0.5
    others: tuple[float, float, float] = OTHERS
    seed: int = 0

    def __call__(self, number: int) -> tuple[Scene, Box]:
        """The empty scene and the box to paint in."""
        rng = generator(self.seed, "place", number)
        size = float(rng.uniform(*self.size) * self.canvas)
        scene = random_scene(
            rng, seen_combination(rng), size, self.canvas, None, self.strong_wall, self.same_shape, self.others
        )
        box = mask_box(rng, render(scene).boxes[-1], self.canvas)
        return emptied(scene), box


def write(
    folder: Path,
    subjects: Sequence[Subject] = SUBJECTS,
    views: int = 5,
    places: Sequence[int] = range(4),
    where: Places | None = None,
    seed: int = 0,
    canvas: int = 64,
    strike: Sequence[str] = (),
) -> Path:
    """Write subjects with given masks, scenes of these numbers with boxes, and their listing; returns its path.

    `canvas` is that of the photographs, `where` that of the scenes (the same by default); no stage shall use the words
    of `strike`.
    """
    where = where or Places(canvas, seed=seed)
    listed = []
    for subject in subjects:
        for number in range(views):
            picture = render(photograph(subject, number, seed, canvas))
            _save(folder / subject.name / "images" / f"{number}.png", picture.image)
            _save(folder / subject.name / "masks" / f"{number}.png", picture.masks[-1].astype(np.uint8) * 255)
        _put(folder / subject.name / "overrides.yaml", yaml.safe_dump({"strike_words": list(strike)}).encode())
        listed.append(
            {
                "name": subject.name,
                "overrides": f"{subject.name}/overrides.yaml",
                "class_noun": subject.shape,
                "photographs": [f"{subject.name}/images/*.png"],
                "masks": f"{subject.name}/masks/{{stem}}.png",
            }
        )
    boxes: dict[str, list[int]] = {}
    for number in places:
        scene, box = where(number)
        _save(folder / "scenes" / f"{number}.png", render(scene).image)
        boxes[f"scenes/{number}.png"] = list(box)
    listing = {
        "defaults": {"licence": LICENCE, "credit": CREDIT, "consent": "published"},
        "subjects": listed,
        "scenes": [{"photographs": ["scenes/*.png"], "boxes": boxes}],
    }
    path = folder / "subjects.yaml"
    _put(path, yaml.safe_dump(listing, sort_keys=False).encode())
    return path


def picture(subject: Subject, number: int, seed: int = 0, canvas: int = 64) -> Picture:
    """Photograph `number` of a subject, rendered."""
    return render(photograph(subject, number, seed, canvas))


def _save(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    made = io.BytesIO()
    PillowImage.fromarray(pixels).save(made, "png")
    _put(path, made.getvalue())


def _put(path: Path, data: bytes) -> None:
    """Write a file; one that holds these bytes already keeps its time, so that nobody reads it again."""
    if path.is_file() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def main() -> None:
    """Write a folder of subjects."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--subjects", type=int, default=len(SUBJECTS))
    parser.add_argument("--views", type=int, default=5)
    parser.add_argument("--places", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--canvas", type=int, default=64)
    options = parser.parse_args()
    write(
        options.folder,
        SUBJECTS[: options.subjects],
        options.views,
        range(options.places),
        seed=options.seed,
        canvas=options.canvas,
    )


if __name__ == "__main__":
    main()
