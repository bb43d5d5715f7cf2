"""At both ends of lambda the own loop is the stock pipeline, difference 0."""

from __future__ import annotations

from functools import cache

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import crop, dif
from pipelines.settings import resolve
from tests.pipelines.conftest import box_mask, loaded, scene
from tests.tiny_models import KINDS, tiny

SCHEDULERS = ("EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DDIMScheduler")
PROMPT = "a photo of sks teapot on a table"


@cache
def stock_pipeline(kind: str):
    family = "StableDiffusionXLInpaintPipeline" if kind.startswith("sdxl") else "StableDiffusionInpaintPipeline"
    extra = {} if kind.startswith("sdxl") else {"safety_checker": None, "requires_safety_checker": False}
    pipe = getattr(diffusers, family).from_pretrained(tiny(kind), local_files_only=True, **extra)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def stock(kind: str, scheduler: str, picture, mask, steps: int = 4):
    pipe = stock_pipeline(kind)
    pipe.scheduler = loaded(kind).make_scheduler(scheduler)
    return pipe(
        prompt=PROMPT,
        image=Image.fromarray(picture),
        mask_image=Image.fromarray(mask.astype(np.uint8) * 255),
        height=picture.shape[0],
        width=picture.shape[1],
        num_inference_steps=steps,
        guidance_scale=5.0,
        strength=1.0,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
    ).images[0]


def ours(kind: str, scheduler: str, picture, mask, lambda_gch: float, steps: int = 4):
    changes = {"lambda_gch": lambda_gch, "latent_mask": "nearest", "resolution": 96 if lambda_gch == 1 else 64}
    return painted(kind, scheduler, picture, mask, "paper", steps, **changes)


def painted(kind: str, scheduler: str, picture, mask, preset: str, steps: int = 4, **changes):
    backbone = loaded(kind)
    settings = resolve(preset, {"num_inference_steps": steps, "scheduler": scheduler, "guidance_scale": 5.0, **changes})
    text = backbone.encode_text([PROMPT])
    texts = dif.StageTexts(text, text, backbone.unconditional(1))
    return dif.paint(backbone, [picture], [mask], texts, [3], settings)[0]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("kind", KINDS)
def test_lambda_one_equals_the_stock_pipeline_on_the_full_frame(kind, scheduler):
    picture, mask = scene(), box_mask()
    found = ours(kind, scheduler, picture, mask, 1.0).latents
    assert (found - stock(kind, scheduler, picture, mask)).abs().max() == 0.0


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("kind", KINDS)
def test_lambda_zero_equals_the_stock_pipeline_on_the_crop(kind, scheduler):
    picture, mask = scene(), box_mask()
    painted = ours(kind, scheduler, picture, mask, 0.0)
    box = crop.fooocus_crop(mask, 0.5)
    assert painted.box == box
    piece, small = crop.cut(picture, box, (64, 64)), crop.cut_mask(mask, box, (64, 64))
    assert (painted.latents - stock(kind, scheduler, piece, small)).abs().max() == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_the_plain_preset_is_the_stock_pipeline_whatever_the_box(kind):
    picture, mask = scene(), np.zeros((96, 96), bool)
    mask[29:63, 43:70] = True  # no edge on the latent grid of 8 px
    expected = stock(kind, SCHEDULERS[0], picture, mask)
    found = painted(kind, SCHEDULERS[0], picture, mask, "plain", resolution=96)
    assert (found.latents - expected).abs().max() == 0.0
    wider = painted(kind, SCHEDULERS[0], picture, mask, "plain", resolution=96, latent_mask="max")
    assert (wider.latents - expected).abs().max() > 0
