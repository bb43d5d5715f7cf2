"""Answers of vision-language models: what is read, what is refused, and that a model held to the schema always fits."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from dataforge.backends.answers import (
    AnswerError,
    answer_schema,
    check_prompt,
    description_of,
    longest_answer,
    prompt_schema,
    read_answer,
)
from dataforge.backends.asking import Question, describe_all, write_all
from dataforge.backends.vlm import Vlm
from dataforge.model_config import Answer
from dataforge.protocols import Description, Look
from manifests.errors import Fault
from manifests.overrides import CATEGORIES
from tests.contracts.test_backends import photos
from tests.models.tiny import tiny

LIMITS = Answer()
GOOD = {"has": {"colour": ["red", "white"]}, "could": {"material": ["oak"]}, "captions": ["A red mug on a table"]}
SCHEMA = answer_schema(1, LIMITS)


def text(**changes: object) -> str:
    return json.dumps(GOOD | changes)


@pytest.mark.parametrize("form", ["{}", "```json\n{}\n```", "```\n{}\n```", "\ufeff{}", "  {}\n"])
def test_an_object_that_fits_is_read_bare_or_fenced(form):
    assert read_answer(form.replace("{}", text()), SCHEMA) == GOOD


REFUSED = {
    "empty": ("", "is empty"),
    "prose": (f"Sure! {text()}", "no JSON object"),
    "prose after": (f"{text()} Anything else?", "no JSON object"),
    "cut": (text()[:-5], "no JSON object"),
    "cut and marked so": (f"(cut off by its length) {text()}", "no JSON object"),
    "two objects": (text() * 2, "no JSON object"),
    "a list": ("[]", "object expected"),
    "nothing": ("null", "object expected"),
    "doubled key": ('{"has": {}, "has": {}, "could": {}, "captions": ["A red mug on a table"]}', "stands twice"),
    "doubled category": (text().replace('"has": {', '"has": {"colour": ["blue"], '), "stands twice"),
    "NaN": (text(has={"colour": [float("nan")]}), "NaN is no value"),
    "infinity": (text(has={"colour": [float("inf")]}), "Infinity is no value"),
    "number": (text(has={"colour": [7]}), "numbers are not asked for"),
    "long number": ('{"has": ' + "9" * 100_000 + "}", "numbers are not asked for"),
    "deep": ("[" * 100_000 + "]" * 100_000, "nested deeper"),
    "huge": (text(captions=["a" * 300_000]), "longer than"),
    "long word": (text(has={"colour": ["x" * 201]}), "does not fit"),
    "foreign category": (text(has={"__key__": ["red"]}), "'__key__' is not asked for"),
    "foreign key": (text(path="/etc/passwd"), "'path' is not asked for"),
    "lacks captions": (json.dumps({"has": {}, "could": {}}), "'captions' is missing"),
    "too few captions": (text(captions=[]), "1 to 1 entries expected"),
    "too many words": (text(has={"colour": ["red"] * 99}), "entries expected"),
    "word of the wrong kind": (text(has={"colour": "red"}), "array expected"),
    "lone surrogate": (text().replace("red mug", "\\ud800 mug"), "does not fit"),
    "script": (text(captions=["<script>alert(1)</script>"]), "does not fit"),
    "formula": (text(captions=['=HYPERLINK("http://x")']), "does not fit"),
    "template": (text(has={"colour": ["{identifier}"]}), "does not fit"),
    "line break": (text(captions=["A red mug\non a table"]), "does not fit"),
    "control sign": (text(captions=["A red mug \x1b[2J here"]), "does not fit"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_words_that_can_be_told_to_the_model(case):
    reply, reason = REFUSED[case]
    with pytest.raises(AnswerError, match=reason.replace("(", r"\(")) as caught:
        read_answer(reply, SCHEMA)
    str(caught.value).encode("utf-8", "backslashreplace")
    assert len(str(caught.value)) < 200


def test_an_answer_is_asked_for_once_more_with_what_was_wrong():
    asked: list[Question] = []

    def ask(questions):
        asked.extend(questions)
        return ["nonsense" if not question.wrong else text() for question in questions]

    look = Look(class_noun="mug", scenes={"a": b""}, cutouts={"a": b""})
    (described,) = describe_all(ask, [look], photographs=4, limits=LIMITS)
    assert isinstance(described, Description)
    assert len(asked) == 2
    assert "no JSON object" in asked[1].wrong
    assert asked[1].said == "nonsense"


def test_words_of_groups_are_joined_with_the_photographs_that_support_them():
    look = Look(class_noun="mug", scenes=dict.fromkeys("abc", b""), cutouts=dict.fromkeys("abc", b""))
    first = {"has": {"colour": ["red", "white"]}, "could": {"colour": ["blue"]}, "captions": ["One here", "Two here"]}
    second = {"has": {"colour": ["red"]}, "could": {"colour": ["white", "blue"]}, "captions": ["Three here"]}
    described = description_of(look, [(["a", "b"], first), (["c"], second)])
    words = {(word.word, word.origin): word for word in described.words}
    assert words["red", "source"].score == 1.0
    assert words["red", "source"].sample_ids == ("a", "b", "c")
    assert words["white", "source"].score == pytest.approx(0.45)
    assert words["white", "source"].sample_ids == ("a", "b")
    assert ("white", "candidate") not in words
    assert words["blue", "candidate"].sample_ids == ()
    assert described.captions == {"a": "One here", "b": "Two here", "c": "Three here"}


@pytest.mark.parametrize(
    ("prompt", "fits"),
    [
        ("a photo of a red, shiny mug on a desk", True),
        ("A photo of a\n red and shiny   Mug", True),
        ("a photo of a shiny mug", False),
        ("a photo of a red shiny muggle", False),
        ("a photo of a red shiny cup", False),
        ("a photo of {identifier} red shiny mug", False),
        ("red shiny mug " * 40, False),
    ],
)
def test_a_written_prompt_has_to_hold_its_words_and_the_noun(prompt, fits):
    checked = check_prompt(prompt, "mug", ("red", "shiny"))
    assert isinstance(checked, str) == fits
    assert "\n" not in str(checked)


def test_prompts_that_lack_their_words_twice_are_faults():
    replies = iter(
        [['{"prompt": "a photo of a cup, red"}', '{"prompt": "a red mug in rain"}'], ['{"prompt": "a mug here"}']]
    )
    first, second = write_all(lambda _: list(next(replies)), [("mug", ("red",)), ("mug", ("red",))])
    assert isinstance(first, Fault)
    assert second == "a red mug in rain"


def looks(count: int) -> list[Look]:
    from dataforge.backends.answers import look_at

    pictures = photos(2)
    look = look_at(pictures, [np.ones(pictures[0].image.shape[:2], bool)] * 2, 48)
    return [look] * count


def test_two_hundred_of_two_hundred_dictionaries_of_a_random_model_fit_the_schema_without_doubled_keys():
    limits = {"words": 2, "candidates": 1, "word_letters": 8, "caption_letters": 20}
    model = Vlm(str(tiny("vlm")), temperature=1.0, batch_size=200, max_side=48, answer=limits)
    replies: list[str] = []
    ask = model._ask

    def listen(questions):
        found = ask(questions)
        replies.extend(found)
        return found

    model._ask = listen
    start = time.process_time()
    described = model.describe_looks(looks(200))
    print(f"{time.process_time() - start:.1f} s of CPU for 200")
    # none was asked for twice: every one fitted at once
    assert len(replies) == len(described) == 200
    schema = answer_schema(2, Answer.model_validate(limits))
    for reply in replies:
        read_answer(reply, schema)
        assert len(reply) <= longest_answer(2, Answer.model_validate(limits))
    assert all(isinstance(description, Description) for description in described)
    assert len(set(replies)) > 150
    seen = {word.category for description in described for word in description.words}
    assert seen == set(CATEGORIES)


@pytest.mark.parametrize(("letters", "words"), [(20, 3), (40, 8)])
def test_the_schemas_at_their_bounds_are_taken_by_the_grammar_engine(letters, words):
    limits = Answer(words=words, candidates=words, word_letters=letters, caption_letters=200)
    model = Vlm(str(tiny("vlm")))
    for schema in (answer_schema(1, limits), answer_schema(16, limits), prompt_schema()):
        assert model._grammar(json.dumps(schema)) is model._grammar(json.dumps(schema))
