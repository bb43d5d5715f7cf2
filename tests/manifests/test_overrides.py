"""overrides.yaml: what a person may say, and one sentence with file and field for everything else."""

from __future__ import annotations

import time

import pytest

from manifests.errors import UsageError
from manifests.overrides import check_box, load_yaml, parse_overrides

WHERE = "red mug/overrides.yaml"

EVERYTHING = b"""
class_noun: mug
drop: [blurry.jpg]
boxes: {a.jpg: [10, 20, 200.4, 220.6], b.jpg: [0, 0, 1, 1]}
masks: {a.jpg: masks/a-mask.png}
add_words: {colour: [teal], accessories: [lid]}
add_candidates: {material: [oak]}
strike_words: [shiny]
caption: {a.jpg: "a teal mug on a shelf"}
"""


def test_everything_a_person_may_say_is_taken():
    overrides = parse_overrides(EVERYTHING, where=WHERE)
    assert overrides.class_noun == "mug"
    assert overrides.drop == ["blurry.jpg"]
    assert overrides.boxes == {"a.jpg": (10, 20, 200, 221), "b.jpg": (0, 0, 1, 1)}
    assert overrides.masks == {"a.jpg": "masks/a-mask.png"}
    assert overrides.add_words == {"colour": ["teal"], "accessories": ["lid"]}
    assert overrides.caption["a.jpg"].startswith("a teal")


@pytest.mark.parametrize("text", [b"", b"# nothing yet\n", b"---\n", b"null"])
def test_empty_file_says_nothing(text):
    assert parse_overrides(text, where=WHERE) == parse_overrides(b"{}", where=WHERE)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("clas_noun: mug", "clas_noun"),
        ("class_noun: [mug]", "class_noun"),
        ("class_noun: ''", "class_noun"),
        (f"class_noun: {'x' * 61}", "class_noun"),
        ("class_noun: no", "class_noun"),
        ("drop: blurry.jpg", "drop"),
        ("drop: [2001-01-01]", "drop.0"),
        ("boxes: [1, 2, 3, 4]", "boxes"),
        ("boxes: {a.jpg: [1, 2, 3]}", "boxes"),
        ("boxes: {a.jpg: [9, 2, 3, 4]}", "boxes"),
        ("boxes: {a.jpg: [1, 2, 1, 4]}", "boxes"),
        ("boxes: {a.jpg: [.nan, 2, 3, 4]}", "boxes"),
        ("boxes: {a.jpg: [0, 0, .inf, 4]}", "boxes"),
        ("boxes: {a.jpg: [a, 0, 1, 4]}", "boxes.a.jpg.0"),
        ("boxes: {3: [0, 0, 1, 4]}", "boxes.3"),
        ("masks: {a.jpg: ../a.png}", "masks"),
        ("masks: {a.jpg: /etc/passwd}", "masks"),
        ("masks: {a.jpg: 'C:/a.png'}", "masks"),
        ("masks: {a.jpg: .}", "masks"),
        ("add_words: {colur: [teal]}", "add_words"),
        ("add_words: {colour: teal}", "add_words.colour"),
        ("add_words: {colour: ['']}", "add_words.colour.0"),
        (f"add_words: {{colour: [{'a,' * 65}]}}", "add_words.colour"),
        ("add_candidates: {size: [big]}", "add_candidates"),
        ("strike_words: {shiny: true}", "strike_words"),
        (f"caption: {{a.jpg: {'x' * 401}}}", "caption.a.jpg"),
        ("class_noun: 0x" + "f" * 5000, "class_noun"),
        ("boxes: {a.jpg: [0x" + "f" * 5000 + ", 0, 1, 1]}", "boxes.a.jpg.0"),
        ("- a\n- b", "top level"),
        ("[]", "top level"),
        ("false", "top level"),
        ("0", "top level"),
        ("mug", "top level"),
    ],
)
def test_what_is_wrong_is_one_sentence_that_names_file_and_field(text, field):
    with pytest.raises(UsageError, match=r"E502 configuration: red mug/overrides.yaml: ") as caught:
        parse_overrides(text.encode(), where=WHERE)
    assert f"{WHERE}: {field}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300
    assert caught.value.exit_code == 2


def test_several_mistakes_are_all_named():
    with pytest.raises(UsageError) as caught:
        parse_overrides(b"{a: 1, drop: x, boxes: 3}", where=WHERE)
    for part in ("a: ", "drop: ", "boxes: ", "found '1'", "found 'x'", "found '3'"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"drop: [a\nboxes: {", " line 2"),
        (b"a: b: c", " line 1"),
        (b"\tdrop: []", " line 1"),
        (b"drop: *nothing", " line 1"),
        (b"drop: !unknown x", " line 1"),
        (b"? [a, b]\n: c", " line 1"),
        (b"a: \0", ""),
        (b"caption: {a.jpg: \xff\xfe}", ""),
        (b"class_noun: " + b"1" * 5000, ""),
        (b"drop: [2001-99-99]", ""),
        (b"[" * 100_000, ""),
        (b"- " * 100_000, ""),
    ],
)
def test_what_is_no_yaml_is_one_sentence_that_names_file_and_line(text, line):
    with pytest.raises(UsageError) as caught:
        parse_overrides(text, where=WHERE)
    assert str(caught.value).startswith(f"E502 configuration: {WHERE}{line}: not YAML: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch canary']",
        "!!python/name:os.system",
        "!!python/module:os",
        "!!python/tuple [a]",
    ],
)
def test_python_objects_are_refused(tag, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"E502 .*could not determine a constructor"):
        parse_overrides(f"drop: {tag}".encode(), where=WHERE)
    assert list(tmp_path.iterdir()) == []


def bomb(item: str) -> bytes:
    """Nine levels of nine aliases each: four hundred million values if all were copied."""
    lines = ["l0: &l0 {k1: v, k2: v}" if "<<" in item else "l0: &l0 [v, v]"]
    lines += [f"l{n}: &l{n} " + item.replace("X", ", ".join([f"*l{n - 1}"] * 9)) for n in range(1, 10)]
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    "text", [bomb("[X]"), bomb("{<<: [X]}"), b"drop: &a [*a]", b"a: &a {b: *a}"], ids=["lists", "merges", "loop", "map"]
)
def test_alias_bomb_is_refused_before_it_grows(text):
    start = time.process_time()
    with pytest.raises(UsageError, match=r"E502 .* line [12]: .*the alias .* stands for a list or mapping"):
        load_yaml(text, where=WHERE)
    assert time.process_time() - start < 0.5


def test_alias_of_a_single_value_is_fine():
    assert parse_overrides(b"class_noun: &n mug\ncaption: {a.jpg: *n}", where=WHERE).caption == {"a.jpg": "mug"}


def test_file_of_more_than_a_mebibyte_is_not_parsed():
    with pytest.raises(UsageError, match=r"E502 .*1,048,577 bytes is more than 1 MiB"):
        parse_overrides(b"#" * ((1 << 20) + 1), where=WHERE)


def test_control_characters_of_the_file_do_not_reach_the_terminal():
    with pytest.raises(UsageError) as caught:
        parse_overrides(b'"\\e[31mred": 1\nclass_noun: ["\\u202e"]', where="a\x1b[2J.yaml")
    assert str(caught.value).isprintable()
    assert "\\x1b[2J" in str(caught.value)


@pytest.mark.parametrize(
    "box", [(1, 2, 3), (0, 0, 0, 1), (0, 1, 1, 0), (0, 0, 0.4, 1), (0, 0, float("nan"), 1), (0, 0, 1e7, 1)]
)
def test_box_that_is_none_is_refused(box):
    with pytest.raises(ValueError, match="box"):
        check_box(box)
