"""Reading: by path, ID and subject; nothing is handed out that the manifest's digests do not vouch for."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import manifests
from manifests.corpus import open_corpus
from manifests.errors import CorpusError, IntegrityError, NotFoundError, UnsupportedSchemaError, UsageError
from manifests.ids import sha256_hex
from manifests.records import Sample
from manifests.removal import remove
from manifests.schema import arrow_schema
from manifests.writer import commit_corpus, remove_unnamed
from tests.manifests.corpora import edit_header, edit_table, flip, make, picture, replace_table, shards, small_content


def test_no_id_means_everything_in_id_order(pristine):
    with manifests.open(pristine) as corpus:
        assert len(corpus) == len(corpus.ids) == len(list(corpus)) == 13
        assert list(corpus) == sorted(corpus) == corpus.table()["id"].to_pylist()
        assert sorted(corpus.subjects) == ["blue-mug", "green-mug", "red-mug"]
        assert len(corpus.ledger) == 12


def test_one_id_means_one_sample(pristine):
    with open_corpus(pristine) as corpus:
        name = corpus.subjects["red-mug"].sample_ids[0]
    with open_corpus(f"{pristine}#{name}") as one:
        assert one.ids == (name,)
        assert one[name].id == name
        assert one.table().num_rows == 1


def test_subject_means_its_photographs_and_regular_pictures_shared_ones_too(pristine):
    with open_corpus(f"{pristine}#red-mug") as corpus:
        subject = corpus.subjects["red-mug"]
        assert set(corpus.ids) == {*subject.sample_ids, *subject.regular_ids}
        assert any(name.startswith("class-mug/") for name in corpus.ids)
        assert "green-mug" not in {sample.subject for sample in corpus.samples()}
        other = open_corpus(pristine).subjects["green-mug"].sample_ids[0]
        assert other not in corpus
        with pytest.raises(NotFoundError, match="E503"):
            corpus[other]


def test_owner_without_a_subject_row_can_be_named(pristine):
    with open_corpus(f"{pristine}#scenes,class-mug") as corpus:
        assert [sample.role for sample in corpus.samples()] == ["reg", "bg"]


@pytest.mark.parametrize(("asked", "meant"), [("red-mgu", "red-mug"), ("grene-mug", "green-mug")])
def test_missing_id_is_named_with_a_suggestion(pristine, asked, meant):
    with pytest.raises(NotFoundError, match=rf"E503 .*'{asked}'.* Did you mean {meant}\?"):
        open_corpus(f"{pristine}#{asked}")


def test_missing_id_that_is_like_nothing_has_no_suggestion(pristine):
    with pytest.raises(NotFoundError) as caught:
        open_corpus(f"{pristine}#zzzzzzzz")
    assert "Did you mean" not in str(caught.value)
    with open_corpus(pristine) as corpus, pytest.raises(NotFoundError, match="Did you mean red-mug/src-"):
        corpus[corpus.subjects["red-mug"].sample_ids[0][:-1] + "x"]


def test_pictures_and_masks_come_back_as_they_were_given(pristine):
    given = {made.sample.id: made for made in small_content().samples()}
    seeds = {
        make(*key).id: key[2] for key in [("blue-mug", "src", 0), ("red-mug", "reg", 60), ("class-mug", "reg", 62)]
    }
    with open_corpus(pristine) as corpus:
        for name in corpus:
            assert corpus.image_bytes(name) == given[name].image()
            assert corpus.mask_bytes(corpus[name]) == given[name].mask()
            image, mask, sample = corpus.image(name), corpus.mask(name), corpus[name]
            assert (image.dtype, image.shape) == (np.uint8, (sample.height, sample.width, 3))
            assert (mask.dtype, mask.shape) == (np.bool_, (sample.height, sample.width))
        for name, seed in seeds.items():
            pixels, _, _, mask = picture(seed)
            np.testing.assert_array_equal(corpus.image(name), pixels)
            np.testing.assert_array_equal(corpus.mask(name), mask)


def test_stream_and_table_choose_by_role_and_split(pristine):
    with open_corpus(pristine) as corpus:
        assert [e.sample.id for e in corpus.stream()] == list(corpus.ids)
        assert corpus.table(role="src").num_rows == 9
        assert corpus.table(role="src", split="validation").num_rows == 3
        streamed = list(corpus.stream(role="reg"))
        assert {e.sample.role for e in streamed} == {"reg"}
        for example in streamed:
            np.testing.assert_array_equal(example.image, corpus.image(example.sample))
            np.testing.assert_array_equal(example.mask, corpus.mask(example.sample))


def test_records_go_through_the_tables_unchanged(pristine):
    given = {made.sample.id: made.sample for made in small_content().samples()}
    with open_corpus(pristine) as corpus:
        for sample in corpus.samples():
            expected = given[sample.id]
            assert (sample.image.sha256, sample.mask.length) == (expected.image.sha256, expected.mask.length)
            assert sample.caption == expected.caption
            assert sample.scores == expected.scores
            assert sample.other_boxes == expected.other_boxes
            assert sample.provenance == expected.provenance
        assert tuple(corpus.subjects.values()) == tuple(small_content().subjects)
        assert corpus.ledger == small_content().ledger


def test_corpus_can_be_read_with_none_of_our_code(pristine, monkeypatch):
    monkeypatch.setenv("WDS_SECURE", "1")
    import webdataset as wds

    header = json.loads((pristine / "corpus.json").read_bytes())
    table = pq.read_table(pristine / header["manifest"]["path"])
    row = table.slice(3, 1).to_pylist()[0]
    data = (pristine / row["image"]["shard"]).read_bytes()[row["image"]["offset"] :][: row["image"]["length"]]
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (row["width"], row["height"])
    packed = {}
    for entry in header["shards"]:
        for item in wds.WebDataset(str(pristine / entry["path"]), shardshuffle=False):
            packed[item["__key__"]] = item
    assert sorted(packed) == table["id"].to_pylist()
    text = json.loads(packed[row["id"]]["json"])
    expected = {name: value for name, value in row.items() if name not in ("image", "mask")}
    assert text == json.loads(json.dumps(expected))
    assert sha256_hex(packed[row["id"]]["mask.png"]) == row["mask"]["sha256"]
    assert table.schema.field("box_xyxy").metadata[b"description"].endswith(b"half-open")


@pytest.mark.parametrize("which", ["image", "mask"])
def test_flipped_byte_in_a_shard_never_reaches_the_reader(corpus_root, which):
    with open_corpus(corpus_root) as corpus:
        sample = corpus.record(corpus.ids[4])
    ref = getattr(sample, which)
    flip(corpus_root / ref.shard, ref.offset + ref.length // 2)
    with open_corpus(corpus_root) as corpus:
        with pytest.raises(IntegrityError, match=f"E401 checksum: {ref.shard} at byte {ref.offset}"):
            getattr(corpus, which)(sample.id)
        with pytest.raises(IntegrityError, match="E401"):
            list(corpus.stream())
        corpus.image(corpus.ids[0])


@pytest.mark.parametrize("table", ["manifest", "subjects", "ledger"])
def test_flipped_byte_in_a_table_is_named(corpus_root, table):
    path = next(corpus_root.glob(f"{table}-*.parquet"))
    flip(path, path.stat().st_size // 2)
    with pytest.raises(IntegrityError, match=f"E401 checksum: {path.name}"), open_corpus(corpus_root) as corpus:
        _ = (corpus.subjects, corpus.ledger)


def test_table_of_another_size_and_missing_table_are_told_apart(corpus_root):
    path = next(corpus_root.glob("manifest-*.parquet"))
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(IntegrityError, match="E402"):
        open_corpus(corpus_root)
    path.unlink()
    with pytest.raises(IntegrityError, match="E403"):
        open_corpus(corpus_root)


HOSTILE = ["../x.tar", "/etc/passwd", "shards/../../x.tar", "C:/x.tar", "\\\\host\\x", "a\0b", "", ".", "./.", "\ud800"]


@pytest.mark.parametrize("path", HOSTILE)
@pytest.mark.parametrize("where", ["manifest", "shards"])
def test_header_that_names_a_path_outside_is_refused(corpus_root, path, where):
    def change(header):
        entry = header["shards"][0] if where == "shards" else header[where]
        entry["path"] = path

    edit_header(corpus_root, change)
    with pytest.raises(CorpusError, match="E307") as caught:
        open_corpus(corpus_root)
    assert "\0" not in str(caught.value)


def test_newer_version_is_refused_by_its_number(corpus_root):
    edit_header(corpus_root, lambda header: header.update(schema_version=2))
    with pytest.raises(UnsupportedSchemaError, match="E405 newer-schema: schema version 2") as caught:
        open_corpus(corpus_root)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("version", [0, -1, "2", 2.0, True, None, [2]])
def test_version_that_is_no_number_of_a_version_is_refused(corpus_root, version):
    edit_header(corpus_root, lambda header: header.update(schema_version=version))
    with pytest.raises(CorpusError, match="E404"):
        open_corpus(corpus_root)


@pytest.mark.parametrize("key", ["format", "schema_version", "manifest", "shards", "counts", "recipe", "made_with"])
def test_header_without_one_of_its_fields_is_refused(corpus_root, key):
    edit_header(corpus_root, lambda header: header.pop(key))
    with pytest.raises(CorpusError, match=f"E404 .*{key}"):
        open_corpus(corpus_root)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b"[" * 100_000, b"<html>", b'{"format": "x"}']
)
def test_header_that_is_no_header_is_one_sentence(corpus_root, text):
    (corpus_root / "corpus.json").write_bytes(text)
    with pytest.raises(CorpusError, match=r"E404 bad-header: corpus.json") as caught:
        open_corpus(corpus_root)
    assert "\n" not in str(caught.value)


def test_field_of_a_newer_minor_version_is_ignored(corpus_root):
    edit_header(corpus_root, lambda header: header.update(colour_space="sRGB"))
    with open_corpus(corpus_root) as corpus:
        assert len(corpus) == 13


def test_column_of_a_newer_minor_version_is_ignored(corpus_root):
    path = next(corpus_root.glob("manifest-*.parquet"))
    table = pq.read_table(path)
    replace_table(corpus_root, "manifest", table.append_column("depth", pa.array([1] * table.num_rows)))
    with open_corpus(corpus_root) as corpus:
        assert len(list(corpus.samples())) == 13
        assert "depth" in corpus.table().column_names


def test_table_of_an_older_minor_version_is_read(corpus_root):
    path = next(corpus_root.glob("manifest-*.parquet"))
    replace_table(corpus_root, "manifest", pq.read_table(path).drop_columns(["rival_outline"]))
    with open_corpus(corpus_root) as corpus:
        assert {sample.rival_outline for sample in corpus.samples()} == {()}


@pytest.mark.parametrize("column", ["id", "box_xyxy", "image", "provenance"])
def test_table_without_a_column_is_refused_by_its_name(corpus_root, column):
    path = next(corpus_root.glob("manifest-*.parquet"))
    replace_table(corpus_root, "manifest", pq.read_table(path).drop_columns([column]))
    with pytest.raises(CorpusError, match=f"E305 bad-record: manifest-.* column {column} is missing"):
        open_corpus(corpus_root)


def test_column_of_another_type_is_refused_with_row_and_field(corpus_root):
    path = next(corpus_root.glob("manifest-*.parquet"))
    table = pq.read_table(path)
    place = table.column_names.index("width")
    replace_table(corpus_root, "manifest", table.set_column(place, "width", pa.array(["wide"] * table.num_rows)))
    with open_corpus(corpus_root) as corpus, pytest.raises(CorpusError, match=r"E305 .* row 0: width: .*wide"):
        list(corpus.samples())


@pytest.mark.parametrize("data", [b"no parquet", b"PAR1" + bytes(64) + b"PAR1", b""])
def test_file_that_is_vouched_for_and_no_table_is_refused(corpus_root, data):
    replace_table(corpus_root, "manifest", data)
    with pytest.raises(CorpusError, match=r"E305 bad-record: manifest-.*no parquet table"):
        open_corpus(corpus_root)


def test_shard_that_corpus_json_does_not_name_is_not_opened(corpus_root):
    (corpus_root / "shards" / "other.tar").write_bytes(b"secret")

    def change(rows):
        rows[0]["image"] |= {"shard": "shards/other.tar", "offset": 0, "length": 6, "sha256": sha256_hex(b"secret")}

    edit_table(corpus_root, "manifest", change)
    with open_corpus(corpus_root) as corpus, pytest.raises(IntegrityError, match=r"E303 .*not named by corpus.json"):
        corpus.image_bytes(corpus.ids[0])


@pytest.mark.parametrize("what", ["shard", "folder", "fifo", "table"])
def test_link_or_fifo_in_place_of_a_file_is_refused(corpus_root, tmp_path, what):
    shard = shards(corpus_root)[0]
    if what == "shard":
        shutil.move(shard, tmp_path / "elsewhere.tar")
        shard.symlink_to(tmp_path / "elsewhere.tar")
    elif what == "folder":
        shutil.move(corpus_root / "shards", tmp_path / "elsewhere")
        (corpus_root / "shards").symlink_to(tmp_path / "elsewhere")
    elif what == "fifo":
        shard.unlink()
        os.mkfifo(shard)
    else:
        table = next(corpus_root.glob("manifest-*.parquet"))
        shutil.move(table, tmp_path / "elsewhere.parquet")
        table.symlink_to(tmp_path / "elsewhere.parquet")
    with pytest.raises(IntegrityError, match="E403"), open_corpus(corpus_root) as corpus:
        list(corpus.stream())


def test_index_finds_the_row_of_every_id(pristine):
    with open_corpus(pristine) as corpus:
        index = corpus.index()
        assert [index.row(name) for name in corpus] == list(range(13))
        assert index.row("red-mug/src-000000000000") is None
        assert index.digest == corpus.digest
        index.close()


@pytest.mark.parametrize("damage", ["stale", "missing", "no database", "empty", "no row"])
def test_index_that_is_not_of_this_corpus_is_refused(corpus_root, damage):
    path = corpus_root / "index.sqlite"
    if damage == "stale":
        edit_header(corpus_root, lambda header: header["made_with"].update(python="4"))
    elif damage == "missing":
        path.unlink()
    elif damage == "no row":
        import sqlite3

        connection = sqlite3.connect(path)
        connection.execute("DELETE FROM corpus")
        connection.commit()
        connection.close()
    else:
        path.write_bytes(b"" if damage == "empty" else b"x" * 4096)
    with open_corpus(corpus_root) as corpus, pytest.raises(IntegrityError, match="E407"):
        corpus.index()


def test_reader_of_a_corpus_that_was_rebuilt_is_told_so(corpus_root):
    with open_corpus(corpus_root) as corpus:
        gone = corpus.subjects["green-mug"].sample_ids[0]
        smaller = small_content()
        samples = [made for made in smaller.samples() if made.sample.subject != "green-mug"]
        values = {name: getattr(smaller, name) for name in smaller.__slots__}
        commit_corpus(corpus_root, type(smaller)(**(values | {"samples": lambda: iter(samples)})))
        remove_unnamed(corpus_root)
        with pytest.raises(IntegrityError, match="E406 rebuilt"):
            corpus.image(gone)


def test_reader_goes_on_with_the_version_it_opened_while_its_files_are_there(corpus_root, tmp_path):
    with open_corpus(corpus_root) as corpus:
        remove(f"{corpus_root}#green-mug", tmp_path / "new")
        assert len(list(corpus.stream())) == 13


def test_one_open_corpus_serves_many_threads(pristine):
    with open_corpus(pristine) as corpus:
        expected = {name: sha256_hex(corpus.image_bytes(name)) for name in corpus}
    faults: list[str] = []
    with open_corpus(pristine) as corpus:

        def read():
            faults.extend(name for name in corpus if sha256_hex(corpus.image_bytes(name)) != expected[name])

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert faults == []


def test_folder_without_a_corpus_and_what_is_no_place_are_usage_errors(tmp_path):
    with pytest.raises(NotFoundError, match=r"E503 .*holds no corpus.json"):
        open_corpus(tmp_path)
    for place in ("gs://bucket/corpus", "hf://user/name", "hf://datasets/name", "http://127.0.0.1/corpus"):
        with pytest.raises(UsageError, match=r"E501 .*hf://datasets/USER/NAME"):
            open_corpus(place)


def test_schema_has_a_column_for_every_field_and_its_version(pristine):
    schema = pq.read_schema(next(pristine.glob("manifest-*.parquet")))
    assert schema.equals(arrow_schema(Sample))
    assert schema.metadata[b"dataforge_schema_version"] == b"1"
    assert not any(field.nullable for field in schema)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_reading_starts_no_thread(pristine):
    """One of Arrow's that holds Python's bytes when the interpreter ends would abort a command that has succeeded."""
    count = """
import os, sys
import numpy, pyarrow.parquet, manifests
before = len(os.listdir("/proc/self/task"))
with manifests.open(sys.argv[1]) as corpus:
    assert len(corpus.subjects) and len(corpus.ledger) and len(list(corpus.samples()))
assert manifests.validate(sys.argv[1], full=True) == []
print(len(os.listdir("/proc/self/task")) - before)
"""
    said = subprocess.run([sys.executable, "-c", count, str(pristine)], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "0"
