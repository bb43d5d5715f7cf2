"""SQL conditions: they see the manifest's columns and nothing else, and a wrong one is one sentence."""

from __future__ import annotations

import pytest

from manifests.corpus import open_corpus
from manifests.errors import UsageError
from manifests.query import select


def ids(root, where: str) -> list[str]:
    with open_corpus(root) as corpus:
        return [row["id"] for row in select(corpus, where)]


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("", 13),
        ("  ", 13),
        ("role = 'src'", 9),
        ("role = 'src' AND split = 'validation'", 3),
        ("role = 'src' OR true", 13),
        ("list_contains(flags, 'look')", 5),
        ("image.format = 'jpg'", 3),
        ("len(parents) > 0", 2),
        ("caption LIKE '%café%'", 13),
        ("list_contains(list_transform(attributes, lambda a: a.word), 'red')", 13),
        ("mask_area > (SELECT avg(mask_area) FROM manifest)", None),
        ("role = 'src' -- photographs", 9),
        ("false", 0),
    ],
)
def test_condition_chooses_rows_in_id_order(pristine, where, count):
    found = ids(pristine, where)
    assert found == sorted(found)
    assert count in (None, len(found))


def test_condition_sees_only_the_selection(pristine):
    assert {name.partition("/")[0] for name in ids(f"{pristine}#blue-mug", "true")} == {"blue-mug", "class-mug"}


def test_rows_are_plain_values(pristine):
    with open_corpus(pristine) as corpus:
        row = select(corpus, "role = 'bg'")[0]
    assert row["box_xyxy"] == [6, 4, 28, 20]
    assert row["image"]["format"] == "webp"


@pytest.mark.parametrize(
    "where",
    [
        "id IN (SELECT column0 FROM read_csv('{file}'))",
        "id IN (SELECT content FROM read_text('{file}'))",
        "id IN (SELECT * FROM '{file}')",
        "id IN (SELECT file FROM glob('{folder}/*'))",
        "id IN (SELECT * FROM read_parquet('{folder}/*.parquet'))",
        "id IN (SELECT * FROM sqlite_scan('{file}', 'x'))",
        "true); COPY manifest TO '{folder}/out.csv'; SELECT id FROM manifest WHERE (true",
        "true); ATTACH '{folder}/out.db'; SELECT id FROM manifest WHERE (true",
        "true); ATTACH ':memory:' AS other; SELECT id FROM manifest WHERE (true",
        "true); INSTALL httpfs; SELECT id FROM manifest WHERE (true",
        "true); SET enable_external_access = true; SELECT id FROM manifest WHERE (true",
        "true); SELECT 1, 2 FROM manifest WHERE (true",
        "true); DROP VIEW manifest; SELECT 1 WHERE (true",
        "id IN (SELECT id FROM table)",
        "nosuch = 1",
        "role = ",
        "(",
        "')",
        "1 / 'x' = 1",
        "error('a' || chr(27) || chr(10) || 'b')",
    ],
)
def test_files_settings_and_further_statements_are_refused_in_one_sentence(pristine, tmp_path, where):
    (tmp_path / "names.csv").write_text("secret\n")
    before = set(tmp_path.iterdir())
    with pytest.raises(UsageError, match="E501") as caught:
        ids(pristine, where.replace("{file}", str(tmp_path / "names.csv")).replace("{folder}", str(tmp_path)))
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert "secret" not in str(caught.value).replace("names", "")
    assert set(tmp_path.iterdir()) == before
