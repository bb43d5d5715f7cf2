"""IDs and slugs: whatever a folder is called, its slug is a valid key segment and never a reserved name."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.errors import CorpusError
from manifests.ids import canonical_json, check_id, digest_of, is_id, is_sample_id, sample_id, sha256_hex, slug
from manifests.shards import check_member_name

SEGMENT = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Red Mug", "red-mug"),
        ("café", "cafe"),
        ("cafe\u0301", "cafe"),
        ("ﬁne__thing", "fine__thing"),
        ("..hidden..", "hidden"),
        ("a/b\\c", "a-b-c"),
        ("--x--", "x"),
        ("_x_", "x"),
        ("x" * 60, "x" * 40),
        ("x" * 39 + " y", "x" * 39),
        ("scenes", "s-scenes"),
        ("Scenes", "s-scenes"),
        ("class-mug", "s-class-mug"),
        ("Class Mug", "s-class-mug"),
        ("class-" + "m" * 60, "s-class-" + "m" * 32),
        ("classy", "classy"),
        ("№ 5", "no-5"),
        ("\x1b[31mred\n", "31mred"),
    ],
)
def test_slug_of_a_folder_name(name, expected):
    assert slug(name) == expected


@pytest.mark.parametrize("name", ["茶碗", "кружка", "🙂", "", "---", "\udcff\udcfe"])
def test_name_without_ascii_letters_gets_a_slug_of_its_digest(name):
    assert slug(name) == "s-" + sha256_hex(name.encode("utf-8", "surrogateescape"))[:8]


def test_names_in_other_scripts_do_not_clash():
    assert len({slug(name) for name in ("茶碗", "茶碗二", "кружка")}) == 3


@settings(max_examples=400, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=80))
def test_slug_is_always_a_valid_segment_and_never_reserved(name):
    text = slug(name)
    assert SEGMENT.fullmatch(text), text
    assert text != "scenes"
    assert not text.startswith("class-")
    assert slug(name) == text
    check_member_name(f"{sample_id(text, 'src', 'ab' * 32)}.mask.png")


@pytest.mark.parametrize("role", ["src", "reg", "bg"])
def test_sample_id_holds_owner_role_and_twelve_digits(role):
    assert sample_id("red-mug", role, "0123456789abcdef") == f"red-mug/{role}-0123456789ab"


@pytest.mark.parametrize(
    "text",
    [
        "red-mug",
        "red-mug/src-0123456789a",
        "red-mug/src-0123456789abc",
        "red-mug/src-0123456789AB",
        "red-mug/out-0123456789ab",
        "Red/src-0123456789ab",
        "../src-0123456789ab",
        "/src-0123456789ab",
        "a/b/src-0123456789ab",
        "a.b/src-0123456789ab",
        "-a/src-0123456789ab",
        "x" * 65 + "/src-0123456789ab",
        "red-mug/src-0123456789ab\n",
        "",
    ],
)
def test_what_is_no_sample_id_is_refused(text):
    assert not is_sample_id(text)
    with pytest.raises(CorpusError, match="E301"):
        check_id(text)


@pytest.mark.parametrize(
    ("text", "good"),
    [("mug", True), ("mug/src-1", True), ("Mug", False), ("a/b/c", False), ("..", False), ("", False)],
)
def test_ids_that_can_be_asked_for(text, good):
    assert is_id(text) is good


def test_canonical_json_does_not_depend_on_key_order_and_refuses_nan():
    assert canonical_json({"b": 1, "a": "é"}) == canonical_json({"a": "é", "b": 1}) == '{"a":"é","b":1}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


def test_digest_of_settings_is_the_same_in_every_process():
    # the value is written out: results of an earlier version are found again by it
    assert digest_of({"b": [1, 2.5, None], "a": "é"}) == EXPECTED
    code = "from manifests.ids import digest_of; print(digest_of({'a': 'é', 'b': [1, 2.5, None]}))"
    environment = {"PYTHONHASHSEED": "7", "LC_ALL": "C", "PYTHONPATH": "."}
    again = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert again.stdout.strip() == EXPECTED


# sha256 of the 27 bytes {"a":"é","b":[1,2.5,null]}
EXPECTED = "d764fee2563da33e3d57334755404e635da33c995824b0adfabc4b6e1af4f608"
