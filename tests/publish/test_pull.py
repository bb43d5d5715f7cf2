"""Pulling: resumed, every byte checked, and nothing that a corpus from elsewhere says of itself is believed."""

from __future__ import annotations

import io
import json
import os
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataforge.publishing import publish, pull
from manifests.corpus import open_corpus
from manifests.errors import IntegrityError, OutputLocked, ReportedError, UsageError
from manifests.fsops import output_lock
from manifests.ids import sha256_hex
from manifests.validation import validate
from tests.conftest import tree_digest
from tests.manifests.corpora import edit_header, edit_table, flip, replace_table
from tests.publish.conftest import digest_of
from tests.publish.test_publish_hub import stopped


def header_of(root: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((root / "corpus.json").read_bytes())
    return value


def entry_of(root: Path, kind: str, number: int = 0) -> dict[str, Any]:
    entry: dict[str, Any] = header_of(root)[kind][number]
    return entry


def replace_file(root: Path, kind: str, number: int, data: bytes) -> None:
    """Put other bytes where a shard or data file is; corpus.json vouches for them."""
    (root / entry_of(root, kind, number)["path"]).write_bytes(data)
    edit_header(root, lambda header: header[kind][number].update(size=len(data), sha256=sha256_hex(data)))


def test_pulled_corpus_has_every_byte_and_all_that_is_derived(published, both_shapes, tmp_path):
    done = published.dataforge("pull", published.ref, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert "13 files fetched, 0 there already" in done.out
    there, original = tree_digest(tmp_path / "out"), tree_digest(both_shapes)
    assert {name: there[name] for name in original if name != "index.sqlite"} == {
        name: sha256 for name, sha256 in original.items() if name != "index.sqlite"
    }
    assert (tmp_path / "out" / "report" / "index.html").is_file()
    assert list((tmp_path / "out" / ".work" / "pull").iterdir()) == []


def test_pulling_again_fetches_the_header_only(published, tmp_path):
    assert published.dataforge("pull", published.ref, "-o", tmp_path / "out").code == 0
    published.hub.log.clear()
    done = published.dataforge("pull", published.ref, "-o", tmp_path / "out")
    assert "0 files fetched, 13 there already" in done.out
    assert [asked.path.rpartition("/")[2] for asked in published.hub.asked("GET .*resolve")] == ["corpus.json"]


def test_pull_goes_on_where_it_was_cut_off(published, both_shapes, tmp_path):
    entry = max(header_of(both_shapes)["shards"], key=lambda entry: entry["size"])
    parts = tmp_path / "out" / ".work" / "pull"
    parts.mkdir(parents=True)
    whole = (both_shapes / entry["path"]).read_bytes()
    (parts / f"{entry['sha256']}.part").write_bytes(whole[:10_000])
    (parts / f"{'0' * 64}.part").write_bytes(b"of another version")
    published.hub.log.clear()
    assert published.dataforge("pull", published.ref, "-o", tmp_path / "out").code == 0
    (asked,) = published.hub.asked(entry["path"])
    assert asked.byte_range == f"bytes=10000-{entry['size'] - 1}"
    assert (tmp_path / "out" / entry["path"]).read_bytes() == whole
    assert list(parts.iterdir()) == []


def test_part_that_rotted_is_fetched_from_the_start(published, both_shapes, tmp_path):
    entry = header_of(both_shapes)["shards"][1]
    parts = tmp_path / "out" / ".work" / "pull"
    parts.mkdir(parents=True)
    (parts / f"{entry['sha256']}.part").write_bytes(bytes(10_000))
    published.hub.log.clear()
    assert published.dataforge("pull", published.ref, "-o", tmp_path / "out").code == 0
    assert [asked.byte_range for asked in published.hub.asked(entry["path"])] == [
        f"bytes=10000-{entry['size'] - 1}",
        f"bytes=0-{entry['size'] - 1}",
    ]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_pull_killed_anywhere_is_finished_by_the_next(published, both_shapes, tmp_path, share):
    hub = published.hub
    hub.steps = 0
    assert published.dataforge("pull", published.ref, "-o", tmp_path / "all").code == 0
    hub.kill_at, hub.steps = int(hub.steps * share), 0

    def victim(child: int) -> None:
        hub.victim = child

    killed = published.dataforge("pull", published.ref, "-o", tmp_path / "out", on_start=victim)
    hub.fresh()
    assert killed.code == -9
    assert not (tmp_path / "out" / "corpus.json").exists()
    kept = {path.name for path in (tmp_path / "out" / "shards").glob("*")}
    assert published.dataforge("pull", published.ref, "-o", tmp_path / "out").code == 0
    assert {asked.path.rpartition("/")[2] for asked in hub.asked("GET .*/shards/.*tar")} & kept == set()
    assert digest_of(tmp_path / "out") == digest_of(both_shapes)
    assert validate(tmp_path / "out", full=True) == []


@pytest.mark.parametrize("what", ["wrong", "short", "cut", "reset", 500, 503])
def test_fault_on_the_way_is_made_good(published, both_shapes, tmp_path, what):
    published.hub.fault("GET .*/resolve/.*/shards/train", what)
    published.hub.fault("GET .*/resolve/.*/data/", what)
    done = published.dataforge("pull", published.ref, "-o", tmp_path / "out", DATAFORGE_PATIENCE_S="60")
    published.hub.fresh()
    assert done.code == 0, done.err
    assert validate(tmp_path / "out", full=True) == []


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("pattern", ["GET .*tar$", "GET .*corpus.json"])
def test_signal_ends_it_at_once_while_the_server_asks_for_patience(published, tmp_path, pattern, signal_number):
    arguments = ("pull", published.ref, "-o", tmp_path / "out")
    done, took = stopped(published, pattern, *arguments, signal_number=signal_number)
    assert done.code == 128 + signal_number
    assert "E511 interrupted: stopped by SIG" in done.err
    assert took < 10
    assert published.dataforge(*arguments).code == 0


def test_bytes_that_stay_wrong_end_it_with_nothing_kept(published, both_shapes, tmp_path):
    path = entry_of(both_shapes, "shards")["path"]
    published.hub.fault(f"GET .*/resolve/.*/{path}", "wrong", times=-1)
    done = published.dataforge("pull", published.ref, "-o", tmp_path / "out")
    asked = published.hub.asked(path)
    published.hub.fresh()
    assert done.code == 4
    assert "E408 remote-checksum: " in done.err
    assert f"{path}. Try again later or from another copy" in done.err
    assert len(asked) == 2
    out = tmp_path / "out"
    assert not (out / "corpus.json").exists()
    assert not (out / path).exists()
    assert not list((out / ".work" / "pull").glob(f"{entry_of(both_shapes, 'shards')['sha256']}*"))


def test_file_that_is_gone_is_named(published, both_shapes, tmp_path):
    path = entry_of(both_shapes, "shards")["path"]
    published.hub.fault(f"GET .*/resolve/.*/{path}", 404, times=-1)
    done = published.dataforge("pull", published.ref, "-o", tmp_path / "out")
    published.hub.fresh()
    assert done.code == 4
    assert "E403" in done.err
    assert path in done.err


@pytest.mark.parametrize(
    ("ref", "code", "told"),
    [
        ("hf://datasets/user/nothing", 2, "E503 not-found: hf://datasets/user/nothing holds no corpus.json"),
        ("{ref}@{zeros}", 2, "E503"),
        ("{ref}@nosuchtag", 2, "E503"),
        ("{ref}#red-mug", 2, "pull takes whole corpora"),
        ("hf://datasets/x", 2, "a corpus on the Hub is hf://datasets/USER/NAME[@REVISION]"),
        ("ftp://x/y", 2, "a place is a folder"),
    ],
)
def test_wrong_reference_is_told_in_a_sentence(published, tmp_path, ref, code, told):
    done = published.dataforge("pull", ref.format(ref=published.ref, zeros="0" * 64), "-o", tmp_path / "out")
    assert (done.code, told in done.err) == (code, True), done.err


def test_wrong_token_is_told_in_a_sentence(published, both_shapes, tmp_path):
    done = published.dataforge("pull", published.ref, "-o", tmp_path / "out", HF_TOKEN="hf_wrongWrongWrongWrong")
    assert done.code == 2
    assert "E50" in done.err
    assert "wrongWrong" not in done.err


def test_old_corpus_in_the_folder_becomes_the_new_one(both_shapes, shards_only, tmp_path):
    out = tmp_path / "out"
    pull(str(both_shapes), out)
    result = pull(str(shards_only), out)
    assert (result.digest, result.fetched) == (digest_of(shards_only), 0)
    assert list((out / "data").iterdir()) == []
    assert validate(out, full=True) == []


def test_foreign_folder_and_locked_output_are_left_alone(both_shapes, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="E504"):
        pull(str(both_shapes), tmp_path / "mine")
    with output_lock(tmp_path / "out" / ".work" / "lock"), pytest.raises(OutputLocked):
        pull(str(both_shapes), tmp_path / "out")
    with pytest.raises(UsageError, match="is the corpus itself"):
        pull(str(both_shapes), both_shapes)


def test_too_little_space_is_told_before_anything_is_fetched(both_shapes, tmp_path, monkeypatch):
    real = os.statvfs(tmp_path)
    full = os.statvfs_result([0 if name == "f_bavail" else getattr(real, name) for name in STATVFS])
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    with pytest.raises(ReportedError, match=r"E510 disk: [\d,]+ bytes are to come and 0 are free at out") as caught:
        pull(str(both_shapes), tmp_path / "out")
    assert caught.value.exit_code == 5
    assert not (tmp_path / "out" / "shards").exists()


STATVFS = [
    "f_bsize",
    "f_frsize",
    "f_blocks",
    "f_bfree",
    "f_bavail",
    "f_files",
    "f_ffree",
    "f_favail",
    "f_flag",
    "f_namemax",
]

# ---- corpora from elsewhere whose digests agree and that are evil all the same


def evil_tar(change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None], mode: str = "w") -> Callable[[Path], None]:
    """The first shard, written again by `tarfile` after a change to its members."""

    def apply(root: Path) -> None:
        path = root / entry_of(root, "shards")["path"]
        with tarfile.open(path) as tar:
            members = [(info, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
        change(members)
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=mode, format=tarfile.USTAR_FORMAT) as tar:  # type: ignore[call-overload]
            for info, data in members:
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        replace_file(root, "shards", 0, buffer.getvalue())

    return apply


def named(name: str, **more: Any) -> Callable[[Path], None]:
    def change(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        info = tarfile.TarInfo(name)
        for attribute, value in more.items():
            setattr(info, attribute, value)
        members.append((info, b"" if more else b"evil"))

    return evil_tar(change)


def bytes_of_shard(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        path = root / entry_of(root, "shards")["path"]
        replace_file(root, "shards", 0, change(path.read_bytes()))

    return apply


def huge_member(data: bytes) -> bytes:
    header = bytearray(data[:512])
    header[124:136] = b"%011o\0" % (1 << 33)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data[512:]


def evil_data(change: Callable[[list[dict[str, Any]]], None]) -> Callable[[Path], None]:
    """The first data file with other rows."""

    def apply(root: Path) -> None:
        table = pq.read_table(root / entry_of(root, "data")["path"])
        rows = table.to_pylist()
        change(rows)
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), buffer)
        replace_file(root, "data", 0, buffer.getvalue())

    return apply


def renamed(kind: str, path: str) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        def change(header: dict[str, Any]) -> None:
            entry = header[kind] if isinstance(header[kind], dict) else header[kind][0]
            source = root / entry["path"]
            target = root / path
            if "\\" not in path and target.resolve().is_relative_to(root):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.read_bytes())
            entry["path"] = path

        edit_header(root, change)

    return apply


def second_half_twice(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    members.append(members[0])


def apart(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    members.append(members.pop(0))


EVIL_CORPORA: dict[str, tuple[Callable[[Path], None], set[str]]] = {
    "tar: climbs out": (named("../../../evil.txt"), {"E304", "E401"}),
    "tar: absolute": (named("/evil.txt"), {"E304", "E401"}),
    "tar: pickle": (named("red-mug/src-0123456789ab.pkl"), {"E304", "E401"}),
    "tar: foreign sample": (named("red-mug/src-0123456789ab.json"), {"E304", "E401"}),
    "tar: symbolic link": (named("scenes/x.json", type=tarfile.SYMTYPE, linkname="/etc/passwd"), {"E304", "E401"}),
    "tar: hard link": (named("scenes/x.json", type=tarfile.LNKTYPE, linkname="a"), {"E304", "E401"}),
    "tar: device": (named("scenes/x.json", type=tarfile.CHRTYPE), {"E304", "E401"}),
    "tar: member twice": (evil_tar(second_half_twice), {"E303", "E401"}),
    "tar: sample torn apart": (evil_tar(apart), {"E308", "E401"}),
    "tar: compressed": (evil_tar(lambda members: None, "w:gz"), {"E401"}),
    "tar: member of 8 GiB": (bytes_of_shard(huge_member), {"E401"}),
    "tar: zeroed hole": (bytes_of_shard(lambda data: data[:512] + bytes(1024) + data[1536:]), {"E401", "E303"}),
    "tar: cut between members": (bytes_of_shard(lambda data: data[: len(data) // 1024 * 512]), {"E401", "E303"}),
    "tar: empty": (bytes_of_shard(lambda data: b""), {"E401"}),
    "tar: a web page": (bytes_of_shard(lambda data: b"<!doctype html>" * 99), {"E401"}),
    "parquet: no bytes but a path": (
        evil_data(lambda rows: rows[0].update(image={"bytes": None, "path": "/etc/passwd"})),
        {"E307", "E401"},
    ),
    "parquet: bytes and an address": (
        evil_data(lambda rows: rows[0]["mask"].update(path="http://127.0.0.1/x.png")),
        {"E307"},
    ),
    "parquet: null picture": (evil_data(lambda rows: rows[0].update(image=None)), {"E401"}),
    "parquet: another picture": (evil_data(lambda rows: rows[0].update(image=rows[0]["mask"])), {"E401"}),
    "parquet: row twice": (evil_data(lambda rows: rows.append(rows[0])), {"E303"}),
    "parquet: foreign row": (evil_data(lambda rows: rows[0].update(id="a/src-0123456789ab")), {"E304"}),
    "parquet: row missing": (evil_data(lambda rows: rows.clear()), {"E303"}),
    "parquet: truncated": (
        lambda root: replace_file(root, "data", 0, (root / entry_of(root, "data")["path"]).read_bytes()[:-100]),
        {"E305"},
    ),
    "parquet: a web page": (lambda root: replace_file(root, "data", 0, b"<!doctype html>" * 99), {"E305"}),
    "manifest: no table": (lambda root: replace_table(root, "manifest", b"PAR1 not"), {"E305"}),
    "manifest: retyped": (
        lambda root: replace_table(root, "manifest", pa.table({"id": [1, 2]})),
        {"E305"},
    ),
    "manifest: sample twice": (
        lambda root: edit_table(root, "manifest", lambda rows: rows.append(rows[0])),
        {"E303", "E308"},
    ),
    "manifest: sample of no shard": (
        lambda root: edit_table(root, "manifest", lambda rows: rows[0]["image"].update(shard="shards/x.tar")),
        {"E303", "E304", "E308"},
    ),
    "header: climbs out": (renamed("shards", "../evil.tar"), {"E307"}),
    "header: absolute": (renamed("shards", "/evil.tar"), {"E307"}),
    "header: drive": (renamed("shards", "C:\\evil.tar"), {"E307"}),
    "header: over the card": (renamed("shards", "README.md"), {"E307"}),
    "header: over itself": (renamed("manifest", "corpus.json"), {"E307"}),
    "header: into the build's folder": (renamed("shards", ".work/store.sqlite"), {"E307"}),
    "header: one file twice": (
        lambda root: edit_header(root, lambda header: header["shards"].append(header["shards"][0])),
        {"E303"},
    ),
    "header: no JSON": (lambda root: (root / "corpus.json").write_text("{"), {"E404"}),
    "header: newer": (lambda root: edit_header(root, lambda header: header.update(schema_version=99)), {"E405"}),
}


@pytest.mark.parametrize("case", EVIL_CORPORA)
def test_evil_corpus_is_refused_and_nothing_of_it_is_kept_or_written_elsewhere(copy, tmp_path, case):
    change, codes = EVIL_CORPORA[case]
    change(copy)
    inside = tmp_path / "a" / "b" / "out"
    before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "a")}
    with pytest.raises(ReportedError) as caught:
        pull(str(copy), inside)
    assert caught.value.code in codes, str(caught.value)
    assert caught.value.exit_code == 4
    assert not (inside / "corpus.json").exists()
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(inside)} - {
        tmp_path / "a",
        tmp_path / "a" / "b",
    } == before
    known = {path.relative_to(copy) for path in copy.rglob("*")}
    assert {path.relative_to(inside) for path in inside.rglob("*") if ".work" not in path.parts} <= known


@pytest.mark.parametrize("case", [case for case in EVIL_CORPORA if case.startswith(("tar", "parquet"))])
def test_full_check_sees_what_pull_refuses(copy, case):
    change, codes = EVIL_CORPORA[case]
    change(copy)
    assert {problem.code for problem in validate(copy, full=True)} & codes


@pytest.mark.parametrize("case", [case for case in EVIL_CORPORA if case.startswith(("tar", "parquet"))])
def test_evil_corpus_is_not_published(copy, tmp_path, case):
    change, codes = EVIL_CORPORA[case]
    change(copy)
    for dry_run in (True, False):
        with pytest.raises(ReportedError, match="not published") as caught:
            publish(copy, str(tmp_path / "there"), dry_run=dry_run)
        assert caught.value.code in codes, str(caught.value)
        assert caught.value.exit_code == 4
    assert not (tmp_path / "there").exists()


def test_corpus_without_evil_is_taken(copy, tmp_path):
    assert pull(str(copy), tmp_path / "out").digest == digest_of(copy)


def test_link_in_the_output_is_not_followed(both_shapes, tmp_path):
    out = tmp_path / "out"
    pull(str(both_shapes), out)
    (tmp_path / "elsewhere").mkdir()
    for path in (out / "shards").iterdir():
        path.unlink()
    (out / "shards").rmdir()
    (out / "shards").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ReportedError, match="E307"):
        pull(str(both_shapes), out)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_file_that_rotted_in_the_output_is_fetched_again(both_shapes, tmp_path):
    pull(str(both_shapes), tmp_path / "out")
    flip(tmp_path / "out" / entry_of(both_shapes, "shards")["path"], 700)
    assert pull(str(both_shapes), tmp_path / "out").fetched == 1
    assert validate(tmp_path / "out", full=True) == []


def test_pictures_of_a_rotten_shard_are_not_handed_out(copy):
    flip(copy / entry_of(copy, "shards")["path"], 700)
    with open_corpus(copy) as corpus:
        (name,) = [each for each in corpus if corpus.record(each).image.offset == 512 and each.startswith("scenes/")]
        with pytest.raises(IntegrityError, match="E401"):
            corpus.image_bytes(name)


def test_a_reader_of_names_in_tars_would_be_caught(tmp_path, copy):
    """The planted breach of "no name inside a tar is a path": a reader that unpacks writes outside."""
    named("../../../evil.txt")(copy)
    unpacked = tmp_path / "a" / "b" / "c" / "d"
    unpacked.mkdir(parents=True)
    with tarfile.open(copy / entry_of(copy, "shards")["path"]) as tar:
        tar.extractall(unpacked, filter="fully_trusted")
    assert (tmp_path / "a" / "evil.txt").read_bytes() == b"evil"
