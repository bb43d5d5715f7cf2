"""A recipe: every setting of a build, closed and frozen, from one YAML file and `--set key=value`.

Settings only. What to build from is given apart, as a folder or as `subjects.yaml`.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from dataforge.model_config import (
    ClipCheck,
    Diffusers,
    GroundingDino,
    GroundingDinoPy,
    ModelSection,
    Sam,
    Sam2,
    Sam3Grounder,
    Sam3Segmenter,
    SamHf,
    Vlm,
    VlmServer,
)
from dataforge.section import Section, Share
from manifests.errors import UsageError
from manifests.overrides import describe, load_yaml

__all__ = ["ClipCheck", "Recipe", "Section", "load_recipe", "named_recipes"]


class Limits(Section):
    """What a photograph may be before it is decoded; see docs/errors.md for the code each limit ends in."""

    max_bytes: int = 64 << 20
    max_pixels: int = 50_000_000
    min_side: int = 16
    max_aspect: float = 20.0
    max_jpeg_scans: int = 100
    min_bytes_per_megapixel: int = 1000
    decode_cpu_s: int = 10
    max_memory_bytes: int = 2 << 30


class Ingest(Section):
    """What is done to photographs on the way in."""

    limits: Limits = Limits()
    first_frame: bool = False
    keep_blank: bool = False
    use_given_masks: bool = True
    use_given_boxes: bool = True
    near_duplicate_bits: Annotated[int, Field(ge=0, le=16)] = 3


class EmbeddedGrounder(Section):
    """Saliency and a centre prior."""

    kind: Literal["embedded"] = "embedded"
    min_score: Share = 0.0


class EmbeddedSegmenter(Section):
    """Cuts by colours shared across a subject's photographs; works at `max_side` pixels per box."""

    kind: Literal["embedded"] = "embedded"
    max_side: Annotated[int, Field(ge=32, le=1024)] = 160
    iterations: int = 4


class EmbeddedDescriber(Section):
    """Words measured from the pixels inside the mask."""

    kind: Literal["embedded"] = "embedded"
    min_score: Share = 0.15
    max_side: int = 256


class FakeGrounder(Section):
    """For tests: the middle of each picture; `delay_s` a batch, as a model takes its time."""

    kind: Literal["fake"]
    min_score: Share = 0.0
    delay_s: Annotated[float, Field(ge=0, le=10)] = 0.0
    batch_size: Annotated[int, Field(ge=1)] = 8
    workers: Annotated[int, Field(ge=1)] | None = None


class FakeSegmenter(Section):
    """For tests: the ellipse that fits the box."""

    kind: Literal["fake"]


class FakeDescriber(Section):
    """For tests: always the same words."""

    kind: Literal["fake"]


class Compose(Section):
    """How words become prompts (DreamMix's regular data: base prompt, one per word, random pairs).

    `kind: vlm` has the describer's model write each prompt; one that lacks a word or the noun stays the template's.
    """

    kind: Literal["template", "vlm"] = "template"
    instance_template: str = "a photo of {identifier} {class_noun}"
    template: str = "a photo of a {words} {class_noun}"
    words: Literal["source", "candidate", "both"] = "both"
    pairs: Annotated[int, Field(ge=0)] = 4
    max_prompts: Annotated[int, Field(ge=1)] = 24
    seed: int = 0


class EmbeddedGenerator(Section):
    """Recolours, retextures and recomposes the subject's own pixels on scenes.

    `keep_details` paints the body alone, whatever share of the subject another colour keeps: a label stays as it is.
    """

    kind: Literal["embedded"] = "embedded"
    size: Annotated[int, Field(ge=32, le=2048)] = 512
    subject_share: tuple[Share, Share] = (0.46, 0.76)  # its longer side, of the picture's
    keep_details: bool = False


class FakeGenerator(Section):
    """For tests: flat pictures, shared by the class."""

    kind: Literal["fake"]
    size: Annotated[int, Field(ge=32, le=2048)] = 64


def _kind(value: Any) -> Any:
    """Which backend a section is for; one that names none is for the embedded one."""
    return value.get("kind", "embedded") if isinstance(value, dict) else getattr(value, "kind", None)


def _by_kind(*kinds: str) -> Discriminator:
    return Discriminator(
        _kind,
        custom_error_type="unknown_kind",
        custom_error_message=f"`kind` names no backend of this role; there are {', '.join(kinds[:-1])} and {kinds[-1]}",
    )


GrounderSettings = Annotated[
    Annotated[EmbeddedGrounder, Tag("embedded")]
    | Annotated[FakeGrounder, Tag("fake")]
    | Annotated[GroundingDino, Tag("grounding-dino")]
    | Annotated[GroundingDinoPy, Tag("groundingdino-py")]
    | Annotated[Sam3Grounder, Tag("sam3")],
    _by_kind("embedded", "fake", "grounding-dino", "groundingdino-py", "sam3"),
]
SegmenterSettings = Annotated[
    Annotated[EmbeddedSegmenter, Tag("embedded")]
    | Annotated[FakeSegmenter, Tag("fake")]
    | Annotated[Sam, Tag("sam")]
    | Annotated[SamHf, Tag("sam-hf")]
    | Annotated[Sam2, Tag("sam2")]
    | Annotated[Sam3Segmenter, Tag("sam3")],
    _by_kind("embedded", "fake", "sam", "sam-hf", "sam2", "sam3"),
]
DescriberSettings = Annotated[
    Annotated[EmbeddedDescriber, Tag("embedded")]
    | Annotated[FakeDescriber, Tag("fake")]
    | Annotated[Vlm, Tag("vlm")]
    | Annotated[VlmServer, Tag("vlm-server")],
    _by_kind("embedded", "fake", "vlm", "vlm-server"),
]
GeneratorSettings = Annotated[
    Annotated[EmbeddedGenerator, Tag("embedded")]
    | Annotated[FakeGenerator, Tag("fake")]
    | Annotated[Diffusers, Tag("diffusers")],
    _by_kind("embedded", "fake", "diffusers"),
]


class Generate(Section):
    """How many regular pictures, and who makes them.

    `images_per_photograph` counts for generators that use the subject's own pixels, `images_per_prompt` for those
    that do not.
    """

    generator: GeneratorSettings = EmbeddedGenerator()
    images_per_photograph: Annotated[int, Field(ge=0)] = 4
    images_per_prompt: Annotated[int, Field(ge=0)] = 30
    seed: int = 0


class Gate(Section):
    """What is kept, flagged or rejected."""

    min_area: Share = 0.001
    max_area: Share = 0.98
    # the embedded segmenter was fitted so that 85 to 90 % of what lies above have IoU >= 0.75
    flag_below: Share = 0.78
    reject_below: Share = 0.0
    # of two made pictures of one owner whose perceptual hashes differ in at most so many of 64 bits, one is kept
    regular_duplicate_bits: Annotated[int, Field(ge=0, le=16)] | None = None


class Split(Section):
    """Which share of the subjects goes to validation, by a seeded rule; near-duplicates never straddle."""

    validation: Share = 0.0
    seed: int = 0


class Pack(Section):
    """Shards are cut between subjects, near `shard_bytes`; `parquet` writes the same rows as `data/*.parquet` too."""

    shard_bytes: Annotated[int, Field(ge=1024)] = 256 << 20
    parquet: bool = False


class Recipe(Section):
    """All settings of a build."""

    ingest: Ingest = Ingest()
    ground: GrounderSettings = EmbeddedGrounder()
    segment: SegmenterSettings = EmbeddedSegmenter()
    describe: DescriberSettings = EmbeddedDescriber()
    compose: Compose = Compose()
    generate: Generate = Generate()
    gate: Gate = Gate()
    recheck: ClipCheck | None = None
    split: Split = Split()
    pack: Pack = Pack()
    min_images: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _someone_writes_the_prompts(self) -> Recipe:
        if self.compose.kind == "vlm" and self.describe.kind not in ("vlm", "vlm-server"):
            raise ValueError("compose.kind: vlm needs a describer that can write, vlm or vlm-server")
        return self

    def sections(self) -> dict[str, Section]:
        """Role to settings of every backend that the recipe names."""
        roles: dict[str, Section] = {"ground": self.ground, "segment": self.segment, "describe": self.describe}
        roles["generate"] = self.generate.generator
        return roles if self.recheck is None else roles | {"recheck": self.recheck}

    def public(self) -> dict[str, Any]:
        """The settings as JSON values, as a corpus may tell them: weights by name, without the way to them."""
        values = self.model_dump(mode="json")
        for role, section in self.sections().items():
            place = values["generate"]["generator"] if role == "generate" else values[role]
            place.update(section.nameless() if isinstance(section, ModelSection) else {})
        return values


def named_recipes() -> list[str]:
    """Names of the recipes that ship with the package."""
    folder = resources.files("dataforge") / "recipes"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_recipe(name_or_file: str | None = None, sets: list[str] | None = None) -> Recipe:
    """A recipe by name or from a file, with `key.path=value` settings on top; None is all defaults.

    Raises `UsageError` E502 naming the file and every field that is wrong, E503 where there is no such recipe.
    """
    values: dict[str, Any] = {}
    where = "recipe"
    if name_or_file is not None:
        where = name_or_file
        path = Path(name_or_file)
        if path.suffix in (".yaml", ".yml"):
            if not path.is_file():
                raise UsageError(f"no recipe file {name_or_file}.", code="E503")
            text = path.read_bytes()
        elif name_or_file in named_recipes():
            text = (resources.files("dataforge") / "recipes" / f"{name_or_file}.yaml").read_bytes()
        else:
            raise UsageError(f"no recipe {name_or_file!r}; there are {', '.join(named_recipes())}.", code="E503")
        loaded = load_yaml(text, where=where)
        if not isinstance(loaded, dict | None):
            raise UsageError(f"{where}: a recipe is a mapping of settings.", code="E502")
        values = loaded or {}
    for assignment in sets or []:
        key, mark, value = assignment.partition("=")
        if not mark or not key:
            raise UsageError(f"--set takes key=value, not {assignment!r}.")
        _put(values, key.split("."), load_yaml(value.encode(), where=f"--set {assignment}"), assignment)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"{where}: {describe(error)}.", code="E502") from error


def _put(values: dict[str, Any], path: list[str], value: Any, assignment: str) -> None:
    for part in path[:-1]:
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            raise UsageError(f"--set {assignment}: {part} is no group of settings.")
        values = inner
    values[path[-1]] = value
