"""Settings of the backends that run a model: which weights, how it is asked, where it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from dataforge.section import Section, Share
from manifests.ids import digest_of

__all__ = [
    "Answer",
    "ClipCheck",
    "Diffusers",
    "GroundingDino",
    "GroundingDinoPy",
    "ModelSection",
    "Sam",
    "Sam2",
    "Sam3Grounder",
    "Sam3Segmenter",
    "SamHf",
    "Vlm",
    "VlmServer",
]

Name = Annotated[str, Field(min_length=1)]
Batch = Annotated[int, Field(ge=1, le=256)]
Queries = tuple[Annotated[str, Field(min_length=1, max_length=60)], ...]
Choose = Literal["single", "best", "largest"]


class ModelSection(Section):
    """What every backend with weights has. `model` is a Hub ID, a folder or a file; a build never downloads it.

    `device: auto` is a GPU where there is one; `precision: auto` is half precision there and float32 on a CPU.
    `workers` processes each load the model once, worker i on GPU i modulo their number.
    """

    # settings that say how fast a result comes and not what it is
    how: ClassVar[frozenset[str]] = frozenset({"device", "batch_size", "workers"})

    model: Name
    revision: Name | None = None
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    precision: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    batch_size: Batch = 8
    workers: Annotated[int, Field(ge=1, le=64)] = 1

    @property
    def digest(self) -> str:
        """As of any section, but the same wherever the weights lie and however fast the work is done."""
        return digest_of(self.model_dump(mode="json", exclude=set(self.how)) | self.nameless())[:16]

    def nameless(self) -> dict[str, Any]:
        """The settings that name folders of this machine, as what they may be called outside."""
        return {name: public_name(getattr(self, name)) for name in ("model", "text_encoder") if hasattr(self, name)}


def public_name(model: str) -> str:
    """A Hub ID as it is; of a folder or file its own name, because the way to it is nobody's business."""
    local = model.startswith(("/", "./", "../", "~")) or Path(model).exists()
    return Path(model).name if local else model


class GroundingDino(ModelSection):
    """Grounding DINO or MM Grounding DINO through transformers; the query is the class noun, then `queries`.

    The thresholds are those of DreamMix's data. What the further queries find ends in `other_boxes` only.
    """

    kind: Literal["grounding-dino"]
    model: Name = "IDEA-Research/grounding-dino-base"
    box_threshold: Share = 0.3
    text_threshold: Share = 0.25
    queries: Queries = ()
    min_score: Share = 0.0


class GroundingDinoPy(ModelSection):
    """An original `.pth` checkpoint of Grounding DINO through groundingdino-py; its shape is read from the file."""

    kind: Literal["groundingdino-py"]
    text_encoder: Name = "google-bert/bert-base-uncased"
    box_threshold: Share = 0.3
    text_threshold: Share = 0.25
    queries: Queries = ()
    short_side: Annotated[int, Field(ge=32, le=2048)] = 800
    batch_size: Batch = 1
    min_score: Share = 0.0


class Sam3Grounder(ModelSection):
    """SAM 3 asked for the class noun: boxes and, for `segment: {kind: sam3}`, the masks of the same look."""

    kind: Literal["sam3"]
    model: Name = "facebook/sam3"
    box_threshold: Share = 0.5
    mask_threshold: Share = 0.5
    batch_size: Batch = 2
    min_score: Share = 0.0


class _Promptable(ModelSection):
    """What every segmenter that is shown boxes has."""

    choose: Choose = "single"
    exclude_others: bool = False


class Sam(_Promptable):
    """A `.pth` checkpoint of SAM through segment-anything; whether it is vit_b, vit_l or vit_h is read from the file.

    `choose: single` is the mask that SAM gives to an unambiguous prompt, as a box is; `best` is the one of its three
    that it believes most, `largest` the largest. `exclude_others` leaves out what belongs rather to another box.
    """

    kind: Literal["sam"]
    batch_size: Batch = 1


class SamHf(_Promptable):
    """SAM through transformers; `choose` and `exclude_others` as for `sam`."""

    kind: Literal["sam-hf"]
    model: Name = "facebook/sam-vit-huge"
    batch_size: Batch = 4


class Sam2(_Promptable):
    """SAM 2 through transformers; `choose` and `exclude_others` as for `sam`."""

    kind: Literal["sam2"]
    model: Name = "facebook/sam2.1-hiera-large"
    batch_size: Batch = 4


class Sam3Segmenter(ModelSection):
    """SAM 3 asked for the class noun inside the box. Masks that the `sam3` grounder found are taken as they are."""

    kind: Literal["sam3"]
    model: Name = "facebook/sam3"
    mask_threshold: Share = 0.5
    batch_size: Batch = 2


class Answer(Section):
    """How much a vision-language model may say: the bounds of the schema that its answers have to fit.

    They bound the length of an answer too, so that none is cut off.
    """

    words: Annotated[int, Field(ge=1, le=8)] = 3
    candidates: Annotated[int, Field(ge=0, le=8)] = 4
    word_letters: Annotated[int, Field(ge=4, le=40)] = 20
    caption_letters: Annotated[int, Field(ge=20, le=200)] = 120


class Vlm(ModelSection):
    """Any image-text-to-text checkpoint of transformers, its answers held to the schema while they are written.

    A subject's photographs go in together, at most `photographs` in one question, each at most `max_side` pixels,
    whole and cut out of its background.
    """

    kind: Literal["vlm"]
    model: Name = "Qwen/Qwen3-VL-2B-Instruct"
    photographs: Annotated[int, Field(ge=1, le=16)] = 4
    max_side: Annotated[int, Field(ge=32, le=2048)] = 448
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    seed: int = 0
    answer: Answer = Answer()
    batch_size: Batch = 1


class VlmServer(Section):
    """Any server that speaks OpenAI's chat completions: vLLM, SGLang, llama.cpp, Ollama.

    `attempts` bounds the requests for one answer and `deadline_s` their time, `timeout_s` a silence in between. The key
    comes from the environment variable `api_key_env`. Plain http needs `allow_http`.
    """

    kind: Literal["vlm-server"]
    url: Annotated[str, Field(pattern=r"^https?://[^\s/@]+(/\S*)?$")]
    model: Name
    allow_http: bool = False
    api_key_env: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] = "OPENAI_API_KEY"
    photographs: Annotated[int, Field(ge=1, le=16)] = 4
    max_side: Annotated[int, Field(ge=32, le=2048)] = 768
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    seed: int = 0
    answer: Answer = Answer()
    batch_size: Batch = 16
    attempts: Annotated[int, Field(ge=1, le=10)] = 4
    timeout_s: Annotated[float, Field(gt=0)] = 60.0
    deadline_s: Annotated[float, Field(gt=0)] = 120.0
    max_tokens: Annotated[int, Field(ge=64)] = 4096

    @property
    def digest(self) -> str:
        """As of any section, without what decides how an answer comes and not what it says."""
        how = {"url", "allow_http", "api_key_env", "batch_size", "attempts", "timeout_s", "deadline_s"}
        return digest_of(self.model_dump(mode="json", exclude=how))[:16]

    @model_validator(mode="after")
    def _travels_encrypted(self) -> VlmServer:
        if self.url.startswith("http://") and not self.allow_http:
            raise ValueError("photographs and key would travel in the clear; set allow_http: true where that is meant")
        return self


class Diffusers(ModelSection):
    """Text to image with a checkpoint in diffusers' layout: SD 1.5, SDXL, SD 3.5, FLUX; shared by the class.

    None leaves a setting to the checkpoint's own pipeline. A picture's seed alone decides its noise, so that it can be
    made again alone. `offload` keeps only the part at work on the GPU (`model`) or only its layer (`sequential`); a
    CPU ignores it. `compile` is torch's, of the part that denoises.
    """

    how: ClassVar[frozenset[str]] = ModelSection.how | {"offload", "compile"}

    kind: Literal["diffusers"]
    model: Name = "stabilityai/stable-diffusion-xl-base-1.0"
    variant: Annotated[str, Field(pattern=r"^\w+$")] | None = None
    size: Annotated[int, Field(ge=32, le=2048)] = 1024
    scheduler: Literal["ddim", "ddpm", "dpm++", "dpm++-sde", "euler", "euler-a", "unipc"] | None = None
    steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    guidance: Annotated[float, Field(ge=0, le=50)] | None = None
    negative_prompt: Annotated[str, Field(max_length=400)] | None = None
    offload: Literal["none", "model", "sequential"] = "none"
    compile: bool = False
    batch_size: Batch = 4


class ClipCheck(ModelSection):
    """A second gate for made pictures: CLIP's cosines, recorded as scores; None rejects nothing.

    `min_agreement` is of picture and prompt (`clip_agreement`), `max_identity` of picture and the photographs of the
    subjects it is for (`clip_identity`).
    """

    # limits judge the vectors, they do not change them
    how: ClassVar[frozenset[str]] = ModelSection.how | {"min_agreement", "max_identity"}

    kind: Literal["clip"]
    model: Name = "openai/clip-vit-base-patch32"
    min_agreement: Annotated[float, Field(ge=-1, le=1)] | None = None
    max_identity: Annotated[float, Field(ge=-1, le=1)] | None = None
    batch_size: Batch = 16
