"""A word trained along: where it starts, whose gradient it gets, what diffusers makes of its file, exact resume."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from diffusers import StableDiffusionInpaintPipeline, StableDiffusionXLInpaintPipeline

import trainer
from manifests.errors import UsageError
from pipelines import backbones
from pipelines.backbones.textual_inversion import EMBEDS_NAME, AddedWord, put_adapter_word
from pipelines.records import read_record
from tests.tiny_models import tiny
from tests.trainer.conftest import QUICK
from trainer.batches import step_of

PIPELINES = {"sd9": StableDiffusionInpaintPipeline, "sdxl9": StableDiffusionXLInpaintPipeline}
PROMPT = "a photo of {} ball on the grass"


def pipeline(kind: str):
    more = {"safety_checker": None} if kind == "sd9" else {}
    return PIPELINES[kind].from_pretrained(tiny(kind), local_files_only=True, **more)


@pytest.mark.parametrize("kind", ["sd9", "sdxl9"])
def test_the_word_starts_where_the_identifier_is(open_job, kind):
    job = open_job("dreammix", kind, train_token=True, subjects_at_once=2)
    with job.fit(job.subjects) as fit:
        prompts = {prompt for item in job.subjects[1].items for prompt in item.prompts}
        assert prompts == {
            f"a photo of {it}" for it in ("<sks> ball", "a green <sks> ball", "a green ball", "a blue ball")
        }
        with fit.alone(0), torch.no_grad():
            states = job.backbone.encode_text([PROMPT.format("<sks>")])
        plain = job.backbone.encode_text([PROMPT.format("sks")])
        assert torch.equal(states.tokens, plain.tokens)
        assert fit.token.rows[0].shape == (2, 32)
    with pytest.raises(UsageError, match=r"E602 .*a prompt has <sks>, the trained word of an adapter that is not on"):
        job.backbone.encode_text([PROMPT.format("<sks>")])


def test_each_subjects_loss_reaches_its_own_row_and_nothing_else_of_the_encoder(open_job):
    job = open_job("dreammix", train_token=True, subjects_at_once=2, regular_prob=0)
    with job.fit(job.subjects) as fit:
        step = step_of(next(fit.loader(1)), job.backbone, fit._encode)
        with torch.no_grad():
            for name, parameter in fit.parameters.items():
                if name.startswith("up."):
                    parameter.normal_()
        job.recipe.weighted_loss(step)[0].backward()
        (rows,) = fit.token.rows
        assert rows.grad[0].abs().max() > 0
        assert rows.grad[1].abs().max() == 0
        assert not any(parameter.requires_grad for parameter in job.backbone.text_encoders[0].parameters())


def train(corpus, output, kind: str = "sd9", **more):
    settings = {**QUICK, "train_token": True, "learning_rate": 1e-3, "token_learning_rate": 0.05, **more}
    return trainer.train(str(corpus), recipe="dreammix", base=tiny(kind), output=output, settings=settings)


@pytest.mark.parametrize("kind", ["sd9", "sdxl9"])
def test_diffusers_loads_word_and_adapter_and_paints_the_same(balls, tmp_path, kind):
    train(f"{balls}#red-ball", tmp_path, kind)
    folder = tmp_path / "red-ball"
    record = read_record(folder, full=True)
    assert record.identifier == "<sks>"
    assert EMBEDS_NAME in {file.path for file in record.files}
    assert "load_textual_inversion" in (folder / "README.md").read_text()

    ours = backbones.load(tiny(kind))
    plain = ours.encode_text([PROMPT.format("sks")])
    put_adapter_word(ours, folder, record.identifier)
    states = ours.encode_text([PROMPT.format("<sks>")])
    assert (states.tokens - plain.tokens).abs().max() > 1e-3

    pipe = pipeline(kind)
    pipe.load_lora_weights(folder, weight_name="pytorch_lora_weights.safetensors")
    if kind == "sd9":
        pipe.load_textual_inversion(folder)
        theirs = pipe.text_encoder(pipe.tokenizer([PROMPT.format("<sks>")], padding="max_length",
                                                  return_tensors="pt").input_ids)[0]  # fmt: skip
        assert torch.equal(states.tokens, theirs)
        return
    rows = safetensors.torch.load_file(folder / EMBEDS_NAME)
    for key, encoder, tokenizer in (
        ("clip_l", pipe.text_encoder, pipe.tokenizer),
        ("clip_g", pipe.text_encoder_2, pipe.tokenizer_2),
    ):
        pipe.load_textual_inversion(rows[key], token="<sks>", text_encoder=encoder, tokenizer=tokenizer)
    tokens, _, pooled, _ = pipe.encode_prompt(PROMPT.format("<sks>"), do_classifier_free_guidance=True)
    assert torch.equal(states.tokens, tokens)
    assert torch.equal(states.pooled, pooled)


def test_the_word_moves_at_its_own_rate_and_is_not_decayed(open_job):
    job = open_job("dreammix", train_token=True, learning_rate=1e-3, token_learning_rate=0.05, lr_scheduler="linear",
                   adam_weight_decay=0.5, regular_prob=0)  # fmt: skip
    job.subjects = job.subjects[:1]
    with job.fit(job.subjects) as fit:
        before = fit.token.rows[0].detach().clone()
        rates = []
        loader = fit.loader(3)
        for _ in range(3):
            fit.one_step(loader)
            rates.append([group["lr"] for group in fit.optimizer.param_groups])
        moved = (fit.token.rows[0] - before).abs().max()
    assert rates == [pytest.approx([1e-3 * f, 0.05 * f]) for f in (1, 2 / 3, 1 / 3)]
    # AdamW's first steps are as long as the rate; the up matrices start at zero, so the first gradient is
    assert 0.01 < moved <= 0.05 * 2


def test_two_subjects_together_are_two_runs_apart(balls, tmp_path):
    more = {"max_train_steps": 6, "checkpointing_steps": 6, "lora_targets": ["to_k", "to_v", "conv1", "time_emb_proj"]}
    train(balls, tmp_path / "together", subjects_at_once=2, **more)
    train(balls, tmp_path / "apart", subjects_at_once=1, **more)
    for name in ("blue-ball", "red-ball"):
        for file in (EMBEDS_NAME, "pytorch_lora_weights.safetensors"):
            together, apart = (
                safetensors.torch.load_file(tmp_path / place / name / file) for place in ("together", "apart")
            )
            assert together.keys() == apart.keys()
            assert max((together[key] - apart[key]).abs().max() for key in apart) <= 1e-3
    first, second = (
        safetensors.torch.load_file(tmp_path / "together" / name / EMBEDS_NAME) for name in ("blue-ball", "red-ball")
    )
    assert (first["<sks>"] - second["<sks>"]).abs().max() > 1e-3


def test_a_file_that_is_no_row_of_the_word_is_refused(tmp_path):
    backbone = backbones.load(tiny("sd9"))
    safetensors.torch.save_file({"<sks>": torch.zeros(7)}, tmp_path / EMBEDS_NAME)
    with pytest.raises(UsageError, match=r"E603 .*does not hold a row of '<sks>' for this base"):
        put_adapter_word(backbone, tmp_path, "<sks>")
    with pytest.raises(UsageError, match=r"E502 .*'sks</w>' is a word of the base's vocabulary already"):
        AddedWord(backbone, "sks</w>")
    put_adapter_word(backbone, None, "")
    assert backbone.added_word is None


def test_validation_pictures_are_painted_with_each_subjects_own_word(balls, tmp_path):
    shown = {"validation_steps": 3, "validation_inference": 1, "validation_prompts": ["a photo of {identifier} ball"]}
    train(balls, tmp_path / "shown", subjects_at_once=2, **shown)
    train(balls, tmp_path / "plain", subjects_at_once=2)
    assert len(list((tmp_path / "shown").rglob("validation/*.png"))) == 2
    for name in ("blue-ball", "red-ball"):
        found = [(tmp_path / place / name / EMBEDS_NAME).read_bytes() for place in ("shown", "plain")]
        assert found[0] == found[1]


def test_a_recipe_without_an_identifier_in_its_texts_says_so(balls, tmp_path):
    with pytest.raises(UsageError, match=r"E502 .*train_token: the texts of dreaminpainter hold no identifier"):
        trainer.train(str(balls), recipe="dreaminpainter", base=tiny("sd9"), output=tmp_path,
                      settings={**QUICK, "tokens": 4, "train_token": True})  # fmt: skip
