"""The ablations: what they ask is what runs, and the answer follows the readings."""

from __future__ import annotations

import json

import pytest

import manifests
import trainer
from pipelines.settings import resolve
from tests.tour.conftest import dataforge, links_of, times_of
from tour import plain_things
from tour import study as studies
from tour.questions import QUESTIONS, TRAININGS
from tour.walk import PAINTING, TRAINING
from toyworld.judge import colour_in
from toyworld.subjects import SUBJECTS
from toyworld.words import COLOURS

STUDY = "study -o out --only self --subjects 2 --seeds 1 --scenes 1 --steps 2"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    done = dataforge(folder, STUDY)
    assert done.returncode == 0, done.stderr
    return folder / "out", done.stdout


def test_a_question_is_answered_for_each_of_its_arms(made):
    root, said = made
    rows = [line for line in said.splitlines() if line.startswith("| self |")]
    assert len(rows) == len(QUESTIONS["self"].arms)
    answers = json.loads((root / "self.json").read_text("utf-8"))
    assert [answer["pictures"] for answer in answers] == [2, 2]
    assert answers[0]["differences"] == {}
    assert "error" in answers[1]["differences"]
    assert len(links_of(root / "index.html")) == len(QUESTIONS["self"].arms)


def test_a_second_run_trains_and_paints_nothing(made):
    root, said = made
    before = times_of(root)
    done = dataforge(root.parent, STUDY)
    assert done.returncode == 0, done.stderr
    assert done.stdout == said
    assert before == times_of(root)


@pytest.mark.parametrize("name", QUESTIONS)
def test_what_is_asked_can_be_run(name):
    question = QUESTIONS[name]
    names = [arm.name for arm in question.arms]
    assert len(set(names)) == len(names) > 1
    for number, arm in enumerate(question.arms):
        assert arm.over in names[:number] if number else arm.over == ""
        resolve(arm.preset, {**PAINTING, **arm.settings})
        training = TRAININGS[arm.training]
        trainer.load_recipe(training.recipe, settings={**TRAINING, **training.settings})
    scenes = studies._suiting(question, SUBJECTS[:8], 2)
    assert {len(numbers) for numbers in scenes.values()} == {2}


def test_the_scenes_beside_another_of_the_class_have_one():
    question = QUESTIONS["cross"]
    for subject, numbers in zip(SUBJECTS, studies._suiting(question, SUBJECTS, 2).values(), strict=True):
        for number in numbers:
            scene, _ = question.places(number)
            assert [(t.shape, t.colour != subject.colour) for t in scene.things] == [(subject.shape, True)]


def answers_of(name: str, column: str, values):
    """Answers to a question whose arms' pictures have `values(arm number, subject number, scene)` in a column."""
    question = QUESTIONS[name]
    pictures = {
        arm.name: [
            studies._Picture(
                subject.name,
                (subject.name, 0, "", scene),
                "x.png",
                {**dict.fromkeys(studies.COLUMNS, 0.0), column: values(number, s, scene)},
            )
            for s, subject in enumerate(SUBJECTS[:8])
            for scene in range(6)
        ]
        for number, arm in enumerate(question.arms)
    }
    return list(studies._answers(name, question, pictures))


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        (lambda arm, subject, scene: float(arm == 1 or scene < 3), "helped"),
        (lambda arm, subject, scene: float(arm == 0 or scene < 3), "hurt"),
        # right in half of the subjects each: many pictures, and yet nothing that another subject need show
        (lambda arm, subject, scene: float(subject % 2 == arm), "cannot be told"),
        (lambda arm, subject, scene: 1.0, "cannot be told"),
    ],
)
def test_the_verdict_is_the_interval_of_the_paired_difference_over_subjects(values, verdict):
    plain, masked = answers_of("cross", "right", values)
    assert plain.verdict == ""
    assert masked.verdict == verdict


def test_less_error_is_a_help():
    _, masked = answers_of("self", "error", lambda arm, subject, scene: 20.0 - 5 * arm + subject)
    assert masked.differences["error"].value == -5
    assert masked.verdict == "helped"


def test_plain_things_are_unmarked_and_of_the_class_and_the_colour_asked_for(made, tmp_path):
    root, _ = made
    corpus = plain_things.with_plain_things(root / "subjects" / "corpus", tmp_path / "plain")
    assert manifests.validate(corpus, decode=True) == []
    with manifests.open(root / "subjects" / "corpus") as before, manifests.open(corpus) as after:
        assert list(before) == list(after)
        assert before.subjects == after.subjects
        for sample in after.samples(role="reg"):
            assert not sample.own_pixels
            named = [attribute.word for attribute in sample.attributes if attribute.category == "colour"]
            found = colour_in(after.image(sample), after.mask(sample))
            assert found == named[0] if named else found in COLOURS
            assert (after.image(sample) != before.image(before.record(sample.id))).any()
        for sample in after.samples(role="src"):
            assert after.image_bytes(sample) == before.image_bytes(before.record(sample.id))
    written = (corpus / "corpus.json").stat().st_mtime_ns
    plain_things.with_plain_things(root / "subjects" / "corpus", corpus)
    assert (corpus / "corpus.json").stat().st_mtime_ns == written
