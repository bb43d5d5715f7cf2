"""Several subjects in one scene in one run: each region of the mask is painted with an adapter and a prompt of its own.

Local content generation knows one region at a time: with a `lambda_gch` of 0 the pixels of a region are, byte for byte,
those of painting it alone with its seed, wherever the other's crop did not reach them. Global context harmonisation is
one run over the whole frame: each step every region's adapter predicts on the same latents, and each latent cell takes
the prediction of the region nearest to it. There attention is global: a region sees what the others have become, as it
sees the scene, and is not what it would be alone. Two regions with one adapter and one prompt are one mask.

It costs one forward a region and step, and two switches of adapters where they differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from manifests.pixels import ImageArray, MaskArray
from pipelines import crop, regional
from pipelines.backbones import Backbone
from pipelines.denoise import Frame, Predictor
from pipelines.dif import Painted, Stages, StageTexts, frame_sizes, local_box, put_back
from pipelines.settings import Painting

__all__ = ["Region", "nearest_region", "paint_regions"]


@dataclass(frozen=True, slots=True)
class Region:
    """One subject: where (bool HxW), towards what (one row each), its seed, and what puts its adapter on."""

    mask: MaskArray
    texts: StageTexts
    seed: int
    put_on: Callable[[], None]


def nearest_region(masks: Sequence[MaskArray], size_hw: tuple[int, int]) -> Tensor:
    """[1,1,h,w] long: the number of the mask nearest to each cell of a frame, the first of several."""
    distances = []
    for mask in masks:
        small = crop.cut_mask(mask, crop.whole(mask), size_hw)
        distances.append(cv2.distanceTransform((~small).astype(np.uint8), cv2.DIST_L2, 5))
    return torch.from_numpy(np.stack(distances).argmin(axis=0))[None, None]


def paint_regions(
    backbone: Backbone,
    scene: ImageArray,
    regions: Sequence[Region],
    settings: Painting,
    *,
    unpatched: Any = None,
    switch_vae: Any = None,
    on_step: Callable[[], None] | None = None,
) -> Painted:
    """Paint disjoint regions into one scene (uint8 HxWx3); bytes outside all blend bands stay. See the module."""
    everywhere = np.logical_or.reduce([region.mask for region in regions])
    local_steps, whole_box = settings.local_steps(), crop.whole(everywhere)
    last = local_steps >= settings.num_inference_steps
    composite, latents = scene, torch.empty(0)
    stages: list[Stages] = []
    for region in regions:
        generators = [torch.Generator("cpu").manual_seed(region.seed)]
        own = Stages(
            backbone, settings, region.texts.negative, generators,
            unpatched=unpatched, switch_vae=switch_vae, on_step=on_step,
        )  # fmt: skip
        stages.append(own)
        if local_steps == 0:
            continue
        region.put_on()
        with regional.masked(backbone.unet, settings.masks):
            box, (size, _) = local_box(region.mask, settings), frame_sizes(backbone, region.mask, settings)
            outcome = own.run([scene], [region.mask], [box], size, region.texts.local, end=local_steps)
        latents = outcome.latents if last else outcome.x0
        (piece,) = own.seen(latents)
        composite = put_back(composite, piece, region.mask, box, settings, keep=everywhere & ~region.mask)
    if last:
        return Painted(composite, composite, latents[0], whole_box)
    _, size = frame_sizes(backbone, everywhere, settings)

    def blended(frame: Frame) -> Predictor:
        owner = nearest_region([region.mask for region in regions], (frame.noise.shape[2], frame.noise.shape[3]))
        owner = owner.to(backbone.device)
        predictors = []
        for own, region in zip(stages, regions, strict=True):
            mask = crop.cut_mask(region.mask, whole_box, size)
            attends = torch.from_numpy(mask).to(backbone.device, torch.float32)[None, None]
            predictors.append(own.guided(frame, region.texts.whole, region=attends))

        def predict(latents: Tensor, timestep: Tensor, step: int) -> Tensor:
            prediction = torch.zeros_like(latents)
            for number, (region, one) in enumerate(zip(regions, predictors, strict=True)):
                region.put_on()
                with regional.masked(backbone.unet, settings.masks):
                    prediction = torch.where(owner == number, one(latents, timestep, step), prediction)
            return prediction

        return predict

    start = [composite] if local_steps > 0 else None
    outcome = stages[0].run(
        [scene], [everywhere], [whole_box], size, regions[0].texts.whole, begin=local_steps, start=start,
        predictor=blended,
    )  # fmt: skip
    return stages[0].finish([scene], [everywhere], [whole_box], outcome.latents)[0]
