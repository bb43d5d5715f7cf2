"""What a vision-language model is asked, and what counts as an answer: one prompt, one schema, one strict reader.

The prompt has a version, which is part of every result's key. The schema bounds every list and string, so that the
longest answer is known. Nothing a model or server says is believed before it has gone through `read_answer`.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from typing import Any

from PIL import Image

from dataforge.backends.clip_check import on_grey
from dataforge.model_config import Answer
from dataforge.protocols import Description, Look, Photo
from manifests.errors import Fault
from manifests.overrides import CATEGORIES
from manifests.pixels import ImageArray, MaskArray
from manifests.records import SubjectAttribute

__all__ = [
    "PROMPT_VERSION",
    "AnswerError",
    "answer_schema",
    "check_prompt",
    "description_of",
    "groups_of",
    "longest_answer",
    "look_at",
    "prompt_schema",
    "question",
    "read_answer",
    "writing_question",
]

PROMPT_VERSION = "1"
MAX_BYTES = 256 << 10
MAX_DEPTH = 8
MAX_PROMPT_LETTERS = 200
# each word a picture down the list counts a little less: models name what they see first
_FALL = 0.1
_WORD = r"[a-z][a-z -]{1,%d}[a-z]"
_CAPTION = r"[A-Za-z][A-Za-z0-9 ,'-]{8,%d}[A-Za-z0-9]"
_FENCE = re.compile(r"\A```(?:json)?\s*\n(.*)\n```\Z", re.DOTALL)


class AnswerError(ValueError):
    """An answer that does not fit; the text says why, for the model as for the ledger."""


# what is asked -------------------------------------------------------------------------------------------------------


def question(class_noun: str, count: int, limits: Answer) -> str:
    """The question about `count` photographs of one thing, each shown whole and then alone on grey."""
    return (
        f"You see {count} photographs of one and the same {class_noun}. Each is shown twice: as it was taken, then the "
        f"{class_noun} alone on a grey background.\n"
        f"Answer with one JSON object and nothing else:\n"
        f'"has": what this {class_noun} itself has, by category: {", ".join(CATEGORIES)}. At most {limits.words} '
        f"plain English words or short phrases each, the most obvious first; leave a category out where nothing is "
        f"certain. Describe the {class_noun}, never its background.\n"
        f'"could": words of the same categories that a person might want to change it to, and that it does not have '
        f"now; at most {limits.candidates} each.\n"
        f'"captions": for each of the {count} photographs, in order, one sentence of at most '
        f"{limits.caption_letters} letters that says what is seen, the {class_noun} and where it is.\n"
        f"Lower case, no punctuation in words."
    )


def answer_schema(count: int, limits: Answer) -> dict[str, Any]:
    """JSON schema of the answer about `count` photographs.

    Known categories as optional properties and no others: the one form that grammar engines hold to without doubled
    keys. Every list and string is bounded.
    """

    def words(most: int) -> dict[str, Any]:
        word = {"type": "string", "pattern": f"^{_WORD % (limits.word_letters - 2)}$"}
        entry = {"type": "array", "items": word, "minItems": 1, "maxItems": most}
        return {"type": "object", "properties": dict.fromkeys(CATEGORIES, entry), "additionalProperties": False}

    caption = {"type": "string", "pattern": f"^{_CAPTION % (limits.caption_letters - 2)}$"}
    properties: dict[str, Any] = {
        "has": words(limits.words),
        "could": words(limits.candidates) if limits.candidates else {"type": "object", "additionalProperties": False},
        "captions": {"type": "array", "items": caption, "minItems": count, "maxItems": count},
    }
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def longest_answer(count: int, limits: Answer) -> int:
    """Bytes of the longest answer that fits the schema, written without spaces: no answer has more tokens."""
    names = sum(len(category) + 4 for category in CATEGORIES)
    words = (limits.words + limits.candidates) * len(CATEGORIES) * (limits.word_letters + 3)
    return 64 + 2 * (names + 4 * len(CATEGORIES)) + words + count * (limits.caption_letters + 3)


def writing_question(class_noun: str, words: Sequence[str]) -> str:
    """The question for one regular-data prompt."""
    held = " and ".join(f'"{word}"' for word in (*words, class_noun))
    return (
        f"Write one short prompt for a text-to-image model: a photograph of one {class_noun} in an everyday place. "
        f"It has to hold {held} as they stand, and no other word for the {class_noun}'s look. "
        f"At most {MAX_PROMPT_LETTERS} letters. "
        'Answer with one JSON object {"prompt": "..."} and nothing else.'
    )


def prompt_schema() -> dict[str, Any]:
    """JSON schema of a written prompt."""
    text = {"type": "string", "pattern": f"^{_CAPTION % (MAX_PROMPT_LETTERS - 2)}$"}
    return {"type": "object", "properties": {"prompt": text}, "required": ["prompt"], "additionalProperties": False}


def look_at(photos: Sequence[Photo], masks: Sequence[MaskArray], max_side: int) -> Look:
    """A subject's photographs, whole and alone on grey, as JPEGs whose longer side is at most `max_side`."""
    return Look(
        class_noun=photos[0].class_noun if photos else "",
        scenes={photo.id: _jpeg(photo.image, max_side) for photo in photos},
        cutouts={
            photo.id: _jpeg(on_grey(photo.image, mask), max_side) for photo, mask in zip(photos, masks, strict=True)
        },
    )


def groups_of(look: Look, size: int) -> list[list[str]]:
    """The photograph IDs of a subject, at most `size` to a question."""
    ids = list(look.scenes)
    return [ids[start : start + size] for start in range(0, len(ids), size)]


def _jpeg(image: ImageArray, max_side: int) -> bytes:
    picture = Image.fromarray(image)
    # a subject may be a few pixels wide; what models are shown has some size
    picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    if min(picture.size) < 32:
        picture = picture.resize((max(32, picture.width), max(32, picture.height)), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


# what counts as an answer --------------------------------------------------------------------------------------------


def read_answer(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    """The JSON object in a reply, checked against one of the schemas above. Raises `AnswerError` with what is wrong.

    A code fence around the object is taken off; prose, a second object, doubled keys, NaN, lone surrogates, deep
    nesting and long values are refused.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise AnswerError(f"the answer is longer than {MAX_BYTES} bytes")
    text = text.removeprefix("\ufeff").strip()
    fenced = _FENCE.match(text)
    text = fenced[1].strip() if fenced else text
    if not text:
        raise AnswerError("the answer is empty")
    if _depth(text) > MAX_DEPTH:
        raise AnswerError(f"the answer is nested deeper than {MAX_DEPTH}")
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse, parse_int=_short, parse_float=_short)
    except AnswerError:
        raise
    except (ValueError, RecursionError) as error:
        raise AnswerError(f"the answer is no JSON object: {str(error)[:80]}") from error
    _hold(value, schema, "answer")
    return dict(value)


def description_of(look: Look, answers: Sequence[tuple[Sequence[str], dict[str, Any]]]) -> Description:
    """The dictionary and captions of a subject from the checked answers about groups of its photographs.

    A word's score is the share of groups that name it, less a little for each word named before it; what one group has
    is no candidate of another.
    """
    scores: dict[tuple[str, str], list[float]] = {}
    support: dict[tuple[str, str], list[str]] = {}
    wishes: dict[tuple[str, str], list[float]] = {}
    captions: dict[str, str] = {}
    for ids, answer in answers:
        captions.update(zip(ids, (" ".join(text.split()) for text in answer["captions"]), strict=True))
        for (category, word), score in _ranked(answer["has"]):
            scores.setdefault((category, word), []).append(score)
            support.setdefault((category, word), []).extend(ids)
        for entry, score in _ranked(answer["could"]):
            wishes.setdefault(entry, []).append(score)
    words = [
        SubjectAttribute(
            category=category,
            word=word,
            score=round(sum(found) / len(answers), 4),
            origin="source",
            sample_ids=tuple(sorted(support[category, word])),
        )
        for (category, word), found in scores.items()
    ]
    had = {word for _, word in scores}
    words += [
        SubjectAttribute(
            category=category, word=word, score=round(sum(found) / len(answers), 4), origin="candidate", sample_ids=()
        )
        for (category, word), found in wishes.items()
        if word not in had
    ]
    return Description(words=tuple(words), captions={name: captions[name] for name in look.scenes})


def check_prompt(text: str, class_noun: str, words: Sequence[str]) -> str | Fault:
    """A written prompt on one line, or E223 where noun or word is missing, or something stands in it that may not."""
    prompt = " ".join(text.split())
    lacking = [word for word in (*words, class_noun) if not _holds(prompt, word)]
    if lacking:
        return Fault("E223", f"the written prompt lacks {lacking[0]!r}")
    if len(prompt) > MAX_PROMPT_LETTERS or re.search(r"[{}<>]", prompt) or not prompt.isprintable():
        return Fault("E223", f"the written prompt is longer than {MAX_PROMPT_LETTERS} letters or holds a sign")
    return prompt


def _holds(text: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word.lower())}(?!\w)", text.lower()) is not None


def _ranked(words: dict[str, list[str]]) -> list[tuple[tuple[str, str], float]]:
    found: dict[tuple[str, str], float] = {}
    for category, entries in words.items():
        for rank, word in enumerate(entries):
            found.setdefault((category, " ".join(word.split())), max(_FALL, 1.0 - _FALL * rank))
    return list(found.items())


def _hold(value: Any, schema: dict[str, Any], place: str) -> None:
    """The value against the part of JSON schema that is used here."""
    kind = {"object": dict, "array": list, "string": str}[schema["type"]]
    if not isinstance(value, kind):
        raise AnswerError(f"{place}: {schema['type']} expected, found {type(value).__name__}")
    if isinstance(value, dict):
        known = schema.get("properties", {})
        foreign = sorted(set(value) - set(known))
        if foreign:
            raise AnswerError(f"{place}: {foreign[0][:40]!r} is not asked for")
        lacking = [name for name in schema.get("required", ()) if name not in value]
        if lacking:
            raise AnswerError(f"{place}: {lacking[0]!r} is missing")
        for name, entry in value.items():
            _hold(entry, known[name], f"{place}.{name}")
    elif isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema["maxItems"]:
            limits = f"{schema.get('minItems', 0)} to {schema['maxItems']}"
            raise AnswerError(f"{place}: {limits} entries expected, found {len(value)}")
        for number, entry in enumerate(value):
            _hold(entry, schema["items"], f"{place}[{number}]")
    elif re.fullmatch(schema["pattern"].removeprefix("^").removesuffix("$"), value) is None:
        raise AnswerError(f"{place}: {value[:40]!r} does not fit {schema['pattern']}")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(names) != len(set(names)):
        raise AnswerError("a key stands twice")
    return dict(pairs)


def _refuse(constant: str) -> Any:
    raise AnswerError(f"{constant} is no value")


def _short(digits: str) -> Any:
    raise AnswerError(f"numbers are not asked for, found {digits[:20]}")


def _depth(text: str) -> int:
    """How deep brackets nest, an upper bound that needs no parser."""
    depth = deepest = 0
    for sign in text:
        if sign in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif sign in "]}":
            depth -= 1
    return deepest
