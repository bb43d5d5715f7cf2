"""Scenes -> what one step of training sees. The drawing is numpy, and a function of (seed, numbers)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F  # noqa: N812

from toyworld.autoencoder import encode
from toyworld.render import render
from toyworld.scenes import generator, mask_box, training_scene


@dataclass(frozen=True, slots=True)
class Drawn:
    """`images` uint8 [B, S, S, 3]; `masks` (to paint in) and `things` (what the caption speaks of) bool [B, S, S]."""

    images: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.bool_]
    things: npt.NDArray[np.bool_]
    captions: list[str]


def draw(seed: int, first: int, count: int, canvas: int) -> Drawn:
    """Draw scenes `first` .. `first + count` of training, each with a mask."""
    images = np.empty((count, canvas, canvas, 3), np.uint8)
    masks = np.zeros((count, canvas, canvas), np.bool_)
    things = np.empty((count, canvas, canvas), np.bool_)
    captions = []
    for at in range(count):
        drawn = training_scene(seed, first + at, canvas)
        picture = render(drawn.scene)
        x0, y0, x1, y1 = mask_box(generator(seed, "mask", first + at), picture.boxes[-1], canvas)
        images[at], things[at] = picture.image, picture.masks[-1]
        masks[at, y0:y1, x0:x1] = True
        captions.append(drawn.caption)
    return Drawn(images, masks, things, captions)


@dataclass(frozen=True, slots=True)
class Batch:
    """`latents` and `masked` [B, 4, h, w], `mask` [B, 1, h, w] as the pipeline makes them; `weight` [B, 1, h, w]."""

    latents: torch.Tensor
    masked: torch.Tensor
    mask: torch.Tensor
    weight: torch.Tensor


def to_batch(drawn: Drawn, background: torch.Tensor, device: torch.device) -> Batch:
    """Latents, masks and loss weights.

    A latent pixel weighs 1 in the mask and 0.05 outside. `background` [B] is added where the mask holds no part of the
    thing, and on a ring along the mask's border: without it, the box can be seen on a plain wall. It has to be 0 where
    noise hides the thing, or the weights, which know where it is, would pull its guess towards the wall.
    """
    images = torch.from_numpy(drawn.images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    masks = torch.from_numpy(drawn.masks).to(device)[:, None].float()
    things = torch.from_numpy(drawn.things).to(device)[:, None].float()
    inside, thing = F.max_pool2d(masks, 2), F.max_pool2d(things, 2)
    ring = F.max_pool2d(inside, 3, 1, 1) + F.max_pool2d(-inside, 3, 1, 1)
    weight = 0.05 + 0.95 * inside + background.to(device)[:, None, None, None] * (inside * (1 - thing) + ring)
    return Batch(
        latents=encode(images),
        masked=encode(images * (1 - masks)),
        mask=masks[:, :, ::2, ::2],
        weight=weight / weight.sum((1, 2, 3), keepdim=True),
    )
