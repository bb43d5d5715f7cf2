"""Every noun of a corpus, as plain frozen records. Field texts here become the Arrow field descriptions.

Pixels are full-image, upright; boxes are `(x0, y0, x1, y1)`, half-open, so that width is `x1 - x0`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

__all__ = [
    "Attribute",
    "Box",
    "LedgerRow",
    "MemberRef",
    "Provenance",
    "RegularPrompt",
    "Role",
    "Sample",
    "Score",
    "Subject",
    "SubjectAttribute",
    "Word",
]

Role = Literal["src", "reg", "bg"]
Origin = Literal["source", "candidate"]
Box = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Attribute:
    """A word that a sample has (`source`) or was asked to show (`candidate`)."""

    category: Annotated[str, "colour, material, texture, pattern, shape, state or accessories"]
    word: str
    score: Annotated[float, "0 to 1, as the describer gave it"]
    origin: Annotated[Origin, "source: the subject has it; candidate: an edit could ask for it"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SubjectAttribute:
    """A word of a subject's dictionary, with the photographs that support it."""

    category: Annotated[str, "colour, material, texture, pattern, shape, state or accessories"]
    word: str
    score: Annotated[float, "0 to 1, as the describer gave it"]
    origin: Annotated[Origin, "source: the subject has it; candidate: an edit could ask for it"]
    sample_ids: Annotated[tuple[str, ...], "photographs that support the word"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A named number a stage measured."""

    name: str
    value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Word:
    """One attribute word used in a prompt."""

    category: str
    word: str
    origin: Origin = "source"


@dataclass(frozen=True, kw_only=True, slots=True)
class RegularPrompt:
    """A regular-data prompt (without the identifier) and how it was made."""

    prompt: str
    template: Annotated[str, "the pattern the prompt was filled into"]
    words: tuple[Word, ...]
    seed: Annotated[int, "seed of the choice of words"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """One stage that had a part in a sample."""

    stage: str
    backend: Annotated[str, "which implementation spoke: `embedded`, `given`, `override` or a real backend's name"]
    model: Annotated[str, "model id and revision; empty for none"]
    version: str
    settings_digest: Annotated[str, "sha256 of the stage's settings, first 16 hex digits"]
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class MemberRef:
    """Where the bytes of a picture lie."""

    shard: Annotated[str, "path of the shard relative to the corpus"]
    offset: Annotated[int, "first byte of the member's data in the shard"]
    length: Annotated[int, "bytes"]
    format: Annotated[str, "jpg, png or webp"]
    sha256: Annotated[str, "of the member's bytes"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One picture and all that is known of it."""

    id: Annotated[str, "<subject>/src-..., <owner>/reg-... or scenes/bg-...; also the WebDataset key"]
    subject: Annotated[str, "slug of the subject; class-<noun> for shared regular pictures; scenes for scenes"]
    role: Annotated[Role, "src: photograph; reg: regular picture; bg: scene to paint into"]
    split: Annotated[str, "train or validation"]
    class_noun: str
    width: Annotated[int, "pixels"]
    height: Annotated[int, "pixels"]
    box_xyxy: Annotated[Box, "x0,y0,x1,y1 in full-image pixels, half-open"]
    box_score: Annotated[float, "0 to 1; 1 for a box that was given"]
    other_boxes: Annotated[tuple[Box, ...], "further things of the class in the picture"]
    mask_area: Annotated[float, "share of the picture, 0 to 1"]
    mask_quality: Annotated[float, "estimate of the mask's IoU, 0 to 1; 1 for a mask that was given"]
    flags: Annotated[tuple[str, ...], "why a person should look"]
    caption: Annotated[str, "what the describer says of the picture"]
    prompt: Annotated[str, "src: instance prompt with {identifier}; reg: the prompt it was made for"]
    own_pixels: Annotated[bool, "made from the subject's own pixels"]
    attributes: tuple[Attribute, ...]
    scores: tuple[Score, ...]
    image: MemberRef
    mask: MemberRef
    source_uri: Annotated[str, "path relative to what was given; of the first parent for made pictures"]
    source_sha256: Annotated[str, "of the file as found; empty for made pictures"]
    licence: str
    parents: Annotated[tuple[str, ...], "samples it was made from"]
    provenance: tuple[Provenance, ...]
    rival_outline: Annotated[
        tuple[int, ...], "x,y,x,y,... in full-image pixels around the best mask the segmenter did not choose"
    ] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """One thing a person photographed, or the owner of shared regular pictures."""

    id: Annotated[str, "slug"]
    name: Annotated[str, "folder name, percent-escaped where it is not printable"]
    class_noun: str
    class_noun_origin: Annotated[str, "overrides, subjects.yaml, subjects.csv, tree or folder"]
    status: Annotated[str, "ok or insufficient"]
    split: str
    licence: str
    credit: str
    consent: str
    instance_prompt: Annotated[str, "with {identifier}"]
    attributes: tuple[SubjectAttribute, ...]
    regular_prompts: tuple[RegularPrompt, ...]
    sample_ids: Annotated[tuple[str, ...], "photographs"]
    regular_ids: Annotated[tuple[str, ...], "regular pictures, shared ones included"]
    scene_ids: Annotated[tuple[str, ...], "scenes of the same class"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerRow:
    """What became of one file found, or of one sample that was made and not kept."""

    path: Annotated[str, "relative to what was given, percent-escaped; empty for a made sample"]
    kind: Annotated[str, "photograph, scene, mask, overrides, listing, other or made"]
    status: Annotated[Literal["accepted", "alias", "ignored", "quarantined"], "what was decided"]
    subject: str = ""
    sample_id: Annotated[str, "the sample it became, serves, or is a copy of"] = ""
    rule: Annotated[str, "ignored: the rule"] = ""
    code: Annotated[str, "quarantined: a code of docs/errors.md"] = ""
    sentence: Annotated[str, "what a person should know"] = ""
    notes: Annotated[tuple[str, ...], "what ingest changed or saw"] = field(default=())
    size: Annotated[int, "bytes; -1 where unknown"] = -1
    sha256: Annotated[str, "of the file as found; empty where it was not read"] = ""
