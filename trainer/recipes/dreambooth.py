"""DreamBooth on an inpainting base (METHODS 5): random masks, whole-image loss, prior preservation.

Objective: E|eps - eps_hat(z_t, c)|^2 + prior_weight * E|eps' - eps_hat(z'_t', c_class)|^2. The class pictures are the
corpus's regular pictures that do not show the subject (`own_pixels_prompt: class` takes those that do as well).
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar

from numpy.random import Generator
from pydantic import Field
from torch import Tensor, ones_like

from manifests.pixels import MaskArray
from trainer import masks
from trainer.data import SubjectData
from trainer.losses import weighted_mse
from trainer.recipe import Draw, Recipe, Step
from trainer.settings import Settings
from trainer.views import View

__all__ = ["PRESETS", "DreamBooth", "DreamBoothSettings"]


class DreamBoothSettings(Settings):
    """A LoRA at the adapter's usual rate; the presets are full fine-tunes: the paper's, and the research script's."""

    variants: Annotated[int, Field(ge=1)] = 16
    max_train_steps: Annotated[int, Field(ge=1)] = 800

    prior_weight: Annotated[float, Field(ge=0)] = 1.0
    mask: masks.MaskKind = "random"


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"method": "full", "learning_rate": 5e-6, "max_train_steps": 1000},
    "released": {"method": "full", "learning_rate": 5e-6, "max_train_steps": 400, "prior_weight": 0.0},
}


class DreamBooth(Recipe):
    """Instance pictures under the identifier, class pictures under the class prompt."""

    name: ClassVar[str] = "dreambooth"
    settings: DreamBoothSettings

    def mask(self, view: View, rng: Generator) -> MaskArray:
        """By default a random rectangle or ellipse, wherever the object is."""
        return masks.draw_mask(self.settings.mask, view.object, rng, max_jitter=0)

    def view_settings(self) -> dict[str, object]:
        """The kind of mask."""
        return {"mask": self.settings.mask}

    def keeps(self, subject: SubjectData) -> SubjectData:
        """Photographs and class pictures."""
        return dataclasses.replace(subject, own=(), regular=subject.regular if self.settings.prior_weight else ())

    def goes_without(self, subject: SubjectData) -> str | None:
        """The prior, where there are no class pictures."""
        return "prior preservation (no class pictures)" if self.settings.prior_weight and not subject.regular else None

    def draw(self, subject: SubjectData, number: int) -> list[Draw]:
        """The subject, and beside it a class picture whose loss counts `prior_weight`."""
        draws = [self.one_of(subject, subject.photographs, number)]
        if subject.regular:
            draws.append(self.one_of(subject, subject.regular, number, share=self.settings.prior_weight))
        return draws

    def loss(self, step: Step) -> Tensor:
        """Mean squared error over the whole latent."""
        return weighted_mse(step.predict(step.noisy()), step.target(), ones_like(step.mask), squared=False)
