"""Paint a subject into a scene: `pipelines.load(ref)(scene, mask, prompt, edit=...)`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manifests.errors import UsageError
from manifests.ids import sha256_hex
from manifests.pixels import ImageArray, MaskArray
from pipelines import prompts, words
from pipelines.adapters import REFERENCE_NAME, Adapter, Shelf, open_adapter
from pipelines.backbones import Backbone, TextStates, load_recorded
from pipelines.backbones import load as load_backbone
from pipelines.backbones.layouts import released_layout
from pipelines.dif import Painted, StageTexts, frame_sizes, paint
from pipelines.places import Reference, mask_of, on_white, picture_of
from pipelines.regions import Region, paint_regions
from pipelines.settings import Painting, resolve_for

__all__ = ["Painter", "Reference", "Request", "Result", "load"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One thing to paint: scene uint8 HxWx3, mask bool HxW of its size with True = paint here."""

    scene: ImageArray
    mask: MaskArray
    prompt: str
    edit: Mapping[str, str] = field(default_factory=dict)
    remove: tuple[str, ...] | None = None  # words TAS removes; None: the subject's own of the edited categories
    local_prompt: str | None = None  # of the local stage; None: the same
    seed: int = 0
    reference: Reference | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What was painted (uint8, the scene's size), the prompt as read, the words removed, seconds of denoising."""

    image: ImageArray
    prompt: str
    removed: tuple[str, ...]
    seconds: float
    painted: Painted


class Painter:
    """A base with adapters on it. Text states and reference tokens are computed once and kept."""

    def __init__(self, backbone: Backbone, adapter: Adapter | None = None, *, batch_size: int = 4) -> None:
        self.backbone, self.adapter, self.batch_size = backbone, adapter, batch_size
        self.shelf = Shelf(backbone)
        self.shelf.use(adapter)
        self._texts: dict[Any, TextStates] = {}
        self._tokens: dict[Any, Tensor] = {}
        self._unpatched: Any = None
        self._switch_vaes: dict[str, Any] = {}

    def use(self, adapter: Adapter | None) -> None:
        """Go on with another adapter of the same base, or with the base alone."""
        if adapter is not self.adapter:
            self.shelf.use(adapter)
            self.adapter = adapter

    def settings(self, preset: str | None = None, changes: Mapping[str, Any] | None = None) -> Painting:
        """The preset asked for, or what the adapter's record says it is meant for, with changes on top."""
        return resolve_for(self.adapter.record.inference if self.adapter else None, preset, changes)

    def __call__(
        self,
        scene: Any,
        mask: Any,
        prompt: str = "a photo of {identifier} {class_noun}",
        *,
        local_prompt: str | None = None,
        edit: Mapping[str, str] | None = None,
        remove: Sequence[str] | None = None,
        seed: int = 0,
        reference: Reference | None = None,
        preset: str | None = None,
        **changes: Any,
    ) -> Result:
        """Paint once.

        scene: uint8 HxWx3 array, PIL image, file or `CORPUS#scenes/bg-...`. mask: a box `(x0, y0, x1, y1)` in pixels,
        half-open, a bool HxW array, a PIL image or a file. `local_prompt` is for the stage on the crop, by default the
        same. `edit` maps categories of the subject's dictionary to new words. Raises `UsageError` E201, E211, E501,
        E502, E602 and E604.
        """
        picture = picture_of(scene)
        request = Request(
            scene=picture,
            mask=mask_of(mask, picture.shape[0], picture.shape[1]),
            prompt=prompt,
            local_prompt=local_prompt,
            edit=edit or {},
            remove=None if remove is None else tuple(remove),
            seed=seed,
            reference=reference,
        )
        return self.paint([request], self.settings(preset, changes))[0]

    def paint(
        self, requests: Sequence[Request], settings: Painting, *, on_step: Callable[[int], None] | None = None
    ) -> list[Result]:
        """Paint many, in the order given; those whose frames have one size share forwards, `batch_size` at a time.

        `on_step` is told how many requests have gone one step further.
        """
        batches: dict[Any, list[int]] = {}
        for number, request in enumerate(requests):
            batches.setdefault(frame_sizes(self.backbone, request.mask, settings), []).append(number)
        results: dict[int, Result] = {}
        for members in batches.values():
            for first in range(0, len(members), self.batch_size):
                chunk = members[first : first + self.batch_size]
                painted = self._batch([requests[number] for number in chunk], settings, on_step)
                results.update(zip(chunk, painted, strict=True))
        return [results[number] for number in range(len(requests))]

    def paint_regions(
        self, requests: Sequence[tuple[Adapter | None, Request]], settings: Painting, *, in_turn: bool = False
    ) -> list[Result]:
        """Paint several subjects into the scene of the first request, each with its own adapter; one result a region.

        In one run the masks lie apart, and all results hold the same picture (`pipelines.regions`). `in_turn` paints
        one after the other, each into the last one's picture. Raises `UsageError` E502 for references in one run.
        """
        results: list[Result] = []
        if in_turn:
            for adapter, request in requests:
                self.use(adapter)
                scene = results[-1].image if results else request.scene
                results += self.paint([dataclasses.replace(request, scene=scene)], settings)
            return results
        if settings.reference is not None:
            raise UsageError("subjects painted from references go one after the other: in_turn: true.", code="E502")
        regions, read = [], []
        for adapter, request in requests:
            self.use(adapter)
            texts, words_read = self._stage_texts([request], settings)
            read += words_read
            regions.append(Region(request.mask, texts, request.seed, partial(self.use, adapter)))
        began = time.perf_counter()
        painted = paint_regions(
            self.backbone,
            requests[0][1].scene,
            regions,
            settings,
            unpatched=self._unpatched_unet(settings),
            switch_vae=self._switch_vae(settings),
        )
        seconds = (time.perf_counter() - began) / len(requests)
        return [Result(painted.image, prompt, removed, seconds, painted) for prompt, removed in read]

    def _batch(
        self, requests: Sequence[Request], settings: Painting, on_step: Callable[[int], None] | None
    ) -> list[Result]:
        texts, read = self._stage_texts(requests, settings)
        reference = self._reference_tokens(requests, read, settings)
        began = time.perf_counter()
        try:
            painted = paint(
                self.backbone,
                [request.scene for request in requests],
                [request.mask for request in requests],
                texts,
                [request.seed for request in requests],
                settings,
                reference=reference,
                unpatched=self._unpatched_unet(settings),
                switch_vae=self._switch_vae(settings),
                on_step=None if on_step is None else lambda: on_step(len(requests)),
            )
        finally:
            if reference is not None:
                from pipelines.regional import uninstall

                uninstall(self.backbone.unet)
        seconds = (time.perf_counter() - began) / len(requests)
        return [
            Result(one.image, prompt, removed, seconds, one)
            for one, (prompt, removed) in zip(painted, read, strict=True)
        ]

    # text

    def _stage_texts(
        self, requests: Sequence[Request], settings: Painting
    ) -> tuple[StageTexts, list[tuple[str, tuple[str, ...]]]]:
        read, local, whole = [], [], []
        stages = settings.removes_in()
        for request in requests:
            prompt, removed = self.reading(request, settings)
            read.append((prompt, removed))
            inner = prompt if request.local_prompt is None else self._filled(request.local_prompt, request.edit)
            local.append(self._text(inner, removed if "lcg" in stages else (), settings))
            whole.append(self._text(prompt, removed if "gch" in stages else (), settings))
        return StageTexts(TextStates.cat(local), TextStates.cat(whole), self._negative(len(requests), settings)), read

    def reading(self, request: Request, settings: Painting) -> tuple[str, tuple[str, ...]]:
        """The prompt as it will be read and the words that a stage will remove. Raises E501 and E604."""
        prompt = self._filled(request.prompt, request.edit)
        if not settings.removes_in():
            return prompt, ()
        record = self.adapter.record if self.adapter else None
        return prompt, words.words_to_remove(prompt, request.edit, request.remove, record)

    def check(self, request: Request, settings: Painting) -> None:
        """Read the request's prompts and paint nothing. Raises E501, E602 and E604."""
        inner = [] if request.local_prompt is None else [self._filled(request.local_prompt, request.edit)]
        self.backbone.token_ids([self.reading(request, settings)[0], *inner])

    def _filled(self, prompt: str, edit: Mapping[str, str]) -> str:
        return words.prompt_as_read(prompt, edit, self.adapter.record if self.adapter else None)

    def _negative(self, batch: int, settings: Painting) -> TextStates:
        if _released_layout(settings):
            return released_layout(self.backbone, [settings.negative_prompt or ""] * batch)
        return self.backbone.unconditional(batch, settings.negative_prompt)

    def _text(self, prompt: str, removed: tuple[str, ...], settings: Painting) -> TextStates:
        adapter = self.adapter
        identifier = adapter.record.identifier if adapter else ""
        weights = adapter.record.digest if adapter and adapter.touches_text else ""
        key = (weights, identifier, prompt, removed, settings.tas, _released_layout(settings))
        if key not in self._texts:
            if _released_layout(settings):
                if removed:
                    raise UsageError(
                        "DreamCom's released text layout and TAS do not go together: tas: null, or masks.cross: paper.",
                        code="E502",
                    )
                self._texts[key] = released_layout(self.backbone, [prompt])
            else:
                self._texts[key] = prompts.substitute(
                    self.backbone,
                    prompt,
                    removed,
                    prefix=f"a photo of a {identifier}".strip(),
                    identifier=identifier,
                    tas=settings.tas,
                )
        return self._texts[key]

    def _unpatched_unet(self, settings: Painting) -> Any:
        """The base's UNet as it is without the Fooocus patch, where the last steps run on it; loaded once."""
        from pipelines.backbones.fooocus import FooocusSDXL

        if not isinstance(self.backbone, FooocusSDXL) or settings.patched_steps() >= settings.num_inference_steps:
            return None
        if self._unpatched is None:
            from diffusers import UNet2DConditionModel

            from pipelines.backbones.latent import load_part

            unet = load_part(UNet2DConditionModel, self.backbone.folder, "unet", self.backbone.dtype)
            self._unpatched = unet.to(self.backbone.device)
        return self._unpatched

    def _switch_vae(self, settings: Painting) -> Any:
        """The small VAE of the hand-over, where there is one and a hand-over; loaded once."""
        place = settings.switch_vae
        if place is None or not 0 < settings.local_steps() < settings.num_inference_steps:
            return None
        if place not in self._switch_vaes:
            from diffusers import AutoencoderTiny

            from pipelines.backbones.latent import load_part
            from pipelines.backbones.places import folder_of, split_revision

            vae = load_part(AutoencoderTiny, folder_of(*split_revision(place)), "", self.backbone.vae.dtype)
            if vae.config.latent_channels != self.backbone.vae.config.latent_channels:
                raise UsageError(f"switch_vae: {place} has other latents than the base.", code="E601")
            self._switch_vaes[place] = vae.to(self.backbone.device)
        return self._switch_vaes[place]

    # reference

    def _reference_tokens(
        self, requests: Sequence[Request], read: Sequence[tuple[str, tuple[str, ...]]], settings: Painting
    ) -> Tensor | None:
        if settings.reference is None:
            return None
        from safetensors.torch import load_file

        from pipelines.reference import ReferenceInjection

        if self.adapter is None or not (self.adapter.folder / REFERENCE_NAME).is_file():
            raise UsageError(f"painting with a reference needs an adapter with {REFERENCE_NAME}.", code="E603")
        injection = ReferenceInjection(self.backbone, settings.reference.inject)
        injection.load_state_dict(load_file(self.adapter.folder / REFERENCE_NAME))
        injection.requires_grad_(False)
        injection.install(self.backbone.unet)
        zero = [
            self._tokens_of(injection, one, prompt, settings) for one, (prompt, _) in zip(requests, read, strict=True)
        ]
        return torch.cat(zero)

    @torch.no_grad()
    def _tokens_of(self, injection: Any, request: Request, prompt: str, settings: Painting) -> Tensor:
        from pipelines.reference import discriminative_tokens, reference_features

        assert settings.reference is not None
        if request.reference is None:
            raise UsageError("this adapter paints from a photograph of the subject: name one with --reference.")
        side = settings.resolution or self.backbone.resolution
        picture = on_white(request.reference, side)
        weights = self.adapter.record.digest if self.adapter else ""  # of the features' UNet and of the projection
        key = (weights, sha256_hex(picture.tobytes()), prompt, settings.reference, settings.tas)
        if key not in self._tokens:
            from pipelines.denoise import to_pixels

            latents = self.backbone.encode_image(to_pixels([picture], self.backbone.device)).mode()
            size = self.backbone.size_condition([(side, side)], [(0, 0)], [(side, side)])
            features = reference_features(self.backbone, latents, self._text(prompt, (), settings), size)
            if settings.reference.tokens > features.shape[1]:
                raise UsageError(
                    f"reference.tokens: {settings.reference.tokens} of {features.shape[1]} at {side} px.", code="E502"
                )
            chosen = discriminative_tokens(features, settings.reference.tokens)
            self._tokens[key] = injection(chosen.float()).to(self.backbone.dtype)
        return self._tokens[key]


def _released_layout(settings: Painting) -> bool:
    # the same positions as in training (METHODS C2)
    return settings.masks is not None and settings.masks.cross == "released"


def load(
    ref: str | Path | None,
    *,
    base: str | Path | None = None,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: str = "auto",
    batch_size: int = 4,
) -> Painter:
    """A painter for an adapter (folder or `hf://user/name`), on the base its record names or on `base`.

    With `ref` None it is the base alone. Raises `NotFoundError` E503, `UsageError` E601 and E603.
    """
    adapter = None if ref is None else open_adapter(ref)
    if base is not None:
        backbone = load_backbone(base, revision, dtype, device)
    elif adapter is not None:
        backbone = load_recorded(adapter.record.base, adapter.folder, dtype, device)
    else:
        raise UsageError("name an adapter or a base.")
    return Painter(backbone, adapter, batch_size=batch_size)
