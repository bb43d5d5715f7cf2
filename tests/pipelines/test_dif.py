"""Two stages and one hand-over: METHODS 2.10 points 5, 8, 9 and 10; batches, presets, the small VAE."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny

import pipelines
from manifests.errors import ReportedError
from pipelines import crop, dif
from pipelines.denoise import denoise, make_scheduler, noise_level, prepare_frame, with_background, x0_of
from pipelines.settings import PRESETS, resolve
from tests.pipelines.conftest import box_mask, scene
from tests.pipelines.test_backbones import write_fooocus
from tests.tiny_models import tiny

SCHEDULERS = ("EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DDIMScheduler")


def test_steps_of_both_stages_add_up_and_follow_lambda():
    for steps in (1, 2, 3, 10, 30, 50):
        local = [
            resolve("paper", {"lambda_gch": k / 20, "num_inference_steps": steps}).local_steps() for k in range(21)
        ]
        assert local == sorted(local, reverse=True)
        assert (local[0], local[-1]) == (steps, 0)
        assert all(0 <= count <= steps for count in local)
    assert resolve("paper", {"num_inference_steps": 30}).local_steps() == 9
    assert PRESETS["released"].local_steps() == 20


def texts_for(backbone, count: int = 1):
    text = backbone.encode_text(["a photo of sks teapot"] * count)
    return dif.StageTexts(text, text, backbone.unconditional(count))


class Counted:
    """How often the UNet, encoder and decoder are called, and with which heights."""

    def __init__(self, backbone):
        self.calls = {"unet": [], "encode": [], "decode": []}
        self.hooks = [
            module.register_forward_pre_hook(lambda m, args, name=name: self.calls[name].append(args[0].shape[2]))
            for name, module in (
                ("unet", backbone.unet.conv_in), ("encode", backbone.vae.encoder), ("decode", backbone.vae.decoder),
            )
        ]  # fmt: skip

    def __enter__(self):
        return self.calls

    def __exit__(self, *error):
        for hook in self.hooks:
            hook.remove()


@pytest.mark.parametrize(("lambda_gch", "local"), [(0.0, 4), (0.5, 2), (1.0, 0)])
def test_each_end_of_lambda_runs_one_stage_and_no_round_trip(backbone_of, lambda_gch, local):
    backbone = backbone_of("sd9")
    picture, mask = scene(0, 64, 128), box_mask(64, 128)
    settings = resolve("paper", {"lambda_gch": lambda_gch, "num_inference_steps": 4, "resolution": 96})
    local_size, whole_size = dif.frame_sizes(backbone, mask, settings)
    assert local_size != whole_size
    with Counted(backbone) as calls:
        dif.paint(backbone, [picture], [mask], texts_for(backbone), [0], settings)
    assert calls["unet"] == [local_size[0] // 8] * local + [whole_size[0] // 8] * (4 - local)
    both = lambda_gch == 0.5
    # a stage encodes the masked picture; the hand-over decodes once and encodes the composite
    assert (len(calls["encode"]), len(calls["decode"])) == ((3, 2) if both else (1, 1))


@pytest.mark.parametrize("kind", ["sd9", "sdxl4"])
@pytest.mark.parametrize("preset", ["paper", "released"])
def test_presets_paint_inside_and_keep_the_scene_outside(backbone_of, kind, preset):
    backbone, picture, mask = backbone_of(kind), scene(1, 120, 100), box_mask(120, 100)
    steps = {"num_inference_steps": 3} | ({"switch_step": 2} if preset == "released" else {})
    painted = dif.paint(backbone, [picture], [mask], texts_for(backbone), [0], resolve(preset, steps))[0]
    far = crop.soft_mask(mask) == 0
    assert painted.image.shape == picture.shape
    assert (painted.image[far] == picture[far]).all()
    assert (painted.image[mask] != picture[mask]).any()


@pytest.mark.slow
def test_bytes_outside_the_blend_band_are_the_scenes_in_200_random_paintings(backbone_of):
    backbone, rng = backbone_of("sd9"), np.random.default_rng(0)
    texts, equal = texts_for(backbone), 0
    for number in range(200):
        height, width = (int(side) for side in rng.integers(24, 200, 2))
        mask = np.zeros((height, width), bool)
        y, x = rng.integers(0, height), rng.integers(0, width)
        match number % 4:
            case 0:  # one pixel
                mask[y, x] = True
            case 1:  # a box at a border
                mask[: y + 1, : x + 1] = True
            case 2:
                mask[y : y + rng.integers(1, height), x : x + rng.integers(1, width)] = True
            case 3:  # any shape
                mask = rng.random((height, width)) < rng.random() ** 4
                mask[y, x] = True
        share = (0.0, 0.5, 1.0)[number % 3]
        settings = resolve("paper", {"num_inference_steps": 2, "lambda_gch": share, "resolution": 32})
        picture = scene(number, height, width)
        painted = dif.paint(backbone, [picture], [mask], texts, [number], settings)[0].image
        far = crop.soft_mask(mask, crop.band_px(height, width)) == 0
        equal += painted.shape == picture.shape and bool((painted[far] == picture[far]).all())
        assert (painted[mask] != picture[mask]).any()
    print(f"{equal} of 200 paintings keep every byte outside the band")
    assert equal == 200


def test_batch_gives_each_job_what_it_gets_alone(backbone_of):
    backbone = backbone_of("sd4")
    pictures, masks = [scene(0), scene(1)], [box_mask(), np.roll(box_mask(), -8, 1)]
    settings = resolve("paper", {"num_inference_steps": 3})
    together = dif.paint(backbone, pictures, masks, texts_for(backbone, 2), [3, 4], settings)
    for number in range(2):
        alone = dif.paint(backbone, pictures[number : number + 1], masks[number : number + 1], texts_for(backbone),
                          [3 + number], settings)[0]  # fmt: skip
        assert np.abs(alone.image.astype(int) - together[number].image).max() <= 1


def test_small_vae_takes_the_hand_over_alone(backbone_of):
    backbone = backbone_of("sd9")
    torch.manual_seed(0)
    small = AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4, num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
    ).eval()  # fmt: skip
    settings = resolve("paper", {"num_inference_steps": 4, "lambda_gch": 0.5})
    with Counted(backbone) as calls:
        dif.paint(backbone, [scene()], [box_mask()], texts_for(backbone), [0], settings, switch_vae=small)
    assert (len(calls["encode"]), len(calls["decode"])) == (2, 1)


@pytest.mark.parametrize("kind", ["sd4", "sdxl9"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_x0_of_a_true_prediction_is_the_clean_picture(backbone_of, kind, name):
    backbone = backbone_of(kind)
    scheduler = make_scheduler(backbone, resolve("paper", {"scheduler": name, "num_inference_steps": 7}))
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(1, 4, 8, 8, generator=generator) for _ in range(2))
    for step in range(7):
        a, b = noise_level(scheduler, step)
        latents = a * clean + b * noise
        assert torch.allclose(x0_of(scheduler, step, latents, noise, "epsilon"), clean, atol=2e-4)
        length = (a**2 + b**2) ** 0.5
        velocity = (a * noise - b * clean) / length
        assert torch.allclose(x0_of(scheduler, step, latents, velocity, "v_prediction"), clean, atol=2e-4)


def test_background_is_exact_outside_and_untouched_inside():
    generator = torch.Generator().manual_seed(0)
    z, known, noise = (torch.randn(1, 4, 8, 8, generator=generator) for _ in range(3))
    ones, zeros = torch.ones(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    assert torch.equal(with_background(z, known + 3.0 * noise, ones), z)
    assert torch.equal(with_background(z, known + 3.0 * noise, zeros), known + 3.0 * noise)
    assert torch.equal(with_background(z, known + 0.0 * noise, zeros), known)


def test_latent_mask_is_one_wherever_any_pixel_is(backbone_of):
    backbone = backbone_of("sd9")
    mask = (torch.rand(3, 1, 64, 48, generator=torch.Generator().manual_seed(0)) < 0.01).float()
    cells = mask.reshape(3, 1, 8, 8, 6, 8).amax(dim=(3, 5))
    assert torch.equal(backbone.latent_mask(mask), cells)
    assert 0 < cells.sum() < cells.numel()


def test_clean_background_stays_bit_equal_through_every_step(backbone_of):
    backbone, mask = backbone_of("sd9"), box_mask(64, 64)
    settings = resolve("dreaminpainter", {"num_inference_steps": 3, "reference": None})
    generators = [torch.Generator().manual_seed(0)]
    frame = prepare_frame(backbone, [scene(0, 64, 64)], [mask], generators, settings)
    outcome = denoise(backbone, frame, lambda z, t, step: z, settings, generators)
    outside = (frame.latent_mask == 0).expand(1, 4, 8, 8)
    assert torch.equal(outcome.latents[outside], frame.clean[outside])
    assert not torch.equal(outcome.latents, frame.clean)


def test_scheduler_of_several_calls_a_step_is_refused(backbone_of):
    with pytest.raises(ReportedError, match="HeunDiscreteScheduler takes more than one call a step"):
        make_scheduler(backbone_of("sd9"), resolve("paper", {"scheduler": "HeunDiscreteScheduler"}))


def test_settings_are_closed_and_name_what_is_wrong():
    with pytest.raises(ReportedError, match=r"E502 .*no preset 'papre'"):
        resolve("papre")
    with pytest.raises(ReportedError, match=r"masks.kind: .*'none'"):
        resolve("dreamcom", {"masks.kind": "none"})
    assert resolve("dreamcom", {"masks.kind": "pre_softmax"}).masks.kind == "pre_softmax"
    for preset in PRESETS.values():
        assert resolve("plain", dataclasses.asdict(preset)) == preset


def test_masked_painting_leaves_stock_processors_behind(backbone_of):
    backbone = backbone_of("sd9")
    settings = resolve("dreamcom", {"num_inference_steps": 2})
    masked = dif.paint(backbone, [scene()], [box_mask()], texts_for(backbone), [0], settings)[0]
    assert {type(p).__name__ for p in backbone.unet.attn_processors.values()} == {"AttnProcessor2_0"}
    plain = dif.paint(
        backbone, [scene()], [box_mask()], texts_for(backbone), [0], dataclasses.replace(settings, masks=None)
    )
    assert not torch.equal(masked.latents, plain[0].latents)


def test_last_steps_of_a_patched_base_run_on_the_base_alone(backbone_of):
    assert PRESETS["released"].patched_steps() == 25  # METHODS 2.5: 25 calls, then the last 5
    patched, base = backbone_of("sdxl9"), backbone_of("sdxl4")
    settings = resolve("plain", {"num_inference_steps": 10, "fooocus_time": 0.5})
    calls = {"patched": [], "base": []}
    hooks = [
        unet.register_forward_pre_hook(lambda m, args, name=name: calls[name].append(args[0].shape[1]))
        for name, unet in (("patched", patched.unet), ("base", base.unet))
    ]
    dif.paint(patched, [scene()], [box_mask()], texts_for(patched), [0], settings, unpatched=base.unet)
    for hook in hooks:
        hook.remove()
    assert calls == {"patched": [9] * 6, "base": [4] * 4}
    assert patched.unet is not base.unet
    with pytest.raises(ReportedError, match=r"fooocus_time: 1\.5 found, 0 to 1 expected"):
        resolve("released", {"fooocus_time": 1.5})


def test_base_without_the_patch_is_loaded_where_the_last_steps_need_it(tmp_path, backbone_of):
    write_fooocus(tmp_path / "patch", backbone_of("sdxl4").unet, strength=0.02)
    painter = pipelines.load(None, base=f"{tiny('sdxl4')}+fooocus={tmp_path / 'patch'}")
    steps = {"num_inference_steps": 2, "prompt": "a teapot", "background": "fresh"}
    plain = painter(scene(), (40, 32, 72, 64), preset="plain", **steps)
    assert painter._unpatched is None
    last = painter(scene(), (40, 32, 72, 64), preset="plain", fooocus_time=0.0, **steps)
    own, base = painter._unpatched.state_dict(), backbone_of("sdxl4").unet.state_dict()
    assert all(torch.equal(own[name], base[name]) for name in base)
    assert not torch.equal(last.painted.latents, plain.painted.latents)
