"""DreamEdit's iterative loop (arXiv 2306.12624), for adding a subject: an object of the class turns into the subject.

The base paints an object of the class into the mask. Then, round after round, the picture is inverted by DDIM up to a
share of the schedule and denoised again towards the subject's prompt by the DreamBooth adapter; outside the object each
step keeps the latents that the inversion went through, and after each round the scene's own pixels are put back.

The shares, steps and guidance are those of the released configuration. The object's mask is the job's in the first
round, later found by GrabCut inside it, where the release asks a text-prompted segmenter.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor

from manifests.pixels import ImageArray, MaskArray
from pipelines import crop
from pipelines.backbones import Backbone, TextStates
from pipelines.denoise import guided, prepare_frame, to_images, to_pixels, with_background
from pipelines.dif import put_back
from pipelines.settings import PRESETS, Painting

if TYPE_CHECKING:
    from pipelines.painter import Painter
    from pipelines.preparing import Prepared

__all__ = ["ENCODE_RATIOS", "DreamEdit", "edit_once", "object_mask"]

ENCODE_RATIOS = (0.5, 0.4, 0.4, 0.4, 0.3, 0.3, 0.3)
STEPS, GUIDANCE = 40, 5.5
DILATE_PX, DILATE_SIDE = 20, 512


class DreamEdit:
    """Paints prepared jobs; the painter of the last job's base is kept."""

    def __init__(self, device: str = "auto") -> None:
        self.device = device
        self._here: str | None = None
        self._painter: Painter | None = None

    def __call__(self, prepared: Prepared) -> ImageArray:
        """The scene after all rounds. Raises what loading an adapter raises."""
        from pipelines.adapters import open_adapter
        from pipelines.painter import Request, load

        job, record, asked = prepared.job, prepared.record, prepared.job.settings
        assert record is not None
        assert job.adapter is not None
        settings = dataclasses.replace(
            PRESETS["plain"],
            num_inference_steps=asked.get("num_inference_steps", STEPS),
            guidance_scale=asked.get("guidance_scale", GUIDANCE),
            resolution=prepared.settings.resolution,
            blend_px=prepared.settings.blend_px,
            latent_mask="max",  # what GrabCut finds may be thin
        )
        base = job.base or record.base.digest
        if self._painter is None or self._here != base:
            self._painter = None
            self._painter, self._here = load(job.adapter, base=job.base, device=self.device), base
        painter, source = self._painter, f"a photo of a {record.class_noun}"
        painter.use(None)
        start = Request(scene=prepared.scene, mask=prepared.mask, prompt=source, seed=prepared.seed)
        picture = painter.paint([start], settings)[0].image
        painter.use(open_adapter(job.adapter))
        backbone = painter.backbone
        texts = backbone.encode_text([source, prepared.prompt])
        about, towards = texts[:1], texts[1:]
        mask = prepared.mask
        for number, share in enumerate(ENCODE_RATIOS):
            if number:
                mask = object_mask(picture, prepared.mask)
            painted = edit_once(backbone, picture, mask, about, towards, share, prepared.seed, settings)
            picture = put_back(prepared.scene, painted, mask, crop.whole(mask), settings)
        return picture


def object_mask(picture: ImageArray, where: MaskArray) -> MaskArray:
    """The object inside `where` (bool HxW) by GrabCut, dilated and within `where`; all of it where none is found."""
    labels = np.where(where, np.uint8(cv2.GC_PR_FGD), np.uint8(cv2.GC_BGD))
    if where.all():
        return where
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(np.ascontiguousarray(picture[..., ::-1]), labels, None, *models, 3, cv2.GC_INIT_WITH_MASK)
    found = (labels == cv2.GC_PR_FGD).astype(np.uint8)
    reach = max(1, round(DILATE_PX * max(where.shape) / DILATE_SIDE))
    grown: MaskArray = (cv2.dilate(found, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) > 0) & where
    return grown if grown.any() else where


@torch.no_grad()
def edit_once(
    backbone: Backbone,
    picture: ImageArray,
    mask: MaskArray,
    source: TextStates,
    target: TextStates,
    share: float,
    seed: int,
    settings: Painting,
) -> ImageArray:
    """One round: the picture (uint8 HxWx3) inverted over `share` of the steps, and denoised towards `target`."""
    steps = settings.num_inference_steps
    count = min(steps, max(1, round(share * steps)))
    resolution, box = settings.resolution or backbone.resolution, crop.whole(mask)
    size = crop.working_size(box[3], box[2], resolution, backbone.pixel_multiple)
    images, masks = [crop.cut(picture, box, size)], [crop.cut_mask(mask, box, size)]
    frame = prepare_frame(backbone, images, masks, [torch.Generator("cpu").manual_seed(seed)], settings)
    inverse = backbone.make_scheduler("DDIMInverseScheduler", clip_sample=False)
    forward = backbone.make_scheduler("DDIMScheduler", clip_sample=False)
    for scheduler in (inverse, forward):
        scheduler.set_timesteps(steps, device=backbone.device)

    plain = dataclasses.replace(settings, guidance_scale=1.0)  # guidance makes an inversion drift
    predict = guided(backbone, frame, source, source, plain)
    latents = backbone.encode_image(to_pixels(images, backbone.device)).mode()
    passed: list[Tensor] = [latents]
    for step in range(count):
        timestep = inverse.timesteps[step]
        latents = inverse.step(predict(latents, timestep, step), timestep, latents, return_dict=False)[0]
        passed.append(latents)

    predict = guided(backbone, frame, target, backbone.unconditional(1, settings.negative_prompt), settings)
    for step in range(steps - count, steps):
        timestep = forward.timesteps[step]
        latents = forward.step(predict(latents, timestep, step), timestep, latents, return_dict=False)[0]
        latents = with_background(latents, passed[steps - 1 - step], frame.latent_mask)
    return to_images(backbone.decode(latents))[0]
