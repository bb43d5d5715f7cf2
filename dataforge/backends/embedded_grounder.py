"""The embedded grounder: where the subject of a few photographs is, from a centre prior, its colours and saliency.

Needs no weights, and does not read the class noun: it finds the thing the photographs have in common near their
middle (see `cosegmentation`), so in clutter it may find the wrong thing. Its scores stay below 0.5 to say so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dataforge.backends.cosegmentation import FIRST_LOOK, blank, centre_prior, cosegment, main_piece, view_of
from dataforge.backends.saliency import saliency_of
from dataforge.protocols import Grounding, Photo, Scope
from manifests.errors import Fault
from manifests.pixels import MaskArray
from manifests.records import Box

__all__ = ["EmbeddedGrounder"]

_SIDE = 128
_SPREAD = 0.25


class EmbeddedGrounder:
    """A cut from a centre prior with colours shared across the photographs; the box is that of its main piece."""

    name = "embedded"
    model = ""
    version = "1"
    scope: Scope = "subject"

    def ground(self, photos: Sequence[Photo]) -> list[Grounding | Fault]:
        """One box per photograph of one subject. E210 where nothing stands out, as in a picture of one colour."""
        looked = [index for index, photo in enumerate(photos) if not blank(photo.image)]
        views = [view_of(photos[index].image, _SIDE) for index in looked]
        priors = [centre_prior(view.shape, _SPREAD) for view in views]
        answers: list[Grounding | Fault] = [Fault("E210", "the picture has one colour")] * len(photos)
        for index, view, prior, cut in zip(looked, views, priors, cosegment(views, priors, 4, FIRST_LOOK), strict=True):
            mask = main_piece(cut, prior)
            if not mask.any():
                answers[index] = Fault("E210", "nothing stands apart from the background")
                continue
            height, width = photos[index].image.shape[:2]
            stand_out = saliency_of(view.lab)
            contrast = float(stand_out[mask].mean()) - (float(stand_out[~mask].mean()) if not mask.all() else 0.0)
            answers[index] = Grounding(
                box=_outer_box(mask, height, width), score=round(min(0.49, max(0.01, 0.5 * contrast)), 4)
            )
        return answers


def _outer_box(mask: MaskArray, height: int, width: int) -> Box:
    """The box of a small mask in pixels of the full picture, without the outermost hundredth on each side."""
    columns, rows = np.cumsum(mask.sum(axis=0)) / mask.sum(), np.cumsum(mask.sum(axis=1)) / mask.sum()
    across, down = width / mask.shape[1], height / mask.shape[0]
    x0, x1 = int(np.searchsorted(columns, 0.01) * across), (int(np.searchsorted(columns, 0.99)) + 1) * across
    y0, y1 = int(np.searchsorted(rows, 0.01) * down), (int(np.searchsorted(rows, 0.99)) + 1) * down
    return x0, y0, min(width, max(x0 + 1, round(x1))), min(height, max(y0 + 1, round(y1)))
