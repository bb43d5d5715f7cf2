"""Publishing to the Hub: what arrives, in which order, what is sent again, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from manifests.pixels import encode_image
from manifests.writer import CorpusContent
from tests.manifests import corpora
from tests.manifests.corpora import (
    edit_header,
    edit_table,
    flip,
    ledger_row,
    shards,
    small_content,
    subject,
    write_corpus,
)
from tests.publish import cas
from tests.publish.clients import Done
from tests.publish.conftest import Place, Station, digest_of, make
from tests.publish.hub import Elsewhere


def sha256s(root: Path) -> dict[str, str]:
    """What of a corpus is published as it is."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
        and path.name not in ("index.sqlite", "README.md", "croissant.json")
        and ".work" not in path.parts
    }


def is_published(place: Place, root: Path) -> bool:
    there = dict(place.files)
    for name in (".gitattributes", "README.md", "croissant.json"):
        assert there.pop(name)
    return there == sha256s(root)


def with_another_picture() -> CorpusContent:
    """The small corpus with one photograph more of the red mug."""
    content = small_content()
    more = corpora.make("red-mug", "src", 77)
    old = list(content.samples())
    new = sorted([*old, more.unpacked()], key=lambda unit: unit.sample.id)
    photographs = [unit for unit in new if unit.sample.subject == "red-mug" and unit.sample.role == "src"]
    subjects = [
        replace(row, sample_ids=tuple(unit.sample.id for unit in photographs)) if row.id == "red-mug" else row
        for row in content.subjects
    ]
    ledger = sorted([*content.ledger, ledger_row(more)], key=lambda row: row.path)
    return replace(content, samples=lambda: iter(new), subjects=subjects, ledger=ledger)


def test_published_pulled_and_validated_it_is_the_same_corpus(place, both_shapes, tmp_path):
    done = place.publish(both_shapes)
    assert done.code == 0, done.err
    digest = digest_of(both_shapes)
    assert f"{place.hub.url}/datasets/{place.name}" in done.out
    assert f"{place.ref}@{digest}" in done.out
    assert is_published(place, both_shapes)
    pulled = place.dataforge("pull", f"{place.ref}@{digest}", "-o", tmp_path / "pulled")
    assert pulled.code == 0, pulled.err
    assert digest_of(tmp_path / "pulled") == digest
    checked = place.dataforge("validate", tmp_path / "pulled", "--full")
    assert (checked.code, checked.out) == (0, "The corpus is whole (full check).\n")


def test_repository_is_private_and_the_version_is_tagged(lfs, both_shapes):
    assert lfs.publish(both_shapes).code == 0
    repo = lfs.hub.repos[lfs.name]
    assert repo.private
    assert repo.tags == {digest_of(both_shapes): repo.commits[-1][0]}


def test_header_manifest_and_card_come_in_one_last_commit(lfs, both_shapes):
    assert lfs.publish(both_shapes).code == 0
    *before, (_, _, last) = lfs.hub.repos[lfs.name].commits
    earlier = before[-1][2]
    manifest = next(path.name for path in both_shapes.glob("manifest-*.parquet"))
    derived = {"manifest.parquet", "subjects.parquet", "ledger.parquet", "croissant.json", "thumbnails.webp"}
    assert last.keys() - earlier.keys() == {"corpus.json", "README.md", manifest, *derived}
    assert {path for path in last if "/" in path} <= earlier.keys()


def test_public_is_made_only_when_asked_and_never_by_accident(lfs, both_shapes):
    assert lfs.publish(both_shapes, "--public").code == 0
    assert not lfs.hub.repos[lfs.name].private
    done = lfs.publish(both_shapes)
    assert done.code == 2
    assert done.err.strip().splitlines()[-1] == (
        f"dataforge: E501 usage: {lfs.ref} is public; say --public if that is meant. See --help."
    )
    lfs.hub.repos[lfs.name].private = True
    done = lfs.publish(both_shapes, "--public")
    assert done.code == 2
    assert f"{lfs.ref} is private: make it public on the Hub first, or leave out --public." in done.err


def test_publishing_again_sends_nothing(place, both_shapes):
    assert place.publish(both_shapes).code == 0
    commits = len(place.hub.repos[place.name].commits)
    stored = cas.stored_bytes(place.hub.cas) if place.hub.cas else 0
    place.hub.log.clear()
    done = place.publish(both_shapes)
    assert done.code == 0
    assert "0 files (0 bytes) sent, 0 deleted, 20 there already." in done.out
    assert place.hub.asked("PUT|commit|preupload|lfs|xet-write") == []
    assert len(place.hub.repos[place.name].commits) == commits
    assert stored == (cas.stored_bytes(place.hub.cas) if place.hub.cas else 0)


def test_new_version_sends_what_changed_and_takes_the_old_files_away(lfs, both_shapes, tmp_path):
    assert lfs.publish(both_shapes).code == 0
    old = dict(lfs.files)
    new = make(tmp_path / "new", with_another_picture())
    lfs.hub.log.clear()
    done = lfs.publish(new)
    assert done.code == 0, done.err
    assert is_published(lfs, new)
    sent = {asked.path.rpartition("/")[2] for asked in lfs.hub.asked("PUT /lfs/")}
    names = sha256s(new)
    assert sent <= set(names.values()) - set(old.values())
    kept = {path for path in names if path.startswith(("shards/", "data/")) and path in old}
    assert len(kept) >= 4, "the other subjects' files are the same"
    repo = lfs.hub.repos[lfs.name]
    assert repo.tree(digest_of(both_shapes))[1] == old, "the old version is whole under its tag"


def test_dry_run_says_what_would_go_where_and_sends_nothing(lfs, both_shapes):
    done = lfs.publish(both_shapes, "--dry-run")
    assert done.code == 0, done.err
    assert lfs.name not in lfs.hub.repos
    assert [asked for asked in lfs.hub.log if asked.method != "GET"] == []
    names = {*sha256s(both_shapes), "README.md", "croissant.json"}
    assert {line.split()[1] for line in done.out.splitlines() if line.startswith("+ ")} == names
    assert "20 files" in done.out
    assert "would be sent" in done.out


def test_json_is_for_machines(lfs, both_shapes):
    done = lfs.publish(both_shapes, "--dry-run", "--json")
    value = json.loads(done.out)
    assert (value["digest"], len(value["sent"]), value["kept"]) == (digest_of(both_shapes), 20, 0)


def rotten_shard(root: Path) -> None:
    flip(shards(root)[1], 600)


def missing_shard(root: Path) -> None:
    shards(root)[0].unlink()


def wrong_counts(root: Path) -> None:
    edit_header(root, lambda header: header["counts"].update(photographs=3))


@pytest.mark.parametrize("arguments", [[], ["--dry-run"]], ids=["publish", "dry run"])
@pytest.mark.parametrize(("damage", "code"), [(rotten_shard, "E401"), (missing_shard, "E403"), (wrong_counts, "E308")])
def test_corpus_that_is_not_whole_is_refused(lfs, copy, damage, code, arguments):
    damage(copy)
    done = lfs.publish(copy, *arguments)
    assert done.code == 4
    assert f"dataforge: {code} " in done.err
    assert lfs.hub.log == []


@pytest.mark.parametrize(("field", "told"), [("licence", "red-mug (licence)"), ("consent", "red-mug (consent)")])
def test_subject_whose_rights_are_not_stated_is_refused_unless_told_otherwise(lfs, copy, field, told):
    edit_table(copy, "subjects", lambda rows: rows[2].update({field: " "}))
    done = lfs.publish(copy)
    assert done.code == 2
    assert f"E506 rights-unknown: not stated: {told}." in done.err
    assert lfs.hub.log == []
    assert lfs.publish(copy, "--allow-unknown-rights").code == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{root}", "hf://datasets/user"], "a corpus on the Hub is hf://datasets/USER/NAME"),
        (["{root}", "hf://user/name"], "a corpus on the Hub is hf://datasets/USER/NAME"),
        (["{root}", "gs://bucket/x"], "a place is a folder, hf://datasets/USER/NAME or s3://BUCKET/KEY"),
        (["{root}", "hf://datasets/user/name@main"], "without @revision and #IDs"),
        (["{root}", "hf://datasets/user/name#red-mug"], "without @revision and #IDs"),
        (["{root}", "{root}"], "is the corpus itself"),
        (["{root}#red-mug", "hf://datasets/user/name"], "publish takes the folder of a whole corpus"),
        (["{root}", "{root}-copy", "--public"], "--public is for hf://"),
    ],
)
def test_wrong_call_is_told_in_a_sentence(lfs, both_shapes, arguments, told):
    done = lfs.dataforge("publish", *(text.format(root=both_shapes) for text in arguments))
    assert done.code == 2
    assert told in done.err
    assert lfs.hub.log == []


def test_of_two_publishers_one_is_told(lfs, both_shapes, shards_only):
    """The other one commits between this one's look and its last commit; and between its check and that commit."""
    assert lfs.publish(both_shapes).code == 0
    repo = lfs.hub.repos[lfs.name]
    theirs = dict(repo.files)

    def other_publishes() -> None:
        header = b'{"theirs": true}'
        lfs.hub.blobs[hashlib.sha256(header).hexdigest()] = header
        repo.commit("theirs", theirs | {"corpus.json": hashlib.sha256(header).hexdigest()})

    lfs.hub.before_commit = other_publishes
    done = lfs.publish(shards_only)
    assert done.code == 6
    assert done.err.strip().splitlines()[-1] == (
        f"dataforge: E521 published-meanwhile: {lfs.ref}. Look at what is there now, then run the same command again."
    )
    assert repo.commits[-1][1] == "theirs"
    assert lfs.hub.asked("commit/main")[-1].status == 412


@pytest.mark.parametrize("version", ["new", "the same, of a run that was killed before its tag"])
def test_publisher_that_finished_meanwhile_is_noticed_before_the_last_commit(lfs, both_shapes, shards_only, version):
    assert lfs.publish(both_shapes).code == 0
    repo = lfs.hub.repos[lfs.name]
    repo.tags.clear()
    header = b'{"theirs": true}'

    class Meanwhile:
        """Commits as soon as this publisher has looked."""

        def __call__(self, asked: str) -> bool:
            if asked.startswith("GET") and "/tree/" in asked and not self.done:
                self.done = True
                lfs.hub.blobs[hashlib.sha256(header).hexdigest()] = header
                self.after = True
            elif self.after:
                self.after = False
                repo.commit("theirs", dict(repo.files) | {"corpus.json": hashlib.sha256(header).hexdigest()})
            return False

        done = after = False

    fault = Meanwhile()
    lfs.hub.fault("", 500, times=0)
    lfs.hub.faults[-1].hits = fault  # type: ignore[method-assign]
    done = lfs.publish(shards_only if version == "new" else both_shapes)
    assert done.code == 6
    assert "E521" in done.err
    assert repo.commits[-1][1] == "theirs"
    assert repo.tags == {}, "no tag of ours on a commit of theirs"


def on_its_way(place: Place, root: Path) -> set[str]:
    """What another publisher has sent of a new version whose header is not there yet."""
    repo = place.hub.repos[place.name]
    bodies = {path: sha256 for path, sha256 in sha256s(root).items() if path.startswith(("shards/", "data/"))}
    for path, sha256 in bodies.items():
        place.hub.blobs[sha256] = (root / path).read_bytes()
    repo.commit("files of a corpus to come", repo.files | bodies)
    return set(bodies)


def test_files_that_another_publisher_has_just_sent_are_left_alone(lfs, both_shapes, shards_only, tmp_path):
    """Whether this one finds nothing to change, or brings a version of its own."""
    assert lfs.publish(both_shapes).code == 0
    theirs = on_its_way(lfs, make(tmp_path / "theirs", with_another_picture())) - sha256s(both_shapes).keys()
    assert theirs
    done = lfs.publish(both_shapes)
    assert done.code == 0, done.err
    assert "0 files (0 bytes) sent, 0 deleted" in done.out
    assert theirs <= lfs.files.keys()
    done = lfs.publish(shards_only)
    assert done.code == 0, done.err
    assert theirs <= lfs.files.keys()
    assert not {path for path in sha256s(both_shapes).keys() - theirs if path.startswith("data/")} & lfs.files.keys()


def test_files_of_a_version_that_was_never_finished_go_when_they_are_old(lfs, both_shapes, shards_only, tmp_path):
    """Older than the header that is there: whoever sent them would be told that another version came in between."""
    assert lfs.publish(both_shapes).code == 0
    left = on_its_way(lfs, make(tmp_path / "left", with_another_picture())) - sha256s(both_shapes).keys()
    assert lfs.publish(shards_only).code == 0
    assert left <= lfs.files.keys()
    done = lfs.publish(shards_only)
    assert done.code == 0, done.err
    assert f"0 files (0 bytes) sent, {len(left)} deleted" in done.out
    assert is_published(lfs, shards_only)


def test_body_that_is_taken_away_meanwhile_is_noticed_and_sent_again(lfs, both_shapes, shards_only):
    """The race: the files found there at the look are gone when the header is to be committed."""
    assert lfs.publish(both_shapes).code == 0
    repo = lfs.hub.repos[lfs.name]
    shard = next(path for path in repo.files if path.startswith("shards/"))
    lfs.hub.before_commit = lambda: repo.commit("theirs", {k: v for k, v in repo.files.items() if k != shard})
    done = lfs.publish(shards_only)
    assert done.code == 6
    assert f"E521 published-meanwhile: {lfs.ref}: {shard} is no longer there. " in done.err
    assert list(repo.tags) == [digest_of(both_shapes)]
    assert lfs.publish(shards_only).code == 0
    assert is_published(lfs, shards_only)


def test_commit_of_someone_who_changes_no_header_is_no_obstacle(lfs, both_shapes, shards_only):
    assert lfs.publish(both_shapes).code == 0
    repo = lfs.hub.repos[lfs.name]
    lfs.hub.before_commit = lambda: repo.commit("theirs", repo.files | {"notes.txt": repo.files["corpus.json"]})
    done = lfs.publish(shards_only)
    assert done.code == 0, done.err
    assert "notes.txt" in lfs.files
    assert [asked.status for asked in lfs.hub.asked("commit/main")][-2:] == [412, 200]


def stopped(place: Place, pattern: str, *arguments: object, signal_number: int = signal.SIGTERM) -> tuple[Done, float]:
    """How a run ends that a signal stops while the server asks it to wait for five minutes, and seconds it took."""
    place.hub.fault(pattern, 429, times=-1, headers={"Retry-After": "300"})
    sent = []

    def stop(child: int) -> None:
        def wait() -> None:
            while not any(asked.status == 429 for asked in place.hub.log):
                time.sleep(0.05)
            time.sleep(0.5)
            sent.append(time.monotonic())
            os.kill(child, signal_number)

        threading.Thread(target=wait, daemon=True).start()

    place.hub.log.clear()
    done = place.dataforge(*arguments, on_start=stop, DATAFORGE_PATIENCE_S="1000")
    took = time.monotonic() - sent[0]
    place.hub.fresh()
    return done, took


@pytest.mark.parametrize("pattern", ["POST .*/preupload", "PUT /lfs", "POST .*/commit/main", "GET .*/tree"])
def test_signal_ends_publishing_at_once_while_the_server_asks_for_patience(lfs, both_shapes, pattern):
    forget(lfs, both_shapes)
    if "tree" in pattern:
        assert lfs.publish(both_shapes).code == 0
    done, took = stopped(lfs, pattern, "publish", both_shapes, lfs.ref)
    assert done.code == 143
    assert "E511 interrupted: stopped by SIGTERM." in done.err
    assert took < 10
    assert lfs.publish(both_shapes).code == 0
    assert is_published(lfs, both_shapes)


def test_signal_ends_an_upload_with_xet_at_once(xet, both_shapes):
    done, took = stopped(xet, "xet-write-token", "publish", both_shapes, xet.ref)
    assert (done.code, took < 10) == (143, True)
    assert xet.publish(both_shapes).code == 0


def test_answer_to_the_last_commit_that_is_lost_is_no_failure(lfs, both_shapes):
    lfs.hub.fault("POST .*/commit/main", "lost", after=1)
    done = lfs.publish(both_shapes)
    assert done.code == 0, done.err
    assert is_published(lfs, both_shapes)
    assert list(lfs.hub.repos[lfs.name].tags) == [digest_of(both_shapes)]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_busy_server_is_waited_for(lfs, both_shapes, status):
    """More often than the clients themselves would try."""
    lfs.hub.fault("POST .*/commit/main", status, times=8, headers={"Retry-After": "0"})
    done = lfs.publish(both_shapes, DATAFORGE_PATIENCE_S="60")
    assert done.code == 0, done.err
    assert is_published(lfs, both_shapes)


def test_patience_ends(lfs, both_shapes):
    lfs.hub.fault("POST .*/commit/main", 503, times=-1, headers={"Retry-After": "0"})
    done = lfs.publish(both_shapes, DATAFORGE_PATIENCE_S="0.1")
    assert done.code == 5
    assert f"E513 remote-failed: {lfs.ref}: the server answers HTTP 503. Run the same command again" in done.err


@pytest.mark.parametrize("status", [403, 413, 422])
def test_refusal_stops_at_once(lfs, both_shapes, status):
    lfs.hub.fault("POST .*/commit/main", status, times=-1)
    done = lfs.publish(both_shapes)
    assert done.code == 2
    assert "E507 remote-refused" in done.err
    assert len(lfs.hub.asked("commit/main")) == 1


def test_reset_connections_are_made_again(lfs, both_shapes):
    for pattern in ("PUT /lfs", "GET .*/tree", "POST .*/preupload", "POST .*/tag"):
        lfs.hub.fault(pattern, "reset")
    done = lfs.publish(both_shapes)
    assert done.code == 0, done.err
    assert is_published(lfs, both_shapes)


def test_without_a_server_it_is_told_in_a_sentence(lfs, both_shapes):
    done = lfs.python(
        f"""
import huggingface_hub.constants as constants
from dataforge.publishing import publish
from huggingface_hub import hf_api
hf_api.ENDPOINT = constants.ENDPOINT = "http://127.0.0.1:9"
try:
    publish({str(both_shapes)!r}, {lfs.ref!r})
except Exception as error:
    print(error.exit_code, error)
""",
        DATAFORGE_PATIENCE_S="0",
    )
    assert done.out.startswith("5 E513 remote-failed: ")


@dataclass
class Again:
    """What came of a run that was killed and started again."""

    landed: bool
    files: int
    """How many files the server was sent whole more than once."""
    stored: int
    """Bytes in the store of chunks, where there is one."""


def undisturbed(station: Station, folder: Path, corpus: Path) -> tuple[int, int]:
    """How many points there are at which a run can be killed, and the bytes that it stores as chunks."""
    forget(station, corpus)
    place = station.place(folder)
    assert place.publish(corpus).code == 0
    return place.hub.steps, cas.stored_bytes(place.hub.cas) if place.hub.cas else 0


def killed_then_again(place: Place, corpus: Path, point: int, pulled: Path) -> Again:
    forget(place, corpus)
    place.hub.log.clear()
    place.hub.steps, place.hub.kill_at = 0, point

    def victim(child: int) -> None:
        place.hub.victim = child

    killed = place.publish(corpus, on_start=victim)
    place.hub.kill_at, place.hub.victim = -1, 0
    assert killed.code in (0, -9), killed.err
    again = place.publish(corpus)
    assert again.code == 0, again.err
    assert is_published(place, corpus)
    assert list(place.hub.repos[place.name].tags) == [digest_of(corpus)]
    taken = place.dataforge("pull", place.ref, "-o", pulled)
    assert taken.code == 0, taken.err
    assert digest_of(pulled) == digest_of(corpus)
    bodies = Counter(asked.path for asked in place.hub.asked("PUT /lfs/"))
    stored = cas.stored_bytes(place.hub.cas) if place.hub.cas else 0
    return Again(killed.code == -9, sum(count - 1 for count in bodies.values()), stored)


def largest(corpus: Path) -> int:
    return max((corpus / path).stat().st_size for path in sha256s(corpus))


@pytest.mark.parametrize(
    ("kind", "share"),
    [("lfs", 0.02), ("lfs", 0.3), ("lfs", 0.6), ("lfs", 0.9), ("lfs", 0.97), ("xet", 0.45)],
)
def test_killed_anywhere_the_rerun_finishes_and_sends_at_most_one_file_again(
    request, both_shapes, tmp_path, kind, share
):
    station: Station = request.getfixturevalue(f"{kind}_station")
    points, stored = undisturbed(station, tmp_path, both_shapes)
    result = killed_then_again(station.place(tmp_path), both_shapes, int(points * share), tmp_path / "pulled")
    assert result.landed
    assert result.files <= 1
    assert result.stored - stored <= largest(both_shapes)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lfs", "xet"])
def test_killed_at_fifty_points_the_rerun_finishes_and_sends_at_most_one_file_again(
    request, both_shapes, tmp_path, kind
):
    station: Station = request.getfixturevalue(f"{kind}_station")
    points, stored = undisturbed(station, tmp_path, both_shapes)
    count = int(os.environ.get("KILL_POINTS", "50"))
    assert points >= count
    results = []
    for point in sorted({round(number * (points - 1) / (count - 1)) for number in range(count)}):
        place = station.place(tmp_path / str(point))
        results.append(killed_then_again(place, both_shapes, point, tmp_path / "pulled" / str(point)))
    landed, again = sum(each.landed for each in results), max(each.files for each in results)
    more = max(each.stored for each in results) - stored
    print(f"{kind}: {len(results)} kill points, {landed} landed; at most {again} files sent again, {more:,} bytes more")
    assert landed >= count - 1
    assert again <= 1
    assert more <= largest(both_shapes)


def forget(at: Station | Place, corpus: Path) -> None:
    """Files of this corpus are new to the server again, and to what its clients remember of it."""
    for sha256 in sha256s(corpus).values():
        at.hub.blobs.pop(sha256, None)
    if at.hub.cas is not None:
        shutil.rmtree(at.hub.cas / "xet", ignore_errors=True)
        shutil.rmtree(Path(at.clients.environment["HF_HOME"], "xet"), ignore_errors=True)
        cas._parse_shard.cache_clear()


def test_token_is_not_sent_on_to_another_host(lfs, both_shapes, tmp_path):
    assert lfs.publish(both_shapes).code == 0
    elsewhere = Elsewhere(lfs.hub)
    lfs.hub.elsewhere = elsewhere.url
    try:
        done = lfs.dataforge("pull", lfs.ref, "-o", tmp_path / "pulled")
        assert done.code == 0, done.err
    finally:
        elsewhere.stop()
    assert len(elsewhere.log) >= 10
    assert {asked.authorization for asked in elsewhere.log} == {""}
    assert {bool(asked.authorization) for asked in lfs.hub.asked("GET .*resolve")} == {True}


UPLOAD = """
from huggingface_hub import HfApi
api = HfApi()
api.create_repo({name!r}, repo_type="dataset", private=True, exist_ok=True)
api.upload_file(path_or_fileobj={path!r}, path_in_repo={kept!r}, repo_id={name!r}, repo_type="dataset")
"""


@cache
def noisy(seed: int, image_format: str = "webp") -> tuple[np.ndarray, bytes, str, np.ndarray]:
    """A picture whose bytes are as many, and as little alike, as a photograph's of 512 px: some 120 kB."""
    pixels = np.random.default_rng(seed).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    mask = np.zeros((200, 200), bool)
    mask[40:120, 60:150] = True
    return pixels, *encode_image(pixels), mask


@pytest.mark.parametrize("shape", ["data", "shards"])
def test_changed_subject_sends_only_what_changed(xet, tmp_path, monkeypatch, shape):
    """Bytes that the real client sends of each shape of a new version: one of 24 subjects has one photograph more.

    One file holds them all, the hardest case; the other 72 photographs have moved in it.
    """
    monkeypatch.setattr(corpora, "picture", noisy)
    names = [f"thing-{number:02d}" for number in range(24)]
    seed = {"data": 1000, "shards": 2000}[shape]  # the client remembers what it has sent in the other shape

    def content(more: bool) -> CorpusContent:
        photographs = {
            name: [corpora.make(name, "src", seed + 10 * row + column) for column in range(3)]
            for row, name in enumerate(names)
        }
        if more:
            photographs["thing-07"].append(corpora.make("thing-07", "src", seed + 999))
        subjects = [subject(name, made) for name, made in photographs.items()]
        found = [made for several in photographs.values() for made in several]
        ledger = sorted(map(ledger_row, found), key=lambda row: row.path)
        return corpora.content(found, subjects, ledger, shard_bytes=1 << 30)

    sent = [cas.stored_bytes(xet.hub.cas)]
    for version in (False, True):
        root = tmp_path / str(version)
        write_corpus(root, replace(content(version), parquet=True))
        (path,) = (root / shape).iterdir()
        xet.python(UPLOAD.format(name=xet.name, path=str(path), kept=f"{shape}/{path.name}"))
        sent.append(cas.stored_bytes(xet.hub.cas))
    first, more = sent[1] - sent[0], sent[2] - sent[1]
    print(f"{shape}: {first:,} bytes, then {more:,} for a version of {path.stat().st_size:,}")
    assert first > 72 * 100_000, "the client knew the pictures already"
    assert more < first * {"data": 0.15, "shards": 0.05}[shape]
