"""Pictures and subjects on their way through a build: what the stages have found out so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from dataforge.ingest.sources import PhotographSource, SceneSource, SubjectSource
from dataforge.store import BlobRef
from manifests.errors import Fault
from manifests.records import Attribute, Box, Provenance, RegularPrompt, Role, SubjectAttribute

__all__ = ["Picture", "WorkingSubject"]


@dataclass(slots=True)
class Picture:
    """One photograph, scene or made picture. A `fault` ends its way; it stays for the ledger."""

    role: Role
    owner: str
    class_noun: str
    source: PhotographSource | SceneSource | None = None
    id: str = ""
    fault: Fault | None = None
    alias_of: str = ""
    source_sha256: str = ""
    image: BlobRef | None = None
    format: str = ""
    width: int = 0
    height: int = 0
    notes: tuple[str, ...] = ()
    perceptual_hash: int = 0
    box: Box | None = None
    box_score: float = 0.0
    other_boxes: tuple[Box, ...] = ()
    mask: BlobRef | None = None
    made_mask: bytes = b""  # a scene's mask, made from its box and not stored as a blob
    mask_area: float = 0.0
    mask_quality: float = 0.0
    flags: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()  # the segmenter's reasons; flags once the gate finds the quality low
    # of the answer that holds its scores and rival outline: stage, key and place among the answer's items. These are
    # hundreds of numbers for each of many photographs, and no stage asks for them: packing reads them
    measured: tuple[str, str, int] | None = None
    scores: dict[str, float] = field(default_factory=dict)  # of other stages; they win where names are equal
    caption: str = ""
    prompt: str = ""
    attributes: tuple[Attribute, ...] = ()
    parents: tuple[str, ...] = ()
    own_pixels: bool = False
    provenance: tuple[Provenance, ...] = ()

    @property
    def alive(self) -> bool:
        """Whether it is still on its way into the corpus."""
        return self.fault is None and not self.alias_of

    def image_ref(self) -> BlobRef:
        """Where its pixels lie; every picture past ingest has them."""
        assert self.image is not None
        return self.image

    def mask_ref(self) -> BlobRef:
        """Where its mask lies; every picture past segment has one."""
        assert self.mask is not None
        return self.mask

    def the_box(self) -> Box:
        """Its box; every picture past ground has one."""
        assert self.box is not None
        return self.box


@dataclass(slots=True)
class WorkingSubject:
    """A subject, its photographs and what is made of them."""

    source: SubjectSource
    photographs: list[Picture] = field(default_factory=list)
    words: tuple[SubjectAttribute, ...] = ()
    prompts: tuple[RegularPrompt, ...] = ()
    regular_ids: list[str] = field(default_factory=list)
    split: str = "train"

    @property
    def slug(self) -> str:
        """The subject's ID."""
        return self.source.slug

    def kept(self) -> list[Picture]:
        """Photographs still on their way, in ID order."""
        return sorted((photo for photo in self.photographs if photo.alive), key=lambda photo: photo.id)
