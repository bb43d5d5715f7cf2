"""SQL conditions: they see the manifest's columns and nothing else, and a wrong one is one sentence."""

from __future__ import annotations

import shutil

import duckdb
import pyarrow as pa
import pytest

from manifests.corpus import open_corpus
from manifests.errors import IntegrityError, UsageError
from manifests.query import matching_rows, select
from manifests.rows import ManifestRows
from tests.conftest import tree_digest
from tests.manifests.corpora import flip


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
        ("'red' IN words", 13),
        ("'red' IN words AND 'chartreuse' NOT IN words", 13),
        ("len(words) != len(attributes)", 0),
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
        "true) UNION ALL (SELECT 99 FROM manifest WHERE (true",
        "true UNION SELECT 'x'",
        "true FROM manifest",
        "true, true",
        "id IN (SELECT content FROM read_text('{beside}/notes.txt'))",
        "id IN (SELECT * FROM read_csv('{beside}/index.sqlite'))",
        "id IN (SELECT * FROM read_csv('.tmp/notes.txt'))",
        "id IN (SELECT * FROM read_csv('http://127.0.0.1:9/names.csv'))",
        "id IN (SELECT * FROM read_csv('s3://bucket/names.csv'))",
        "id IN (SELECT name FROM planted)",
        "st_area(box_xyxy) > 0",
        "true); COPY (SELECT 1) TO '{manifest}'; SELECT id FROM manifest WHERE (true",
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
def test_files_settings_and_further_statements_are_refused_in_one_sentence(pristine, tmp_path, monkeypatch, where):
    monkeypatch.chdir(tmp_path)
    root = shutil.copytree(pristine, tmp_path / "it's [a] corpus*")
    planted = pa.table({"name": list(open_corpus(root).ids)})  # noqa: F841 DuckDB finds variables by their names
    (tmp_path / ".tmp").mkdir()  # where DuckDB would put aside what does not fit into memory
    for path in (tmp_path / "names.csv", root / "notes.txt", tmp_path / ".tmp" / "notes.txt"):
        path.write_text("secret\n")
    before = tree_digest(tmp_path)
    places = {
        "{file}": tmp_path / "names.csv",
        "{folder}": tmp_path,
        "{beside}": root,
        "{manifest}": next(root.glob("manifest-*")),
    }
    for name, place in places.items():
        where = where.replace(name, str(place).replace("'", "''"))
    with pytest.raises(UsageError, match="E501") as caught:
        ids(root, where)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert "secret" not in str(caught.value).replace("names", "")
    assert tree_digest(tmp_path) == before


def test_a_condition_that_may_read_files_would_be_caught(pristine, tmp_path):
    """The planted breach: without the closed settings the same condition reads the file."""
    (tmp_path / "names.csv").write_text("name\nsrc\n")
    where = f"role IN (SELECT name FROM read_csv('{tmp_path}/names.csv'))"
    with open_corpus(pristine) as corpus:
        manifest = corpus.table()  # noqa: F841 DuckDB finds variables by their names
        found = duckdb.connect().execute(f"SELECT count(*) FROM manifest WHERE ({where})").fetchone()
    assert found == (9,)


def test_condition_is_asked_of_the_checked_file_and_of_no_other(pristine, tmp_path):
    root = shutil.copytree(pristine, tmp_path / "corpus")
    path = next(root.glob("manifest-*"))
    with open_corpus(root) as corpus:
        assert corpus.manifest_file() == path
    flip(path, path.stat().st_size // 2)
    with pytest.raises(IntegrityError, match="E401"):
        ids(root, "true")


def test_manifest_is_read_by_duckdb_and_not_by_us(pristine, monkeypatch):
    read: list[tuple[int, ...]] = []
    original = ManifestRows._read

    def recorded(rows, groups, columns=None):
        read.append(tuple(groups))
        return original(rows, groups, columns)

    monkeypatch.setattr(ManifestRows, "_read", recorded)
    with open_corpus(pristine) as corpus:
        assert len(matching_rows(corpus, "role = 'src' AND mask_quality >= 0")) == 9
        assert read == []
        assert len(select(corpus, "role = 'src' AND mask_quality >= 0")) == 9
    assert read == [(0,)]
