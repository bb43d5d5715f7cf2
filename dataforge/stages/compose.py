"""Compose: an attribute dictionary to the prompts of regular data (DreamMix's attribute decoupling; METHODS 2.3).

The base prompt, one prompt per word, then seeded pairs of words from different categories. No identifier in any of
them: a regular picture must teach the class, not the subject.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from dataforge.config import Compose
from dataforge.store import Made
from manifests.errors import Fault
from manifests.overrides import CATEGORIES
from manifests.records import RegularPrompt, SubjectAttribute, Word
from manifests.schema import decode, encode

__all__ = ["ComposePrompts", "compose_prompts", "instance_prompt"]


def instance_prompt(settings: Compose, class_noun: str) -> str:
    """The prompt of a subject's own photographs; keeps the placeholder `{identifier}` for the trainer."""
    return settings.instance_template.replace("{class_noun}", class_noun)


def compose_prompts(
    settings: Compose,
    class_noun: str,
    words: Sequence[SubjectAttribute],
    showable: Sequence[tuple[str, str]] | None = None,
) -> list[RegularPrompt]:
    """Prompts in a fixed order: base, one per word (source words first), pairs; at most `max_prompts`.

    `showable` lists the candidate (category, word) a generator can show, None means all; what the subject has, its own
    pixels show. Same words and seed, same prompts.
    """
    wanted = {"source": {"source"}, "candidate": {"candidate"}, "both": {"source", "candidate"}}[settings.words]
    allowed = None if showable is None else set(showable)
    chosen = [
        Word(category=word.category, word=word.word, origin=word.origin)
        for word in sorted(words, key=lambda w: (w.origin != "source", CATEGORIES.index(w.category), -w.score, w.word))
        if word.origin in wanted
        and (word.origin == "source" or allowed is None or (word.category, word.word) in allowed)
    ]
    pairs = [pair for pair in combinations(chosen, 2) if pair[0].category != pair[1].category]
    random.Random(f"{settings.seed}:{class_noun}").shuffle(pairs)
    groups: list[tuple[Word, ...]] = [(), *((word,) for word in chosen)]
    room = max(1, settings.max_prompts - min(settings.pairs, len(pairs)))
    groups = [*groups[:room], *pairs[: settings.pairs]]
    return [
        RegularPrompt(
            prompt=fill(settings.template, class_noun, group),
            template=settings.template,
            words=group,
            seed=settings.seed,
        )
        for group in groups
    ]


def with_articles(text: str) -> str:
    """The text single-spaced, with `an` before a vowel and `a` before anything else."""
    parts = text.split()
    for number, part in enumerate(parts[:-1]):
        if part in ("a", "an"):
            parts[number] = "an" if parts[number + 1][0].lower() in "aeiou" else "a"
    return " ".join(parts)


def fill(template: str, class_noun: str, words: Sequence[Word]) -> str:
    """The template with words and noun in place, single-spaced, `a` turned to `an` before a vowel."""
    text = template.replace("{words}", " ".join(word.word for word in words)).replace("{class_noun}", class_noun)
    return with_articles(text)


class ComposePrompts:
    """One input is a subject's dictionary."""

    name = "compose"

    def __init__(self, settings: Compose) -> None:
        self._settings = settings

    def run(self, inputs: Sequence[dict[str, Any]]) -> list[Made | Fault]:
        """Input: class_noun, words, showable. Value: prompts (as `RegularPrompt`)."""
        return [self._one(value) for value in inputs]

    def _one(self, value: dict[str, Any]) -> Made:
        words = [decode(SubjectAttribute, word, where="word") for word in value["words"]]
        showable = None if value["showable"] is None else [(category, word) for category, word in value["showable"]]
        return Made(
            {"prompts": [encode(p) for p in compose_prompts(self._settings, value["class_noun"], words, showable)]}
        )
