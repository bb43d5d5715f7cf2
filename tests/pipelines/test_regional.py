"""DreamCom's masked attention: METHODS 3.8 points 1 to 5."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from peft import LoraConfig

from manifests.errors import ReportedError
from pipelines import backbones, regional
from pipelines.backbones import TextStates
from pipelines.settings import MaskRules
from tests.tiny_models import tiny


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return Attention(query_dim=16, cross_attention_dim=12, heads=2, dim_head=8).eval()


@pytest.fixture
def own_layer():
    torch.manual_seed(0)
    return Attention(query_dim=16, heads=2, dim_head=8).eval()


def level(seg, kind: str = "post_softmax"):
    mask = torch.as_tensor(seg, dtype=torch.float32).reshape(1, 1, 4, 4)
    return regional.regions_of(mask, (4, 4), 1, MaskRules(kind=kind))


HALF = [1.0] * 6 + [0.0] * 10


def explicit(attn, hidden, context):
    """The probabilities [B,heads,N,T] and values, as the release computes them."""
    query, key, value = regional.project_heads(attn, hidden, context, None)
    return (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(dim=-1), value


@torch.no_grad()
def test_background_queries_of_cross_attention_get_nothing_whatever_the_text(layer):
    hidden, seg = torch.randn(1, 16, 16), torch.tensor(HALF)
    outputs = []
    for seed in range(2):
        text = torch.randn(1, 77, 12, generator=torch.Generator().manual_seed(seed))
        query, key, value = regional.project_heads(layer, hidden, text, None)
        before = regional.RegionalCross().attend(query, key, value, level(HALF))
        assert before[:, :, seg == 0].abs().max() <= 1e-7
        outputs.append(regional.RegionalCross()(layer, hidden, text, regions=level(HALF))[:, seg == 0])
    assert (outputs[0] - layer.to_out[0].bias).abs().max() <= 1e-6
    assert torch.equal(*outputs)


@torch.no_grad()
def test_paper_cross_attention_over_everything_is_vanilla_and_released_counts_38_tokens(layer):
    hidden, text = torch.randn(1, 16, 16), torch.randn(1, 77, 12)
    everything = level([1.0] * 16)
    vanilla = regional.Unmasked()(layer, hidden, text)
    assert torch.allclose(regional.RegionalCross()(layer, hidden, text, regions=everything), vanilla, atol=1e-5)
    probabilities, value = explicit(layer, hidden, text)
    seg = torch.tensor(HALF)
    masked = probabilities * seg[:, None]
    masked[..., 0] = 0
    masked[..., 39:] = 0
    assert (masked.sum(-1) <= 1 + 1e-6).all()
    assert masked.sum(-1).max() < 1
    found = regional.RegionalCross("released")(layer, hidden, text, regions=level(HALF))
    assert torch.allclose(found, regional.finish_heads(layer, masked @ value), atol=1e-6)


@torch.no_grad()
def test_self_attention_mask_is_same_region_exactly(own_layer):
    hidden, seg = torch.randn(1, 16, 16), torch.tensor(HALF)
    same = (seg[:, None] == seg[None]).float()
    assert torch.equal(same, same.T)
    probabilities, value = explicit(own_layer, hidden, hidden)
    product = regional.finish_heads(own_layer, (probabilities * same) @ value)
    assert torch.allclose(regional.RegionalSelf()(own_layer, hidden, regions=level(HALF)), product, atol=1e-6)
    query, key, value = regional.project_heads(own_layer, hidden, hidden, None)
    logits = (query @ key.transpose(-1, -2) / 8**0.5).masked_fill(same == 0, -torch.inf)
    split = regional.RegionalSelf("pre_softmax")(own_layer, hidden, regions=level(HALF, "pre_softmax"))
    assert torch.allclose(split, regional.finish_heads(own_layer, logits.softmax(-1) @ value), atol=1e-6)
    vanilla = regional.Unmasked()(own_layer, hidden)
    for constant in ([1.0] * 16, [0.0] * 16):
        for kind in ("post_softmax", "pre_softmax"):
            found = regional.RegionalSelf(kind)(own_layer, hidden, regions=level(constant, kind))
            assert torch.allclose(found, vanilla, atol=1e-6)


@torch.no_grad()
def test_background_values_never_reach_the_region_and_its_keys_only_scale_it():
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 16, 8, generator=generator) for _ in range(3))
    seg = torch.tensor(HALF)
    other_value, other_key = value.clone(), key.clone()
    other_value[:, :, seg == 0] += 1
    other_key[:, :, seg == 0] += 1
    for kind in ("post_softmax", "pre_softmax"):
        attend = regional.RegionalSelf(kind).attend
        plain = attend(query, key, value, level(HALF, kind))[:, :, seg == 1]
        assert torch.allclose(attend(query, key, other_value, level(HALF, kind))[:, :, seg == 1], plain, atol=1e-6)
        moved = attend(query, other_key, value, level(HALF, kind))[:, :, seg == 1]
        ratio = moved / plain
        assert torch.allclose(ratio, ratio[..., :1].expand_as(ratio), atol=1e-3)  # one number a row
        assert torch.allclose(moved, plain, atol=1e-6) == (kind == "pre_softmax")


def test_layer_census_of_an_sd15_shaped_unet():
    unet = UNet2DConditionModel(
        block_out_channels=(8, 8, 8, 8), norm_num_groups=8, cross_attention_dim=8, attention_head_dim=2, sample_size=8
    )  # SD 1.5's own block types by default

    def own(**rules):
        masked = regional.masked_layers(unet.attn_processors, MaskRules(**rules))
        return {name.removesuffix(".processor") for name in masked if name.endswith("attn1.processor")}

    names = list(unet.attn_processors)
    assert sum(name.endswith("attn1.processor") for name in names) == 16
    assert sum(name.endswith("attn2.processor") for name in names) == 16
    free = {f"up_blocks.{b}.attentions.{a}.transformer_blocks.0.attn1" for b in (2, 3) for a in range(3)}
    everything = own(self_layers="all")
    assert len(everything) == 16
    assert everything - own(self_layers="paper") == free
    assert own(self_layers="released") == free - {"up_blocks.2.attentions.0.transformer_blocks.0.attn1"}
    training = regional.masked_layers(names, MaskRules(self_layers="none"))
    assert len(training) == 16
    assert all(name.endswith("attn2.processor") for name in training)


def test_small_box_is_never_lost_by_max_and_can_be_by_nearest():
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 5:7, 5:7] = 1
    kept = regional.regions_of(mask, (8, 8), 4, MaskRules())
    assert all(one.weight.sum() == 1 for one in kept.values())
    lost = regional.regions_of(mask, (8, 8), 4, MaskRules(downsample="nearest"))
    assert all(one.weight.sum() == 0 for one in lost.values())


def predicted(backbone, regions, *, text):
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(1, 9, 8, 8, generator=generator)
    return backbone.predict(sample, 500, text, cross_attention_kwargs={"regions": regions} if regions else None)


def test_masked_run_is_lora_safe_and_checkpointing_safe():
    backbone = backbones.load(tiny("sd9"))
    unet = backbone.unet
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_k", "to_v"], init_lora_weights=False))
    regional.install(unet, MaskRules())
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 16:40, 16:48] = 1
    regions = regional.regions_of(mask, (8, 8), 2)
    text = TextStates(torch.randn(1, 77, 32, generator=torch.Generator().manual_seed(1)))

    def gradients():
        unet.zero_grad()
        output = predicted(backbone, regions, text=text)
        output.square().mean().backward()
        return output.detach(), [p.grad.clone() for p in unet.parameters() if p.grad is not None]

    plain, own = gradients()
    unet.enable_gradient_checkpointing()
    unet.train()
    again, checkpointed = gradients()
    assert own
    assert torch.equal(plain, again)
    assert all(torch.equal(a, b) for a, b in zip(own, checkpointed, strict=True))
    unet.disable_gradient_checkpointing()
    regional.assert_installed(unet, MaskRules())


def test_replaced_processors_are_seen_before_a_run():
    backbone = backbones.load(tiny("sd9"))
    regional.install(backbone.unet, MaskRules())
    regional.assert_installed(backbone.unet, MaskRules())
    with pytest.raises(ReportedError, match="E605"):
        regional.assert_installed(backbone.unet, MaskRules(self_layers="none"))
    backbone.unet.fuse_qkv_projections()
    with pytest.raises(ReportedError, match=r"E605 attention-replaced: .* carries FusedAttnProcessor2_0"):
        regional.assert_installed(backbone.unet, MaskRules())


def test_masked_layer_without_regions_refuses(layer):
    with pytest.raises(ValueError, match="masked attention without regions"):
        regional.RegionalCross()(layer, torch.randn(1, 16, 16), torch.randn(1, 77, 12))


@pytest.mark.slow
@torch.no_grad()
def test_masked_layers_compile_without_a_graph_break():
    backbone = backbones.load(tiny("sd9"))
    regional.install(backbone.unet, MaskRules())
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 16:40, 16:48] = 1
    regions = regional.regions_of(mask, (8, 8), 2)
    text = TextStates(torch.randn(1, 77, 32, generator=torch.Generator().manual_seed(1)))
    plain = predicted(backbone, regions, text=text)
    backbone.unet = torch.compile(backbone.unet, fullgraph=True, backend="eager")
    assert torch.equal(predicted(backbone, regions, text=text), plain)
