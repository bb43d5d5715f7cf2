"""Shards: the same bytes for the same members, read alike by tarfile, webdataset and ours; damage is seen."""

from __future__ import annotations

import io
import os
import random
import tarfile
from pathlib import Path

import pytest

from manifests.errors import CorpusError, IntegrityError
from manifests.ids import sha256_hex
from manifests.records import MemberRef
from manifests.shards import (
    BLOCK,
    Member,
    ShardSample,
    check_member_name,
    mapped,
    member_offsets,
    read_member,
    scan_members,
    shard_digest,
    shard_size,
    write_shard,
)


def member(ending: str, data: bytes) -> Member:
    return Member(ending, len(data), sha256_hex(data), lambda: data)


def some_samples(count: int = 5) -> list[ShardSample]:
    """Samples with members of awkward lengths: empty, one byte, one block, one block and a byte."""
    rng = random.Random(3)
    lengths = [0, 1, 511, 512, 513, 1024, 3000]
    return [
        ShardSample(
            f"mug-{number}/src-{number:012x}",
            [member(ending, rng.randbytes(rng.choice(lengths))) for ending in ("webp", "mask.png", "json")],
        )
        for number in range(count)
    ]


def contents(samples: list[ShardSample]) -> list[tuple[str, bytes]]:
    return [(f"{sample.key}.{item.ending}", item.data()) for sample in samples for item in sample.members]


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    write_shard(tmp_path / "s.tar", some_samples())
    return tmp_path / "s.tar"


def scan(path: Path) -> list[tuple[str, int, int]]:
    with path.open("rb") as file:
        return [tuple(found) for found in scan_members(mapped(file))]


def test_tarfile_reads_every_member_and_byte(shard):
    with tarfile.open(shard, "r:") as tar:
        read = [(info.name, tar.extractfile(info).read()) for info in tar]
    assert read == contents(some_samples())


def test_webdataset_reads_every_member_and_byte(shard, monkeypatch):
    monkeypatch.setenv("WDS_SECURE", "1")
    import webdataset as wds

    rows = list(wds.WebDataset(str(shard), shardshuffle=False))
    read = [
        (f"{row['__key__']}.{ending}", value)
        for row in rows
        for ending, value in row.items()
        if not ending.startswith("__")
    ]
    assert len(rows) == 5
    assert read == contents(some_samples())


def test_own_reader_finds_what_tarfile_finds_at_the_planned_offsets(shard):
    with tarfile.open(shard, "r:") as tar:
        expected = [(info.name, info.offset_data, info.size) for info in tar]
    assert scan(shard) == expected
    planned = member_offsets(some_samples())
    assert {(f"{key}.{ending}", offset) for (key, ending), offset in planned.items()} == {e[:2] for e in expected}
    assert shard.stat().st_size == shard_size(some_samples())
    descriptor = os.open(shard, os.O_RDONLY)
    try:
        for (name, offset, length), (_, data) in zip(expected, contents(some_samples()), strict=True):
            ref = MemberRef(shard="s.tar", offset=offset, length=length, format="webp", sha256=sha256_hex(data))
            assert read_member(descriptor, ref) == data, name
    finally:
        os.close(descriptor)


def test_headers_are_those_that_tarfile_writes(shard):
    expected = io.BytesIO()
    for name, data in contents(some_samples()):
        info = tarfile.TarInfo(name)
        info.size = len(data)
        header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
        # the one difference: device numbers, which mean nothing for a file, are octal zero here and empty there
        header[329:345] = 2 * b"0000000\0"
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        expected.write(header + data + bytes(-len(data) % BLOCK))
    expected.write(bytes(2 * BLOCK))
    assert shard.read_bytes() == expected.getvalue()


def test_same_members_give_the_same_bytes_and_the_digest_of_the_file(tmp_path):
    first = write_shard(tmp_path / "a.tar", some_samples())
    second = write_shard(tmp_path / "other" / "b.tar", some_samples())
    assert first == second == sha256_hex((tmp_path / "a.tar").read_bytes())
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "other" / "b.tar").read_bytes()


def test_name_of_a_shard_changes_with_any_member():
    base = shard_digest(some_samples())
    assert shard_digest(some_samples()) == base
    assert shard_digest(some_samples(4)) != base
    for place in range(15):
        samples = [ShardSample(sample.key, list(sample.members)) for sample in some_samples()]
        samples[place // 3].members[place % 3] = member(samples[place // 3].members[place % 3].ending, b"other")
        assert shard_digest(samples) != base


@pytest.mark.parametrize(
    "name",
    [
        "../src-1.png",
        "../../etc/passwd.png",
        "/abs/src-1.png",
        "mug/../x.png",
        "a.b/src-1.png",
        "mug/src.1.png",
        "Mug/src-1.png",
        "mug/SRC-1.png",
        "mug/src-1.PNG",
        "mug/src-1.pkl",
        "mug/src-1.pyd",
        "mug/src-1",
        "src-1.png",
        "mug/x/src-1.png",
        "mug\\src-1.png",
        "mug/src-1.png\0",
        "mug/src-1.png\n",
        "-mug/src-1.png",
        "m" * 65 + "/src-1.png",
        "",
    ],
)
def test_name_outside_the_grammar_is_refused_by_writer_and_reader(tmp_path, name):
    with pytest.raises(CorpusError, match="E304"):
        check_member_name(name)
    key, dot, ending = name.partition(".")
    with pytest.raises(CorpusError):
        write_shard(tmp_path / "s.tar", [ShardSample(key, [member(ending if dot else "", b"x")])])
    assert list(tmp_path.iterdir()) == []
    if "\0" not in name and name:
        with tarfile.open(tmp_path / "t.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
        with pytest.raises(CorpusError):
            scan(tmp_path / "t.tar")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_member_that_is_no_plain_file_is_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "t.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        info = tarfile.TarInfo("mug/src-1.png")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(CorpusError, match="E304" if kind == tarfile.DIRTYPE else "E401"):
        scan(tmp_path / "t.tar")


def test_name_too_long_for_the_format_is_refused(tmp_path):
    key = "m" * 60 + "/" + "s" * 60
    with pytest.raises(CorpusError, match="E301"):
        write_shard(tmp_path / "s.tar", [ShardSample(key, [member("png", b"x")])])


def test_same_member_twice_is_refused_before_anything_is_written(tmp_path):
    once = ShardSample("mug/src-1", [member("png", b"x")])
    with pytest.raises(IntegrityError, match="E303"):
        write_shard(tmp_path / "s.tar", [once, once])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("now", [b"other bytes!", b"hello", b""])
def test_bytes_of_another_length_are_refused(tmp_path, now):
    promised = Member("png", 11, sha256_hex(b"hello world"), lambda: now)
    with pytest.raises(IntegrityError, match=r"mug/src-1\.png changed"):
        write_shard(tmp_path / "s.tar", [ShardSample("mug/src-1", [promised])])
    assert list(tmp_path.iterdir()) == []


def test_flipped_bit_in_any_byte_of_a_header_is_seen_by_the_scan(shard):
    whole, points = shard.read_bytes(), 0
    _, offset, _ = scan(shard)[1]
    with shard.open("r+b", buffering=0) as file:
        for position in range(offset - BLOCK, offset):
            os.pwrite(file.fileno(), bytes([whole[position] ^ 1 << position % 8]), position)
            with pytest.raises(CorpusError):
                scan_members(mapped(file))
            os.pwrite(file.fileno(), whole[position : position + 1], position)
            points += 1
    print(f"{points} header flips, all seen")
    assert points == BLOCK


def test_zeroed_hole_over_a_header_is_not_taken_for_the_end(shard, tmp_path):
    whole, holes = shard.read_bytes(), 0
    for _, offset, length in scan(shard):
        for size in (BLOCK, BLOCK + -(-length // BLOCK) * BLOCK):
            hole = slice(offset - BLOCK, offset - BLOCK + size)
            data = bytearray(whole)
            data[hole] = bytes(size)
            (tmp_path / "d.tar").write_bytes(data)
            with pytest.raises(IntegrityError, match="E401"):
                scan(tmp_path / "d.tar")
            holes += 1
    assert holes == 30


def test_shard_cut_anywhere_is_seen_by_the_scan(shard, tmp_path):
    whole = shard.read_bytes()
    boundaries = [offset - BLOCK for _, offset, _ in scan(shard)]
    cuts = sorted(
        {*boundaries, *(b + 1 for b in boundaries), *range(0, len(whole), 997), len(whole) - BLOCK, len(whole) - 1}
    )
    for cut in cuts:
        (tmp_path / "d.tar").write_bytes(whole[:cut])
        with pytest.raises(IntegrityError, match="E401"):
            scan(tmp_path / "d.tar")
    assert len(cuts) >= 40


def test_header_that_declares_a_terabyte_is_refused_at_once(tmp_path):
    info = tarfile.TarInfo("mug/src-1.png")
    info.size = 8**11 - 1
    (tmp_path / "t.tar").write_bytes(info.tobuf(tarfile.USTAR_FORMAT) + bytes(2 * BLOCK))
    with pytest.raises(IntegrityError, match="damaged"):
        scan(tmp_path / "t.tar")


@pytest.mark.parametrize(("offset", "length"), [(512, 1 << 40), (1 << 40, 10), (-512, 10), (512, -1), (512, 1 << 62)])
def test_place_outside_the_shard_is_refused_without_taking_memory_for_it(shard, offset, length):
    ref = MemberRef(shard="s.tar", offset=offset, length=length, format="png", sha256="0" * 64)
    with shard.open("rb") as file, pytest.raises(IntegrityError, match=r"s\.tar at byte"):
        read_member(file.fileno(), ref)
