"""Publishing to S3, through the real client against a server that speaks its protocol, and to a folder."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from dataforge.publishing import publish, pull
from dataforge.publishing.targets import S3Target, Standing
from manifests.corpus import open_corpus
from manifests.errors import IntegrityError, NotFoundError, OutputLocked, UsageError
from manifests.fsops import output_lock
from manifests.ids import sha256_hex
from manifests.validation import validate
from tests.manifests.corpora import flip, shards
from tests.publish.conftest import digest_of, make
from tests.publish.test_publish_hub import sha256s, with_another_picture


def keys(bucket: str) -> dict[str, bytes]:
    import s3fs

    fs = s3fs.S3FileSystem(skip_instance_cache=True)
    root = bucket.removeprefix("s3://")
    return {path.removeprefix(f"{root}/"): fs.cat_file(path) for path in fs.find(root)}


def test_published_to_s3_and_pulled_it_is_the_same_corpus(bucket, both_shapes, tmp_path):
    result = publish(both_shapes, bucket)
    assert (result.url, result.digest) == (bucket, digest_of(both_shapes))
    there = keys(bucket)
    assert set(there) == {*sha256s(both_shapes), "README.md", "croissant.json"}
    pulled = pull(f"{bucket}@{result.digest}", tmp_path / "out")
    assert (pulled.digest, pulled.fetched) == (result.digest, 13)
    assert validate(tmp_path / "out", full=True) == []


def test_s3_is_sent_only_what_changed(bucket, both_shapes, tmp_path):
    publish(both_shapes, bucket)
    again = publish(both_shapes, bucket)
    assert (again.sent, again.deleted, again.kept) == ((), (), 20)
    new = make(tmp_path / "new", with_another_picture())
    result = publish(new, bucket)
    assert {parcel.path for parcel in result.sent if "shards/" in parcel.path} < {
        path for path in sha256s(new) if "shards/" in path
    }
    assert set(keys(bucket)) == {*sha256s(new), "README.md", "croissant.json"}
    assert result.deleted != ()
    with pytest.raises(IntegrityError, match=rf"E406 rebuilt: .*holds corpus {digest_of(new)[:12]}"):
        pull(f"{bucket}@{digest_of(both_shapes)}", tmp_path / "old")


def test_s3_is_read_by_id(bucket, both_shapes):
    publish(both_shapes, bucket)
    with open_corpus(f"{bucket}#red-mug") as remote, open_corpus(f"{both_shapes}#red-mug") as local:
        assert remote.ids == local.ids
        for name in remote:
            assert remote.image_bytes(name) == local.image_bytes(name)
            assert remote.mask_bytes(name) == local.mask_bytes(name)
    with pytest.raises(NotFoundError, match="E503"):
        open_corpus(f"{bucket}-nothing")


@pytest.mark.parametrize("before", [False, True], ids=["first version", "new version"])
def test_of_two_publishers_to_s3_one_is_told(bucket, both_shapes, shards_only, tmp_path, monkeypatch, before):
    if before:
        publish(make(tmp_path / "old", with_another_picture()), bucket)
    look = S3Target.look

    def slow_look(target: S3Target) -> Standing:
        """The other publisher begins and ends between this one's look and its commit."""
        seen = look(target)
        monkeypatch.setattr(S3Target, "look", look)
        publish(both_shapes, bucket)
        return seen

    monkeypatch.setattr(S3Target, "look", slow_look)
    with pytest.raises(OutputLocked, match=f"E521 published-meanwhile: {bucket}") as caught:
        publish(shards_only, bucket)
    assert caught.value.exit_code == 6
    assert pull(bucket, tmp_path / "out").digest == digest_of(both_shapes)


def put(bucket: str, root: Path, paths: Iterable[str]) -> None:
    import s3fs

    fs = s3fs.S3FileSystem(skip_instance_cache=True)
    for path in paths:
        fs.pipe_file(f"{bucket.removeprefix('s3://')}/{path}", (root / path).read_bytes())


def bodies(root: Path) -> set[str]:
    return {path for path in sha256s(root) if path.startswith(("shards/", "data/"))}


def test_files_that_another_publisher_to_s3_has_just_sent_are_left_alone(bucket, both_shapes, shards_only, tmp_path):
    publish(both_shapes, bucket)
    time.sleep(1.1)  # S3 tells whole seconds
    theirs = make(tmp_path / "theirs", with_another_picture())
    on_their_way = bodies(theirs) - bodies(both_shapes)
    put(bucket, theirs, on_their_way)
    assert publish(both_shapes, bucket).deleted == ()
    result = publish(shards_only, bucket)
    assert result.deleted != ()
    assert on_their_way <= keys(bucket).keys()
    time.sleep(1.1)
    put(bucket, shards_only, ["corpus.json"])  # a header that is younger than what was never finished
    assert set(publish(shards_only, bucket).deleted) == on_their_way
    assert validate(pull(bucket, tmp_path / "out").root, full=True) == []


@pytest.mark.parametrize("moment", ["before the header", "after the header"])
def test_body_that_is_taken_away_from_s3_meanwhile_is_noticed(bucket, both_shapes, shards_only, monkeypatch, moment):
    import s3fs

    publish(both_shapes, bucket)
    shard = next(path for path in bodies(shards_only))
    where = f"{bucket.removeprefix('s3://')}/{shard}"
    put_header = S3Target._put_header

    def and_takes_away(target: S3Target, data: bytes, mark: str) -> None:
        put_header(target, data, mark)
        s3fs.S3FileSystem(skip_instance_cache=True).rm_file(where)

    if moment == "after the header":
        monkeypatch.setattr(S3Target, "_put_header", and_takes_away)
        publish(shards_only, bucket)
    else:
        look = S3Target.look

        def slow_look(target: S3Target) -> Standing:
            seen = look(target)
            s3fs.S3FileSystem(skip_instance_cache=True).rm_file(where)
            return seen

        monkeypatch.setattr(S3Target, "look", slow_look)
        with pytest.raises(OutputLocked, match=f"E521 published-meanwhile: {bucket}: {shard} is no longer there"):
            publish(shards_only, bucket)
        assert sha256_hex(keys(bucket)["corpus.json"]) == digest_of(both_shapes)
        monkeypatch.setattr(S3Target, "look", look)
        publish(shards_only, bucket)
    assert set(keys(bucket)) == {*sha256s(shards_only), "README.md", "croissant.json"}


def test_bucket_that_is_not_there_is_told(bucket, both_shapes):
    with pytest.raises(NotFoundError, match="E503 not-found: s3://no-such-bucket"):
        publish(both_shapes, "s3://no-such-bucket/x")


def test_s3_readers_of_others_read_it(bucket, both_shapes):
    import pyarrow.dataset
    import s3fs

    publish(both_shapes, bucket)
    fs = s3fs.S3FileSystem(skip_instance_cache=True)
    table = pyarrow.dataset.dataset(f"{bucket.removeprefix('s3://')}/data", filesystem=fs).to_table(columns=["id"])
    with open_corpus(both_shapes) as corpus:
        assert sorted(table.column("id").to_pylist()) == list(corpus.ids)


def test_published_folder_is_a_corpus(both_shapes, tmp_path):
    there = tmp_path / "there"
    assert publish(both_shapes, str(there), dry_run=True).kept == 0
    assert not there.exists()
    result = publish(both_shapes, str(there))
    assert len(result.sent) == 20
    assert validate(there, full=True) == []
    assert digest_of(there) == digest_of(both_shapes)
    assert (there / "README.md").read_bytes() == (both_shapes / "README.md").read_bytes()
    again = publish(both_shapes, str(there))
    assert (again.sent, again.kept) == ((), 20)


def test_folder_becomes_the_new_version(both_shapes, shards_only, tmp_path):
    there = tmp_path / "there"
    publish(both_shapes, str(there))
    result = publish(shards_only, str(there))
    assert [path.partition("/")[0] for path in result.deleted] == ["data"] * 5
    assert validate(there, full=True) == []
    assert digest_of(there) == digest_of(shards_only)


def test_folder_of_someone_else_is_left_alone(both_shapes, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    for dry_run in (False, True):
        with pytest.raises(UsageError, match="E504"):
            publish(both_shapes, str(tmp_path), dry_run=dry_run)
    with output_lock(tmp_path / "there" / ".work" / "lock"), pytest.raises(OutputLocked, match="E520"):
        publish(both_shapes, str(tmp_path / "there"))


def test_check_is_shown_before_anything_is_sent(both_shapes, tmp_path):
    shown: list[tuple[str, int, int]] = []
    publish(both_shapes, str(tmp_path / "there"), on_progress=lambda *step: shown.append(step))
    stages = [stage for stage, _, _ in shown]
    assert stages == sorted(stages, reverse=True)
    checked = [(done, total) for stage, done, total in shown if stage == "validate"]
    with open_corpus(both_shapes) as corpus:
        assert checked == [(number + 1, len(corpus)) for number in range(len(corpus))]


def test_rotten_corpus_is_not_published_to_a_folder(copy, tmp_path):
    flip(shards(copy)[-1], 600)
    for dry_run in (True, False):
        with pytest.raises(IntegrityError, match="E401"):
            publish(copy, str(tmp_path / "there"), dry_run=dry_run)
        assert not (tmp_path / "there").exists()
