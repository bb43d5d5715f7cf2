"""A subject's dictionary: what the describer said, as a person corrected it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dataforge.stages.compose import with_articles
from manifests.overrides import CATEGORIES, Overrides
from manifests.records import SubjectAttribute

__all__ = ["corrected_words", "without_words"]


def without_words(caption: str, struck: Sequence[str]) -> str:
    """A caption that says none of the words, nor the `and` or comma that joined one; its articles follow."""
    left = caption
    for word in map(re.escape, struck):
        one = rf"(?<![\w-]){word}(?![\w-])"
        left = re.sub(
            rf"{one} and (?=\w)|(?<!\w)and {one}|, {one}(?=,)|{one}(, (?=\w))?", "", left, flags=re.IGNORECASE
        )
    return caption if left == caption else with_articles(left)


def corrected_words(
    words: Sequence[SubjectAttribute], overrides: Overrides, sample_ids: Sequence[str]
) -> tuple[SubjectAttribute, ...]:
    """The words with struck ones gone and added ones in, sorted by category, origin and falling score.

    An added word scores 1 and is supported by every photograph; it replaces the describer's own entry.
    """
    struck = set(overrides.strike_words)
    kept = {(word.category, word.word): word for word in words if word.word not in struck}
    for category, added in overrides.add_words.items():
        for text in added:
            kept[category, text] = SubjectAttribute(
                category=category, word=text, score=1.0, origin="source", sample_ids=tuple(sorted(sample_ids))
            )
    for category, added in overrides.add_candidates.items():
        for text in added:
            kept.setdefault(
                (category, text),
                SubjectAttribute(category=category, word=text, score=1.0, origin="candidate", sample_ids=()),
            )
    order = {category: number for number, category in enumerate(CATEGORIES)}
    return tuple(sorted(kept.values(), key=lambda w: (order[w.category], w.origin != "source", -w.score, w.word)))
