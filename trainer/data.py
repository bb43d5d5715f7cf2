"""What a run trains on: subjects, their pictures and the prompts each is shown with, from a corpus by ID.

A subject's photographs train under its instance prompt. Regular pictures made from the subject's own pixels train under
the identifier too, unless told otherwise: they show this very thing. Pictures a text-to-image model made show the class
and train under the prompt they were made for. Which of these a recipe shows, and how often, is the recipe's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from manifests.errors import UsageError
from manifests.ids import digest_of
from manifests.records import Sample, Subject
from pipelines.words import put_before, word_pattern

if TYPE_CHECKING:
    from manifests.corpus import Corpus
    from trainer.settings import Settings

__all__ = ["Item", "SubjectData", "each_once", "identifier_warning", "pooled", "select", "with_identifier"]


@dataclass(frozen=True, slots=True)
class Item:
    """A picture and the prompts it is shown with: the plain one, then, if there is one, that which names its colour."""

    sample: Sample
    prompts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SubjectData:
    """A subject's photographs, the regular pictures shown under its identifier, and those that stand for its class."""

    subject: Subject
    photographs: tuple[Item, ...]
    own: tuple[Item, ...]
    regular: tuple[Item, ...]

    @property
    def id(self) -> str:
        """The subject's slug."""
        return self.subject.id

    @property
    def items(self) -> tuple[Item, ...]:
        """Everything that can be drawn."""
        return self.photographs + self.own + self.regular

    def digest(self) -> str:
        """sha256 of all that training and painting see of the data: IDs, bytes, texts and the subject's own words."""
        words = sorted((word.category, word.word) for word in self.subject.attributes if word.origin == "source")
        rows = [
            [s.id, s.image.sha256, s.mask.sha256, s.class_noun, s.caption, *item.prompts]
            for item in self.items
            for s in (item.sample,)
        ]
        return digest_of([self.subject.class_noun, words, rows])


def select(
    corpus: Corpus, settings: Settings, *, asked: Sequence[str] = (), references: int | None = None
) -> tuple[list[SubjectData], dict[str, str]]:
    """The subjects to train, and a sentence for each that cannot be.

    `corpus` is open on the subjects concerned. `asked` are the IDs after `#`: a subject's, or photographs' to have
    these alone; a subject named there that has nothing to train on is an error, one that was merely in the corpus is
    reported. `references` keeps the first photographs in ID order, and of the regular pictures made
    from photographs only those whose photographs are kept. Raises `UsageError` E611.
    """
    records = {sample.id: sample for sample in corpus.samples()}
    for name in asked:
        if "/" in name:
            corpus[name]  # an ID that is not there is told with the one that was meant
    found: list[SubjectData] = []
    left_out: dict[str, str] = {}
    for subject in corpus.subjects.values():
        touched = [name for name in asked if name.partition("/")[0] == subject.id]
        if asked and not touched:
            continue
        wanted = [name for name in subject.sample_ids if not touched or subject.id in touched or name in touched]
        photographs = [records[name] for name in wanted][:references]
        if not photographs:
            if not touched and subject.id.startswith("class-"):
                continue  # the owner of shared pictures is nobody's subject
            sentence = f"{subject.id}: no accepted photograph to train on (status {subject.status})."
            if touched:
                raise UsageError(sentence, code="E611")
            left_out[subject.id] = sentence
            continue
        kept = {sample.id for sample in photographs}
        regular = [records[name] for name in subject.regular_ids]
        regular = [r for r in regular if not r.own_pixels or _photographs_behind(r, subject) <= kept]
        shown_as_own = settings.own_pixels_prompt == "identifier"  # else with its class, as any regular picture
        found.append(
            SubjectData(
                subject,
                tuple(Item(s, _instance_prompts(s, subject, settings)) for s in photographs),
                tuple(
                    Item(s, (with_identifier(s.prompt, s.class_noun, settings.word),))
                    for s in regular
                    if s.own_pixels and shown_as_own
                ),
                tuple(Item(s, (s.prompt,)) for s in regular if not (s.own_pixels and shown_as_own)),
            )
        )
    if not found:
        raise UsageError(" ".join(left_out.values()) or f"{corpus.name} has no subjects.", code="E611")
    return found, left_out


def _photographs_behind(sample: Sample, subject: Subject) -> set[str]:
    return set(sample.parents) & set(subject.sample_ids)


def _instance_prompts(sample: Sample, subject: Subject, settings: Settings) -> tuple[str, ...]:
    plain = (sample.prompt or subject.instance_prompt).replace("{identifier}", settings.word)
    seen = [(a.score, a.word) for a in sample.attributes if a.category == "colour" and a.origin == "source"]
    words = seen or [(a.score, a.word) for a in subject.attributes if a.category == "colour" and a.origin == "source"]
    if not (settings.name_source_words and words):
        return (plain,)
    colour = max(words)[1]
    # before the identifier, where a regular picture's prompt has its colour: "a photo of red sks mug"
    word = word_pattern(settings.word).search(plain)
    return plain, put_before(plain, word.start(), colour) if word else plain


def with_identifier(prompt: str, class_noun: str, identifier: str) -> str:
    """The prompt with the identifier before the last mention of the class noun, or at its end where there is none.

    The noun is looked for as a word: a cat is not in a catwalk.
    """
    found = list(word_pattern(class_noun).finditer(prompt))
    if not class_noun or not found:
        return f"{prompt}, {identifier} {class_noun}"
    return put_before(prompt, found[-1].start(), identifier)


def pooled(subjects: Sequence[SubjectData], owner: str) -> SubjectData:
    """Several subjects as one, for an adapter they share."""
    if len(subjects) == 1:
        return subjects[0]
    return SubjectData(
        dataclasses.replace(subjects[0].subject, id=owner),
        tuple(item for subject in subjects for item in subject.photographs),
        tuple(item for subject in subjects for item in subject.own),
        tuple({item.sample.id: item for subject in subjects for item in subject.regular}.values()),
    )


def each_once(subjects: Sequence[SubjectData]) -> list[Item]:
    """All pictures of these subjects; what several of them share comes once."""
    return list({item.sample.id: item for subject in subjects for item in subject.items}.values())


def identifier_warning(backbone_tokens: Sequence[str], identifier: str) -> str | None:
    """A sentence where the identifier is not one token; `backbone_tokens` are the tokens it falls into."""
    if len(backbone_tokens) == 1:
        return None
    parts = ", ".join(repr(token.removesuffix("</w>")) for token in backbone_tokens)
    return (
        f"identifier {identifier!r} is {len(backbone_tokens)} tokens ({parts}), not one: it shares them with other "
        "words. A rare single token such as 'sks' keeps the subject apart."
    )
