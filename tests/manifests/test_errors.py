"""Errors: each code says what happened and what to do, on one printable line."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests import errors
from manifests.errors import CODES, Fault, ReportedError, printable


@pytest.mark.parametrize("code", sorted(CODES))
def test_code_has_a_slug_a_meaning_and_advice(code):
    assert re.fullmatch(r"E[1-6]\d\d", code)
    entry = CODES[code]
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", entry.slug)
    assert entry.meaning
    assert not entry.meaning.endswith(".")
    assert entry.advice.endswith(".")
    assert (entry.meaning + entry.advice).isprintable()


def test_no_slug_stands_twice():
    assert len({entry.slug for entry in CODES.values()}) == len(CODES)


@pytest.mark.parametrize("code", sorted(CODES))
def test_sentence_of_a_fault_is_one_line_of_at_most_300_characters(code):
    sentence = Fault(code, "a name\n\x1b[31m" + "x" * 10_000).sentence
    assert sentence.startswith(f"{code} {CODES[code].slug}: a name\\n\\x1b[31mxxx")
    assert sentence.endswith(CODES[code].advice)
    assert sentence.isprintable()
    assert len(sentence) <= 300


TREE = {
    errors.CorpusError: (4, "E305"),
    errors.IntegrityError: (4, "E401"),
    errors.UnsupportedSchemaError: (4, "E405"),
    errors.UsageError: (2, "E501"),
    errors.NotFoundError: (2, "E503"),
    errors.EnvironmentFault: (5, "E510"),
    errors.OutputLocked: (6, "E520"),
}


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_error_has_the_exit_code_and_default_code_of_its_kind(kind):
    error = kind("something happened.")
    assert (error.exit_code, error.code) == TREE[kind]
    assert str(error) == f"{error.code} {CODES[error.code].slug}: something happened. {CODES[error.code].advice}"
    assert kind("x", code="E404").code == "E404"
    assert "\n" not in str(kind("two\nlines"))


def test_every_kind_of_error_is_in_the_tree():
    def below(kind: type) -> set[type]:
        return {kind, *(inner for sub in kind.__subclasses__() for inner in below(sub))}

    # a module may have a narrower kind of its own; it takes the exit code of the one it is of
    assert {kind for kind in below(ReportedError) if kind.__module__ == errors.__name__} - {ReportedError} == set(TREE)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain café 茶碗", "plain café 茶碗"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("two\nlines\r\t\0", "two\\nlines\\r\\t\\x00"),
        ("photo\u202egnp.exe", "photo\\u202egnp.exe"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("\x9b31m", "\\x9b31m"),
        ("bad \udcff bytes", "bad \\udcff bytes"),
        ("\ufeff", "\\ufeff"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_what_could_fool_a_terminal_is_escaped(text, shown):
    assert printable(text) == shown


@given(st.text())
def test_printable_text_has_no_control_character_and_encodes_everywhere(text):
    shown = printable(text)
    assert not any(unicodedata.category(character)[0] == "C" for character in shown)
    assert shown.encode("utf-8").decode() == shown
    assert printable(shown) == shown
