"""DreamCom's training (arXiv 2309.15508; METHODS 3.2 to 3.4): box masks, scaling with padding left out of the loss, and
cross-attention that lets only the painted region look at the text. Self-attention is masked when painting, not here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from numpy.random import Generator
from pydantic import Field
from torch import Tensor

from manifests.pixels import ImageArray, MaskArray
from pipelines import regional
from pipelines.backbones import TextStates
from pipelines.backbones.layouts import released_layout
from trainer import masks
from trainer.losses import padded_mse
from trainer.recipe import Recipe, Step
from trainer.settings import Settings, Share
from trainer.views import View, scaled_crop

if TYPE_CHECKING:
    from pipelines.backbones import Backbone

__all__ = ["PRESETS", "DreamCom", "DreamComSettings"]


class DreamComSettings(Settings):
    """A LoRA, which is a deviation: paper and release train the whole UNet, as the presets do."""

    lora_targets: tuple[str, ...] = ("to_k", "to_q", "to_v", "to_out.0")
    max_train_steps: Annotated[int, Field(ge=1)] = 400
    variants: Annotated[int, Field(ge=1)] = 16

    cross_attention: Literal["paper", "released", "none"] = "paper"
    region_downsample: Literal["max", "nearest"] = "max"
    scale_probability: Share = 0.6
    loss: Literal["mean", "released"] = "mean"


_TRAINED = {"method": "full", "learning_rate": 5e-6, "max_train_steps": 400}
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {**_TRAINED},
    "released": {**_TRAINED, "cross_attention": "released", "region_downsample": "nearest", "loss": "released"},
}


class DreamCom(Recipe):
    """The subject's photographs in boxes."""

    name: ClassVar[str] = "dreamcom"
    channels: ClassVar[tuple[int, ...]] = (9,)
    settings: DreamComSettings

    def view(self, image: ImageArray, mask: MaskArray, resolution: int, rng: Generator) -> View:
        """Crop and scale of the picture with the object's filled box as its mask."""
        return scaled_crop(image, masks.box(mask), resolution, rng, probability=self.settings.scale_probability)

    def mask(self, view: View, rng: Generator) -> MaskArray:
        """The box, where there are real pixels."""
        return view.object if view.valid is None else view.object & view.valid

    def view_settings(self) -> dict[str, object]:
        """How often it is scaled, and how regions are made small."""
        return {"scale": self.settings.scale_probability, "region": self.region_rule()}

    def region_rule(self) -> Literal["max", "nearest"] | None:
        """As the setting says; without masked attention there are no regions."""
        return None if self.settings.cross_attention == "none" else self.settings.region_downsample

    @property
    def rules(self) -> regional.MaskRules:
        """Which layers are masked in training: cross-attention only."""
        return regional.MaskRules(
            cross=self.settings.cross_attention, self_layers="none", downsample=self.settings.region_downsample
        )

    def attach(self, backbone: Backbone) -> Callable[[], None]:
        """Install masked attention."""
        if self.settings.cross_attention == "none":
            return lambda: None
        regional.install(backbone.unet, self.rules)
        return lambda: regional.uninstall(backbone.unet)

    def text(self, backbone: Backbone, prompts: Sequence[str]) -> TextStates:
        """The prompts, as released in the release's layout."""
        released = self.settings.cross_attention == "released"
        return released_layout(backbone, prompts) if released else backbone.encode_text(prompts)

    def text_layout(self) -> str:
        """Which of the two."""
        return "dreamcom released" if self.settings.cross_attention == "released" else "plain"

    def prepare(self, step: Step) -> None:
        """Tell every attention layer where the box is."""
        if self.settings.cross_attention == "none":
            return
        assert step.region is not None
        unet = step.backbone.unet
        regional.assert_installed(unet, self.rules)
        height, width = step.region.shape[-2:]
        levels = len(unet.config.block_out_channels)
        regions = regional.regions_of(step.region, (height, width), levels, self.rules)
        step.attention = {"regions": regions}

    def inference(self) -> dict[str, Any]:
        """Paint with the attention it was trained for."""
        cross = self.settings.cross_attention
        if cross == "none":
            return {"preset": "plain"}
        preset = "dreamcom-released" if cross == "released" else "dreamcom"
        return {"preset": preset, "masks.downsample": self.settings.region_downsample}

    def loss(self, step: Step) -> Tensor:
        """Squared error on real pixels only."""
        assert step.valid is not None
        released = self.settings.loss == "released"
        return padded_mse(step.predict(step.noisy()), step.target(), step.valid, released=released)
