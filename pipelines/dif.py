"""DreamMix's disentangled inpainting (arXiv 2411.17223): local content first, global context after.

LCG paints the crop about the mask at the model's full resolution for the first steps. At the switch what it takes the
clean crop to be is decoded, pasted into the scene, encoded again and noised to the level of that step; GCH paints on,
now on the whole frame. `lambda_gch` is the share of GCH: 1 is the stock pipeline on the frame, 0 the stock pipeline
on the crop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manifests.pixels import ImageArray, MaskArray
from manifests.records import Box
from pipelines import crop, regional
from pipelines.backbones import Backbone, TextStates
from pipelines.denoise import Frame, Outcome, Predictor, denoise, guided, prepare_frame, to_images, to_pixels
from pipelines.settings import Painting

__all__ = ["Painted", "StageTexts", "Stages", "frame_sizes", "local_box", "paint", "put_back"]


@dataclass(frozen=True, slots=True)
class StageTexts:
    """The condition of each stage and what guidance starts from, one row a job."""

    local: TextStates
    whole: TextStates
    negative: TextStates


@dataclass(frozen=True, slots=True)
class Painted:
    """One result: the scene with the subject (uint8, the scene's size), and what the model itself gave."""

    image: ImageArray
    generated: ImageArray  # of the last stage's frame, before it was put back
    latents: Tensor  # [4,h,w]
    box: Box  # the part of the scene that frame covers


def local_box(mask: MaskArray, settings: Painting) -> Box:
    """The crop LCG paints."""
    return crop.dreamcom_crop(mask) if settings.crop == "dreamcom" else crop.fooocus_crop(mask, settings.crop_field)


def frame_sizes(backbone: Backbone, mask: MaskArray, settings: Painting) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) of the local and the global frame; jobs where both agree are painted in one batch."""
    resolution = settings.resolution or backbone.resolution
    x0, y0, x1, y1 = local_box(mask, settings)
    multiple = backbone.pixel_multiple
    return (
        crop.working_size(y1 - y0, x1 - x0, resolution, multiple),
        crop.working_size(mask.shape[0], mask.shape[1], resolution, multiple),
    )


def paint(
    backbone: Backbone,
    scenes: Sequence[ImageArray],
    masks: Sequence[MaskArray],
    texts: StageTexts,
    seeds: Sequence[int],
    settings: Painting,
    *,
    reference: Tensor | None = None,
    unpatched: Any = None,
    switch_vae: Any = None,
    on_step: Callable[[], None] | None = None,
) -> list[Painted]:
    """Paint one batch: scenes uint8 HxWx3 with masks bool HxW, one seed each, all of the same `frame_sizes`.

    `reference` [B,K,S] are projected reference tokens, whose injection is installed. `unpatched` is the UNet of the
    steps after `settings.patched_steps()`. `switch_vae` (an `AutoencoderTiny` that shares the base's latent space)
    makes the hand-over cheaper.
    """
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    local_steps = settings.local_steps()
    stages = Stages(backbone, settings, texts.negative, generators, reference, unpatched, switch_vae, on_step)
    with regional.masked(backbone.unet, settings.masks):
        local_size, whole_size = frame_sizes(backbone, masks[0], settings)
        whole_boxes = [crop.whole(mask) for mask in masks]
        start: list[ImageArray] | None = None
        if local_steps > 0:
            boxes = [local_box(mask, settings) for mask in masks]
            outcome = stages.run(scenes, masks, boxes, local_size, texts.local, end=local_steps)
            if local_steps >= settings.num_inference_steps:
                return stages.finish(scenes, masks, boxes, outcome.latents)
            start = [
                put_back(scene, piece, mask, box, settings)
                for scene, piece, mask, box in zip(scenes, stages.seen(outcome.x0), masks, boxes, strict=True)
            ]
        outcome = stages.run(scenes, masks, whole_boxes, whole_size, texts.whole, begin=local_steps, start=start)
        return stages.finish(scenes, masks, whole_boxes, outcome.latents)


def put_back(
    scene: ImageArray,
    generated: ImageArray,
    mask: MaskArray,
    box: Box,
    settings: Painting,
    *,
    keep: MaskArray | None = None,
) -> ImageArray:
    """What was generated for a box of the scene, blended in; outside the blend band every byte is the scene's.

    So is every byte where `keep` (bool HxW) is set.
    """
    pasted = crop.paste(scene, generated, box)
    if settings.paste == "crop":
        return pasted if keep is None else np.where(keep[..., None], scene, pasted)
    width_px = settings.blend_px if settings.blend_px is not None else crop.band_px(mask.shape[0], mask.shape[1])
    soft = crop.soft_mask(mask, width_px)
    if keep is not None:
        soft = np.where(keep, np.uint8(0), soft)
    x0, y0, x1, y1 = box
    # the band may reach beyond the box, where nothing was generated and both pictures are the same
    result = scene.copy()
    result[y0:y1, x0:x1] = crop.blend(scene[y0:y1, x0:x1], pasted[y0:y1, x0:x1], soft[y0:y1, x0:x1])
    return result


@dataclass(frozen=True, slots=True)
class Stages:
    """Runs stages of one batch, which share generators, and turns what comes out into pictures."""

    backbone: Backbone
    settings: Painting
    negative: TextStates
    generators: list[torch.Generator]
    reference: Tensor | None = None
    unpatched: Any = None
    switch_vae: Any = None
    on_step: Callable[[], None] | None = None

    def run(
        self,
        scenes: Sequence[ImageArray],
        masks: Sequence[MaskArray],
        boxes: Sequence[Box],
        size_hw: tuple[int, int],
        text: TextStates,
        *,
        begin: int = 0,
        end: int | None = None,
        start: Sequence[ImageArray] | None = None,
        predictor: Callable[[Frame], Predictor] | None = None,
    ) -> Outcome:
        """Steps `begin` to `end` on those boxes of the scenes, resized to one size; `start` are pictures to begin from.

        `predictor` replaces plain guidance towards `text`.
        """
        images = [crop.cut(scene, box, size_hw) for scene, box in zip(scenes, boxes, strict=True)]
        small = [crop.cut_mask(mask, box, size_hw) for mask, box in zip(masks, boxes, strict=True)]
        frame = prepare_frame(self.backbone, images, small, self.generators, self.settings)
        latents = None
        if start is not None:
            composites = [crop.cut(image, box, size_hw) for image, box in zip(start, boxes, strict=True)]
            latents = _encode(
                self.backbone, to_pixels(composites, self.backbone.device), self.generators, self.switch_vae
            )
        elif self.settings.start_from_fill:
            fills = [crop.fill(image, mask) for image, mask in zip(images, small, strict=True)]
            latents = _encode(self.backbone, to_pixels(fills, self.backbone.device), self.generators, None)
            if begin == 0 and end is not None and self.settings.background == "fresh":
                # in LCG the release keeps the background from the fill, in GCH from the picture (METHODS A7)
                frame = Frame(
                    frame.pixels, frame.mask, frame.latent_mask, frame.masked_latent, frame.noise, clean=latents
                )
        predict = predictor(frame) if predictor is not None else self.guided(frame, text)
        return denoise(
            self.backbone, frame, predict, self.settings, self.generators,
            begin=begin, end=end, start=latents, on_step=self.on_step,
        )  # fmt: skip

    def guided(
        self, frame: Frame, text: TextStates, negative: TextStates | None = None, region: Tensor | None = None
    ) -> Predictor:
        """Guidance over a frame; attention is masked by `region` [B,1,H,W], by default what is painted."""
        attention = self._attention(frame, frame.mask if region is None else region)
        return guided(
            self.backbone, frame, text, self.negative if negative is None else negative, self.settings,
            attention=attention, unpatched=self.unpatched,
        )  # fmt: skip

    def _attention(self, frame: Frame, region: Tensor) -> dict[str, Any] | None:
        halves = 2 if self.settings.guides() else 1
        attention: dict[str, Any] = {}
        if self.settings.masks is not None:
            attention["regions"] = regional.regions_of(
                torch.cat([region] * halves),
                (frame.noise.shape[2], frame.noise.shape[3]),
                len(self.backbone.unet.config.block_out_channels),
                self.settings.masks,
                self.backbone.dtype,
            )
        if self.reference is not None:
            # present in both halves: guidance drops the text only (METHODS 4.6)
            attention["reference"] = torch.cat([self.reference] * halves)
        return attention or None

    def seen(self, x0: Tensor) -> list[ImageArray]:
        """Clean latents [B,4,h,w] at the hand-over as pictures."""
        return to_images(_decode(self.backbone, x0, self.switch_vae))

    def finish(
        self, scenes: Sequence[ImageArray], masks: Sequence[MaskArray], boxes: Sequence[Box], latents: Tensor
    ) -> list[Painted]:
        """Pictures of the last latents [B,4,h,w], put back into the scenes."""
        images = to_images(self.backbone.decode(latents))
        return [
            Painted(put_back(scene, image, mask, box, self.settings), image, row, box)
            for scene, image, mask, box, row in zip(scenes, images, masks, boxes, latents, strict=True)
        ]


@torch.no_grad()
def _decode(backbone: Backbone, latents: Tensor, switch_vae: Any) -> Tensor:
    if switch_vae is None:
        return backbone.decode(latents)
    pixels: Tensor = switch_vae.decode(latents.to(switch_vae.dtype) / switch_vae.config.scaling_factor).sample
    return pixels.float()


@torch.no_grad()
def _encode(backbone: Backbone, pixels: Tensor, generators: list[torch.Generator], switch_vae: Any) -> Tensor:
    if switch_vae is None:
        return backbone.encode_image(pixels).sample(generators)
    latents: Tensor = switch_vae.encode(pixels.to(switch_vae.dtype)).latents * switch_vae.config.scaling_factor
    return latents.to(backbone.dtype)
