"""The bank: right, computed once, shared, and never believed when damaged."""

from __future__ import annotations

import logging

import numpy as np
import torch

from manifests.corpus import open_corpus
from tests.manifests import corpora
from tests.trainer.conftest import drawn, speck, write_red_ball
from trainer.keyed import rng
from trainer.views import random_crop


def encodes(job) -> list[int]:
    """Counts pictures that go through the VAE from now on."""
    counted: list[int] = []
    job.backbone.vae.encoder.register_forward_hook(lambda _, inputs, __: counted.append(len(inputs[0])))
    job.backbone.text_encoders[0].register_forward_hook(lambda *_: counted.append(0))
    return counted


def files(job) -> dict[str, float]:
    return {path.name: path.stat().st_mtime_ns for path in job.bank.folder.rglob("*.safetensors")}


def test_a_view_holds_the_moments_of_its_crop_and_of_its_masked_crop(open_job):
    job = open_job("dreammix")
    red = job.subjects[1]
    item = red.photographs[0]
    for variant in (0, 1):
        view = job.bank.view(item, variant)
        key = rng(0, "view", item.sample.id, variant)
        with open_corpus(job.reference) as corpus:
            crop = random_crop(corpus.image(item.sample.id), corpus.mask(item.sample.id), 64, key)
        painted = job.recipe.mask(crop, key)
        pixels = torch.from_numpy(crop.image.astype(np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
        mask = torch.from_numpy(painted)[None, None].float()
        for name, expected in (("image", pixels), ("masked", pixels * (1 - mask))):
            moments = job.backbone.encode_image(expected)
            torch.testing.assert_close(view[f"{name}_mean"], moments.mode()[0])
            torch.testing.assert_close(view[f"{name}_std"], moments.std[0] * moments.scale)
        assert torch.equal(view["mask"], torch.nn.functional.max_pool2d(mask, 8)[0])
        assert view["size"].tolist() == [72, 96, *crop.crop_top_left, 64, 64]


def test_variants_differ_and_are_drawn_by_seed_sample_and_number(open_job):
    first, second = open_job("dreammix", variants=3), open_job("dreammix", variants=3, seed=5)
    item = first.subjects[0].photographs[0]
    views = [first.bank.view(item, variant) for variant in range(3)]
    assert len({view["mask"].numpy().tobytes() + view["size"].numpy().tobytes() for view in views}) > 1
    for variant in range(3):  # the run's seed draws from the bank, it does not change it
        assert torch.equal(views[variant]["masked_mean"], second.bank.view(item, variant)["masked_mean"])
    assert first.bank.view_path(item).name == second.bank.view_path(item).name
    other = open_job("dreammix", variants=3, view_seed=1)
    assert other.bank.view_path(item).name != first.bank.view_path(item).name


def test_a_second_start_computes_nothing(open_job, tmp_path):
    first = open_job("dreammix", bank=tmp_path / "bank")
    before = files(first)
    second = open_job("dreammix", bank=tmp_path / "bank")
    counted = encodes(second)
    second.bank.prepare(second.corpus, second.subjects, second.recipe, second.backbone)
    assert counted == []
    assert files(second) == before != {}


def test_what_subjects_and_runs_share_is_computed_once(open_job, tmp_path):
    bank = tmp_path / "bank"
    job = open_job("dreammix", bank=bank)
    pictures = {item.sample.id for subject in job.subjects for item in subject.items}
    assert len(list((bank / "views").iterdir())) == len(pictures) == 8  # 4 photographs, 2 own, 2 shared by both
    other = open_job("dreammix", bank=bank, learning_rate=1e-3, rank=8)
    assert len(list((bank / "views").iterdir())) == 8
    assert files(other) == files(job)
    open_job("dreambooth", bank=bank)  # other masks, other views; the texts are the same but for the colours named
    assert len(list((bank / "views").iterdir())) == 14  # it shows none of the subjects' own regular pictures


def test_a_damaged_entry_is_noticed_and_computed_again(open_job, tmp_path, caplog):
    job = open_job("dreammix", bank=tmp_path / "bank")
    path = job.bank.view_path(job.subjects[0].photographs[0])
    whole = path.read_bytes()
    corpora.flip(path, len(whole) - 40)
    counted = encodes(job)
    with caplog.at_level(logging.WARNING):
        job.bank.prepare(job.corpus, job.subjects, job.recipe, job.backbone)
    assert "is damaged and is computed again" in caplog.text
    assert counted
    assert path.read_bytes() == whole


def test_a_changed_picture_gets_a_new_entry(open_job):
    job = open_job("dreammix")
    item = job.subjects[0].photographs[0]
    import dataclasses

    changed = dataclasses.replace(item.sample, image=dataclasses.replace(item.sample.image, sha256="0" * 64))
    assert job.bank.view_path(dataclasses.replace(item, sample=changed)) != job.bank.view_path(item)


def test_a_base_with_four_channels_encodes_no_masked_pictures(open_job):
    job = open_job("dreammix", "sd4")
    assert "masked_mean" not in job.bank.view(job.subjects[0].photographs[0], 0)


def test_an_object_that_vanishes_is_left_out_with_a_sentence(tmp_path, open_job):
    vanishing = speck(2048)
    whole = drawn("red-ball", "src", 1, "red")
    job = open_job("dreammix", corpus=str(write_red_ball(tmp_path / "c", whole, vanishing)))
    assert [item.sample.id for item in job.subjects[0].photographs] == [whole.id]
    without, sentence = job.warnings
    assert without == "red-ball: trained without regular data (no regular pictures)."
    assert sentence.startswith(
        f"E612 object-vanishes: {vanishing.id}: its object of 1 px in 2048 x 2048 is gone at 64 px."
    )


def test_a_box_between_the_sampled_cells_is_said_once_a_picture_whether_or_not_the_bank_is_filled(tmp_path, open_job):
    between, whole = speck(64, size=4), drawn("red-ball", "src", 1, "red")
    corpus, bank = str(write_red_ball(tmp_path / "c", whole, between)), tmp_path / "bank"
    told = f"{between.id}: in 2 of 2 views at 64 px its box lies between the pixels that nearest looks at, and they "
    for _ in range(2):
        job = open_job("dreamcom:released", corpus=corpus, bank=bank, method="lora", scale_probability=0)
        assert job.warnings == [told + "train without text; set region_downsample: max."]
        assert not job.bank.view(next(i for i in job.subjects[0].items if i.sample.id == between.id), 0)["region"].any()
    for more in ({"region_downsample": "max"}, {"cross_attention": "none"}):
        job = open_job("dreamcom:released", corpus=corpus, bank=bank, method="lora", scale_probability=0, **more)
        assert job.warnings == []


def test_an_entry_made_without_masked_attention_is_not_taken_for_one_with(open_job, tmp_path):
    open_job("dreamcom", bank=tmp_path / "bank", cross_attention="none").run(lambda *_: None)
    open_job("dreamcom", bank=tmp_path / "bank").run(lambda *_: None)
