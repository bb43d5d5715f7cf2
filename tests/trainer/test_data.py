"""Which pictures a run sees, and under which prompts."""

from __future__ import annotations

import dataclasses

import pytest

from manifests.corpus import open_corpus
from manifests.errors import NotFoundError, UsageError
from tests.manifests import corpora
from tests.trainer.conftest import drawn, write_balls
from trainer.data import identifier_warning, pooled, select, with_identifier
from trainer.job import Job
from trainer.recipes import load_recipe

PLAIN = load_recipe("dreambooth").settings


def test_photographs_train_under_the_identifier_own_pixels_too_and_made_pictures_under_their_prompt(balls):
    with open_corpus(balls) as corpus:
        subjects, left_out = select(corpus, PLAIN)
    assert [subject.id for subject in subjects] == ["blue-ball", "red-ball"]
    assert left_out == {}
    red = subjects[1]
    assert {item.prompts for item in red.photographs} == {("a photo of sks ball",)}
    assert [item.prompts for item in red.own] == [("a photo of a green sks ball",)]
    assert {item.prompts[0] for item in red.regular} == {"a photo of a green ball", "a photo of a blue ball"}
    assert all(item.sample.id.startswith("class-ball/") for item in red.regular)


def test_own_pixels_can_train_under_the_class_prompt(balls):
    settings = load_recipe("dreambooth", ["own_pixels_prompt=class"]).settings
    with open_corpus(balls) as corpus:
        subjects, _ = select(corpus, settings)
    assert subjects[1].own == ()
    assert "a photo of a green ball" in [item.prompts[0] for item in subjects[1].regular if item.sample.own_pixels]


def test_the_source_colour_is_named_before_the_identifier(balls):
    settings = load_recipe("dreammix", ["name_source_words=0.5"]).settings
    with open_corpus(balls) as corpus:
        subjects, _ = select(corpus, settings)
    assert subjects[1].photographs[0].prompts == ("a photo of sks ball", "a photo of red sks ball")


def test_references_keep_the_first_photographs_and_what_was_made_from_them(tmp_path):
    with open_corpus(write_balls(tmp_path / "corpus", subjects=1, photographs=4)) as corpus:
        everything = select(corpus, PLAIN)[0][0]
        kept = [select(corpus, PLAIN, references=number)[0][0] for number in (1, 2, 3, 4)]
    for number, subject in enumerate(kept, 1):
        assert subject.photographs == everything.photographs[:number]
        parents = {parent for item in subject.own for parent in item.sample.parents}
        assert parents <= {item.sample.id for item in subject.photographs}
    assert kept[-1].own == everything.own != ()
    assert {bool(subject.own) for subject in kept} == {True, False}


def test_ids_name_subjects_or_photographs(balls):
    with open_corpus(balls) as corpus:
        (red,) = select(corpus, PLAIN, asked=["red-ball"])[0]
        name = red.photographs[1].sample.id
        (one,) = select(corpus, PLAIN, asked=[name])[0]
        assert [item.sample.id for item in one.photographs] == [name]
        with pytest.raises(NotFoundError, match="E503"):
            select(corpus, PLAIN, asked=["red-ball/src-0123456789ab"])


def test_a_subject_without_accepted_photographs_is_an_error_when_named_and_reported_when_not(tmp_path):
    red = drawn("red-ball", "src", 1, "red")
    rows = [
        corpora.subject("red-ball", [red], class_noun="ball"),
        dataclasses.replace(corpora.subject("empty-ball", [red]), sample_ids=(), attributes=(), status="insufficient"),
    ]
    root = corpora.write_corpus(tmp_path / "corpus", corpora.content([red], rows, [corpora.ledger_row(red)]))
    with open_corpus(root) as corpus:
        subjects, left_out = select(corpus, PLAIN)
        assert [subject.id for subject in subjects] == ["red-ball"]
        assert left_out == {"empty-ball": "empty-ball: no accepted photograph to train on (status insufficient)."}
        with pytest.raises(UsageError, match=r"E611 nothing-to-train-on: empty-ball: no accepted photograph") as caught:
            select(corpus, PLAIN, asked=["empty-ball"])
    assert "dataforge show CORPUS#SUBJECT" in str(caught.value)


@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        ("a photo of a blue mug", "a photo of a blue sks mug"),
        ("a mug beside a mug", "a mug beside a sks mug"),
        ("something blue", "something blue, sks mug"),
        ("a Mug by a smuggler", "a sks Mug by a smuggler"),
        ("a photo of an orange mug", "a photo of an orange sks mug"),
    ],
)
def test_identifier_stands_before_the_last_mention_of_the_noun(prompt, shown):
    assert with_identifier(prompt, "mug", "sks") == shown


def test_pooling_keeps_every_picture_once(balls):
    with open_corpus(balls) as corpus:
        subjects, _ = select(corpus, PLAIN)
    pool = pooled(subjects, "joint")
    assert pool.id == "joint"
    assert len(pool.photographs) == 4
    assert len(pool.regular) == 2
    assert pooled(subjects[:1], "joint") is subjects[0]


def test_an_identifier_of_several_tokens_is_told_with_its_tokens(open_job):
    assert identifier_warning(["sks</w>"], "sks") is None
    job: Job = open_job("dreambooth", identifier="plushie")
    (warning,) = job.warnings
    assert "identifier 'plushie' is 4 tokens ('pl', 'u', 'shi', 'e'), not one" in warning
    assert open_job("dreambooth").warnings == []
