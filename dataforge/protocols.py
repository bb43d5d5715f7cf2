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
    "AskingDescriber",
    "Backend",
    "Describer",
    "Description",
    "Embedder",
    "GeneratedImage",
    "GenerationRequest",
    "Generator",
    "Grounder",
    "Grounding",
    "Look",
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
    segmentation: Segmentation | None = None  # of a model that sees the mask in the same look


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """A subject as a describer with questions to ask prepares it: JPEG bytes by photograph ID, small.

    `scenes` are the photographs, `cutouts` the subject alone on grey.
    """

    class_noun: str
    scenes: dict[str, bytes]
    cutouts: dict[str, bytes]


class AskingDescriber(Describer, Protocol):
    """A describer that puts questions to a model, several subjects at a time, and can be asked to write."""

    def look(self, photos: Sequence[Photo], masks: Sequence[MaskArray]) -> Look:
        """What of a subject goes into a question; its photographs can be let go of."""
        ...

    def describe_looks(self, looks: Sequence[Look]) -> list[Description | Fault]:
        """One answer per subject, in order."""
        ...

    def write_prompts(self, wishes: Sequence[tuple[str, tuple[str, ...]]]) -> list[str | Fault]:
        """One prompt for each class noun with the words it has to hold, in order; not yet checked for them."""
        ...


class Embedder(Backend, Protocol):
    """Pictures and prompts to vectors of one space."""

    def embed(
        self, photos: Sequence[Photo], masks: Sequence[MaskArray], prompts: Sequence[str]
    ) -> list[dict[str, tuple[float, ...]] | Fault]:
        """Per picture the vectors `picture`, `cutout` (the subject alone on grey) and, for a prompt, `prompt`."""
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
