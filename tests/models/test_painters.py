"""The families of text-to-image checkpoints: a batch, each picture again alone, settings that reach the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from dataforge.backends import diffusers_generator
from dataforge.backends.devices import Placement
from dataforge.backends.diffusers_generator import _SCHEDULERS, Diffusers
from dataforge.protocols import GeneratedImage, GenerationRequest
from manifests.records import RegularPrompt
from tests.models.tiny import tiny
from tests.tiny_models import tiny as tiny_pipeline


def folder(family: str) -> Path:
    return tiny_pipeline(family) if family in ("sd4", "sdxl4") else tiny(family)


def request(prompt: str, seed: int) -> GenerationRequest:
    asked = RegularPrompt(prompt=prompt, template="", words=(), seed=0)
    return GenerationRequest(prompt=asked, class_noun="mug", seed=seed, size=32)


REQUESTS = [request("a red mug", 1), request("a photo of a blue vase", 2), request("a mug", 3)]


@pytest.mark.parametrize("family", ["sd4", "sdxl4", "sd3", "flux"])
def test_a_family_paints_a_batch_and_each_of_its_pictures_again_alone(family):
    painter = Diffusers(str(folder(family)), size=32, steps=2)
    pictures = painter.generate(REQUESTS)
    assert len(pictures) == 3
    for asked, picture in zip(REQUESTS, pictures, strict=True):
        assert isinstance(picture, GeneratedImage)
        assert picture.image.shape == (32, 32, 3)
        (alone,) = painter.generate([asked])
        assert isinstance(alone, GeneratedImage)
        # a batch may round differently, by a step of 255
        assert np.abs(alone.image.astype(int) - picture.image).max() <= 1
    assert not np.array_equal(pictures[0].image, pictures[2].image)


@pytest.mark.parametrize("scheduler", sorted(_SCHEDULERS))
def test_a_scheduler_of_the_settings_is_the_one_that_paints(scheduler):
    painter = Diffusers(str(folder("sd4")), size=32, steps=3, scheduler=scheduler)
    assert type(painter._pipeline.scheduler).__name__ == _SCHEDULERS[scheduler][0]
    assert isinstance(painter.generate(REQUESTS[:1])[0], GeneratedImage)


def test_a_negative_prompt_and_the_guidance_change_the_picture():
    def paint(**settings):
        return Diffusers(str(folder("sd4")), size=32, steps=2, **settings).generate(REQUESTS[:1])[0].image

    plain = paint(guidance=7.5)
    assert not np.array_equal(plain, paint(guidance=1.0))
    assert not np.array_equal(plain, paint(guidance=7.5, negative_prompt="a blue vase"))


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offload_is_nothing_to_a_cpu(offload):
    plain, offloaded = (
        Diffusers(str(folder("sd4")), size=32, steps=2, device="cpu", **more).generate(REQUESTS[:1])[0]
        for more in ({}, {"offload": offload})
    )
    assert isinstance(plain, GeneratedImage)
    assert isinstance(offloaded, GeneratedImage)
    assert np.array_equal(plain.image, offloaded.image)


@pytest.mark.parametrize(
    ("offload", "method"),
    [("none", "to"), ("model", "enable_model_cpu_offload"), ("sequential", "enable_sequential_cpu_offload")],
)
def test_offload_reaches_the_pipeline_on_a_gpu(monkeypatch, offload, method):
    called = []
    for name in ("to", "enable_model_cpu_offload", "enable_sequential_cpu_offload"):
        monkeypatch.setattr(DiffusionPipeline, name, lambda self, *_, name=name, **__: called.append(name))
    gpu = Placement(torch.device("cuda:0"), torch.float32)
    monkeypatch.setattr(diffusers_generator, "place", lambda *_, **__: gpu)
    Diffusers(str(folder("sd4")), offload=offload)
    assert called == [method]


@pytest.mark.parametrize(("family", "part"), [("sd4", "UNet2DConditionModel"), ("sd3", "SD3Transformer2DModel")])
def test_compile_is_of_the_part_that_denoises_and_only_when_asked(monkeypatch, family, part):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
    Diffusers(str(folder(family)))
    assert compiled == []
    Diffusers(str(folder(family)), compile=True)
    assert compiled == [part]
