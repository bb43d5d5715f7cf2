"""DreamMix's training (arXiv 2411.17223; METHODS 2.3, 2.4): regular data of known attributes beside the subject's own
pictures, masks extended by Bezier curves, the object's cells weighted above the background's.

With probability `regular_prob` a draw shows a regular picture, else a photograph. Regular pictures have their own
prompt, those of the subject's own pixels with the identifier in it. The release squares the weights (`reweight:
squared`); `linear` is the other reading. Training sees the whole picture (k = 1).
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar, Literal

from numpy.random import Generator
from pydantic import Field
from torch import Tensor

from manifests.pixels import MaskArray
from trainer import masks
from trainer.data import SubjectData
from trainer.keyed import uniform
from trainer.losses import region_weight, weighted_mse
from trainer.recipe import Draw, Recipe, Step
from trainer.settings import Settings, Share
from trainer.views import View

__all__ = ["PRESETS", "DreamMix", "DreamMixSettings"]

MAX_JITTER = 20  # pixels at 1024, the release's resolution; scaled with the resolution in use


class DreamMixSettings(Settings):
    """The released command's values.

    `name_source_words: 0.5`, which neither paper nor release has, names the subject's own colour in half of its draws;
    it stays off, because no gain in colour and mark could be told (docs/experiments.md).
    """

    lora_targets: tuple[str, ...] = ("to_k", "to_v", "to_out.0")
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = 4
    adam_weight_decay: Annotated[float, Field(ge=0)] = 1e-4

    regular_prob: Share = 0.3
    object_weight: Annotated[float, Field(ge=0)] = 1.5
    background_weight: Annotated[float, Field(ge=0)] = 0.6
    reweight: Literal["squared", "linear"] = "squared"
    mask: masks.MaskKind = "bezier"


# the release's code squares the weights; `paper` takes them as they are named
PRESETS: dict[str, dict[str, Any]] = {"released": {"reweight": "squared"}, "paper": {"reweight": "linear"}}


class DreamMix(Recipe):
    """Regular data mixed in, extended masks, weighted regions."""

    name: ClassVar[str] = "dreammix"
    settings: DreamMixSettings

    def mask(self, view: View, rng: Generator) -> MaskArray:
        """The object's mask, extended."""
        max_jitter = round(MAX_JITTER * view.object.shape[0] / 1024)
        return masks.draw_mask(self.settings.mask, view.object, rng, max_jitter=max_jitter)

    def view_settings(self) -> dict[str, object]:
        """The kind of mask."""
        return {"mask": self.settings.mask}

    def keeps(self, subject: SubjectData) -> SubjectData:
        """Everything; without regular data the photographs."""
        return subject if self.settings.regular_prob else dataclasses.replace(subject, own=(), regular=())

    def goes_without(self, subject: SubjectData) -> str | None:
        """Regular data, where there is none."""
        return (
            "regular data (no regular pictures)"
            if self.settings.regular_prob and not subject.regular + subject.own
            else None
        )

    def draw(self, subject: SubjectData, number: int) -> list[Draw]:
        """A regular picture with probability `regular_prob`, else a photograph; never regular where there is none."""
        regular = subject.own + subject.regular
        chosen = uniform(self.settings.seed, "regular", subject.id, number) < self.settings.regular_prob
        return [self.one_of(subject, regular if chosen and regular else subject.photographs, number)]

    def inference(self) -> dict[str, Any]:
        """Disentangled inpainting."""
        return {"preset": "paper"}

    def loss(self, step: Step) -> Tensor:
        """mean((w * error)^2) or mean(w * error^2), w by the extended mask."""
        weight = region_weight(step.mask, inside=self.settings.object_weight, outside=self.settings.background_weight)
        squared = self.settings.reweight == "squared"
        return weighted_mse(step.predict(step.noisy()), step.target(), weight, squared=squared)
