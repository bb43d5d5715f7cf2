"""What a painted picture shows, by comparing its pixels with renders: a measure that asks no network.

The scene it was painted into is known, and so is what should stand there. So its pose is found by rendering (`pose`),
and every other answer - another colour, another mark, none - is rendered in the same pose and compared with the pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from toyworld.marks import SUBJECT_MARKS, TRAINING_MARKS, Mark
from toyworld.render import Box, Image, Thing, View, bounding_box, paint
from toyworld.words import COLOURS

_STEPS = {"x": 2.0, "y": 2.0, "size": 3.0, "tilt": 0.1, "yaw": 0.2, "stretch": 0.06}
"""First steps of the search, in the units of `View`; they are halved three times."""
_CHANGED = 24
"""Grey levels of 255 by which a pixel must differ from the scene to count as painted."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The best answers: `colour` of the body, `mark` by name or "", and how well the wanted mark itself is drawn.

    `mark_correlation`: correlation (-1..1) of what the mark should add to the bare thing with what the picture adds;
    `error`: mean difference to the render of what was wanted, in grey levels over the thing's pixels.
    """

    colour: str
    mark: str
    mark_correlation: float
    error: float

    def is_right(self, wanted: Thing) -> bool:
        """Whether colour and mark are the wanted ones."""
        return self.colour == wanted.colour and self.has_mark(wanted)

    def has_mark(self, wanted: Thing, least_correlation: float = 0.5) -> bool:
        """Whether the mark is the wanted one and drawn, not hinted at."""
        mark = wanted.mark.name if wanted.mark else ""
        return self.mark == mark and (not mark or self.mark_correlation >= least_correlation)


def fit(picture: Image, scene: Image, box: Box, wanted: Thing, marks: Sequence[Mark] = ()) -> Fit:
    """Read `picture` [H, W, 3], painted into `scene` inside `box`, knowing what was `wanted` but for its pose.

    `marks` are the other marks it is told from; by default all that there are.
    """
    others = [mark for mark in (marks or (*SUBJECT_MARKS, *TRAINING_MARKS)) if mark != wanted.mark]
    bare = replace(wanted, mark=None)
    views = {pose(picture, scene, box, thing) for thing in (wanted, bare)}

    def error(thing: Thing) -> float:
        return min(_error(picture, scene, box, replace(thing, view=view)) for view in views)

    choices: list[Mark | None] = [wanted.mark, None, *others] if wanted.mark else [None, *others]
    colour = min(COLOURS, key=lambda name: error(replace(wanted, colour=name)))
    mark = min(choices, key=lambda choice: error(replace(wanted, colour=colour, mark=choice)))
    view = min(views, key=lambda view: _error(picture, scene, box, replace(wanted, view=view)))
    there, missing = (paint(scene, replace(thing, view=view)) for thing in (wanted, bare))
    return Fit(
        colour,
        mark.name if mark else "",
        _correlation(there[0].astype(np.float32) - missing[0], picture.astype(np.float32) - missing[0]),
        float(abs(picture[there[1]].astype(np.float32) - there[0][there[1]]).mean()) if there[1].any() else 255.0,
    )


def pose(picture: Image, scene: Image, box: Box, thing: Thing) -> View:
    """The view in which a render of `thing` comes nearest to the picture: from its outline, then step by step."""
    x0, y0, x1, y1 = box
    painted = np.zeros(scene.shape[:2], np.bool_)
    painted[y0:y1, x0:x1] = abs(picture.astype(np.int16) - scene)[y0:y1, x0:x1].max(-1) > _CHANGED
    # a halo is painted too: the outline is that of the rows and columns with a good share of painted pixels
    left, top, right, bottom = bounding_box(_solid(painted)) if painted.any() else box
    size = float(max(right - left, bottom - top, 8))
    start = View((left + right) / 2, (top + bottom) / 2, size)
    best = min(
        (_error(picture, scene, box, replace(thing, view=view)), n, view) for n, view in enumerate(_starts(start))
    )
    view, least = best[2], best[0]
    for scale in (1.0, 0.5, 0.25, 0.12):
        for name, step in _STEPS.items():
            for sign in (1, -1):
                while True:
                    there = replace(view, **{name: getattr(view, name) + sign * scale * step})
                    if not _possible(there, box):
                        break
                    found = _error(picture, scene, box, replace(thing, view=there))
                    if found >= least:
                        break
                    view, least = there, found
    return view


def _possible(view: View, box: Box) -> bool:
    """Views that a thing in this box can be seen in."""
    x0, y0, x1, y1 = box
    inside = x0 <= view.x <= x1 and y0 <= view.y <= y1 and 6 <= view.size <= 1.4 * max(x1 - x0, y1 - y0)
    return inside and abs(view.tilt) < 0.5 and abs(view.yaw) < 0.6 and 0.75 < view.stretch < 1.3


def _starts(view: View) -> Iterator[View]:
    for size in (0.9, 1.0):
        for mirrored in (False, True):
            yield replace(view, size=view.size * size, mirrored=mirrored)


def _solid(painted: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    rows, columns = painted.sum(1), painted.sum(0)
    solid: npt.NDArray[np.bool_] = painted & (rows > 0.2 * rows.max())[:, None] & (columns > 0.2 * columns.max())
    return solid


def _error(picture: Image, scene: Image, box: Box, thing: Thing) -> float:
    x0, y0, x1, y1 = box
    rendered, _ = paint(scene, thing)
    return float(abs(picture[y0:y1, x0:x1].astype(np.int16) - rendered[y0:y1, x0:x1]).mean())


def _correlation(wanted: npt.NDArray[np.float32], found: npt.NDArray[np.float32]) -> float:
    """Cosine of the two over the pixels where the mark adds anything."""
    where = abs(wanted).max(-1) > _CHANGED
    a, b = wanted[where].ravel(), found[where].ravel()
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length else 0.0
