"""Both shapes are read by the readers people have, with none of our code; and the second one is what it says."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pandas
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from dataforge.report import write_descriptions
from manifests.corpus import Corpus, open_corpus
from manifests.features import data_schema, parquet_features, shard_features
from manifests.fsops import output_lock
from manifests.header import read_header
from manifests.records import Attribute
from manifests.removal import remove
from manifests.repair import repair
from manifests.validation import validate
from manifests.writer import UnpackedSample, commit_corpus
from tests.manifests.corpora import flip, small_content
from tests.publish.conftest import Place, digest_of, make, stated


@pytest.fixture(scope="module")
def opened(both_shapes: Path) -> Iterator[Corpus]:
    with open_corpus(both_shapes) as corpus:
        yield corpus


def data_files(root: Path) -> list[Path]:
    return sorted((root / "data").glob("*.parquet"))


def test_features_are_those_that_datasets_itself_would_write():
    from datasets import Features, Image, List, Value

    declared = Features._from_yaml_list(parquet_features())
    assert declared == Features.from_arrow_schema(data_schema())
    assert declared._to_yaml_list() == parquet_features()
    assert (declared["image"], declared["mask"]) == (Image(), Image(mode="L"))
    assert declared["box_xyxy"] == List(Value("int32"))
    assert declared["attributes"] == List(
        {name: Value("float64" if name == "score" else "string") for name in ("category", "word", "score", "origin")}
    )
    of_shards = Features._from_yaml_list(shard_features(["webp", "jpg"]))
    assert of_shards._to_yaml_list() == shard_features(["webp", "jpg"])
    assert list(of_shards) == ["jpg", "webp", "mask.png", "json", "__key__", "__url__"]
    assert of_shards["json"]["attributes"] == declared["attributes"]


# what a client prints of a loaded dataset: for every row the ID, the pixels' digest, the mask's area, the words
DESCRIBE = """
import datasets, hashlib, json, logging, sys
import numpy as np
datasets.disable_progress_bars()
loaded = datasets.load_dataset(*{arguments!r}, **{settings!r})
rows = []
for name, split in loaded.items():
    for row in split:
        facts = row.get("json") or row
        image = next(row[column] for column in ("image", "jpg", "png", "webp") if row.get(column) is not None)
        mask = row["mask"] if "mask" in row else row["mask.png"]
        pixels = hashlib.sha256(np.asarray(image.convert("RGB")).tobytes()).hexdigest()
        words = [[word["category"], word["word"]] for word in facts["attributes"]]
        rows.append([name, facts["id"], pixels, int((np.asarray(mask) > 127).sum()), facts["box_xyxy"], words])
print(json.dumps(sorted(rows)))
"""


def expected(corpus: Corpus) -> list[list[object]]:
    import hashlib

    rows = []
    for sample in corpus.samples():
        split = "scenes" if sample.role == "bg" else sample.split
        pixels = hashlib.sha256(corpus.image(sample).tobytes()).hexdigest()
        words = [[word.category, word.word] for word in sample.attributes]
        rows.append([split, sample.id, pixels, int(corpus.mask(sample).sum()), list(sample.box_xyxy), words])
    return sorted(rows)


def load(place: Place, *arguments: str, **settings: object) -> list[list[object]]:
    done = place.python(DESCRIBE.format(arguments=list(arguments), settings=settings))
    rows: list[list[object]] = json.loads(done.out.splitlines()[-1])
    return rows


@pytest.mark.parametrize("streaming", [False, True], ids=["plain", "streaming"])
@pytest.mark.parametrize("shape", ["both_shapes", "shards_only"])
def test_load_dataset_reads_the_folder(request, lfs, opened, shape, streaming):
    root = request.getfixturevalue(shape)
    assert load(lfs, str(root), streaming=streaming) == expected(opened)


@pytest.mark.parametrize("streaming", [False, True], ids=["plain", "streaming"])
@pytest.mark.parametrize("shape", ["both_shapes", "shards_only"])
def test_load_dataset_reads_the_hub(request, place, opened, shape, streaming):
    root = request.getfixturevalue(shape)
    assert place.publish(root).code == 0
    assert load(place, place.name, streaming=streaming, revision=digest_of(root)) == expected(opened)


def test_words_that_come_late_are_not_lost(lfs, tmp_path):
    """The trap of inferred types: in the first samples no picture has a word."""
    content = small_content()
    words = (Attribute(category="shape", word="round", score=0.5, origin="source"),)

    def samples() -> Iterator[UnpackedSample]:
        for number, unit in enumerate(content.samples()):
            yield replace(unit, sample=replace(unit.sample, attributes=words if number > 8 else ()))

    for parquet in (False, True):
        root = make(tmp_path / str(parquet), replace(content, samples=samples), parquet=parquet)
        rows = load(lfs, str(root))
        assert sorted(len(row[5]) for row in rows) == [0] * 9 + [1] * 4
        assert {tuple(word) for row in rows for word in row[5]} == {("shape", "round")}


def test_webdataset_reads_the_shards(both_shapes, opened):
    urls = ["./" + str(path.relative_to(both_shapes)) for path in sorted((both_shapes / "shards").glob("*.tar"))]
    urls = [str(both_shapes / url) for url in urls]
    found = {sample["__key__"]: sample for sample in webdataset.WebDataset(urls, shardshuffle=False)}
    assert sorted(found) == list(opened.ids)
    for sample in opened.samples():
        assert found[sample.id][sample.image.format] == opened.image_bytes(sample)
        assert found[sample.id]["mask.png"] == opened.mask_bytes(sample)
        assert json.loads(found[sample.id]["json"])["caption"] == sample.caption


def test_pyarrow_reads_the_data_files(both_shapes, opened):
    table = pyarrow.dataset.dataset(both_shapes / "data").to_table()
    rows = {row["id"]: row for row in table.to_pylist()}
    assert sorted(rows) == list(opened.ids)
    manifest = {row["id"]: row for row in opened.table().drop_columns(["image", "mask"]).to_pylist()}
    for name, row in rows.items():
        image, mask = row.pop("image"), row.pop("mask")
        assert (image["bytes"], mask["bytes"]) == (opened.image_bytes(name), opened.mask_bytes(name))
        assert (image["path"], mask["path"]) == (None, None)
        assert row == manifest[name]


def test_duckdb_reads_the_data_files(both_shapes, opened):
    found = duckdb.sql(
        f"SELECT id, octet_length(image.bytes), len(attributes) FROM '{both_shapes}/data/*.parquet' ORDER BY id"
    ).fetchall()
    wanted = [(sample.id, sample.image.length, len(sample.attributes)) for sample in opened.samples()]
    assert found == wanted


def test_pandas_reads_the_data_files(both_shapes, opened):
    frame = pandas.concat(pandas.read_parquet(path) for path in data_files(both_shapes)).set_index("id")
    for name in opened:
        with Image.open(io.BytesIO(frame.loc[name]["image"]["bytes"])) as image:
            assert np.array_equal(np.asarray(image.convert("RGB")), opened.image(name))
        with Image.open(io.BytesIO(frame.loc[name]["mask"]["bytes"])) as mask:
            assert np.array_equal(np.asarray(mask), opened.mask(name))


def test_same_rows_give_the_same_bytes_and_are_not_written_again(both_shapes, tmp_path):
    root = tmp_path / "again"
    commit_corpus(root, stated(small_content(), parquet=True))
    assert digest_of(root) == digest_of(both_shapes)
    assert [path.read_bytes() for path in data_files(root)] == [path.read_bytes() for path in data_files(both_shapes)]
    before = [path.stat().st_mtime_ns for path in data_files(root)]
    commit_corpus(root, stated(small_content(), parquet=True))
    assert [path.stat().st_mtime_ns for path in data_files(root)] == before


def test_corpus_without_data_files_says_nothing_of_them(shards_only, both_shapes):
    assert "data" not in json.loads((shards_only / "corpus.json").read_bytes())
    assert read_header(shards_only).header.shards == read_header(both_shapes).header.shards


def test_data_file_goes_with_its_shard_and_is_one_large_group(both_shapes, opened):
    header = read_header(both_shapes).header
    assert [entry.rows for entry in header.data] == [entry.rows for entry in header.shards]
    for entry, shard in zip(header.data, header.shards, strict=True):
        file = pq.ParquetFile(both_shapes / entry.path, page_checksum_verification=True)
        ids = file.read(columns=["id"]).column("id").to_pylist()
        assert ids == [sample.id for sample in opened.samples() if sample.image.shard == shard.path]
        assert file.num_row_groups == 1
        group = file.metadata.row_group(0)
        assert {group.column(n).compression for n in range(group.num_columns)} == {"ZSTD", "UNCOMPRESSED"}
        assert group.column(file.schema_arrow.names.index("id")).has_offset_index or group.column(5).has_offset_index
        assert file.schema_arrow.metadata.keys() >= {b"huggingface"}


def test_damaged_data_file_is_seen_and_mended(copy):
    path = data_files(copy)[1]
    whole = path.read_bytes()
    flip(path, len(whole) // 2)
    first = validate(copy, full=True)[0]
    assert (first.code, first.where) == ("E401", path.relative_to(copy).as_posix())
    with output_lock(copy / ".work" / "lock"):
        assert repair(copy).mended == (path.relative_to(copy).as_posix(),)
    assert path.read_bytes() == whole
    assert validate(copy, full=True) == []


def test_missing_data_file_is_seen_by_the_quick_check(copy):
    path = data_files(copy)[0]
    path.unlink()
    assert [(problem.code, problem.where) for problem in validate(copy)] == [
        ("E403", path.relative_to(copy).as_posix())
    ]


def test_takedown_keeps_the_second_shape(copy, tmp_path):
    remove(f"{copy}#red-mug", tmp_path / "less")
    with open_corpus(tmp_path / "less") as corpus:
        ids = pyarrow.dataset.dataset(tmp_path / "less" / "data").to_table(columns=["id"]).column("id").to_pylist()
        assert sorted(ids) == list(corpus.ids)
    assert not any(name.startswith("red-mug") for name in ids)


def test_data_files_that_are_no_longer_named_go(copy):
    commit_corpus(copy, stated(small_content(), parquet=False))
    from manifests.writer import remove_unnamed

    remove_unnamed(copy)
    assert data_files(copy) == []


def test_descriptions_of_the_same_corpus_are_the_same_bytes(copy, both_shapes):
    for name in ("README.md", "croissant.json", "thumbnails.webp"):
        (copy / name).unlink()
    with open_corpus(copy) as corpus:
        write_descriptions(corpus)
    for name in ("README.md", "croissant.json", "thumbnails.webp"):
        assert (copy / name).read_bytes() == (both_shapes / name).read_bytes()
