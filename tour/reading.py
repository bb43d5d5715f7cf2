"""What painted pictures show: asked of the judge, and measured by comparing pixels with renders of what was wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from manifests.corpus import Corpus
from pipelines.evaluate.intervals import wilson
from pipelines.results import Row
from tour.walk import PLACE, scene_number
from toyworld import judge
from toyworld import subjects as toys
from toyworld.fitting import Fit, fit
from toyworld.marks import SUBJECT_MARKS
from toyworld.render import Thing, View, render

__all__ = ["Reading", "Share", "read", "shares"]


@dataclass(frozen=True, slots=True)
class Reading:
    """One painted picture: what was wanted, what the judge saw, and what the pixels say."""

    row: Row
    wanted: Thing
    judged: judge.Reading
    fitted: Fit

    @property
    def is_edit(self) -> bool:
        """Whether another colour than the subject's own was asked for."""
        return bool(self.row.edit)

    @property
    def mark_judged(self) -> bool:
        """Whether the judge saw the subject's mark."""
        return self.wanted.mark is not None and self.judged.mark == self.wanted.mark.name

    @property
    def right(self) -> bool:
        """Whether colour and mark are right by the pixels."""
        return self.fitted.is_right(self.wanted)

    def as_record(self) -> dict[str, Any]:
        """Plain values for a table."""
        return {
            "id": self.row.id,
            "image": self.row.image,
            "wanted_colour": self.wanted.colour,
            **{f"judge_{name}": value for name, value in asdict(self.judged).items()},
            **{f"pixels_{name}": value for name, value in asdict(self.fitted).items()},
            "right": self.right,
        }


def read(
    rows: Sequence[Row],
    folder: Path,
    corpus: Corpus,
    where: toys.Places = PLACE,
    *,
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> list[Reading]:
    """Read results that were painted into scenes of `corpus`, which `toyworld.subjects.write` made of `where`.

    Judge and pixels tell a mark from the other subjects' marks and from none.
    """
    marks = [mark.name for mark in SUBJECT_MARKS]
    by_name = {subject.name: subject for subject in toys.SUBJECTS}
    numbers = {sample.id: scene_number(sample) for sample in corpus.samples(role="bg")}
    pictures = [np.asarray(Image.open(folder / row.image).convert("RGB")) for row in rows]
    judged = judge.load().read(pictures, [row.box_xyxy for row in rows], marks) if rows else []
    readings = []
    for done, (row, picture, seen) in enumerate(zip(rows, pictures, judged, strict=True), start=1):
        subject = by_name[row.subject]
        scene, _ = where(numbers[row.scene.rpartition("#")[2]])
        colour = dict(row.edit).get("colour", subject.colour)
        wanted = Thing(subject.shape, colour, subject.texture, View(0.0, 0.0, 1.0), subject.mark)
        found = fit(picture, render(scene).image, row.box_xyxy, wanted, SUBJECT_MARKS)
        readings.append(Reading(row, wanted, seen, found))
        on_progress("read", done, len(rows))
    return readings


@dataclass(frozen=True, slots=True)
class Share:
    """How many of how many, with a 95 % interval."""

    right: int
    count: int

    @property
    def value(self) -> float:
        """The share itself; NaN of none."""
        return self.right / self.count if self.count else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval."""
        return wilson(self.right, self.count)


def shares(readings: Iterable[Reading]) -> dict[str, Share]:
    """The tour's figures: the mark in pictures without an edit, and edits right in colour, in mark and in both."""
    everything = list(readings)
    plain = [reading for reading in everything if not reading.is_edit]
    edits = [reading for reading in everything if reading.is_edit]

    def share(some: list[Reading], test: Callable[[Reading], bool]) -> Share:
        return Share(sum(map(test, some)), len(some))

    return {
        "mark, by the judge": share(plain, lambda r: r.mark_judged),
        "mark and colour, by pixels": share(plain, lambda r: r.right),
        "edits: colour, by pixels": share(edits, lambda r: r.fitted.colour == r.wanted.colour),
        "edits: mark, by the judge": share(edits, lambda r: r.mark_judged),
        "edits: colour and mark, by pixels": share(edits, lambda r: r.right),
    }
