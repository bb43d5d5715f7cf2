"""The base model and the judge that ship: they load, they paint, and what they paint is what was asked for."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch

from toyworld import evaluate, judge, model
from toyworld.card import card
from toyworld.marks import SUBJECT_MARKS, TRAINING_MARKS
from toyworld.run import Run
from toyworld.settings import Settings
from toyworld.words import HELD_OUT, SEEN


@pytest.fixture(scope="module")
def painter():
    torch.set_num_threads(1)
    return model.load()


@pytest.fixture(scope="module")
def reader():
    return judge.load()


@pytest.fixture(scope="module")
def cases():
    return [evaluate.case("test", number, (28, 46), SEEN) for number in range(24)]


@pytest.fixture(scope="module")
def painted(painter, cases):
    return evaluate.paint(painter, cases, steps=10)


def test_the_folder_is_small_and_says_what_it_is():
    files = [path for path in model.BASE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 15e6
    text = (model.BASE / "README.md").read_text("utf-8")
    for expected in ("CPU seconds", "samples", "all three", "Wilson", "judge"):
        assert expected in text


def test_it_is_a_genuine_inpainting_pipeline(painter):
    assert type(painter).__name__ == "StableDiffusionInpaintPipeline"
    assert painter.unet.config.in_channels == 9
    assert painter.vae.config.latent_channels == 4
    assert painter.unet.dtype == torch.float32
    assert painter.tokenizer("a photo of a red mug").input_ids[0] == painter.text_encoder.config.bos_token_id


def test_twenty_steps_take_less_than_a_second_of_cpu_an_image(painter, cases):
    began = time.process_time()
    evaluate.paint(painter, cases[:4], steps=20)
    assert (time.process_time() - began) / 4 < 1


def test_nothing_outside_the_box_changes_and_the_same_seed_gives_the_same_picture(painter, cases, painted):
    for asked, image in zip(cases, painted, strict=True):
        assert np.array_equal(image[~evaluate.box_mask(asked)], asked.image[~evaluate.box_mask(asked)])
        assert (image != asked.image).any()
    again = evaluate.paint(painter, cases, steps=10)
    assert all(np.array_equal(one, other) for one, other in zip(painted[:20], again[:20], strict=True))


def test_it_paints_what_the_caption_says(reader, cases, painted):
    found = evaluate.score(reader, cases, painted)
    assert found["colour"]["share"] >= 0.9  # chance: 1 in 7
    assert found["texture"]["share"] >= 0.8  # chance: 1 in 4
    assert found["shape"]["share"] >= 0.8  # chance: 1 in 6
    assert found["all"]["share"] >= 0.75  # chance: 1 in 168


def test_a_model_that_knows_nothing_does_not_pass_for_one_that_does(painter, reader, cases):
    torch.manual_seed(0)
    ignorant = model.pipeline(painter.vae, model.text_encoder(), model.unet())
    found = evaluate.score(reader, cases, evaluate.paint(ignorant, cases, steps=2))
    assert found["colour"]["share"] < 0.6
    assert found["all"]["share"] < 0.1


def test_the_judge_reads_renders_after_the_autoencoder_marks_it_never_saw_included(painter, reader):
    shown = [judge.exhibit("test", number, 24, 46) for number in range(150)]
    shown += [judge.exhibit("test marks", number, 24, 46, SUBJECT_MARKS, 1.0) for number in range(150)]
    back = evaluate.reconstruct(painter.vae, [each.image for each in shown])
    readings = reader.read(back, [each.box for each in shown])
    for question in judge.CLASSES:
        right = [getattr(r, question) == getattr(e.truth, question) for r, e in zip(readings, shown, strict=True)]
        assert np.mean(right) >= 0.98, question
    # the check can fail: what a broken decoder gives is not read
    noise = [np.random.default_rng(0).integers(0, 256, image.shape, np.uint8) for image in back]
    wrong = reader.read(noise, [each.box for each in shown])
    assert np.mean([r.shape == e.truth.shape for r, e in zip(wrong, shown, strict=True)]) < 0.5


def test_the_judge_chooses_among_the_marks_it_is_given(reader):
    shown = [judge.exhibit("test marks", number, 24, 46, SUBJECT_MARKS[:2], 1.0) for number in range(20)]
    images, boxes = [each.image for each in shown], [each.box for each in shown]
    among = [mark.name for mark in SUBJECT_MARKS[1:]]
    assert {reading.mark for reading in reader.read(images, boxes)} >= {SUBJECT_MARKS[0].name}
    assert {reading.mark for reading in reader.read(images, boxes, among)} <= {"", *among}


def test_the_colour_inside_a_mask_is_measured_without_a_network():
    shown = [judge.exhibit("test", number, 24, 46) for number in range(150)]
    measured = [judge.colour_in(each.image, each.mask) for each in shown]
    assert np.mean([colour == each.truth.colour for colour, each in zip(measured, shown, strict=True)]) > 0.93
    assert judge.colour_in(shown[0].image, np.zeros((64, 64), np.bool_)) == ""


def test_the_cases_of_the_scores_are_empty_where_something_is_to_be_painted():
    asked = evaluate.case("test", 5, (24, 46), HELD_OUT)
    assert asked.truth in HELD_OUT
    assert asked.truth[0] in asked.caption.split()
    x0, y0, x1, y1 = asked.box
    assert x1 - x0 == y1 - y0
    assert not evaluate.painted_thing(asked, asked.image).any()
    assert evaluate.halo(asked, asked.image) == (0.0, 0.0)
    brighter = asked.image.copy()
    brighter[y0:y1, x0:x1] = np.minimum(brighter[y0:y1, x0:x1].astype(int) + 10, 255)
    inside, jump = evaluate.halo(asked, brighter)
    assert 5 < inside <= 10
    assert jump > 2
    marked = evaluate.case("test", 5, (24, 46), SEEN, TRAINING_MARKS[0])
    assert TRAINING_MARKS[0].name in marked.caption.split()


def test_the_card_says_what_was_spent_and_how_good_it_is(tmp_path):
    Run(tmp_path, Settings()).save()
    torch.save({"step": 1234, "cpu_seconds": 56.7}, tmp_path / "decoder.pt")
    scores = json.loads((model.BASE / "scores.json").read_text("utf-8"))
    text = card(tmp_path, scores, model.BASE)
    assert "| 57 | 1234 steps" in text
    assert f"{scores['24-46 px']['all']['share']:.3f}" in text
    assert "{{" not in text
    # what ships was made of these scores
    table = text[text.index("## What it paints") :]
    assert table in (model.BASE / "README.md").read_text("utf-8")
