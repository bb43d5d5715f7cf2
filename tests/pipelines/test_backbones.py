"""Bases: what they refuse, input order, and Fooocus (METHODS 2.10 points 11 and 12, 3.8 point 10)."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

from manifests.errors import ReportedError
from pipelines import backbones
from pipelines.backbones import fooocus
from tests.tiny_models import KINDS, sdxl_unet, tiny


@pytest.mark.parametrize("kind", KINDS)
def test_base_says_what_it_is(backbone_of, kind):
    backbone = backbone_of(kind)
    assert (backbone.family, backbone.channels) == (kind[:-1], int(kind[-1]))
    assert backbone.base.model == str(tiny(kind))
    assert not any(parameter.requires_grad for parameter in backbone.unet.parameters())
    assert (backbone.resolution, backbone.vae_factor, backbone.pixel_multiple) == (64, 8, 16)


def test_digest_is_of_the_weights(tmp_path):
    copy = shutil.copytree(tiny("sd9"), tmp_path / "copy")
    first = backbones.load(copy).base.digest
    assert first == backbones.load(tiny("sd9")).base.digest
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert backbones.load(copy).base.digest != first


def test_input_channels_are_noisy_then_mask_then_masked_latent(backbone_of):
    z, mask, masked = torch.zeros(1, 4, 8, 8), torch.ones(1, 1, 8, 8), torch.full((1, 4, 8, 8), 2.0)
    assert backbone_of("sd9").unet_input(z, mask, masked)[0, :, 0, 0].tolist() == [0] * 4 + [1] + [2] * 4
    assert backbone_of("sd4").unet_input(z, mask, masked) is z


def test_wrong_base_gets_one_sentence(tmp_path):
    with pytest.raises(ReportedError, match="E503 not-found: no model folder 'nowhere'"):
        backbones.load("nowhere")
    with pytest.raises(ReportedError, match=r"E601 unsuitable-base: .*no unet/config\.json"):
        backbones.load(tmp_path)
    copy = shutil.copytree(tiny("sd9"), tmp_path / "copy")
    config = json.loads((copy / "unet" / "config.json").read_text())
    (copy / "unet" / "config.json").write_text(json.dumps(config | {"in_channels": 8}))
    with pytest.raises(ReportedError, match=r"E601 .*its UNet takes 8 channels; 9 \(inpainting\) or 4"):
        backbones.load(copy)
    with pytest.raises(ReportedError, match=r"E601 .*the Fooocus patch fits SDXL only"):
        backbones.load(f"{tiny('sd4')}+fooocus={tmp_path}")


def test_noise_and_targets_follow_the_schedule(backbone_of):
    backbone = backbone_of("sd4")
    clean, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    steps = torch.tensor([10, 900])
    theirs = backbone.make_scheduler("DDPMScheduler").add_noise(clean, noise, steps)
    assert torch.allclose(backbone.add_noise(clean, noise, steps), theirs, atol=1e-6)
    assert backbone.target(clean, noise, steps) is noise


def ldm_state(unet):
    return {ldm: unet.state_dict()[name] for name, ldm in fooocus.ldm_names(unet).items()}


@pytest.mark.parametrize("widths", [(32, 64), (16, 32, 32)])
def test_names_of_the_patch_are_the_original_models(widths):
    unet = sdxl_unet(4, widths=widths, heads=(2, 4, 4)[: len(widths)], depths=(1, 1, 1)[: len(widths)])
    state = ldm_state(unet)
    names = {f"model.diffusion_model.{name}": value for name, value in state.items()}
    config = dict(unet.config)
    back = convert_ldm_unet_checkpoint(names, config)
    own = unet.state_dict()
    # the names are ours to prove, the converter is diffusers'
    same = [name for name in own if name in back and torch.equal(back[name], own[name])]
    assert sorted(same) == sorted(own)


def test_dequantisation_is_affine_between_its_ends():
    values = fooocus.dequantise(torch.tensor([0, 51, 255], dtype=torch.uint8), torch.tensor(-2.0), torch.tensor(3.0))
    assert torch.allclose(values, torch.tensor([-2.0, -1.0, 3.0]))


def write_fooocus(folder, unet, *, strength: float):
    """A patch and a head in the files' own layout."""
    generator = torch.Generator().manual_seed(0)
    patch = {}
    for name, weight in ldm_state(unet).items():
        quantised = torch.randint(0, 256, weight.shape, generator=generator, dtype=torch.uint8)
        patch[f"diffusion_model.{name}"] = (quantised, torch.tensor(-strength), torch.tensor(strength))
    folder.mkdir()
    torch.save(patch, folder / fooocus.PATCH)
    torch.save({"head": torch.randn(32, 5, 3, 3, generator=generator) * strength}, folder / fooocus.HEAD)
    return patch


def test_fooocus_adds_the_patch_to_weights_alone_and_its_head_to_conv_in(tmp_path, backbone_of):
    plain = backbone_of("sdxl4")
    patch = write_fooocus(tmp_path / "f", plain.unet, strength=0.01)
    patched = backbones.load(f"{tiny('sdxl4')}+fooocus={tmp_path / 'f'}")
    assert (patched.channels, patched.base.channels) == (9, 9)
    assert patched.base.digest != plain.base.digest
    names = fooocus.ldm_names(plain.unet)
    for name, before in plain.unet.named_parameters():
        after = patched.unet.get_parameter(name.replace("conv_in.", "conv_in.conv_in."))
        delta = fooocus.dequantise(*patch[f"diffusion_model.{names[name]}"])
        wanted = before + delta if name.endswith(".weight") else before
        assert torch.allclose(after, wanted, atol=1e-6), name

    head = patched.unet.conv_in
    constant = head(torch.cat([torch.zeros(1, 4, 8, 8), torch.full((1, 5, 8, 8), 0.7)], dim=1))
    assert constant.shape == (1, 32, 8, 8)
    inner = constant[:, :, 1:-1, 1:-1]
    assert (inner - inner.mean(dim=(2, 3), keepdim=True)).abs().max() < 1e-4
    alone = constant - head.conv_in(torch.zeros(1, 4, 8, 8))
    assert (alone - alone.mean(dim=(2, 3), keepdim=True)).abs().max() < 1e-4  # replicate padding: the border too


def test_zero_patch_and_head_leave_the_base_as_it_is(tmp_path, backbone_of):
    plain = backbone_of("sdxl4")
    write_fooocus(tmp_path / "f", plain.unet, strength=0.0)
    patched = backbones.load(f"{tiny('sdxl4')}+fooocus={tmp_path / 'f'}")
    sample = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    text, size = plain.encode_text(["a dog"]), plain.size_condition([(64, 64)], [(0, 0)], [(64, 64)])
    nine = torch.cat([sample, torch.randn(1, 5, 8, 8)], dim=1)
    with torch.no_grad():
        assert torch.equal(patched.predict(nine, 10, text, size), plain.predict(sample, 10, text, size))


def test_foreign_patch_and_wrong_head_are_refused(tmp_path, backbone_of):
    plain = backbone_of("sdxl4")
    write_fooocus(tmp_path / "f", plain.unet, strength=0.0)
    with pytest.raises(ReportedError, match="E503 not-found: no inpaint_v26"):
        backbones.load(f"{tiny('sdxl4')}+fooocus={tmp_path}")
    torch.save({"head": torch.zeros(8, 5, 3, 3)}, tmp_path / "f" / fooocus.HEAD)
    with pytest.raises(ReportedError, match=r"shape \(8, 5, 3, 3\), \(32, 5, 3, 3\) was expected"):
        backbones.load(f"{tiny('sdxl4')}+fooocus={tmp_path / 'f'}")
    torch.save(
        {"diffusion_model.other.weight": (torch.zeros(1, dtype=torch.uint8), 0.0, 1.0)}, tmp_path / "f" / fooocus.PATCH
    )
    with pytest.raises(ReportedError, match=r"the patch holds diffusion_model\.other\.weight"):
        backbones.load(f"{tiny('sdxl4')}+fooocus={tmp_path / 'f'}")
