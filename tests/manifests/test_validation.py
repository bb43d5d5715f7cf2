"""Validation: every flipped bit, cut, swap and loss is found; a sound corpus gets a clean bill."""

from __future__ import annotations

import io
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from manifests.counts import counts_of
from manifests.errors import CODES, CorpusError, ReportedError, UsageError
from manifests.ids import sha256_hex
from manifests.pixels import decode_image, decode_mask, encode_mask
from manifests.validation import validate
from tests.manifests.corpora import (
    committed_files,
    derive,
    edit_header,
    edit_table,
    flip,
    replace_table,
    shards,
    small_content,
    write_corpus,
)


def codes(root: Path, *, full: bool = True, subset: tuple[int, int] | None = None) -> set[str]:
    """Codes of all problems, or of the error where the header itself cannot be read."""
    try:
        return {problem.code for problem in validate(root, full=full, decode=full, subset=subset)}
    except CorpusError as error:
        return {error.code}


def test_sound_corpus_has_no_problems_and_each_sample_is_counted(pristine):
    seen: list[tuple[str, int, int]] = []
    assert validate(pristine) == []
    assert validate(pristine, full=True, on_progress=lambda *step: seen.append(step)) == []
    # a bar per shard would stand still for an hour: the callback comes once a sample
    assert seen == [("validate", done, 13) for done in range(1, 14)]


def test_every_flipped_bit_is_found(corpus_root):
    """Flips spread evenly over every committed file, each in another bit."""
    undetected, found, points = [], Counter[str](), 0
    for path in [corpus_root / "corpus.json", *committed_files(corpus_root)]:
        size = path.stat().st_size
        for number in range(24):
            position = number * size // 24
            flip(path, position, number % 8)
            these = codes(corpus_root)
            flip(path, position, number % 8)
            points += 1
            found.update(these)
            if not these:
                undetected.append(f"{path.name} byte {position}")
    print(f"{points} flips in committed files, {len(undetected)} not found; codes {dict(sorted(found.items()))}")
    assert undetected == []
    assert points >= 200
    assert validate(corpus_root, full=True) == []


def test_every_cut_is_found_by_the_quick_check(corpus_root):
    undetected, points = [], 0
    for path in [corpus_root / "corpus.json", *committed_files(corpus_root)]:
        whole = path.read_bytes()
        for part in (0, 1, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:part])
            points += 1
            if not codes(corpus_root, full=False):
                undetected.append(f"{path.name} cut to {part}")
        path.write_bytes(whole)
    print(f"{points} cuts in committed files, {len(undetected)} not found")
    assert undetected == []
    assert points >= 30


FREE_TEXT = ("made_with", "recipe")


def test_flip_in_corpus_json_is_found_even_when_the_derived_files_were_made_again(corpus_root):
    """The index holds the digest of corpus.json, so any change shows until the index is made again. After that, all
    that no other data vouches for is the free text: the recipe and the names and versions of what it was made with."""
    path = corpus_root / "corpus.json"
    text = path.read_text(encoding="utf-8")
    free = [text.index(f'"{name}": {{') + len(name) + 5 for name in FREE_TEXT]
    free_ranges = [range(start, text.index("\n }", start) + 1) for start in free]
    undetected, points = [], 0
    for position in range(0, len(text), 9):
        flip(path, position, position % 8)
        these = codes(corpus_root, full=True) - {"E407"}
        flip(path, position, position % 8)
        points += 1
        if not these and not any(position in free for free in free_ranges):
            undetected.append(text[position - 20 : position + 20])
    print(f"{points} flips in corpus.json, {len(undetected)} not found")
    assert undetected == []
    assert points >= 200


def test_derived_files_that_are_damaged_never_crash_the_check(corpus_root):
    points, seen = 0, 0
    for name in ("index.sqlite", "manifest.parquet", "subjects.parquet", "ledger.parquet"):
        path = corpus_root / name
        size = path.stat().st_size
        for number in range(40):
            position = number * size // 40 + 1
            flip(path, position, number % 8)
            these = codes(corpus_root, full=False)
            flip(path, position, number % 8)
            assert these <= {"E407"}, (name, position, these)
            if name.endswith(".parquet"):
                assert these == {"E407"}, (name, position)
            points += 1
            seen += bool(these)
    print(f"{points} flips in derived files, {seen} found")
    assert points == 160


@pytest.mark.parametrize("damage", ["truncated", "no row table", "text for a row", "another row"])
def test_index_that_does_not_agree_is_stale(corpus_root, damage):
    import sqlite3

    path = corpus_root / "index.sqlite"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    else:
        connection = sqlite3.connect(path)
        connection.execute(
            {
                "no row table": "DROP TABLE sample",
                "text for a row": "UPDATE sample SET row = 'x' WHERE row = 3",
                "another row": "UPDATE sample SET row = 1 WHERE row = 3",
            }[damage]
        )
        connection.commit()
        connection.close()
    assert codes(corpus_root, full=False) == {"E407"}


def test_swapped_shards_are_found(corpus_root):
    first, second = shards(corpus_root)[:2]
    first.rename(corpus_root / "x")
    second.rename(first)
    (corpus_root / "x").rename(second)
    assert {p.where for p in validate(corpus_root)} == {str(p.relative_to(corpus_root)) for p in (first, second)}
    # of the same size, only the full check tells them apart
    longest = max(first.stat().st_size, second.stat().st_size)
    for path in (first, second):
        path.write_bytes(path.read_bytes().ljust(longest, b"\0"))

    def change(header):
        for entry in header["shards"]:
            if corpus_root / entry["path"] in (first, second):
                entry["size"] = longest

    edit_header(corpus_root, change)
    derive(corpus_root)
    assert codes(corpus_root, full=False) == set()
    assert "E401" in codes(corpus_root)


@pytest.mark.parametrize("full", [False, True])
def test_lost_and_empty_files_are_found_by_either_check(corpus_root, tmp_path, full):
    for path in committed_files(corpus_root):
        path.rename(tmp_path / "kept")
        assert "E403" in codes(corpus_root, full=full), path.name
        path.touch()
        assert "E402" in codes(corpus_root, full=full), path.name
        (tmp_path / "kept").rename(path)
    assert validate(corpus_root, full=full) == []


@pytest.mark.parametrize("what", ["shard", "folder"])
def test_link_in_place_of_a_shard_or_its_folder_is_found_as_a_reader_would(corpus_root, tmp_path, what):
    path = shards(corpus_root)[0] if what == "shard" else corpus_root / "shards"
    shutil.move(path, tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    for full in (False, True):
        assert codes(corpus_root, full=full) == {"E403"}


def test_hole_of_zeros_is_found(corpus_root):
    shard = shards(corpus_root)[0]
    whole = shard.read_bytes()
    for start in range(0, len(whole) - 1536, 4096):
        shard.write_bytes(whole[:start] + bytes(512) + whole[start + 512 :])
        assert "E401" in codes(corpus_root), start


def test_parts_of_a_check_cover_every_shard_once(corpus_root):
    damaged = shards(corpus_root)
    for path in damaged:
        flip(path, path.stat().st_size // 2)
    for parts in (1, 2, 3, 7):
        found: Counter[str] = Counter()
        for part in range(1, parts + 1):
            problems = validate(corpus_root, subset=(part, parts))
            found.update({problem.where for problem in problems if problem.where.startswith("shards/")})
        assert found == Counter(str(path.relative_to(corpus_root)) for path in damaged)


@pytest.mark.parametrize("subset", [(0, 2), (3, 2), (0, 0), (-1, 1)])
def test_part_that_does_not_exist_is_refused_and_never_a_clean_bill(pristine, subset):
    with pytest.raises(UsageError, match="E501"):
        validate(pristine, subset=subset)


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("id", "red-mug/src-00000000000g", "E301"),
        ("role", "bg", "E301"),
        ("source_sha256", "0" * 64, "E301"),
        ("source_sha256", "", "E301"),
        ("box_xyxy", [0, 0, 0, 5], "E211"),
        ("box_xyxy", [5, 5, 4, 9], "E211"),
        ("box_xyxy", [0, 0, 65, 5], "E211"),
        ("box_xyxy", [-1, 0, 5, 5], "E211"),
        ("box_xyxy", [0, 0, 5], "E305"),
        ("box_score", 1.5, "E305"),
        ("box_score", float("nan"), "E305"),
        ("mask_area", -0.1, "E305"),
        ("mask_area", 0.5, "E212"),
        ("mask_quality", 2.0, "E305"),
        ("width", 31, "E201"),
        ("split", "validation", "E306"),
        ("parents", ["red-mug/src-000000000000"], "E303"),
        ("provenance", [], "E305"),
        ("caption", "another", "E401"),
    ],
)
def test_row_that_contradicts_itself_or_its_picture_is_found(corpus_root, field, value, code):
    def change(rows):
        row = next(row for row in rows if row["subject"] == "red-mug" and row["role"] == "src" and row["width"] != 31)
        row[field] = value

    edit_table(corpus_root, "manifest", change)
    assert code in codes(corpus_root)


@pytest.mark.parametrize(
    ("which", "field", "value", "code"),
    [
        ("image", "offset", 0, "E401"),
        ("image", "offset", -512, "E401"),
        ("image", "length", 1 << 45, "E401"),
        ("image", "format", "gif", "E303"),
        ("image", "sha256", "0" * 64, "E401"),
        ("mask", "shard", "shards/other.tar", "E308"),
        ("image", "shard", "shards/other.tar", "E308"),
    ],
)
def test_place_that_is_not_there_is_found(corpus_root, which, field, value, code):
    edit_table(corpus_root, "manifest", lambda rows: rows[0][which].update({field: value}))
    assert code in codes(corpus_root)


def vouched_for(root: Path, which: str, data: bytes, **facts: str) -> str:
    """Write a corpus whose first sample has other bytes as its image or mask, recorded as they are; its ID."""
    content = small_content()
    first, *rest = content.samples()
    ref = replace(getattr(first.sample, which), length=len(data), sha256=sha256_hex(data), **facts)
    first = replace(first, sample=replace(first.sample, **{which: ref}), **{which: lambda: data})
    write_corpus(root, replace(content, samples=lambda: iter([first, *rest])))
    return first.sample.id


@pytest.mark.parametrize("data", [b"no picture", b"", b"\x89PNG\r\n\x1a\n" + b"\xff" * 40])
def test_member_that_is_vouched_for_and_no_picture_is_found(tmp_path, data):
    name = vouched_for(tmp_path / "corpus", "image", data)
    assert validate(tmp_path / "corpus") == []
    (problem,) = validate(tmp_path / "corpus", full=True)
    assert (problem.code, problem.where) == ("E401", name)


@pytest.mark.parametrize(("which", "code"), [("image", "E401"), ("mask", "E212")])
def test_picture_that_was_wrong_when_it_was_packed_is_found_by_decoding_it_and_not_before(tmp_path, which, code):
    first = next(iter(small_content().samples()))
    pixels, mask = decode_image(first.image(), first.sample.image.format), decode_mask(first.mask())
    if which == "image":
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        name = vouched_for(tmp_path / "corpus", "image", buffer.getvalue()[:-200], format="png")
    else:
        name = vouched_for(tmp_path / "corpus", "mask", encode_mask(~mask))
    assert validate(tmp_path / "corpus", full=True) == []
    assert [(each.code, each.where) for each in validate(tmp_path / "corpus", decode=True)] == [(code, name)]
    parts = [validate(tmp_path / "corpus", decode=True, subset=(part, 3)) for part in (1, 2, 3)]
    assert [each.code for part in parts for each in part] == [code]


def test_doubled_and_unordered_rows_are_found(corpus_root):
    edit_table(corpus_root, "manifest", lambda rows: rows.append(rows[-1]))
    assert "E303" in codes(corpus_root, full=False)
    edit_table(corpus_root, "manifest", lambda rows: rows.pop())
    edit_table(corpus_root, "manifest", lambda rows: rows.reverse())
    assert "E303" in codes(corpus_root, full=False)


@pytest.mark.parametrize(
    ("table", "change", "code"),
    [
        ("subjects", lambda rows: rows[0]["sample_ids"].append("blue-mug/src-000000000000"), "E303"),
        ("subjects", lambda rows: rows[0]["attributes"][0]["sample_ids"].append(rows[1]["sample_ids"][0]), "E303"),
        ("subjects", lambda rows: rows.pop(), "E308"),
        ("ledger", lambda rows: rows.pop(0), "E308"),
        ("ledger", lambda rows: rows[0].update(status="ignored"), "E308"),
        ("ledger", lambda rows: rows[0].update(path=rows[1]["path"]), "E303"),
        ("ledger", lambda rows: rows[0].update(status="lost"), "E305"),
        ("ledger", lambda rows: rows[0].update(status="quarantined", code="E999"), "E305"),
    ],
)
def test_subjects_and_ledger_that_do_not_agree_with_the_samples_are_found(corpus_root, table, change, code):
    edit_table(corpus_root, table, change)
    assert code in codes(corpus_root, full=False)


@pytest.mark.parametrize("name", sorted(counts_of((), (), ())))
def test_count_in_the_header_is_held_to_the_rows(corpus_root, name):
    edit_header(corpus_root, lambda header: header["counts"].update({name: header["counts"][name] + 1}))
    assert "E308" in codes(corpus_root, full=False)
    edit_header(corpus_root, lambda header: header["counts"].pop(name))
    assert "E308" in codes(corpus_root, full=False)


def test_rows_of_a_file_are_held_to_the_header(corpus_root):
    edit_header(corpus_root, lambda header: header["shards"][0].update(rows=9))
    assert "E308" in codes(corpus_root, full=False)


@pytest.mark.parametrize("name", ["manifest.parquet", "subjects.parquet", "ledger.parquet", "index.sqlite"])
def test_missing_or_stale_derived_file_is_found_and_named(corpus_root, name):
    path = corpus_root / name
    path.write_bytes(path.read_bytes() + b"x") if name.endswith("parquet") else path.unlink()
    assert [(problem.code, problem.where) for problem in validate(corpus_root)] == [("E407", name)]
    path.unlink(missing_ok=True)
    assert [(problem.code, problem.where) for problem in validate(corpus_root)] == [("E407", name)]
    derive(corpus_root)
    assert validate(corpus_root) == []


def test_file_that_is_no_table_is_a_problem_and_not_a_crash(corpus_root):
    replace_table(corpus_root, "ledger", b"PAR1 no parquet PAR1")
    assert codes(corpus_root, full=False) == {"E305"}


def test_foreign_member_in_a_shard_is_found(corpus_root):
    shard = shards(corpus_root)[0]
    whole = shard.read_bytes()
    from manifests.shards import BLOCK, _header

    data = whole[: -2 * BLOCK] + _header("red-mug/src-ffffffffffff.png", 3) + b"abc".ljust(BLOCK, b"\0") + bytes(1024)
    shard.write_bytes(data)

    def change(header):
        entry = next(entry for entry in header["shards"] if entry["path"].endswith(shard.name))
        entry |= {"size": len(data), "sha256": sha256_hex(data)}

    edit_header(corpus_root, change)
    derive(corpus_root)
    assert [problem.code for problem in validate(corpus_root, full=True)] == ["E304"]


def test_problem_is_one_line_with_code_place_and_advice(corpus_root):
    shards(corpus_root)[0].unlink()
    for problem in validate(corpus_root):
        assert str(problem).startswith(f"{problem.code} {CODES[problem.code].slug}: {problem.where}: ")
        assert str(problem).endswith(CODES[problem.code].advice)
        assert "\n" not in str(problem)


def test_folder_without_a_corpus_is_not_a_clean_bill(tmp_path):
    with pytest.raises(ReportedError, match="E503"):
        validate(tmp_path)
