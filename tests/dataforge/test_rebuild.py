"""A second build computes what changed and what depends on it, and nothing else."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path

import pytest
import yaml

import manifests
from dataforge import build, building
from dataforge.config import Recipe
from manifests.errors import UsageError
from tests.conftest import draw_photograph, tree_digest
from tests.dataforge.conftest import QUICK


def computed(result) -> dict[str, int]:
    return {name: counts.computed for name, counts in result.stages.items() if counts.computed}


def test_building_again_after_nothing_changed_calls_no_stage(photographs, tmp_path, quick):
    first = build(photographs, tmp_path / "corpus", quick, workers=0)
    before = tree_digest(tmp_path / "corpus")
    again = build(photographs, tmp_path / "corpus", quick, workers=0)
    assert again.unchanged
    assert computed(again) == {}
    assert (again.digest, tree_digest(tmp_path / "corpus")) == (first.digest, before)


def test_rehash_reads_every_file_again_and_computes_nothing_else(photographs, tmp_path, quick):
    first = build(photographs, tmp_path / "corpus", quick, workers=0)
    again = build(photographs, tmp_path / "corpus", quick, workers=0, rehash=True)
    assert computed(again) == {"ingest": 20}
    assert again.digest == first.digest


def test_changed_bytes_under_an_unchanged_time_are_seen_by_rehash(photographs, tmp_path, quick):
    first = build(photographs, tmp_path / "corpus", quick, workers=0)
    path = photographs / "red_ball0" / "0.jpg"
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[-30] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert build(photographs, tmp_path / "corpus", quick, workers=0).digest == first.digest
    assert build(photographs, tmp_path / "corpus", quick, workers=0, rehash=True).digest != first.digest


def test_a_new_photograph_concerns_its_own_subject_only(photographs, tmp_path, quick):
    build(photographs, tmp_path / "corpus", quick, workers=0)
    with manifests.open(str(tmp_path / "corpus")) as corpus:
        old = {sample.id for sample in corpus.samples()}
    draw_photograph(photographs / "red_ball0" / "new.jpg", colour=(200, 30, 40), seed=77)
    result = build(photographs, tmp_path / "corpus", quick, workers=0)
    work = computed(result)
    assert work["ingest"] == 1
    assert work["ground"] <= 6
    assert work["segment"] == 1  # one subject
    assert work["describe"] == 1
    assert work.get("compose", 0) <= 1
    assert work["generate"] <= 6  # one picture for each of the subject's photographs, if its words changed
    with manifests.open(str(tmp_path / "corpus")) as corpus:
        others = {name for name in old if not name.startswith("red_ball0/")}
        assert others < set(corpus.ids)
        assert len(corpus.subjects["red_ball0"].sample_ids) == 6


def test_an_edited_override_concerns_its_own_subject_only(photographs, tmp_path, quick):
    build(photographs, tmp_path / "corpus", quick, workers=0)
    overrides = {"boxes": {"0.jpg": [20, 20, 90, 90]}, "strike_words": ["red"], "add_words": {"colour": ["scarlet"]}}
    (photographs / "red_ball0" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    work = computed(build(photographs, tmp_path / "corpus", quick, workers=0))
    assert set(work) <= {"ground", "segment", "describe", "compose", "generate"}
    assert work["segment"] == work["describe"] == work["compose"] == 1
    assert work["generate"] <= 5
    with manifests.open(str(tmp_path / "corpus")) as corpus:
        subject = corpus.subjects["red_ball0"]
        words = {word.word for word in subject.attributes if word.origin == "source"}
        assert "scarlet" in words
        assert "red" not in words
        boxed = next(s for s in corpus.samples(role="src") if s.source_uri == "red_ball0/0.jpg")
        assert boxed.box_xyxy == (20, 20, 90, 90)
        assert [step.backend for step in boxed.provenance if step.stage == "ground"] == ["override"]


def test_a_struck_word_alone_calls_no_model_on_any_photograph(photographs, tmp_path, quick):
    build(photographs, tmp_path / "corpus", quick, workers=0)
    (photographs / "red_ball0" / "overrides.yaml").write_text("strike_words: [red]\n")
    work = computed(build(photographs, tmp_path / "corpus", quick, workers=0))
    assert set(work) <= {"compose", "generate"}


def test_a_struck_word_is_in_no_caption(photographs, tmp_path, quick):
    build(photographs, tmp_path / "corpus", quick, workers=0)
    with manifests.open(str(tmp_path / "corpus")) as corpus:
        struck = corpus.subjects["red_ball0"].attributes[0].word
        assert any(struck in s.caption for s in corpus.samples(role="src") if s.subject == "red_ball0")
    (photographs / "red_ball0" / "overrides.yaml").write_text(f"strike_words: [{struck}]\n")
    build(photographs, tmp_path / "corpus", quick, workers=0)
    with manifests.open(str(tmp_path / "corpus")) as corpus:
        captions = [s.caption for s in corpus.samples(role="src") if s.subject == "red_ball0"]
    assert captions
    assert [caption for caption in captions if struck in caption.split()] == []


def test_another_folder_does_not_take_a_corpus_s_place(photographs, tmp_path, quick):
    first = build(photographs, tmp_path / "corpus", quick, workers=0)
    draw_photograph(tmp_path / "others" / "cup" / "0.jpg", colour=(20, 30, 240), seed=7)
    for given in ("others", "empty"):
        (tmp_path / given / "red_ball0").mkdir(parents=True)
        with pytest.raises(UsageError, match=r"holds 4 subjects, and there is no photograph of any of them in .*merge"):
            build(tmp_path / given, tmp_path / "corpus", quick, workers=0)
    with manifests.open(str(tmp_path / "corpus")) as corpus:
        assert corpus.digest == first.digest


def test_a_subject_that_leaves_is_said(photographs, tmp_path, quick):
    build(photographs, tmp_path / "corpus", quick, workers=0)
    shutil.rmtree(photographs / "red_ball0")
    result = build(photographs, tmp_path / "corpus", quick, workers=0)
    assert "red_ball0: in the corpus before, no photographs now; taken out" in result.warnings
    assert not build(photographs, tmp_path / "corpus", quick, workers=0).warnings


def test_dropped_photograph_goes_and_is_accounted_for(photographs, tmp_path, quick):
    (photographs / "red_ball0" / "overrides.yaml").write_text("drop: [3.jpg]\n")
    build(photographs, tmp_path / "corpus", quick, workers=0)
    with manifests.open(str(tmp_path / "corpus")) as corpus:
        assert len(corpus.subjects["red_ball0"].sample_ids) == 4
        row = next(row for row in corpus.ledger if row.path == "red_ball0/3.jpg")
        assert (row.status, row.rule) == ("ignored", "dropped-by-overrides")


def test_a_changed_setting_computes_from_its_stage_on(photographs, tmp_path, quick):
    build(photographs, tmp_path / "corpus", quick, workers=0)
    other = Recipe.model_validate({**QUICK, "generate": {"generator": {"size": 96}, "images_per_photograph": 1}})
    assert set(computed(build(photographs, tmp_path / "corpus", other, workers=0))) == {"generate"}
    # and back again: what was made before is still known
    assert computed(build(photographs, tmp_path / "corpus", quick, workers=0)) == {}


def test_a_removed_photograph_leaves_the_corpus(photographs, tmp_path, quick):
    build(photographs, tmp_path / "corpus", quick, workers=0)
    (photographs / "red_ball0" / "0.jpg").unlink()
    result = build(photographs, tmp_path / "corpus", quick, workers=0)
    assert result.counts["photographs"] == 19
    assert result.counts["files_found"] == 19
    assert manifests.validate(tmp_path / "corpus", full=True) == []


def test_workers_and_repetition_do_not_change_a_byte(photographs, tmp_path, quick):
    trees = []
    for number, workers in enumerate((0, 1, 4, 4)):
        build(photographs, tmp_path / str(number), quick, workers=workers)
        trees.append(tree_digest(tmp_path / str(number)))
    assert trees[0] == trees[1] == trees[2] == trees[3]


def test_another_folder_time_zone_and_locale_do_not_change_a_byte(photographs, tmp_path, quick, monkeypatch):
    build(photographs, tmp_path / "first", quick, workers=0)
    moved = tmp_path / "elsewhere" / "photographs"
    shutil.copytree(photographs, moved)
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.chdir(tmp_path)
    previous = os.umask(0o077)
    try:
        build(Path("elsewhere/photographs"), Path("second"), quick, workers=1)
    finally:
        os.umask(previous)
    assert tree_digest(tmp_path / "second") == tree_digest(tmp_path / "first")


def test_deleted_work_folder_and_damaged_cache_are_made_again(photographs, tmp_path, quick):
    output = tmp_path / "corpus"
    first = build(photographs, output, quick, workers=0)
    (output / ".work" / "store.sqlite").write_bytes(b"not a database")
    again = build(photographs, output, quick, workers=0)
    assert computed(again) == {}  # parts are the truth, the cache is not
    assert again.digest == first.digest
    shutil.rmtree(output / ".work")
    assert build(photographs, output, quick, workers=0).digest == first.digest


@pytest.mark.parametrize("cache", ["knows", "forgot the part", "is gone"])
def test_parts_that_a_loss_of_power_took_are_computed_again(photographs, tmp_path, quick, cache):
    """Names of parts are not synced one by one, and the cache, which is not synced at all, may be of any moment."""
    output = tmp_path / "corpus"
    first = build(photographs, output, quick, workers=0)
    lost = [next(folder.glob("*.part")) for folder in (output / ".work" / "parts").iterdir()]
    with contextlib.closing(sqlite3.connect(output / ".work" / "store.sqlite", isolation_level=None)) as connection:
        connection.execute("DELETE FROM note WHERE name = 'done'")
        tasks = {}
        for part in lost:
            part.unlink()
            path = part.relative_to(output / ".work").as_posix()
            stage = part.parent.name
            count = connection.execute("SELECT count(*) FROM result WHERE part = ?", (path,)).fetchone()
            tasks[stage] = tasks.get(stage, 0) + count[0]
            if cache == "forgot the part":
                connection.execute("DELETE FROM part WHERE path = ?", (path,))
    if cache == "is gone":
        (output / ".work" / "store.sqlite").unlink()
    again = build(photographs, output, quick, workers=0)
    assert computed(again) == tasks
    assert {"ingest", "segment", "generate"} <= tasks.keys()
    assert again.digest == first.digest


def test_parts_last_before_a_corpus_is_packed_from_them(photographs, tmp_path, quick, monkeypatch):
    order: list[str] = []
    commit = building.commit_corpus
    monkeypatch.setattr("dataforge.store.sync_folder", lambda folder: order.append(folder.name))
    monkeypatch.setattr(building, "commit_corpus", lambda *given: (order.append("commit"), commit(*given))[1])
    build(photographs, tmp_path / "corpus", quick, workers=0)
    parts = sorted(folder.name for folder in (tmp_path / "corpus" / ".work" / "parts").iterdir())
    assert order == [*parts, "commit"]
    assert "generate" in parts


def test_a_damaged_stage_result_is_never_packed(photographs, tmp_path, quick):
    output = tmp_path / "corpus"
    build(photographs, output, quick, workers=0)
    part = next((output / ".work" / "parts" / "generate").glob("*.part"))
    data = bytearray(part.read_bytes())
    data[-10] ^= 1
    part.write_bytes(data)
    shutil.rmtree(output / "shards")
    with pytest.raises(manifests.CorpusError, match="E401"):
        build(photographs, output, Recipe.model_validate({**QUICK, "pack": {"shard_bytes": 2048}}), workers=0)


def test_a_new_version_of_a_backend_computes_its_stage_again(photographs, tmp_path, fake, monkeypatch):
    from dataforge.backends.fake import FakeSegmenter

    build(photographs, tmp_path / "corpus", fake, workers=0)
    assert computed(build(photographs, tmp_path / "corpus", fake, workers=0, rehash=True)) == {"ingest": 20}
    monkeypatch.setattr(FakeSegmenter, "version", "2")
    work = computed(build(photographs, tmp_path / "corpus", fake, workers=0, rehash=True))
    assert work == {"ingest": 20, "segment": 20 + 16}  # photographs and made pictures; the masks are the same
