"""Tiny bases loaded once, and adapters with random weights written as the trainer writes them."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline, StableDiffusionXLInpaintPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from pipelines import backbones, reference
from pipelines.records import AdapterRecord, Word, adapter_id, write_record
from tests.tiny_models import tiny

torch.set_num_threads(1)
TARGETS = ("to_k", "to_v", "to_out.0")


@cache
def loaded(kind: str):
    """A tiny base, loaded once a session: leave its UNet as it was found."""
    return backbones.load(tiny(kind))


@pytest.fixture
def backbone_of():
    return loaded


def scene(seed: int = 0, height: int = 96, width: int = 96):
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def box_mask(height: int = 96, width: int = 96):
    mask = np.zeros((height, width), bool)
    mask[32:64, 40:72] = True
    return mask


def write_lora(
    folder: Path,
    kind: str,
    *,
    subject: str = "teapot",
    seed: int = 0,
    words=(("colour", "red"),),
    identifier="sks",
    base: Path | None = None,
    **fields,
):
    """An adapter folder with a random LoRA of rank 2, as diffusers saves it; on `base` or the tiny one of its kind."""
    backbone = backbones.load(base or tiny(kind))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = backbone.unet
        unet.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=list(TARGETS)))
        for name, parameter in unet.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    folder.mkdir(parents=True, exist_ok=True)
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    family = StableDiffusionXLInpaintPipeline if backbone.family == "sdxl" else StableDiffusionInpaintPipeline
    family.save_lora_weights(
        folder,
        unet_lora_layers=layers,
        unet_lora_adapter_metadata=unet.peft_config["default"].to_dict() | {"target_modules": list(TARGETS)},
    )
    made = {"recipe": "dreammix", "settings": {"rank": 2}, "corpus_digest": "0" * 64, "seed": seed}
    record = AdapterRecord(
        id=adapter_id(subject, base=backbone.base, samples=(), **made),
        subject=subject,
        class_noun="teapot",
        identifier=identifier,
        source_words=tuple(Word(*pair) for pair in words),
        kind="lora",
        base=backbone.base,
        corpus=fields.pop("corpus", "corpus"),
        sample_ids=fields.pop("sample_ids", ()),
        steps=1,
        losses=(1.0,),
        versions={},
        inference={"preset": "paper", "num_inference_steps": 2, **fields.pop("inference", {})},
        **made,
        **fields,
    )
    return write_record(folder, record)


def write_reference_lora(folder: Path, kind: str, **fields):
    """The same with a random projection of reference tokens: it paints from a photograph."""
    record = write_lora(
        folder, kind, inference={"preset": "dreaminpainter", "resolution": 64, "reference.tokens": 4}, **fields
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = reference.ReferenceInjection(backbones.load(tiny(kind))).state_dict()
    save_file(state, folder / "reference.safetensors")
    return write_record(folder, record)
