"""DreamInpainter's training (arXiv 2312.03771; METHODS 4): one model over many subjects that takes a reference picture.

The UNet's own encoder sees the subject on white at t = 0; its K most discriminative tokens are handed to the up blocks.
Main mode: noise on the object only, class label as text, loss inside the mask. Decoupling regularisation, with
probability `whole_prob`: noise and loss everywhere, full caption as text, so that the text carries what tokens do not.
The paper has no public code; what it leaves open is set as METHODS 4.4 and 4.5 decide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import safetensors.torch
import torch
from numpy.random import Generator
from pydantic import Field
from torch import Tensor

from manifests.errors import UsageError
from manifests.fsops import write_atomic
from manifests.pixels import ImageArray, MaskArray
from pipelines import regional
from pipelines.places import Reference, on_white
from pipelines.reference import ReferenceInjection, discriminative_tokens, reference_features
from trainer import masks
from trainer.bank import moments_of, pixels_of
from trainer.data import Item, SubjectData
from trainer.keyed import seed_of, uniform
from trainer.losses import object_mse
from trainer.recipe import Draw, Recipe, Step
from trainer.settings import Settings, Share
from trainer.views import View

if TYPE_CHECKING:
    from pipelines.backbones import Backbone

__all__ = ["PRESETS", "DreamInpainter", "DreamInpainterSettings"]

MASK_KINDS: tuple[masks.MaskKind, ...] = ("exact", "dilated", "bezier", "box")
MAX_JITTER = 20  # pixels at 1024, as in DreamMix


class DreamInpainterSettings(Settings):
    """The decisions of METHODS 4.5; the paper states none of them but the number of tokens."""

    method: Literal["lora", "dora", "full"] = "full"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-5
    max_train_steps: Annotated[int, Field(ge=1)] = 10_000

    tokens: Annotated[int, Field(ge=1)] = 24
    inject: Literal["concat_up", "decoupled_up"] = "concat_up"
    whole_prob: Share = 0.2
    text_dropout: Share = 0.1
    features: Literal["live", "frozen"] = "live"


# neither settings nor code were published
PRESETS: dict[str, dict[str, Any]] = {}


class DreamInpainter(Recipe):
    """Reference tokens beside the text."""

    name: ClassVar[str] = "dreaminpainter"
    channels: ClassVar[tuple[int, ...]] = (9,)
    joint: ClassVar[bool] = True
    settings: DreamInpainterSettings

    def check(self, backbone: Backbone, resolution: int) -> None:
        """The second block must have as many tokens as are kept; no text holds an identifier that could be trained."""
        if self.settings.train_token:
            raise UsageError("train_token: the texts of dreaminpainter hold no identifier.", code="E502")
        if self.settings.validation_steps is not None:
            raise UsageError("validation_steps: dreaminpainter paints from its finished adapter only.", code="E502")
        there = (resolution // backbone.vae_factor // 2) ** 2
        if self.settings.tokens > there:
            raise UsageError(f"tokens: {self.settings.tokens} of {there} at {resolution} px.", code="E502")

    def mask(self, view: View, rng: Generator) -> MaskArray:
        """A mask of any precision, from exact to a box."""
        kind = MASK_KINDS[int(rng.integers(len(MASK_KINDS)))]
        return masks.draw_mask(kind, view.object, rng, max_jitter=round(MAX_JITTER * view.object.shape[0] / 1024))

    def view_settings(self) -> dict[str, object]:
        """Whether reference features are kept."""
        return {"features": self.settings.features}

    def extras_key(self, item: Item) -> object:
        """Frozen features are made under the class noun."""
        return item.sample.class_noun if self.settings.features == "frozen" else None

    def keeps(self, subject: SubjectData) -> SubjectData:
        """Everything."""
        return subject

    def extras(
        self, backbone: Backbone, item: Item, image: ImageArray, mask: MaskArray, resolution: int
    ) -> dict[str, Tensor]:
        """The subject on white, or its frozen features [N,D]; and a grey picture, the masked picture of `whole`."""
        reference = moments_of(backbone, pixels_of(on_white(Reference(image, mask), resolution)), "reference")
        grey = moments_of(backbone, torch.zeros(1, 3, resolution, resolution), "grey")
        if self.settings.features == "live":
            return grey | reference
        size = backbone.size_condition(*[[(resolution, resolution)], [(0, 0)], [(resolution, resolution)]])
        with torch.no_grad():
            text = backbone.encode_text([item.sample.class_noun])
            features = reference_features(backbone, reference["reference_mean"][None], text, size)
        return grey | {"features": features[0]}

    def prompts(self, subject: SubjectData) -> list[str]:
        """Class label, caption and the empty prompt."""
        return ["", *(text for item in subject.items for text in (item.sample.class_noun, _caption(item)))]

    def draw(self, subject: SubjectData, number: int) -> list[Draw]:
        """Any picture in turn, in one of the two modes, sometimes without text."""
        draw = self.one_of(subject, subject.items, number)
        key = (self.settings.seed, "mode", number)
        whole = uniform(*key, "whole") < self.settings.whole_prob
        prompt = _caption(draw.item) if whole else draw.item.sample.class_noun
        if uniform(*key, "text") < self.settings.text_dropout:
            prompt = ""
        return [Draw(draw.item, draw.variant, prompt, draw.share, whole)]

    def attach(self, backbone: Backbone) -> Callable[[], None]:
        """Make the projection, the same for the same seed, and put the up blocks' processors on."""
        with torch.random.fork_rng():
            torch.manual_seed(seed_of(self.settings.seed, "injection"))
            injection = ReferenceInjection(backbone, self.settings.inject)
        self.modules["injection"] = injection
        injection.install(backbone.unet)
        return lambda: regional.uninstall(backbone.unet)

    def noisy(self, step: Step) -> Tensor:
        """z_t: noise on the object only, on everything where the mode is `whole`."""
        return torch.where(_mask(step).bool(), step.noisy(), step.latents)

    def loss(self, step: Step) -> Tensor:
        """Mean squared error where there is noise."""
        noisy, mask = self.noisy(step), _mask(step)
        if "features" in step.extras:
            features = step.extras["features"]
        else:
            features = reference_features(step.backbone, step.extras["reference"], step.text, step.size)
        tokens = self.modules["injection"](discriminative_tokens(features, self.settings.tokens))
        step.attention = {"reference": tokens}
        assert step.masked is not None
        # a base that is told where to paint is told "everywhere" in the mode that paints everywhere
        step.masked = torch.where(step.whole.view(-1, 1, 1, 1), step.extras["grey"], step.masked)
        step.mask = mask
        return object_mse(step.predict(noisy), step.target(), mask)

    def write_modules(self, folder: Path, values: Mapping[str, Tensor]) -> None:
        """`reference.safetensors`: the state of the injection."""
        prefix = "recipe.injection."
        state = {
            name.removeprefix(prefix): value.detach().contiguous().cpu()
            for name, value in values.items()
            if name.startswith(prefix)
        }
        write_atomic(folder / "reference.safetensors", safetensors.torch.save(state, {"format": "pt"}))

    def inference(self) -> dict[str, Any]:
        """How many tokens, and how they go in."""
        chosen = {"reference.tokens": self.settings.tokens, "reference.inject": self.settings.inject}
        return {"preset": "dreaminpainter", **chosen}


def _mask(step: Step) -> Tensor:
    return torch.where(step.whole.view(-1, 1, 1, 1), torch.ones_like(step.mask), step.mask)


def _caption(item: Item) -> str:
    return item.sample.caption or item.sample.prompt or item.sample.class_noun
