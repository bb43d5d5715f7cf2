"""METHODS 2.10-16 and what stacking promises: the base untouched, files diffusers loads, subjects that do not mix."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline, StableDiffusionXLInpaintPipeline

from manifests.errors import UsageError
from pipelines import backbones
from tests.tiny_models import tiny
from trainer.recipes import load_recipe
from trainer.stacked import LORA_FILE, StackedLora, clip_per_subject, lora_targets
from trainer.trainable import Dora, StackedLoras, make_trainable

TARGETS = ("to_k", "to_v", "to_out.0")
EVERYWHERE = (*TARGETS, "to_q", "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "time_emb_proj", "downsamplers.0.conv")


def settings(**more):
    return load_recipe("dreammix", settings={"rank": 4, **more}).settings


def inputs(backbone, batch: int = 2):
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(batch, backbone.channels, 8, 8, generator=generator)
    text = backbone.encode_text(["a photo of sks ball"] * batch)
    size = backbone.size_condition([(64, 64)] * batch, [(0, 0)] * batch, [(64, 64)] * batch)
    return sample, torch.tensor([17, 640, 3, 250][:batch]), text, size


def randomise(trainable) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in sorted(trainable.named().items()):
            if name.startswith("up.") or "lora_B" in name or "magnitude" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("kind", ["sd9", "sdxl4"])
def test_2_10_16_only_the_targets_train_and_the_start_is_the_base(kind):
    backbone = backbones.load(tiny(kind))
    before = backbone.predict(*inputs(backbone, 2))
    lora = StackedLora(backbone.unet, ["a", "b"], rank=4, alpha=8, targets=TARGETS, seed=0)
    assert torch.equal(backbone.predict(*inputs(backbone, 2)), before)
    assert lora.layers
    assert all(name.endswith(TARGETS) for name in lora.layers)
    assert not any(name.endswith("to_q") for name in lora.layers)
    wanted = [name for name, _ in backbone.unet.named_modules() if name.endswith(TARGETS)]
    assert sorted(lora.layers) == sorted(wanted)
    assert not any(parameter.requires_grad for parameter in backbone.unet.parameters())
    backbone.predict(*inputs(backbone, 2)).sum().backward()
    assert all(parameter.grad is not None for parameter in lora.parameters())
    lora.remove()
    assert torch.equal(backbone.predict(*inputs(backbone, 2)), before)


@pytest.mark.parametrize(
    ("kind", "pipeline"), [("sd9", StableDiffusionInpaintPipeline), ("sdxl9", StableDiffusionXLInpaintPipeline)]
)
@pytest.mark.parametrize(
    "more",
    [
        {"alpha": 8.0},
        {"method": "dora", "alpha": 2.0},
        {"alpha": 8.0, "lora_targets": EVERYWHERE},
        {"method": "dora", "lora_targets": EVERYWHERE},
    ],
    ids=["lora", "dora", "lora everywhere", "dora everywhere"],
)
def test_files_load_with_diffusers_own_loader_and_give_the_same_output(tmp_path, kind, pipeline, more):
    backbone = backbones.load(tiny(kind))
    trainable = make_trainable(backbone, ["a"], settings(**more))
    randomise(trainable)
    with torch.no_grad():
        ours = backbone.predict(*inputs(backbone, 2))
    if "lora_targets" in more:
        assert {parameter.dim() for parameter in trainable.named().values()} >= {4 + (more.get("method") != "dora")}
    trainable.write(tmp_path, 0, trainable.named())
    assert [path.name for path in tmp_path.iterdir()] == [LORA_FILE]
    trainable.remove()
    with torch.no_grad():
        plain = backbone.predict(*inputs(backbone, 2))
    assert (ours - plain).abs().max() > 1e-2
    pipe = (
        pipeline.from_pretrained(tiny(kind), local_files_only=True, safety_checker=None)
        if kind == "sd9"
        else (pipeline.from_pretrained(tiny(kind), local_files_only=True))
    )
    pipe.load_lora_weights(tmp_path)
    backbone.unet = pipe.unet
    with torch.no_grad():
        theirs = backbone.predict(*inputs(backbone, 2))
    assert (ours - theirs).abs().max() == 0


@pytest.mark.parametrize("targets", [TARGETS, EVERYWHERE], ids=["attention", "everywhere"])
def test_a_stack_of_four_predicts_what_each_does_alone(targets):
    backbone = backbones.load(tiny("sdxl9"))
    stack = StackedLoras(backbone, ["a", "b", "c", "d"], settings(lora_targets=targets))
    randomise(stack)
    sample, timesteps, text, size = inputs(backbone, 4)
    with torch.no_grad():
        together = backbone.predict(sample, timesteps, text, size)
    stack.remove()
    for index, name in enumerate(stack.subjects):
        alone = StackedLoras(backbone, [name], settings(lora_targets=targets))
        with torch.no_grad():
            for key, parameter in alone.named().items():
                parameter.copy_(stack.named()[key][index : index + 1])
            row = slice(index, index + 1)
            single = backbone.predict(sample[row], timesteps[row], text[row], None if size is None else size[row])
        torch.testing.assert_close(together[row], single, rtol=0, atol=1e-5)
        alone.remove()


def test_start_does_not_depend_on_the_company():
    backbone = backbones.load(tiny("sd9"))
    together = StackedLoras(backbone, ["a", "b"], settings())
    alone = StackedLoras(backbone, ["b"], settings())
    for name, parameter in alone.named().items():
        assert torch.equal(parameter[0], together.named()[name][1])
    other = StackedLoras(backbone, ["b"], settings(seed=1))
    assert not torch.equal(other.named()["down.0"], alone.named()["down.0"])


def test_clipping_is_by_each_subjects_own_norm():
    parameters = [torch.nn.Parameter(torch.zeros(3, 2, 5)), torch.nn.Parameter(torch.zeros(3, 7))]
    scales = torch.tensor([0.01, 1.0, 100.0])
    for parameter in parameters:
        parameter.grad = scales.view(-1, *[1] * (parameter.dim() - 1)) * torch.ones_like(parameter)
    norms = clip_per_subject(parameters, 3, 1.0)
    torch.testing.assert_close(norms, scales * 17**0.5)
    after = [torch.stack([p.grad[s].norm() for p in parameters]).norm() for s in range(3)]
    torch.testing.assert_close(torch.stack(after), torch.tensor([0.01 * 17**0.5, 1.0, 1.0]), rtol=1e-5, atol=0)
    single = torch.nn.Parameter(torch.zeros(4))
    single.grad = torch.full((4,), 10.0)
    assert clip_per_subject([single], 1, None).tolist() == [20.0]
    assert single.grad.tolist() == [10.0] * 4


def test_a_target_that_is_not_there_or_takes_no_lora_is_named():
    unet = backbones.load(tiny("sd9")).unet
    with pytest.raises(UsageError, match=r"E502 .*has no layer 'to_z'"):
        lora_targets(unet, ["to_k", "to_z"])
    with pytest.raises(UsageError, match=r"E502 .*norm1 is LayerNorm, no linear layer or convolution"):
        lora_targets(unet, ["norm1"])


def test_dora_starts_at_the_base_up_to_rounding():
    backbone = backbones.load(tiny("sd9"))
    before = backbone.predict(*inputs(backbone))
    dora = Dora(backbone, ["a"], settings(method="dora"))
    assert any("magnitude" in name for name in dora.named())
    torch.testing.assert_close(backbone.predict(*inputs(backbone)).detach(), before, rtol=0, atol=1e-5)
