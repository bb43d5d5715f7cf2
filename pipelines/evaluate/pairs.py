"""What a metric looks at: a composite with its scene, its box, and the photographs of the subject."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from manifests.pixels import ImageArray, MaskArray
from manifests.records import Box

__all__ = ["Pair", "View", "as_seen"]


@dataclass(frozen=True)
class View:
    """A picture of the subject: image uint8 HxWx3 RGB, its box half-open in pixels, and its mask (True = subject)."""

    key: str  # the same key means the same pixels: what is computed from them may be kept
    image: ImageArray
    box: Box
    mask: MaskArray | None = None


@dataclass(frozen=True)
class Pair:
    """A composite beside what it is compared with. `scene` has the composite's size, or is None (a photograph)."""

    composite: View
    scene: ImageArray | None
    references: tuple[View, ...]
    prompt: str  # without the identifier

    @property
    def box(self) -> Box:
        """Where the subject was painted; half-open pixels of the composite."""
        return self.composite.box

    @cached_property
    def frame(self) -> tuple[int, int]:
        """Height and width of the composite."""
        return self.composite.image.shape[0], self.composite.image.shape[1]


def as_seen(view: View, crop: str) -> ImageArray | None:
    """The pixels of a view under a crop rule, uint8 hxwx3; None where the rule needs a mask and there is none.

    `whole`: the picture; `box`: what lies in the box; `mask`: that with everything but the subject set to 0
    (the DreamCom lab's scripts: crop by the box, zero what is not the object).
    """
    if crop == "whole":
        return view.image
    x0, y0, x1, y1 = view.box
    inside = view.image[y0:y1, x0:x1]
    if crop == "box":
        return inside
    if view.mask is None:
        return None
    return inside * view.mask[y0:y1, x0:x1, None]
