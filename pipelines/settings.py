"""How a job is painted: one closed set of settings, with the papers' and the releases' values as presets.

Nothing heavy is imported here: jobs and the command line check settings before any model is loaded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from manifests.errors import UsageError

__all__ = ["PRESETS", "TAS", "MaskRules", "Painting", "ReferenceRules", "resolve", "resolve_for"]

Stage = Literal["lcg", "gch"]


@dataclass(frozen=True, slots=True)
class MaskRules:
    """Which attention layers are masked and how (DreamCom). The defaults are the paper's at inference.

    In training `self_layers` is none. `released` masks the five outermost decoder layers, the opposite of the paper.
    """

    cross: Literal["paper", "released", "none"] = "paper"
    self_layers: Literal["paper", "released", "none", "all"] = "paper"
    kind: Literal["post_softmax", "pre_softmax"] = "post_softmax"
    downsample: Literal["max", "nearest"] = "max"  # nearest, as released, can lose a small box at the coarse layers


@dataclass(frozen=True, slots=True)
class TAS:
    """How attribute words are removed (DreamMix); `sequential` and both stages are what the release does."""

    method: Literal["qr", "sequential"] = "qr"
    positions: Literal["prompt_words", "identifier"] = "prompt_words"
    space: Literal["concat", "per_encoder"] = "concat"
    stages: tuple[Stage, ...] = ("lcg",)
    alpha: float = 0.0  # share of the embedding that is kept as it was; 1 is TAS off


@dataclass(frozen=True, slots=True)
class ReferenceRules:
    """Which tokens of a reference are kept and where they enter (DreamInpainter)."""

    tokens: int = 24
    inject: Literal["concat_up", "decoupled_up"] = "concat_up"


@dataclass(frozen=True, kw_only=True, slots=True)
class Painting:
    """Every setting of a painting; sizes in pixels."""

    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    negative_prompt: str | None = None
    scheduler: str | None = None  # a diffusers class; None is the base's own
    scheduler_changes: dict[str, Any] = field(default_factory=dict)
    resolution: int | None = None  # of a frame; None is what the base was trained at
    # disentangled inpainting: share of the steps spent on the whole frame, the last ones (METHODS A1)
    lambda_gch: float = 0.7
    switch_step: int | None = None  # first step on the whole frame; wins over lambda_gch
    crop: Literal["fooocus", "dreamcom"] = "fooocus"
    crop_field: float = 0.5  # least share of each side a fooocus crop takes in
    # place of a small VAE (`AutoencoderTiny`) of the base's latents, for the hand-over between the stages alone
    switch_vae: str | None = None
    # stock: as diffusers' pipelines; fresh: new noise before each step; clean: the known latents as they are
    background: Literal["stock", "fresh", "clean"] = "stock"
    start_from_fill: bool = False
    size_emphasis: tuple[float, float, float] | None = None  # positive and negative factor, share of steps
    # max: every latent cell the mask touches; nearest, as stock: the pixel at the cell's corner decides
    latent_mask: Literal["max", "nearest"] = "max"
    # width of the blend band; None: 32 px at the release's 1024, narrower in small pictures
    blend_px: int | None = None
    # of a base with the Fooocus patch: steps begun after this share run on the base without patch and adapter
    fooocus_time: float | None = None
    paste: Literal["box", "crop"] = "box"  # crop: all of the crop is replaced, as DreamCom's release does
    tas: TAS | None = field(default_factory=TAS)
    masks: MaskRules | None = None
    reference: ReferenceRules | None = None

    def guides(self) -> bool:
        """Whether each step asks without the text too; else the condition alone, as stock does at a scale of 1 or less.

        DreamInpainter's guidance holds at any scale (METHODS 4.6): with 0 the reference paints without the text.
        """
        return self.guidance_scale > 1 if self.reference is None else self.guidance_scale != 1

    def local_steps(self) -> int:
        """How many of the steps are local content generation; the rest is global context harmonisation."""
        if self.switch_step is not None:
            return min(self.switch_step, self.num_inference_steps)
        return round((1 - self.lambda_gch) * self.num_inference_steps)

    def removes_in(self) -> tuple[Stage, ...]:
        """The stages in which TAS takes words out: those it is asked for in that run at all, none at an alpha of 1."""
        if self.tas is None or self.tas.alpha == 1:
            return ()
        local = self.local_steps()
        runs = {"lcg": local > 0, "gch": local < self.num_inference_steps}
        return tuple(stage for stage in self.tas.stages if runs[stage])

    def patched_steps(self) -> int:
        """How many steps run on the patched UNet: 25 of 30 as released, the step at int(30 * 0.8) being one of them."""
        if self.fooocus_time is None:
            return self.num_inference_steps
        return min(self.num_inference_steps, int(self.num_inference_steps * self.fooocus_time) + 1)


PRESETS: dict[str, Painting] = {
    # the base as it is, on the whole frame: diffusers' stock pipeline
    "plain": Painting(lambda_gch=1.0, latent_mask="nearest", tas=None),
    # DreamMix: what the figure captions say
    "paper": Painting(),
    # DreamMix: what its notebook does (METHODS 2.5)
    "released": Painting(
        num_inference_steps=30,
        guidance_scale=4.0,
        scheduler="DPMSolverMultistepScheduler",
        scheduler_changes={"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True},
        switch_step=20,
        background="fresh",
        start_from_fill=True,
        size_emphasis=(1.5, 0.8, 0.3),
        fooocus_time=0.8,
    ),
    # DreamCom: the crop alone, masked attention (METHODS 3.4, 3.5)
    "dreamcom": Painting(lambda_gch=0.0, crop="dreamcom", tas=None, masks=MaskRules()),
    "dreamcom-released": Painting(
        lambda_gch=0.0,
        crop="dreamcom",
        paste="crop",
        tas=None,
        masks=MaskRules(cross="released", self_layers="released", downsample="nearest"),
    ),
    # DreamInpainter (METHODS 4.6)
    "dreaminpainter": Painting(
        lambda_gch=1.0,
        scheduler="DDIMScheduler",
        background="clean",
        negative_prompt="",
        tas=None,
        reference=ReferenceRules(),
    ),
}


@cache
def _adapter() -> Any:
    from pydantic import ConfigDict, TypeAdapter, with_config

    return TypeAdapter(with_config(ConfigDict(extra="forbid"))(Painting))


def resolve(preset: str = "paper", changes: Mapping[str, Any] | None = None, *, where: str = "settings") -> Painting:
    """A preset with changes on top; keys of nested settings are `masks.kind` or nested mappings.

    Raises `UsageError` E502 that names the setting and what was found.
    """
    from pydantic import ValidationError

    if preset not in PRESETS:
        raise UsageError(f"{where}: no preset {preset!r}; there are {', '.join(PRESETS)}.", code="E502")
    values = dataclasses.asdict(PRESETS[preset])
    for key, value in (changes or {}).items():
        name, _, inner = key.partition(".")
        if inner:
            values[name] = {**(values.get(name) or {}), inner: value}
        elif isinstance(value, Mapping) and isinstance(values.get(name), dict):
            values[name] = {**values[name], **value}
        else:
            values[name] = value
    try:
        settings: Painting = _adapter().validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UsageError(f"{where}: {place}: {first['msg']} (found {first['input']!r}).", code="E502") from error
    for name, low, high in (
        ("lambda_gch", 0, 1),
        ("crop_field", 0, 1),
        ("num_inference_steps", 1, 1000),
        ("blend_px", 0, 4096),
        ("fooocus_time", 0, 1),
    ):
        value = getattr(settings, name)
        if value is not None and not low <= value <= high:
            raise UsageError(f"{where}: {name}: {value} found, {low} to {high} expected.", code="E502")
    if settings.masks is not None and settings.reference is not None:
        # both want every attention layer to themselves, and diffusers drops what a layer does not know
        raise UsageError(f"{where}: masks and reference do not go together; set one of them to null.", code="E502")
    return settings


def resolve_for(
    inference: Mapping[str, Any] | None,
    preset: str | None,
    changes: Mapping[str, Any] | None,
    *,
    where: str = "settings",
) -> Painting:
    """What a job is painted with: the preset asked for, else the one the adapter's record is meant for; then changes.

    Another preset than the record's keeps nothing of it but the resolution the adapter was trained at.
    """
    own = dict(inference) if inference is not None else {"preset": "plain"}
    chosen = str(own.pop("preset", "paper"))
    if preset is not None and preset != chosen:
        chosen, own = preset, {name: own[name] for name in ("resolution",) if name in own}
    return resolve(chosen, {**own, **(changes or {})}, where=where)
