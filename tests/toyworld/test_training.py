"""The training: what it sees, that it goes on where it stopped, and that from nothing it gives a pipeline."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from toyworld import evaluate, model
from toyworld.autoencoder import autoencoder, encode
from toyworld.batches import draw, to_batch
from toyworld.denoiser import learning_rate
from toyworld.render import render
from toyworld.run import Run, train_denoiser
from toyworld.scenes import training_scene
from toyworld.settings import Settings
from toyworld.tokenizer import MAX_LENGTH, known_words, tokenizer
from toyworld.train import export
from toyworld.words import HELD_OUT, SEEN, caption


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def test_every_word_of_the_world_is_one_token_and_others_fall_apart():
    words = tokenizer()
    for word in known_words():
        assert len(words(word).input_ids) == 3, word
    assert len(words("chesterfield").input_ids) > 5
    assert words.decode(words("a photo of a red striped mug").input_ids, skip_special_tokens=True).split() == (
        ["a", "photo", "of", "a", "red", "striped", "mug"]
    )
    longest = max(
        caption(*combination, surface="grass", filler="little", photo=True) for combination in SEEN + HELD_OUT
    )
    assert len(words(longest).input_ids) <= MAX_LENGTH


def test_the_encoder_set_by_hand_computes_the_patch_transform_in_16_bits_too():
    vae = autoencoder()
    images = torch.from_numpy(np.stack([render(training_scene(0, number).scene).image for number in range(4)]))
    pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        assert (vae.encode(pixels).latent_dist.mode() - encode(pixels)).abs().max() < 1e-2
        vae.half().float()
        assert (vae.encode(pixels).latent_dist.mode() - encode(pixels)).abs().max() < 1e-2
        sampled = vae.encode(pixels).latent_dist.sample() - vae.encode(pixels).latent_dist.mode()
    assert sampled.abs().max() < 1e-3
    assert 0.5 < encode(pixels).std() < 1.5


def test_a_batch_is_what_the_pipeline_would_make_of_it():
    drawn = draw(0, 40, 6, 64)
    batch = to_batch(drawn, torch.zeros(6), torch.device("cpu"))
    painter = model.pipeline(autoencoder(), model.text_encoder(), model.unet())
    images = torch.from_numpy(drawn.images).permute(0, 3, 1, 2).float() / 127.5 - 1
    masks = torch.from_numpy(drawn.masks)[:, None].float()
    mask, masked = painter.prepare_mask_latents(
        masks, images * (masks < 0.5), 6, 64, 64, torch.float32, torch.device("cpu"), None, False
    )
    assert torch.equal(mask, batch.mask)
    assert (masked - batch.masked).abs().max() < 1e-2
    assert torch.allclose(batch.weight.sum((1, 2, 3)), torch.ones(6))
    assert (batch.weight[batch.mask > 0].mean() / batch.weight[batch.mask == 0].mean()).item() > 5
    late = to_batch(drawn, torch.ones(6), torch.device("cpu"))
    things = torch.nn.functional.max_pool2d(torch.from_numpy(drawn.things)[:, None].float(), 2) > 0
    empty = (batch.mask > 0) & ~things
    assert late.weight[empty].mean() > batch.weight[empty].mean()


def test_the_learning_rate_rises_stays_and_falls():
    settings = Settings()
    rates = [learning_rate(settings, step, progress) for step, progress in ((0, 0), (99, 0.01), (500, 0.3), (900, 1))]
    assert rates[0] < rates[1] == rates[2] == settings.learning_rate
    assert rates[3] < 0.02 * settings.learning_rate


def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path):
    straight = train_denoiser(tmp_path / "a", Settings(samples=48))
    begun = train_denoiser(tmp_path / "b", Settings(samples=48), stop_after=16)
    assert begun.spent[0, 1] == 16
    resumed = train_denoiser(tmp_path / "b", Settings(samples=48))
    assert resumed.progress == 1
    for name, weights in straight.denoiser.state_dict().items():
        assert torch.equal(weights, resumed.denoiser.state_dict()[name]), name
    assert not torch.equal(begun.denoiser.unet.conv_in.weight, straight.denoiser.unet.conv_in.weight)


def test_a_run_killed_while_it_saves_finds_the_state_before(tmp_path):
    run = Run(tmp_path, Settings(samples=32))
    run.save()
    run.path.with_suffix(".partial").write_bytes(run.path.read_bytes()[:1000])
    assert Run(tmp_path, Settings(samples=32)).progress == 0


def test_wilson_intervals():
    # Newcombe 1998, table I: 81 of 263, 15 of 148
    assert evaluate.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert evaluate.wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)


@pytest.mark.slow
def test_two_minutes_from_nothing_lower_the_loss_and_give_a_pipeline(tmp_path):
    command = [sys.executable, "-W", "ignore", "-m", "toyworld.train", str(tmp_path)]
    # about two minutes of one core
    options = ["--decoder-steps", "300", "--samples", "4000", "--report-every", "25"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    losses = [line["loss_48"] for line in lines if "loss_48" in line]
    assert len(losses) >= 3
    assert losses[-1] < 0.85 * losses[0]
    painter = model.load(tmp_path / "base")
    cases = [evaluate.case("test", number, (24, 46), SEEN) for number in range(2)]
    for asked, image in zip(cases, evaluate.paint(painter, cases, steps=4), strict=True):
        assert (image != asked.image).any()
    export(tmp_path, tmp_path / "again")
    assert model.load(tmp_path / "again").vae.config.latent_channels == 4
