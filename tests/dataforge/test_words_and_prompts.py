"""Words become prompts as METHODS says; people outrank machines; shared pictures are made once."""

from __future__ import annotations

import pytest

import manifests
from dataforge import build
from dataforge.config import Compose, Gate, Recipe, Split
from dataforge.ingest.sources import SubjectSource
from dataforge.samples import Picture, WorkingSubject
from dataforge.stages.compose import compose_prompts, fill, instance_prompt
from dataforge.stages.gate import assign_splits, flag_near_duplicates, judge
from dataforge.words import corrected_words, without_words
from manifests.overrides import Overrides
from manifests.records import SubjectAttribute, Word
from tests.conftest import draw_subjects
from tests.dataforge.conftest import FAKE


def word(category: str, text: str, score: float = 0.9, origin: str = "source") -> SubjectAttribute:
    ids = ("mug/src-000000000000",) if origin == "source" else ()
    return SubjectAttribute(category=category, word=text, score=score, origin=origin, sample_ids=ids)


CLAY = [word("material", "clay"), word("colour", "brown", 0.8), word("colour", "teal", 0.0, "candidate")]


def prompts(dictionary, **settings):
    return [p.prompt for p in compose_prompts(Compose(**settings), "teapot", dictionary)]


def test_base_prompt_then_one_per_word_then_pairs_across_categories():
    assert prompts(CLAY, words="source", pairs=0) == [
        "a photo of a teapot",
        "a photo of a brown teapot",
        "a photo of a clay teapot",
    ]
    pairs = compose_prompts(Compose(pairs=9), "teapot", CLAY)[4:]
    assert {tuple(w.word for w in p.words) for p in pairs} == {("brown", "clay"), ("clay", "teal")}
    assert all(len({w.category for w in p.words}) == 2 for p in pairs)


@pytest.mark.parametrize(
    ("words", "expected"), [("source", {"brown", "clay"}), ("candidate", {"teal"}), ("both", {"brown", "clay", "teal"})]
)
def test_which_words_is_a_setting(words, expected):
    used = {w.word for p in compose_prompts(Compose(words=words), "teapot", CLAY) for w in p.words}
    assert used == expected


def test_no_identifier_in_regular_prompts_and_a_placeholder_in_the_instance_prompt():
    assert not any("{" in p for p in prompts(CLAY))
    assert instance_prompt(Compose(), "teapot") == "a photo of {identifier} teapot"


def test_same_words_and_seed_give_the_same_prompts_and_another_seed_other_pairs():
    many = [word(c, f"{c}{n}") for c in ("colour", "material", "pattern") for n in range(4)]
    assert prompts(many) == prompts(list(reversed(many)))
    assert prompts(many, seed=0) != prompts(many, seed=1)
    assert len(prompts(many, max_prompts=6, pairs=2)) == 6


def test_template_words_and_seed_are_on_the_record():
    prompt = compose_prompts(Compose(seed=7), "teapot", CLAY)[1]
    assert (prompt.template, prompt.seed) == ("a photo of a {words} {class_noun}", 7)
    assert [(w.category, w.word, w.origin) for w in prompt.words] == [("colour", "brown", "source")]


def test_articles_fit_the_word_that_follows():
    assert fill("a photo of a {words} {class_noun}", "umbrella", []) == "a photo of an umbrella"
    assert (
        fill("a photo of a {words} {class_noun}", "mug", [Word(category="colour", word="orange")])
        == "a photo of an orange mug"
    )


def test_candidates_a_generator_cannot_show_are_left_out_and_source_words_are_not():
    made = compose_prompts(Compose(), "teapot", CLAY, showable=[])
    assert {w.word for p in made for w in p.words} == {"brown", "clay"}


def test_people_outrank_the_describer():
    overrides = Overrides(strike_words=["brown"], add_words={"colour": ["rust"]}, add_candidates={"material": ["oak"]})
    words = corrected_words(CLAY, overrides, ["mug/src-000000000000"])
    assert [(w.category, w.word, w.origin) for w in words] == [
        ("colour", "rust", "source"),
        ("colour", "teal", "candidate"),
        ("material", "clay", "source"),
        ("material", "oak", "candidate"),
    ]


def picture(owner="mug", **values) -> Picture:
    return Picture("src", owner, "mug", id=f"{owner}/src-0", **{"mask_area": 0.3, "mask_quality": 0.9, **values})


def test_gate_keeps_flags_and_rejects_with_figures():
    kept, flagged, bad, tiny = (
        picture(doubts=("small",)),
        picture(mask_quality=0.5, doubts=("weak-edges",)),
        picture(mask_quality=0.05),
        picture(mask_area=0.0001),
    )
    judge([kept, flagged, bad, tiny], Gate(flag_below=0.6, reject_below=0.1))
    assert (kept.fault, kept.flags) == (None, ())
    assert (flagged.fault, flagged.flags) == (None, ("low-mask-quality", "weak-edges"))
    assert bad.fault is not None
    assert bad.fault.sentence.startswith("E213 low-mask-quality: mask_quality 0.05 < 0.1")
    assert tiny.fault is not None
    assert "0.01 % of the picture, allowed is 0.1 % to 98 %" in tiny.fault.sentence


def test_near_duplicates_are_found_across_subjects_within_the_bits_allowed():
    hashes = {"a": 0b0, "b": 0b111, "c": 0b1111, "d": 2**63}
    pictures = [picture(owner, perceptual_hash=value) for owner, value in hashes.items()]
    assert flag_near_duplicates(pictures, 3) == [("a", "b"), ("a", "d"), ("b", "c")]
    assert flag_near_duplicates([picture("a", perceptual_hash=0), picture("b", perceptual_hash=0b1111)], 3) == []


def test_split_follows_from_the_seed_and_moves_nobody_when_a_subject_is_added():
    def split(names, linked=(), share=0.3):
        subjects = [WorkingSubject(SubjectSource(name, name, "mug", "folder")) for name in names]
        assign_splits(subjects, linked, Split(validation=share))
        return {subject.slug: subject.split for subject in subjects}

    names = [f"subject{n}" for n in range(200)]
    first = split(names)
    assert 30 < sum(value == "validation" for value in first.values()) < 90
    assert {name: value for name, value in split([*names, "new"]).items() if name != "new"} == first
    linked = [("subject1", "subject2"), ("subject2", "subject3")]
    together = split(names, linked)
    assert together["subject1"] == together["subject2"] == together["subject3"]
    assert set(split(names, share=0.0).values()) == {"train"}


def test_regular_pictures_of_a_class_are_made_once_however_many_subjects_ask(tmp_path):
    photographs = draw_subjects(tmp_path / "in", subjects=3, photographs=2)
    for folder in photographs.iterdir():
        (folder / "overrides.yaml").write_text("class_noun: ball\n")
    recipe = Recipe.model_validate(
        {**FAKE, "compose": {"pairs": 0}, "generate": {**FAKE["generate"], "images_per_prompt": 2}}
    )
    build(photographs, tmp_path / "corpus", recipe, workers=0)
    with manifests.open(str(tmp_path / "corpus")) as corpus:
        regular = list(corpus.samples(role="reg"))
        assert {sample.subject for sample in regular} == {"class-ball"}
        assert len(regular) == 3 * 2  # base, red, wooden: two pictures each, not two for each subject
        ids = tuple(sample.id for sample in regular)
        assert all(subject.regular_ids == ids for subject in corpus.subjects.values())
        assert all({"ground", "segment"} <= {p.stage for p in sample.provenance} for sample in regular)
        assert not any(sample.own_pixels or sample.parents for sample in regular)
    with manifests.open(f"{tmp_path / 'corpus'}#red_ball0") as corpus:
        assert len(corpus) == 2 + 6


@pytest.mark.parametrize(
    ("caption", "left"),
    [
        ("a brown cat, at the left", "a cat, at the left"),
        ("a brown orange", "an orange"),
        ("a brown and white cat", "a white cat"),
        ("a black and brown cat", "a black cat"),
        ("a cat, brown, on a table", "a cat, on a table"),
        ("a brown-ish cat in  Brownsville", "a brown-ish cat in  Brownsville"),
    ],
)
def test_a_caption_without_a_struck_word(caption, left):
    assert without_words(caption, ["brown"]) == left
