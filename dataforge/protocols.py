"""The roles of a build, one small Protocol each. An implementation lives in one file of `dataforge.backends`.

Images are uint8 HxWx3 RGB, masks bool HxW (True = the subject), boxes half-open pixels of the full picture.
A thing that cannot be done to one photograph is a `Fault` in its place, not an exception; a missing package or
weight raises `manifests.errors.UsageError` E505 from the constructor, before any work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from manifests.errors import Fault
from manifests.pixels import ImageArray, MaskArray
from manifests.records import Box, RegularPrompt, Score, SubjectAttribute

__all__ = [
    "Backend",
    "Describer",
    "Description",
    "GeneratedImage",
    "GenerationRequest",
    "Generator",
    "Grounder",
    "Grounding",
    "Photo",
    "Segmentation",
    "Segmenter",
]

Scope = Literal["sample", "subject"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Photo:
    """One picture as a backend sees it."""

    id: str
    subject: str
    class_noun: str
    image: ImageArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Grounding:
    """Where the subject is, and further things of its class."""

    box: Box
    score: float
    other_boxes: tuple[Box, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Segmentation:
    """The subject's mask and how much its maker believes in it.

    `quality` estimates the mask's IoU in [0, 1] from evidence; `scores` holds that evidence by name, `flags`
    says in words why a person should look. `rival` is the hypothesis that was weighed most and not chosen.
    """

    mask: MaskArray
    quality: float
    scores: tuple[Score, ...] = ()
    flags: tuple[str, ...] = ()
    rival: MaskArray | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """A subject's words (with the IDs of the photographs that support each) and one caption per photograph ID."""

    words: tuple[SubjectAttribute, ...]
    captions: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationRequest:
    """One regular picture to make. `sources` and their masks are given to generators with `own_pixels`."""

    prompt: RegularPrompt
    class_noun: str
    seed: int
    size: int
    sources: tuple[Photo, ...] = ()
    masks: tuple[MaskArray, ...] = ()
    scenes: tuple[ImageArray, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratedImage:
    """A regular picture; `mask` where the mask follows from the making, `parents` the IDs whose pixels it holds."""

    image: ImageArray
    mask: MaskArray | None = None
    parents: tuple[str, ...] = ()
    scores: tuple[Score, ...] = field(default=())


class Backend(Protocol):
    """What every backend says of itself; it ends in the provenance of every sample it touched."""

    name: str
    model: str
    version: str


class Grounder(Backend, Protocol):
    """Class noun to boxes."""

    scope: Scope

    def ground(self, photos: Sequence[Photo]) -> list[Grounding | Fault]:
        """One answer per photograph, in order. With scope `subject`, the call holds all photographs of one subject."""
        ...


class Segmenter(Backend, Protocol):
    """Box to mask."""

    scope: Scope

    def segment(self, photos: Sequence[Photo], groundings: Sequence[Grounding]) -> list[Segmentation | Fault]:
        """One answer per photograph, in order. With scope `subject`, the call holds all photographs of one subject."""
        ...


class Describer(Backend, Protocol):
    """Masked photographs of one subject to words and captions."""

    def describe(self, photos: Sequence[Photo], masks: Sequence[MaskArray]) -> Description:
        """What the photographs of one subject show; they all go in together."""
        ...


class Generator(Backend, Protocol):
    """Prompt to regular picture."""

    own_pixels: bool  # True: made from the subject's photographs, and owned by it; False: shared by the class

    @staticmethod
    def can_show(category: str, word: str) -> bool:
        """Whether a picture made from own pixels can be given a candidate word; asked only of such generators."""
        ...

    def generate(self, requests: Sequence[GenerationRequest]) -> list[GeneratedImage | Fault]:
        """One answer per request, in order; equal requests give equal pixels where the hardware allows."""
        ...
