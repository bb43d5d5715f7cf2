"""Publishing to the Hub: what arrives, in which order, what is sent again, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from manifests.writer import CorpusContent
from tests.manifests import corpora
from tests.manifests.corpora import edit_header, edit_table, flip, ledger_row, shards, small_content, subject
from tests.publish import cas
from tests.publish.conftest import Place, digest_of, make
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


@pytest.mark.parametrize(("damage", "code"), [(rotten_shard, "E401"), (missing_shard, "E403"), (wrong_counts, "E308")])
def test_corpus_that_is_not_whole_is_refused(lfs, copy, damage, code):
    damage(copy)
    done = lfs.publish(copy)
    assert done.code == 4
    assert f"dataforge: {code} " in done.err
    assert lfs.name not in lfs.hub.repos or "corpus.json" not in lfs.files


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


def test_publisher_that_finished_meanwhile_is_noticed_before_the_last_commit(lfs, both_shapes, shards_only):
    assert lfs.publish(both_shapes).code == 0
    repo = lfs.hub.repos[lfs.name]
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
    done = lfs.publish(shards_only)
    assert done.code == 6
    assert "E521" in done.err
    assert repo.commits[-1][1] == "theirs"


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


def kill_points(place: Place, corpus: Path) -> int:
    """How many points there are at which a run can be killed."""
    place.hub.steps = 0
    assert place.publish(corpus).code == 0
    return place.hub.steps


def killed_then_again(place: Place, corpus: Path, point: int, pulled: Path) -> tuple[bool, int]:
    """Whether the kill landed, and how many files the server was sent whole more than once."""
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
    return killed.code == -9, sum(count - 1 for count in bodies.values())


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.97])
def test_killed_anywhere_the_rerun_finishes_and_sends_at_most_one_file_again(lfs_station, both_shapes, tmp_path, share):
    points = kill_points(lfs_station.place(tmp_path), both_shapes)
    forget(lfs_station.hub, both_shapes)
    landed, again = killed_then_again(
        lfs_station.place(tmp_path), both_shapes, int(points * share), tmp_path / "pulled"
    )
    assert landed
    assert again <= 1


@pytest.mark.slow
@pytest.mark.parametrize("station", ["lfs_station", "xet_station"])
def test_killed_at_fifty_points_the_rerun_finishes_and_sends_at_most_one_file_again(
    request, both_shapes, tmp_path, station
):
    station = request.getfixturevalue(station)
    points = kill_points(station.place(tmp_path), both_shapes)
    assert points >= 50
    chosen = sorted({round(number * (points - 1) / 49) for number in range(50)})
    results = []
    for point in chosen:
        forget(station.hub, both_shapes)
        place = station.place(tmp_path / str(point))
        results.append(killed_then_again(place, both_shapes, point, tmp_path / "pulled" / str(point)))
    print(f"{len(results)} kill points, {sum(landed for landed, _ in results)} landed")
    assert sum(landed for landed, _ in results) >= 49
    assert max(again for _, again in results) <= 1


def forget(hub, corpus: Path) -> None:
    """Files of this corpus are new to the server again."""
    for sha256 in sha256s(corpus).values():
        hub.blobs.pop(sha256, None)
    for name in [name for name, repo in hub.repos.items() if not name.endswith("-0")]:
        del hub.repos[name]
    if hub.cas is not None:
        shutil.rmtree(hub.cas / "xet", ignore_errors=True)
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


def test_changed_subject_sends_only_what_changed(xet, tmp_path):
    """Content-defined chunks: both shapes of a corpus of 24 subjects, one of which has a new photograph."""
    names = [f"thing-{number:02d}" for number in range(24)]

    def content(more: bool) -> CorpusContent:
        photographs = {
            name: [corpora.make(name, "src", 1000 + 10 * row + column) for column in range(3)]
            for row, name in enumerate(names)
        }
        if more:
            photographs["thing-07"].append(corpora.make("thing-07", "src", 9999))
        subjects = [subject(name, made) for name, made in photographs.items()]
        found = [made for several in photographs.values() for made in several]
        ledger = sorted(map(ledger_row, found), key=lambda row: row.path)
        return corpora.content(found, subjects, ledger, shard_bytes=1 << 30)  # one shard: the hardest case

    first, second = make(tmp_path / "first", content(False)), make(tmp_path / "second", content(True))
    before = cas.stored_bytes(xet.hub.cas)
    assert xet.publish(first).code == 0
    all_of_it = cas.stored_bytes(xet.hub.cas) - before
    assert xet.publish(second).code == 0
    more = cas.stored_bytes(xet.hub.cas) - before - all_of_it
    tar, data = next((second / "shards").glob("*.tar")), next((second / "data").glob("*.parquet"))
    size = tar.stat().st_size + data.stat().st_size
    print(f"first {all_of_it:,} bytes, then {more:,} of {size:,}")
    assert tar.name not in {path.name for path in (first / "shards").iterdir()}
    assert more < size / 2
