"""Words of a prompt and of an edit; text only, so that jobs can be checked before a model is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from manifests.errors import UsageError
from pipelines.records import AdapterRecord, Word

__all__ = [
    "edited_prompt",
    "mentions",
    "prompt_as_read",
    "put_before",
    "removed_words",
    "word_pattern",
    "words_of_edit",
    "words_to_remove",
]


def removed_words(words: Sequence[str], prompt: str) -> tuple[str, ...]:
    """The words to remove from a prompt: none that is empty, doubled or asked for by the prompt itself."""
    kept = (word.strip() for word in words)
    return tuple(dict.fromkeys(word for word in kept if word and not mentions(prompt, word)))


def word_pattern(word: str) -> re.Pattern[str]:
    """The word by itself, in any case."""
    return re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)


def mentions(prompt: str, word: str) -> bool:
    """Whether the prompt has the word."""
    return word_pattern(word).search(prompt) is not None


def edited_prompt(prompt: str, edit: Mapping[str, str], *, identifier: str, class_noun: str) -> str:
    """The prompt with an edit's new words before the identifier, and that before the class noun, where it lacks them.

    The order is the one of training: "a photo of a red sks mug". `{identifier}` is filled in. Raises `UsageError` E501
    where the prompt names neither the identifier nor the class.
    """
    prompt = prompt.replace("{identifier}", identifier) if identifier else prompt
    new = " ".join(word for word in edit.values() if word and not mentions(prompt, word))
    noun = word_pattern(class_noun).search(prompt) if class_noun else None
    named = word_pattern(identifier).search(prompt) if identifier else None
    if identifier and not named:
        if noun is None:
            raise UsageError(f"prompt {prompt!r} names neither {identifier!r} nor {class_noun!r}.")
        new = f"{new} {identifier}".strip()
    if not new:
        return prompt
    place = named or noun
    if place is None:
        return f"{prompt}, {new}"
    return put_before(prompt, place.start(), new)


def put_before(prompt: str, at: int, words: str) -> str:
    """The prompt with words before a place; an article that stands there goes with them: "an orange sks mug"."""
    before = prompt[:at]
    article = "an" if words[:1].lower() in set("aeiou") else "a"
    before = re.sub(r"\b[aA]n?(?= $)", lambda found: found[0][0] + article[1:], before)
    return f"{before}{words} {prompt[at:]}"


def words_of_edit(source_words: Sequence[Word], edit: Mapping[str, str], subject: str) -> tuple[str, ...]:
    """The subject's own words of the categories an edit names. Raises `UsageError` E604 where it has none."""
    words: list[str] = []
    for category in edit:
        own = [word.word for word in source_words if word.category == category]
        if not own:
            known = ", ".join(sorted({word.category for word in source_words})) or "none"
            raise UsageError(f"{subject} has no words for {category!r}; it has words for: {known}.", code="E604")
        words += own
    return tuple(words)


def prompt_as_read(prompt: str, edit: Mapping[str, str], record: AdapterRecord | None) -> str:
    """The prompt a text encoder is given: placeholders filled in, an edit's words in place. Raises E501."""
    noun, identifier = (record.class_noun, record.identifier) if record else ("", "")
    prompt = prompt.replace("{class_noun}", noun)
    if record is None:
        prompt = " ".join(prompt.replace("{identifier}", "").split())
    return edited_prompt(prompt, edit, identifier=identifier, class_noun=noun)


def words_to_remove(
    prompt: str, edit: Mapping[str, str], remove: Sequence[str] | None, record: AdapterRecord | None
) -> tuple[str, ...]:
    """What TAS takes out of a prompt as read: the words named, else the subject's own of the edit. Raises E604."""
    if remove is None:
        remove = words_of_edit(record.source_words, edit, record.subject) if edit and record is not None else ()
    return removed_words(remove, prompt)
