"""How questions become descriptions, whoever answers: ask, read strictly, ask once more with what was wrong."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dataforge.backends.answers import (
    MAX_PROMPT_LETTERS,
    AnswerError,
    answer_schema,
    check_prompt,
    description_of,
    groups_of,
    longest_answer,
    look_at,
    prompt_schema,
    question,
    read_answer,
    writing_question,
)
from dataforge.model_config import Answer
from dataforge.protocols import Description, Look, Photo
from manifests.errors import Fault
from manifests.pixels import MaskArray

__all__ = ["Ask", "Asking", "Question", "describe_all", "repair_request", "write_all"]


@dataclass(frozen=True, slots=True)
class Question:
    """A text about JPEG pictures, and the schema of its answer; `said` and `wrong` are an answer refused and why."""

    text: str
    images: tuple[bytes, ...]
    schema: dict[str, Any]
    longest: int
    said: str = ""
    wrong: str = ""


# one reply or fault per question, in order
Ask = Callable[[Sequence[Question]], list[str | Fault]]


def repair_request(asked: Question) -> str:
    """What is said to a model whose answer was refused."""
    return f"That does not fit: {asked.wrong}. Answer again with one JSON object that fits, and nothing else."


def describe_all(ask: Ask, looks: Sequence[Look], *, photographs: int, limits: Answer) -> list[Description | Fault]:
    """A dictionary and captions per subject; E223 where a question about it got no answer that fits, asked twice."""
    groups = [groups_of(look, photographs) for look in looks]
    questions = [
        Question(
            text=question(look.class_noun, len(ids), limits),
            images=tuple(image for name in ids for image in (look.scenes[name], look.cutouts[name])),
            schema=answer_schema(len(ids), limits),
            longest=longest_answer(len(ids), limits),
        )
        for look, parts in zip(looks, groups, strict=True)
        for ids in parts
    ]
    answers = iter(_checked(ask, questions, lambda _, answer: answer))
    described: list[Description | Fault] = []
    for look, parts in zip(looks, groups, strict=True):
        found = [next(answers) for _ in parts]
        faults = [answer for answer in found if isinstance(answer, Fault)]
        if faults:
            described.append(faults[0])
            continue
        good = [answer for answer in found if not isinstance(answer, Fault)]
        described.append(description_of(look, list(zip(parts, good, strict=True))))
    return described


def write_all(ask: Ask, wishes: Sequence[tuple[str, tuple[str, ...]]]) -> list[str | Fault]:
    """A prompt per class noun and words to hold; E223 where one lacks them, asked twice."""
    questions = [
        Question(
            text=writing_question(noun, words),
            images=(),
            schema=prompt_schema(),
            longest=MAX_PROMPT_LETTERS + 16,
        )
        for noun, words in wishes
    ]

    def held(number: int, answer: dict[str, Any]) -> dict[str, Any]:
        checked = check_prompt(answer["prompt"], *wishes[number])
        if isinstance(checked, Fault):
            raise AnswerError(checked.detail)
        return {"prompt": checked}

    answers = _checked(ask, questions, held)
    return [answer if isinstance(answer, Fault) else str(answer["prompt"]) for answer in answers]


def _checked(
    ask: Ask, questions: Sequence[Question], accept: Callable[[int, dict[str, Any]], dict[str, Any]]
) -> list[dict[str, Any] | Fault]:
    """The answers that fit; what does not is asked once more, with what was wrong."""
    answers: dict[int, dict[str, Any] | Fault] = {}
    again: dict[int, Question] = {}
    for number, reply in enumerate(ask(questions) if questions else []):
        try:
            answers[number] = reply if isinstance(reply, Fault) else accept(number, _read(reply, questions[number]))
        except AnswerError as error:
            assert isinstance(reply, str)
            again[number] = replace(questions[number], said=reply[:2000], wrong=str(error)[:200])
    for number, reply in zip(again, ask(list(again.values())) if again else [], strict=True):
        try:
            answers[number] = reply if isinstance(reply, Fault) else accept(number, _read(reply, questions[number]))
        except AnswerError as error:
            answers[number] = Fault("E223", f"asked twice: {error}")
    return [answers[number] for number in range(len(questions))]


def _read(reply: str, asked: Question) -> dict[str, Any]:
    return read_answer(reply, asked.schema)


class Asking(ABC):
    """A describer that puts questions to a model; where the model is, `_ask` knows."""

    def __init__(self, *, photographs: int, max_side: int, answer: dict[str, Any] | None) -> None:
        self._photographs, self._max_side = photographs, max_side
        self._limits = Answer.model_validate(answer or {})

    @abstractmethod
    def _ask(self, questions: Sequence[Question]) -> list[str | Fault]:
        """One reply or fault per question, in order. Raises `EnvironmentFault` E513 where a server fails."""

    def look(self, photos: Sequence[Photo], masks: Sequence[MaskArray]) -> Look:
        """A subject as it is shown to the model."""
        return look_at(photos, masks, self._max_side)

    def describe(self, photos: Sequence[Photo], masks: Sequence[MaskArray]) -> Description:
        """Words and captions of one subject. Raises ValueError where the model gives no answer that fits."""
        (described,) = self.describe_looks([self.look(photos, masks)])
        if isinstance(described, Fault):
            raise ValueError(described.detail)
        return described

    def describe_looks(self, looks: Sequence[Look]) -> list[Description | Fault]:
        """Words and captions of several subjects."""
        return describe_all(self._ask, looks, photographs=self._photographs, limits=self._limits)

    def write_prompts(self, wishes: Sequence[tuple[str, tuple[str, ...]]]) -> list[str | Fault]:
        """One prompt for each class noun and the words it has to hold."""
        return write_all(self._ask, wishes)
