"""What a recipe is: how a picture becomes views, which views are drawn, and what the loss is. The loop is shared.

    class Mine(Recipe):
        settings: MySettings
        def view(self, image, mask, resolution, rng) -> View           how a picture is looked at
        def mask(self, view, rng) -> MaskArray                         where to paint in it
        def keeps(self, subject) -> SubjectData                        which of its pictures are used at all
        def draw(self, subject, number) -> list[Draw]                  what the number-th draw of a subject shows
        def loss(self, step) -> Tensor [B]                             one number per item

Dimension key of tensors: B items, h w latent cells, T text positions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from numpy.random import Generator
from torch import Tensor, nn

from manifests.pixels import ImageArray, MaskArray
from trainer.data import Item, SubjectData
from trainer.keyed import rng, uniform
from trainer.losses import min_snr
from trainer.settings import Settings
from trainer.views import View, random_crop

if TYPE_CHECKING:
    from pipelines.backbones import Backbone, TextStates

__all__ = ["Draw", "Recipe", "Step", "items_in_turn"]


@dataclass(frozen=True, slots=True)
class Draw:
    """One item of a batch: variant `variant` of a picture under a prompt; its loss counts `share` in its subject's."""

    item: Item
    variant: int
    prompt: str
    share: float
    whole: bool = False


@dataclass(slots=True)
class Step:
    """The tensors of one forward pass, on the device.

    latents, noise, masked [B,4,h,w]; timesteps [B] long; mask, valid, region [B,1,h,w] of 0 and 1 (to paint; real
    pixels; where attention may look); whole [B] bool; extras: what the recipe computed once, drawn like the latents.
    """

    backbone: Backbone
    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    mask: Tensor
    text: TextStates
    share: Tensor
    whole: Tensor
    masked: Tensor | None = None
    size: Tensor | None = None
    valid: Tensor | None = None
    region: Tensor | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)
    attention: dict[str, Any] | None = None

    def noisy(self) -> Tensor:
        """z_t [B,4,h,w], noise on the whole latent."""
        return self.backbone.add_noise(self.latents, self.noise, self.timesteps)

    def target(self) -> Tensor:
        """What `predict` should give, [B,4,h,w]."""
        return self.backbone.target(self.latents, self.noise, self.timesteps)

    def predict(self, noisy: Tensor) -> Tensor:
        """The UNet's output for z_t under this step's mask, text and size, [B,4,h,w]."""
        masked = self.latents if self.masked is None else self.masked  # a base with 4 channels looks at neither
        sample = self.backbone.unet_input(noisy, self.mask, masked)
        return self.backbone.predict(
            sample, self.timesteps, self.text, self.size, cross_attention_kwargs=self.attention
        )


def items_in_turn(items: Sequence[Item], subject: str, number: int, *key: object) -> Item:
    """The number-th item of endless passes over the items, each pass in an order of its own."""
    turn, place = divmod(number, len(items))
    return items[int(rng(*key, subject, turn).permutation(len(items))[place])]


@dataclass(slots=True)
class Recipe:
    """The shared part of a recipe; see the module's docstring for what one adds."""

    settings: Settings
    name: ClassVar[str]
    channels: ClassVar[tuple[int, ...]] = (4, 9)
    # one adapter over all subjects instead of one each
    joint: ClassVar[bool] = False
    # raise it when `view` or `mask` give other results for the same settings: the bank keys on it
    views_version: ClassVar[int] = 1
    modules: nn.ModuleDict = field(default_factory=nn.ModuleDict)

    def check(self, backbone: Backbone, resolution: int) -> None:
        """Raise `UsageError` for settings that do not go with the base or the resolution."""

    def view(self, image: ImageArray, mask: MaskArray, resolution: int, rng: Generator) -> View:
        """A view of a picture, by default a random square that keeps the object; all randomness comes from `rng`."""
        return random_crop(image, mask, resolution, rng)

    def mask(self, view: View, rng: Generator) -> MaskArray:
        """Where to paint in a view that shows some of its object, bool RxR."""
        raise NotImplementedError

    def view_settings(self) -> dict[str, object]:
        """The settings `view` and `mask` depend on: part of the key under which the bank keeps their results."""
        return {}

    def region_rule(self) -> Literal["max", "nearest"] | None:
        """How the painted mask is brought to latent size for masked attention; None for recipes without it."""
        return None

    def extras(
        self, backbone: Backbone, item: Item, image: ImageArray, mask: MaskArray, resolution: int
    ) -> dict[str, Tensor]:
        """More of a picture that is computed once; `<name>_mean` and `<name>_std` are drawn from at each step."""
        return {}

    def extras_key(self, item: Item) -> object:
        """What of an item, beside its pixels, `extras` depends on: part of the key too."""
        return None

    def keeps(self, subject: SubjectData) -> SubjectData:
        """The pictures of a subject that this recipe shows; by default its photographs alone."""
        return dataclasses.replace(subject, own=(), regular=())

    def goes_without(self, subject: SubjectData) -> str | None:
        """What of the method falls away for want of pictures, if anything: the run goes on, and says so."""
        return None

    def draw(self, subject: SubjectData, number: int) -> list[Draw]:
        """What the number-th draw of a subject shows: by default its photographs in turn."""
        return [self.one_of(subject, subject.photographs, number)]

    def one_of(self, subject: SubjectData, items: Sequence[Item], number: int, share: float = 1.0) -> Draw:
        """The item whose turn it is, in a keyed choice of its variants and prompts."""
        seed = self.settings.seed
        item = items_in_turn(items, subject.id, number, seed, "order")
        key = (seed, "draw", number, subject.id, item.sample.id)
        prompt = item.prompts[0]
        if len(item.prompts) > 1 and uniform(*key, "colour") < self.settings.name_source_words:
            prompt = item.prompts[1]
        return Draw(item, int(uniform(*key, "variant") * self.variants_of(item)), prompt, share)

    def variants_of(self, item: Item) -> int:
        """How many views of a picture there are."""
        return self.settings.variants if item.sample.role == "src" else self.settings.regular_variants

    def prompts(self, subject: SubjectData) -> list[str]:
        """Every prompt `draw` can use."""
        return [prompt for item in subject.items for prompt in item.prompts]

    def text(self, backbone: Backbone, prompts: Sequence[str]) -> TextStates:
        """States [B,T,D] of prompts; a recipe with a token layout of its own changes this and `text_layout`."""
        return backbone.encode_text(prompts)

    def text_layout(self) -> str:
        """Names what `text` does to a prompt; part of the bank's key."""
        return "plain"

    def attach(self, backbone: Backbone) -> Callable[[], None]:
        """Put attention processors or modules on the base; returns what takes them off again."""
        return lambda: None

    def prepare(self, step: Step) -> None:
        """Add to a step what the forward pass needs beyond its tensors."""

    def loss(self, step: Step) -> Tensor:
        """Loss per item, [B] float32."""
        raise NotImplementedError

    def inference(self) -> dict[str, Any]:
        """How this recipe's adapters paint, for `adapter.json`: a preset of `pipelines.settings` and changes to it."""
        return {"preset": "plain"}

    def write_modules(self, folder: Path, values: Mapping[str, Tensor]) -> None:
        """Write what was trained beside the UNet; `values` hold `recipe.<name>` for each parameter of `modules`."""

    def weighted_loss(self, step: Step) -> Tensor:
        """The loss per item with min-SNR on top where it is on, [B]."""
        self.prepare(step)
        loss = self.loss(step)
        if self.settings.snr_gamma is not None:
            loss = loss * min_snr(
                step.backbone.alphas_cumprod,
                step.timesteps,
                gamma=self.settings.snr_gamma,
                prediction_type=step.backbone.prediction_type,
            ).to(loss)
        return loss
