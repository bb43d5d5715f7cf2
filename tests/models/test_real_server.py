"""`vlm-server` against a server that somebody else wrote: `transformers serve` with a tiny random model.

It ignores `response_format`, so every reply is noise: what has to happen is that none of it gets into a corpus.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataforge.building import build
from dataforge.config import Recipe
from manifests.corpus import open_corpus
from tests.models.conftest import OPEN
from tests.models.tiny import tiny

START_S = 600  # of a busy machine; a quiet one takes ten


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """The server's address and its log."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(tiny("vlm"))]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **offline})
        try:
            _wait_for(process, f"http://127.0.0.1:{port}/health", log)
            yield f"http://127.0.0.1:{port}/v1", log
        finally:
            process.terminate()
            process.wait()


def _wait_for(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    for _ in range(START_S * 5):
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError(f"no server after {START_S} s: {log.read_text()[-2000:]}")


def test_noise_from_a_real_server_is_refused_and_the_corpus_is_whole(server, three_subjects, tmp_path):
    url, log = server
    describe = {
        "kind": "vlm-server", "url": url, "allow_http": True, "model": str(tiny("vlm")), "max_side": 64,
        "max_tokens": 64, "timeout_s": 300, "deadline_s": 300,
    }  # fmt: skip
    recipe = {
        "ground": {"kind": "fake"}, "segment": {"kind": "fake"}, "describe": describe,
        "compose": {"max_prompts": 1, "pairs": 0}, "generate": {"generator": {"kind": "fake"}, "images_per_prompt": 0},
    }  # fmt: skip
    result = build(three_subjects, tmp_path / "corpus", Recipe.model_validate(OPEN | recipe), workers=0)
    asked = log.read_text().count('"POST /v1/chat/completions HTTP/1.1" 200')
    assert asked == 3 * 2  # each subject's question once more, with what was wrong
    assert result.exit_code == 0
    with open_corpus(result.root) as corpus:
        assert len(list(corpus.samples(role="src"))) == 6
        for sample in corpus.samples(role="src"):
            assert sample.caption == ""
            assert sample.attributes == ()
            assert "not-described" in sample.flags
        assert all(subject.attributes == () for subject in corpus.subjects.values())
