"""Repair: what is damaged comes back byte for byte from copies; nothing else is touched; what is lost is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from manifests.corpus import open_corpus
from manifests.errors import CorpusError, IntegrityError
from manifests.ids import sha256_hex
from manifests.repair import repair
from manifests.validation import validate
from tests.manifests.corpora import committed_files, derive, flip, shards, small_content

OLD = 1_000_000_000


def blobs() -> dict[str, bytes]:
    """Every picture and mask by its digest: what a build's work folder holds."""
    found = {}
    for made in small_content().samples():
        for data in (made.image(), made.mask()):
            found[sha256_hex(data)] = data
    return found


@pytest.fixture
def aged(corpus_root: Path) -> Path:
    for path in corpus_root.rglob("*"):
        if path.is_file():
            os.utime(path, (OLD, OLD))
    return corpus_root


def rewritten(root: Path) -> set[str]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {path.relative_to(root).as_posix() for path in files if path.stat().st_mtime != OLD}


def damage(path: Path, how: str) -> None:
    whole = path.read_bytes()
    if how == "flip":
        flip(path, len(whole) // 2)
    elif how == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "longer":
        path.write_bytes(whole + b"x")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "junk":
        path.write_bytes(b"\xff" * len(whole))
    elif how == "linked":
        path.rename(path.parent.parent / "moved")
        path.symlink_to(path.parent.parent / "moved")
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["flip", "cut", "longer", "empty", "junk", "linked", "missing"])
def test_damaged_shard_comes_back_byte_for_byte_and_nothing_else_is_written(aged, how):
    shard = shards(aged)[1]
    whole = shard.read_bytes()
    damage(shard, how)
    report = repair(aged, blobs().get)
    assert report.mended == (shard.relative_to(aged).as_posix(),)
    assert report.lost == ()
    assert shard.read_bytes() == whole
    assert not shard.is_symlink()
    assert rewritten(aged) == {shard.relative_to(aged).as_posix()}
    assert validate(aged, full=True) == []


def test_damage_outside_pictures_and_masks_is_mended_without_any_copy(aged):
    shard = shards(aged)[0]
    whole = shard.read_bytes()
    flip(shard, 140)  # a field of the first header
    assert repair(aged).mended == (shard.relative_to(aged).as_posix(),)
    assert shard.read_bytes() == whole


@pytest.mark.parametrize("how", ["flip", "cut", "empty", "missing"])
@pytest.mark.parametrize("which", ["manifest", "subjects", "ledger"])
def test_damaged_table_comes_back_from_its_copy(aged, which, how):
    table = next(aged.glob(f"{which}-*.parquet"))
    whole = table.read_bytes()
    damage(table, how)
    assert repair(aged).mended == (table.name,)
    assert table.read_bytes() == whole
    assert rewritten(aged) == {table.name}
    assert validate(aged, full=True) == []


def test_table_whose_copy_is_damaged_too_is_an_error_and_nothing_is_written(aged):
    table = next(aged.glob("manifest-*.parquet"))
    for path in (table, aged / "manifest.parquet"):
        flip(path, 1000)
        os.utime(path, (OLD, OLD))
    with pytest.raises(IntegrityError, match=f"E401 .*{table.name} is damaged and manifest.parquet is no copy"):
        repair(aged, blobs().get)
    assert rewritten(aged) == set()


def test_sample_of_which_no_copy_is_left_is_named_and_its_shard_left_alone(aged):
    with open_corpus(aged) as corpus:
        sample = corpus[corpus.subjects["red-mug"].sample_ids[1]]
    shard = aged / sample.image.shard
    flip(shard, sample.image.offset + 5)
    damaged = shard.read_bytes()
    report = repair(aged)
    assert report.mended == ()
    assert report.lost == (sample.id,)
    assert shard.read_bytes() == damaged
    # the neighbours in that shard can still be read
    with open_corpus(aged) as corpus:
        read = 0
        for name in corpus:
            if name == sample.id:
                with pytest.raises(CorpusError):
                    corpus.image(name)
            else:
                read += corpus.image(name).size > 0
        assert read == 12


def test_copy_with_wrong_bytes_is_refused(aged):
    shard = shards(aged)[0]
    damage(shard, "empty")
    with pytest.raises(IntegrityError, match="E401"):
        repair(aged, lambda sha256: b"not those bytes")
    assert shard.read_bytes() == b""


def test_several_damages_are_mended_in_one_go(aged):
    wholes = {path: path.read_bytes() for path in committed_files(aged)}
    for number, path in enumerate(wholes):
        damage(path, ("flip", "cut", "missing")[number % 3])
    report = repair(aged, blobs().get)
    assert len(report.mended) == len(wholes)
    assert {path: path.read_bytes() for path in wholes} == wholes
    derive(aged)
    assert validate(aged, full=True) == []


def test_sound_corpus_is_left_as_it_is(aged):
    assert repair(aged).mended == ()
    assert rewritten(aged) == set()


def test_repair_does_not_write_through_a_linked_folder(aged, tmp_path):
    (aged / "shards").rename(tmp_path / "elsewhere")
    (aged / "shards").symlink_to(tmp_path / "elsewhere")
    victim = tmp_path / "elsewhere" / shards(aged)[0].name
    victim.write_bytes(b"not ours")
    with pytest.raises(CorpusError, match="E307"):
        repair(aged, blobs().get)
    assert victim.read_bytes() == b"not ours"


def test_no_descriptors_stay_open(aged):
    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))

    damage(shards(aged)[0], "flip")
    before = opened()
    repair(aged, blobs().get)
    assert opened() == before
