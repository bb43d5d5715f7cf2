"""Tokens and keys: never in what is printed, raised, written or sent elsewhere, whatever a server sends back."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from dataforge import cli
from dataforge.publishing import publish
from manifests.errors import EnvironmentFault, UsageError, redact
from tests.publish.conftest import Place
from tests.publish.hub import TOKEN

SECRET = "canarySecretCanarySecretCanary"


def leaks(folder: Path, *texts: str) -> list[str]:
    """Where the canaries stand: files under the folder, and texts."""
    found = [f"text {number}" for number, text in enumerate(texts) if TOKEN in text or SECRET in text]
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            if TOKEN.encode() in data or SECRET.encode() in data:
                found.append(str(path.relative_to(folder)))
    return found


FAULTS = [
    ("POST /api/repos/create", 403),
    ("POST .*/preupload/", 422),
    ("POST .*/commit/main", 413),
    ("PUT /lfs", 400),
    ("POST .*/tag/", 422),
    ("GET /api/datasets", 500),
    ("POST .*/commit/main", 503),
    ("POST .*/commit/main", "reset"),
]


@pytest.mark.parametrize(("pattern", "what"), FAULTS)
def test_token_is_in_nothing_that_comes_out_of_a_failed_publish(lfs, both_shapes, tmp_path, monkeypatch, pattern, what):
    monkeypatch.setattr(lfs.hub, "blobs", {})  # what other tests sent would not be sent again
    lfs.hub.echo = True  # the server sends the token back in its error
    lfs.hub.fault(pattern, what, times=-1)
    done = lfs.publish(both_shapes, DATAFORGE_PATIENCE_S="0", DATAFORGE_DEBUG="1", TMPDIR=str(tmp_path))
    assert done.code != 0
    assert "E5" in done.err
    assert leaks(tmp_path, done.out, done.err) == []
    assert leaks(both_shapes) == []


@pytest.mark.parametrize("status", [400, 403, 429])
def test_token_is_in_nothing_that_comes_out_of_a_failed_pull(lfs, both_shapes, tmp_path, status):
    assert lfs.publish(both_shapes).code == 0
    lfs.hub.echo = True
    lfs.hub.fault("GET .*tar$", status, times=-1, headers={"Retry-After": "0"})
    done = lfs.dataforge("pull", lfs.ref, "-o", tmp_path / "out", DATAFORGE_PATIENCE_S="0", TMPDIR=str(tmp_path))
    assert done.code != 0
    assert leaks(tmp_path, done.out, done.err) == []


def test_token_is_in_nothing_that_is_published_pulled_or_kept(lfs, both_shapes, tmp_path):
    done = lfs.publish(both_shapes)
    taken = lfs.dataforge("pull", lfs.ref, "-o", tmp_path / "out")
    assert (done.code, taken.code) == (0, 0)
    assert leaks(tmp_path, done.out, done.err, taken.out, taken.err) == []
    assert not any(TOKEN.encode() in lfs.hub.content(sha256) for sha256 in lfs.files.values())


def test_bug_report_holds_no_token(lfs, tmp_path):
    code = f"""
import sys
import dataforge.cli as cli
def broken():
    raise ValueError("odd {TOKEN} " + "Bearer abcdefghijkl")
cli._verbs = lambda: lambda **settings: broken()
cli.main()
"""
    done = lfs.clients.python(code, TMPDIR=str(tmp_path), DATAFORGE_DEBUG="1")
    assert done.code == 1
    (report,) = tmp_path.glob("dataforge-bug-*.txt")
    assert "ValueError: odd <secret> Bearer <secret>" in report.read_text()
    assert leaks(tmp_path, done.out, done.err.replace(f'"odd {TOKEN} "', "")) == []


def test_keys_of_s3_are_in_no_sentence(bucket, both_shapes, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:9/{SECRET}")
    monkeypatch.setenv("DATAFORGE_PATIENCE_S", "0")
    with pytest.raises(EnvironmentFault, match="E513 remote-failed") as caught:
        publish(both_shapes, bucket)
    assert leaks(tmp_path, str(caught.value)) == []


def test_a_leak_would_be_found(tmp_path):
    (tmp_path / "log").write_text(f"Authorization: Bearer {TOKEN}")
    assert leaks(tmp_path, "fine", f"key {SECRET}") == ["text 1", "log"]


def test_every_sentence_is_cleared_of_secrets(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "oldStyleTokenWithoutPrefix")
    monkeypatch.setenv("MY_API_KEY", "key-of-my-own")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    (tmp_path / "token").write_text("tokenFromTheFile\n")
    said = (
        "oldStyleTokenWithoutPrefix key-of-my-own tokenFromTheFile hf_abcdefgh1234 AKIAIOSFODNN7EXAMPLE "
        "Authorization: Bearer eyJhbGciOi.x-y for url 'https://x/y?X-Amz-Date=1&X-Amz-Signature=0badc0de&part=2'"
    )
    wanted = (
        "<secret> <secret> <secret> <secret> <secret> Authorization: Bearer <secret> "
        "for url 'https://x/y?X-Amz-Date=1&<secret>&part=2'"
    )
    assert redact(said) == wanted
    assert wanted in str(UsageError(said))
    assert redact("hf://datasets/user/name and key") == "hf://datasets/user/name and key"


def test_no_option_takes_a_token():
    for verb in (cli.publish, cli.pull):
        names = " ".join(inspect.signature(verb).parameters)
        assert not any(word in names for word in ("token", "key", "secret", "password"))


def test_token_is_sent_to_the_server_it_is_for(lfs: Place, both_shapes):
    assert lfs.publish(both_shapes).code == 0
    for asked in lfs.hub.log:
        # uploads go to a presigned address, which needs no token and is given none
        assert asked.authorization == ("" if asked.path.startswith("/lfs/") else f"Bearer {TOKEN}"), str(asked)
