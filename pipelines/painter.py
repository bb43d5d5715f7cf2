"""Paint a subject into a scene: `pipelines.load(ref)(scene, mask, prompt, edit=...)`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manifests.errors import UsageError
from manifests.ids import sha256_hex
from manifests.pixels import ImageArray, MaskArray
from pipelines import crop, prompts, words
from pipelines.adapters import REFERENCE_NAME, Adapter, Shelf, open_adapter
from pipelines.backbones import Backbone, TextStates
from pipelines.backbones import load as load_backbone
from pipelines.dif import Painted, StageTexts, frame_sizes, paint
from pipelines.places import mask_of, picture_of
from pipelines.settings import Painting, resolve_for

__all__ = ["Painter", "Reference", "Request", "Result", "load"]


@dataclass(frozen=True, slots=True)
class Reference:
    """A photograph of the subject for DreamInpainter: uint8 HxWx3 and its mask, bool HxW."""

    image: ImageArray
    mask: MaskArray


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

    def use(self, adapter: Adapter | None) -> None:
        """Go on with another adapter of the same base, or with the base alone."""
        if adapter is not self.adapter:
            self.shelf.use(adapter)
            if _touches_text(self.adapter) or _touches_text(adapter):
                self._texts.clear()
            self._tokens.clear()
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
        edit: Mapping[str, str] | None = None,
        remove: Sequence[str] | None = None,
        seed: int = 0,
        reference: Reference | None = None,
        preset: str | None = None,
        **changes: Any,
    ) -> Result:
        """Paint once.

        scene: uint8 HxWx3 array, PIL image, file or `CORPUS#scenes/bg-...`. mask: a box `(x0, y0, x1, y1)` in pixels,
        half-open, a bool HxW array, a PIL image or a file. `edit` maps categories of the subject's dictionary to new
        words. Raises `UsageError` E201, E211, E501, E502, E602 and E604.
        """
        picture = picture_of(scene)
        request = Request(
            scene=picture,
            mask=mask_of(mask, picture.shape[0], picture.shape[1]),
            prompt=prompt,
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
        for request in requests:
            prompt, removed = self.reading(request, settings)
            read.append((prompt, removed))
            inner = prompt if request.local_prompt is None else self._filled(request.local_prompt, request.edit)
            stages = settings.tas.stages if settings.tas is not None else ()
            local.append(self._text(inner, removed if "lcg" in stages else (), settings))
            whole.append(self._text(prompt, removed if "gch" in stages else (), settings))
        negative = self.backbone.unconditional(len(requests), settings.negative_prompt)
        return StageTexts(TextStates.cat(local), TextStates.cat(whole), negative), read

    def reading(self, request: Request, settings: Painting) -> tuple[str, tuple[str, ...]]:
        """The prompt as it will be read and the words that will be removed. Raises E501 and E604."""
        prompt = self._filled(request.prompt, request.edit)
        if settings.tas is None:
            return prompt, ()
        if request.remove is not None:
            taken = request.remove
        elif request.edit and self.adapter is not None:
            record = self.adapter.record
            taken = words.words_of_edit(record.source_words, request.edit, record.subject)
        else:
            taken = ()
        return prompt, words.removed_words(taken, prompt)

    def _filled(self, prompt: str, edit: Mapping[str, str]) -> str:
        record = self.adapter.record if self.adapter else None
        noun = record.class_noun if record else ""
        prompt = prompt.replace("{class_noun}", noun)
        return words.edited_prompt(prompt, edit, identifier=record.identifier if record else "", class_noun=noun)

    def _text(self, prompt: str, removed: tuple[str, ...], settings: Painting) -> TextStates:
        key = (prompt, removed, settings.tas)
        if key not in self._texts:
            identifier = self.adapter.record.identifier if self.adapter else ""
            self._texts[key] = prompts.substitute(
                self.backbone,
                prompt,
                removed,
                prefix=f"a photo of a {identifier}".strip(),
                identifier=identifier,
                tas=settings.tas,
            )
        return self._texts[key]

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
        key = (sha256_hex(picture.tobytes()), prompt, settings.reference)
        if key not in self._tokens:
            from pipelines.denoise import to_pixels

            latents = self.backbone.encode_image(to_pixels([picture], self.backbone.device)).mode()
            size = self.backbone.size_condition([(side, side)], [(0, 0)], [(side, side)])
            features = reference_features(self.backbone, latents, self._text(prompt, (), settings), size)
            chosen = discriminative_tokens(features, min(settings.reference.tokens, features.shape[1]))
            self._tokens[key] = injection(chosen.float()).to(self.backbone.dtype)
        return self._tokens[key]


def on_white(reference: Reference, side: int) -> ImageArray:
    """The subject cut out on white, padded to a square of that side (METHODS 4.6)."""
    rows, columns = reference.mask.any(axis=1), reference.mask.any(axis=0)
    cut = np.where(reference.mask[..., None], reference.image, np.uint8(255))[np.ix_(rows, columns)]
    longest = max(cut.shape[:2])
    square = np.full((longest, longest, 3), 255, np.uint8)
    top, left = (longest - cut.shape[0]) // 2, (longest - cut.shape[1]) // 2
    square[top : top + cut.shape[0], left : left + cut.shape[1]] = cut
    return crop.cut(square, (0, 0, longest, longest), (side, side))


def _touches_text(adapter: Adapter | None) -> bool:
    # a LoRA may hold the text encoders too; only then does the text depend on the adapter
    if adapter is None or adapter.record.kind == "full":
        return False
    from safetensors import safe_open

    from pipelines.adapters import LORA_NAME

    with safe_open(adapter.folder / LORA_NAME, framework="pt") as file:
        return any(name.startswith("text_encoder") for name in file.keys())  # noqa: SIM118 not a mapping


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
    if base is None:
        if adapter is None:
            raise UsageError("name an adapter or a base.")
        base, revision = adapter.record.base.model, adapter.record.base.revision
    return Painter(load_backbone(base, revision, dtype, device), adapter, batch_size=batch_size)
