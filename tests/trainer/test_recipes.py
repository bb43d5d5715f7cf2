"""Settings and presets; what each recipe draws, shows and is punished for (METHODS 2.4, 3.2 to 3.4, 4.5, 5)."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from manifests.errors import UsageError
from pipelines.reference import discriminative_tokens, reference_features
from trainer.batches import Batches, step_of
from trainer.keyed import rng
from trainer.recipes import NAMES, load_recipe


def first_step(job, micro_step: int = 0, subjects=None):
    batches = Batches(job.bank, job.recipe, subjects or job.subjects[:1], 1000)
    return step_of(batches[micro_step], job.backbone)


# settings


@pytest.mark.parametrize("name", NAMES)
def test_recipes_load_by_name_preset_and_file(name, tmp_path):
    assert load_recipe(name).name == name
    preset = "" if name == "dreaminpainter" else "preset: paper\n"  # of it nothing was published
    file = tmp_path / "mine.yaml"
    file.write_text(f"recipe: {name}\n{preset}rank: 7\n")
    assert load_recipe(str(file)).settings.rank == 7
    assert load_recipe(str(file), ["rank=9"]).settings.rank == 9
    if preset:
        assert load_recipe(f"{name}:paper").name == name


@pytest.mark.parametrize(
    ("name", "sets", "sentence"),
    [
        ("dreammix", ["ranks=4"], r"E502 .*dreammix: ranks: Extra inputs are not permitted"),
        ("dreammix", ["rank=0"], r"E502 .*rank: Input should be greater than or equal to 1"),
        ("dreammix", ["regular_prob=2", "mask=oval"], r"E502 .*regular_prob: .*; mask: "),
        ("dreammix", ["rank"], r"E501 .*--set takes key=value"),
        ("dreammix:mine", [], r"E502 .*dreammix has no preset 'mine'; there are released, paper"),
        ("dreaminpainter:paper", [], r"E502 .*dreaminpainter has no preset 'paper'; there are none"),
        ("dreamer", [], r"E503 .*no recipe 'dreamer'; there are dreambooth, dreamcom"),
        ("nowhere.yaml", [], r"E503 .*no recipe file nowhere.yaml"),
    ],
)
def test_wrong_settings_are_one_sentence(name, sets, sentence):
    with pytest.raises(UsageError, match=sentence) as caught:
        load_recipe(name, sets)
    assert "\n" not in str(caught.value)


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(ValidationError, match="frozen"):
        load_recipe("dreammix").settings.rank = 5


def test_dreammix_has_the_released_commands_values():
    settings = load_recipe("dreammix:released").settings
    assert (settings.object_weight, settings.background_weight, settings.regular_prob) == (1.5, 0.6, 0.3)
    assert (settings.rank, settings.lora_alpha, settings.learning_rate) == (4, 4, 1e-4)
    assert settings.lora_targets == ("to_k", "to_v", "to_out.0")
    assert (settings.max_train_steps, settings.gradient_accumulation_steps, settings.train_batch_size) == (1000, 4, 1)
    assert (settings.adam_weight_decay, settings.max_grad_norm, settings.lr_scheduler) == (1e-4, 1.0, "constant")
    assert (settings.reweight, settings.name_source_words, settings.snr_gamma) == ("squared", 0, None)
    assert (settings.variants, settings.regular_variants) == (10, 3)
    assert load_recipe("dreammix:paper").settings.reweight == "linear"


def test_dreamcom_presets_are_full_fine_tunes_and_differ_where_paper_and_release_do():
    paper, released = (load_recipe(f"dreamcom:{preset}").settings for preset in ("paper", "released"))
    for settings in (paper, released):
        assert (settings.method, settings.learning_rate, settings.max_train_steps) == ("full", 5e-6, 400)
        assert settings.adam_weight_decay == 1e-2
    assert (paper.cross_attention, paper.region_downsample, paper.loss) == ("paper", "max", "mean")
    assert (released.cross_attention, released.region_downsample, released.loss) == ("released", "nearest", "released")


# draws


def test_2_10_14_regular_pictures_come_with_their_probability(open_job):
    job = open_job("dreammix", regular_prob=0.3)
    subject = job.subjects[1]
    regular = {item.sample.id for item in subject.own + subject.regular}
    drawn = [job.recipe.draw(subject, number)[0].item.sample.id for number in range(10_000)]
    share = sum(name in regular for name in drawn) / 10_000
    assert regular >= {subject.own[0].sample.id}
    assert abs(share - 0.3) <= 3 * (0.3 * 0.7 / 10_000) ** 0.5
    never = load_recipe("dreammix", ["regular_prob=0"])
    assert not any(never.draw(subject, number)[0].item.sample.id in regular for number in range(500))
    import dataclasses

    alone = dataclasses.replace(subject, own=(), regular=())
    assert not any(job.recipe.draw(alone, number)[0].item.sample.id in regular for number in range(500))


@pytest.mark.parametrize("own", [0, 1, 40])
@pytest.mark.parametrize("preset", ["dreammix", "dreammix:paper", "dreammix:released"])
def test_2_4_regular_pictures_of_own_pixels_do_not_dilute_the_photographs(preset, own, balls):
    """However many there are, photographs are 1 - p of the draws; the share of the rest is p."""
    import dataclasses

    from manifests.corpus import open_corpus
    from trainer.data import select

    recipe = load_recipe(preset)
    with open_corpus(balls) as corpus:
        subject = recipe.keeps(select(corpus, recipe.settings)[0][1])
    copies = [
        dataclasses.replace(
            subject.own[0], sample=dataclasses.replace(subject.own[0].sample, id=f"red-ball/reg-{n:012x}")
        )
        for n in range(own)
    ]
    subject = dataclasses.replace(subject, own=tuple(copies), regular=subject.regular if own else ())
    draws = [recipe.draw(subject, number)[0].item for number in range(10_000)]
    photographs = sum(item in subject.photographs for item in draws) / 10_000
    print(f"{preset}, {own} pictures of own pixels: {photographs:.3f} of the draws are photographs")
    wanted = 1 - recipe.settings.regular_prob if own else 1
    assert abs(photographs - wanted) <= 3 * (0.3 * 0.7 / 10_000) ** 0.5 * (own > 0)


@pytest.mark.parametrize("name", ["dreambooth", "dreambooth:paper", "dreamcom", "dreamcom:released"])
def test_instance_pictures_are_the_photographs_alone(name, balls):
    from manifests.corpus import open_corpus
    from trainer.data import select

    recipe = load_recipe(name)
    with open_corpus(balls) as corpus:
        found = select(corpus, recipe.settings)[0][1]
    subject = recipe.keeps(found)
    assert found.own
    instance = [draw.item for number in range(50) for draw in recipe.draw(subject, number)[:1]]
    assert set(instance) == set(subject.photographs)


@pytest.mark.parametrize(("name", "off"), [("dreammix", "regular_prob=0"), ("dreambooth", "prior_weight=0")])
def test_going_without_regular_pictures_is_said_where_they_were_wanted(name, off, open_job):
    import dataclasses

    job = open_job(name)
    alone = dataclasses.replace(job.subjects[0], own=(), regular=())
    assert job.warnings == []
    assert job.recipe.goes_without(alone)
    assert load_recipe(name, [off]).goes_without(alone) is None


def test_every_picture_is_shown_once_a_pass_and_variants_and_prompts_vary(open_job):
    job = open_job("dreammix", regular_prob=0, name_source_words=0.5)
    subject = job.subjects[1]
    draws = [job.recipe.draw(subject, number)[0] for number in range(300)]
    for start in range(0, 300, 2):
        assert len({draw.item.sample.id for draw in draws[start : start + 2]}) == 2
    assert {draw.variant for draw in draws} == {0, 1}
    named = [draw.prompt for draw in draws if draw.item in subject.photographs]
    assert 0.35 < sum("red" in prompt for prompt in named) / len(named) < 0.65
    # each draw by its own key: whoever asks for the same number gets the same words
    assert [job.recipe.draw(subject, number)[0].prompt for number in (250, 7)] == [draws[250].prompt, draws[7].prompt]


def test_source_words_are_named_only_where_that_is_asked_for_and_the_adapter_says_so(balls, tmp_path):
    import trainer
    from pipelines.records import read_record
    from tests.tiny_models import tiny
    from tests.trainer.conftest import QUICK

    assert {load_recipe(name).settings.name_source_words for name in NAMES} == {0}
    settings = {**QUICK, "max_train_steps": 1, "name_source_words": 0.5}
    trainer.train(f"{balls}#red-ball", recipe="dreammix", base=tiny("sd9"), output=tmp_path, settings=settings)
    assert read_record(tmp_path / "red-ball").settings["name_source_words"] == 0.5


def test_5_total_is_instance_loss_plus_weight_times_prior_loss(open_job):
    job = open_job("dreambooth", prior_weight=0.7, train_batch_size=2)
    subject = job.subjects[0]
    draws = job.recipe.draw(subject, 0)
    assert [draw.share for draw in draws] == [1.0, 0.7]
    assert [draw.item in subject.regular for draw in draws] == [False, True]
    step = first_step(job, subjects=[subject])
    with torch.no_grad():
        losses = job.recipe.weighted_loss(step)
    total = (losses * step.share).sum()
    instance, prior = losses[::2].mean(), losses[1::2].mean()
    torch.testing.assert_close(total, instance + 0.7 * prior, rtol=1e-6, atol=1e-7)


def test_5_without_a_prior_weight_only_the_instance_loss_is_left(open_job):
    job = open_job("dreambooth", prior_weight=0.0)
    step = first_step(job)
    assert len(step.latents) == 1
    assert step.share.tolist() == [1.0]


def test_min_snr_multiplies_whole_items_and_keeps_the_weights_inside(open_job):
    plain, capped = open_job("dreammix"), open_job("dreammix", snr_gamma=5.0)
    step = first_step(plain)
    with torch.no_grad():
        ratio = capped.recipe.weighted_loss(step) / plain.recipe.weighted_loss(step)
    alpha = plain.backbone.alphas_cumprod[step.timesteps]
    torch.testing.assert_close(ratio, torch.clamp(5 * (1 - alpha) / alpha, max=1.0), rtol=1e-4, atol=0)


# DreamCom


def test_3_4_background_cells_get_nothing_from_the_text_in_training(open_job):
    job = open_job("dreamcom")
    detach = job.recipe.attach(job.backbone)
    step = first_step(job)
    job.recipe.prepare(step)
    seen = {}
    name, layer = next((n, m) for n, m in job.backbone.unet.named_modules() if n.endswith("attn2"))
    layer.to_out[0].register_forward_hook(lambda _, inputs, output: seen.update(before=inputs[0], after=output))
    with torch.no_grad():
        step.predict(step.noisy())
    outside = step.region.reshape(1, -1)[0] == 0
    assert 0 < outside.sum() < len(outside), name
    assert seen["before"][0, outside].abs().max() == 0
    torch.testing.assert_close(seen["after"][0, outside], layer.to_out[0].bias.expand(int(outside.sum()), -1))
    assert seen["before"][0, ~outside].abs().min() > 0
    detach()


def test_3_8_5_training_masks_every_cross_attention_and_no_self_attention(open_job):
    job = open_job("dreamcom")
    detach = job.recipe.attach(job.backbone)
    kinds = {name: type(p).__name__ for name, p in job.backbone.unet.attn_processors.items()}
    assert {kind for name, kind in kinds.items() if "attn2" in name} == {"RegionalCross"}
    assert {kind for name, kind in kinds.items() if "attn1" in name} == {"Unmasked"}
    detach()
    assert {type(p).__name__ for p in job.backbone.unet.attn_processors.values()} == {"AttnProcessor2_0"}


def test_processors_replaced_by_another_library_stop_the_run(open_job):
    job = open_job("dreamcom")
    job.recipe.attach(job.backbone)
    job.backbone.unet.fuse_qkv_projections()
    with pytest.raises(UsageError, match=r"E605 .*FusedAttnProcessor2_0"):
        job.recipe.prepare(first_step(job))


def test_3_4_released_text_is_38_positions_of_the_prompt_then_38_of_background(open_job):
    job = open_job("dreamcom:released", method="lora")
    states = job.recipe.text(job.backbone, ["a photo of sks ball"]).tokens[0]
    empty, prompt, background = job.backbone.encode_text(["", "a photo of sks ball", "background"]).tokens
    assert states.shape == prompt.shape == (77, 32)
    assert torch.equal(states[0], empty[0])
    assert torch.equal(states[1:39], prompt[1:39])
    assert torch.equal(states[39:77], background[1:39])
    item = job.subjects[0].photographs[0]
    assert torch.equal(job.bank.text(item.prompts[0])["tokens"], states)


def test_3_8_7_the_inpaint_mask_is_the_box_without_its_padding(open_job):
    job = open_job("dreamcom", variants=8)
    padded = 0
    for item in job.subjects[0].photographs:
        for variant in range(8):
            view = job.bank.view(item, variant)
            painted = view["mask"][0].nonzero()
            (y0, x0), (y1, x1) = painted.min(0).values, painted.max(0).values
            assert view["mask"][0, y0 : y1 + 1, x0 : x1 + 1].all()
            padded += bool((view["valid"] == 0).any())
    assert padded


# DreamInpainter


def joint_step(job, whole: bool):
    from trainer.data import pooled

    pool = pooled(job.subjects, "joint")
    for number in range(200):
        if job.recipe.draw(pool, number)[0].whole == whole:
            return first_step(job, number, [pool])
    raise AssertionError("no draw of that mode")


@pytest.fixture
def inpainter(open_job):
    job = open_job("dreaminpainter", tokens=4, text_dropout=0.0)
    detach = job.recipe.attach(job.backbone)
    yield job
    detach()


def test_4_8_6_main_mode_leaves_the_rest_of_the_picture_clean(inpainter):
    step = joint_step(inpainter, whole=False)
    noisy = inpainter.recipe.noisy(step)
    outside = (step.mask == 0).expand_as(noisy)
    assert torch.equal(noisy[outside], step.latents[outside])
    assert not torch.equal(noisy[~outside], step.latents[~outside])
    whole = joint_step(inpainter, whole=True)
    assert (inpainter.recipe.noisy(whole) != whole.latents).all()


@pytest.mark.parametrize("whole", [False, True])
def test_4_8_6_the_loss_is_where_the_noise_is(inpainter, whole):
    step = joint_step(inpainter, whole)
    painted = step.mask if not whole else torch.ones_like(step.mask)
    seen = []
    hook = inpainter.backbone.unet.conv_out.register_forward_hook(
        lambda _, __, output: seen.append(output.detach().requires_grad_()) or seen[-1]
    )
    loss = inpainter.recipe.weighted_loss(step)
    hook.remove()
    (gradient,) = torch.autograd.grad(loss.sum(), seen[-1])
    assert (gradient[painted.expand_as(gradient) == 0] == 0).all()
    assert (gradient[painted.expand_as(gradient) == 1] != 0).all()


def test_4_5_modes_come_with_their_texts_and_shares(inpainter):
    from trainer.data import pooled

    pool = pooled(inpainter.subjects, "joint")
    draws = [inpainter.recipe.draw(pool, number)[0] for number in range(4000)]
    whole = [draw for draw in draws if draw.whole]
    assert abs(len(whole) / 4000 - 0.2) <= 3 * (0.2 * 0.8 / 4000) ** 0.5
    assert {draw.prompt for draw in draws if not draw.whole} == {"ball"}
    assert all(draw.prompt == draw.item.sample.caption for draw in whole)
    dropped = load_recipe("dreaminpainter", ["text_dropout=1"]).draw(pool, 0)[0]
    assert dropped.prompt == ""


def test_4_8_9_reference_gradients_reach_the_denoisers_own_weights(inpainter):
    step = joint_step(inpainter, whole=False)
    unet = inpainter.backbone.unet
    unet.requires_grad_(True)
    features = reference_features(inpainter.backbone, step.extras["reference"], step.text, step.size)
    discriminative_tokens(features, 4).sum().backward()
    assert unet.conv_in.weight.grad.abs().max() > 0
    assert unet.up_blocks[0].resnets[0].conv1.weight.grad is None


def test_frozen_features_are_those_of_the_frozen_base(open_job):
    job = open_job("dreaminpainter", tokens=4, features="frozen")
    item = job.subjects[0].photographs[0]
    view = job.bank.view(item, 0)
    live = open_job("dreaminpainter", tokens=4).bank.view(item, 0)
    with torch.no_grad():
        text = job.backbone.encode_text(["ball"])
        wanted = reference_features(job.backbone, live["reference_mean"][None], text, None)
    torch.testing.assert_close(view["features"], wanted[0])


def test_frozen_features_of_another_class_noun_are_another_entry(balls, tmp_path, open_job):
    import dataclasses

    frozen, live = open_job("dreaminpainter", tokens=4, features="frozen"), open_job("dreaminpainter", tokens=4)
    item = frozen.subjects[0].photographs[0]
    renamed = dataclasses.replace(item, sample=dataclasses.replace(item.sample, class_noun="globe"))
    assert frozen.bank.view_path(renamed) != frozen.bank.view_path(item)
    assert live.bank.view_path(renamed) == live.bank.view_path(item)


def test_more_tokens_than_there_are_is_said_before_anything_is_computed(open_job):
    with pytest.raises(UsageError, match=r"E502 .*tokens: 24 of 16 at 64 px"):
        open_job("dreaminpainter")


def test_masks_are_of_every_precision(inpainter):
    from trainer.views import View

    ys, xs = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    disc = ((ys - 30) ** 2 + (xs - 30) ** 2 <= 144).numpy()
    view = View(None, disc, (64, 64), (0, 0))
    areas = {int(inpainter.recipe.mask(view, rng(n)).sum()) for n in range(60)}
    assert int(disc.sum()) in areas
    assert 25 * 25 in areas
    assert len(areas) > 4
