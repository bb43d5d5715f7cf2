"""One sample by ID: lazy, by way of the index or without it, in groups, across a fork, and never believed unchecked."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

import manifests
from manifests import rows
from manifests.corpus import open_corpus
from manifests.errors import CorpusError, IntegrityError, NotFoundError
from tests.manifests.corpora import edit_table, flip


@pytest.fixture
def copy(many, tmp_path):
    return shutil.copytree(many, tmp_path / "corpus")


def test_parts_of_a_lazy_sample_are_those_of_the_record(many):
    with manifests.open(many) as corpus:
        records = {record.id: record for record in corpus.samples()}
        for name in corpus:
            sample, record = corpus[name], records[name]
            assert sample.record == record
            assert (sample.box, sample.words, sample.prompt) == (record.box_xyxy, record.attributes, record.prompt)
            assert (sample.provenance, sample.id, sample.split) == (record.provenance, name, record.split)
            np.testing.assert_array_equal(sample.picture, corpus.image(record))
            np.testing.assert_array_equal(sample.mask, corpus.mask(record))
            assert sample.picture is sample.picture
        with pytest.raises(AttributeError):
            _ = sample.nothing


def test_sample_is_found_before_anything_is_read(copy):
    with open_corpus(copy) as corpus:
        name = corpus.ids[3]
    for shard in (copy / "shards").glob("*.tar"):
        shard.unlink()
    with open_corpus(copy) as corpus:
        sample = corpus[name]
        assert sample.record.id == name
        with pytest.raises(IntegrityError, match="E403"):
            _ = sample.picture


def test_rows_of_several_groups_come_in_any_order(many, monkeypatch):
    monkeypatch.setattr(rows, "KEPT_RECORDS", 10)
    monkeypatch.setattr(rows, "KEPT_TABLE_BYTES", 1)
    path = next(many.glob("manifest-*.parquet"))
    assert pq.ParquetFile(path).metadata.num_row_groups == 6
    with open_corpus(many) as corpus:
        expected = list(corpus.samples())
        assert [sample.id for sample in expected] == list(corpus.ids)
        draw = random.Random(0)
        for _ in range(30):
            wanted = [draw.randrange(43) for _ in range(draw.randrange(1, 9))]
            assert corpus.records_at(wanted) == [expected[row] for row in wanted]


@pytest.mark.parametrize("damage", ["missing", "no database", "truncated", "no table", "text", "stale"])
def test_without_a_sound_index_ids_are_found_all_the_same(copy, damage):
    path = copy / "index.sqlite"
    if damage == "missing":
        path.unlink()
    elif damage == "no database":
        path.write_bytes(b"x" * 8192)
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    else:
        connection = sqlite3.connect(path)
        connection.execute(
            {
                "no table": "DROP TABLE sample",
                "text": "UPDATE sample SET row = 'x', image_offset = 'y'",
                "stale": "UPDATE corpus SET digest = 'another'",
            }[damage]
        )
        connection.commit()
        connection.close()
    with open_corpus(copy) as corpus:
        for name in corpus:
            assert corpus[name].record.id == name
            assert corpus.image_bytes(name, verify=False) == corpus.image_bytes(name)
        assert "mug-0/src-000000000000" not in corpus
    with open_corpus(f"{copy}#mug-1,scenes") as corpus:
        assert len(corpus) == 10 + 12 + 1


@pytest.mark.parametrize("rows", ["42 - row", "row + 43", "-1 - row", "9223372036854775807"])
def test_index_that_points_elsewhere_is_found_out_and_left(copy, caplog, rows):
    connection = sqlite3.connect(copy / "index.sqlite")
    connection.execute(f"UPDATE sample SET row = {rows}")
    connection.commit()
    connection.close()
    with open_corpus(copy) as corpus:
        for name in corpus.subjects["mug-0"].sample_ids:
            assert corpus[name].record.id == corpus.record(name).id == name
            assert corpus.image(name).shape[:2] == corpus.mask(name).shape
    (said,) = caplog.messages
    assert said == "corpus: index.sqlite is damaged: IDs are looked up in the manifest; `dataforge repair` mends it."
    with open_corpus(copy) as corpus:
        wanted = [*corpus.subjects["mug-1"].sample_ids, corpus.ids[0]]
    for asked in (",".join(wanted), f"mug-1,{wanted[-1]}"):
        with open_corpus(f"{copy}#{asked}") as part:
            assert {*part.ids} >= {*wanted}
            assert [record.id for record in part.samples()] == list(part.ids)
            assert part.table().column("id").to_pylist() == list(part.ids)
            assert {sample_id for batch in part.stream(batch_size=2, size=8) for sample_id in batch.ids} == {*part.ids}


def test_id_that_only_a_damaged_index_knows_is_not_found(copy):
    connection = sqlite3.connect(copy / "index.sqlite")
    connection.execute("UPDATE sample SET id = 'mug-0/src-00000000beef' WHERE row = 20")
    connection.commit()
    connection.close()
    with open_corpus(copy) as corpus, pytest.raises(NotFoundError, match="E503"):
        corpus.record("mug-0/src-00000000beef")
    with pytest.raises(NotFoundError, match="E503"):
        open_corpus(f"{copy}#mug-0/src-00000000beef")


def test_unverified_bytes_are_those_of_the_sample_and_of_no_other(many):
    with open_corpus(many) as corpus:
        whole = {name: corpus.image_bytes(name) for name in corpus}
        assert {name: corpus.image_bytes(name, verify=False) for name in corpus} == whole
        with pytest.raises(NotFoundError, match="E503"):
            corpus.image_bytes("mug-0/src-000000000000", verify=False)
        other = corpus.subjects["mug-1"].sample_ids[0]
    with open_corpus(f"{many}#mug-0") as corpus:
        mine = corpus.ids[0]
        assert corpus.image_bytes(mine, verify=False) == whole[mine]
        with pytest.raises(NotFoundError, match="E503"):
            corpus.image_bytes(other, verify=False)


def test_large_manifest_is_checked_when_its_first_row_is_asked_for(copy, monkeypatch):
    monkeypatch.setattr(rows, "EAGER_BYTES", 0)
    path = next(copy.glob("manifest-*.parquet"))
    with open_corpus(copy) as corpus:
        name = corpus.ids[0]
    flip(path, path.stat().st_size // 2)
    with open_corpus(copy) as corpus:
        assert len(corpus) == 43
        for ask in (lambda: corpus[name].record, lambda: corpus.ids, lambda: list(corpus.samples())):
            with pytest.raises(IntegrityError, match="E401 checksum: manifest-"):
                ask()


def test_row_that_does_not_fit_is_named_when_it_is_asked_for(copy):
    edit_table(copy, "manifest", lambda table: table[5].update(role="thing"))
    with open_corpus(copy) as corpus:
        assert corpus.record(corpus.ids[20]).id == corpus.ids[20]
        with pytest.raises(CorpusError, match=r"E305 .*role"):
            corpus.record(corpus.ids[5])


def test_open_corpus_is_safe_to_fork(many):
    """Parent and children ask for IDs and pixels at the same time through what was opened before the fork."""
    with open_corpus(many) as corpus:
        names = list(corpus)
        whole = {name: (corpus.record(name), corpus.image_bytes(name)) for name in names}
        children = []
        for seed in range(3):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    draw = random.Random(seed)
                    for _ in range(300):
                        name = draw.choice(names)
                        assert (corpus.record(name), corpus.image_bytes(name, verify=False)) == whole[name]
                    status = 0
                finally:
                    os._exit(status)
            children.append(child)
        for name in names * 5:
            assert corpus.image_bytes(name, verify=False) == whole[name][1]
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]


def test_connection_is_not_carried_over_a_fork(many):
    with open_corpus(many) as corpus:
        index = corpus.index()
        name = corpus.ids[0]
        index.row(name)
        before = id(index._connection)
        child = os.fork()
        if child == 0:
            row = index.row(name)
            os._exit(0 if row == 0 and id(index._connection) != before else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        index.close()


def test_no_picture_waits_for_pandas(many):
    """Arrow imports it, where it is installed, to make arrays of Python lists: 0.6 s before the first picture."""
    code = (
        "import sys, manifests\n"
        "with manifests.open(sys.argv[1]) as corpus:\n"
        "    corpus[next(corpus.samples()).id].picture\n"
        "print('pandas' in sys.modules)\n"
        "import pyarrow; pyarrow.array([1])\n"
        "print('pandas' in sys.modules)\n"
    )
    pytest.importorskip("pandas")
    said = subprocess.run([sys.executable, "-c", code, str(many)], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["False", "True"]
