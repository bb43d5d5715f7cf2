"""RELIABILITY F13: a run stopped anywhere and taken up by a new process ends on the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.tiny_models import tiny

STEPS, ACCUMULATED = 6, 2
SETTINGS: dict[str, Any] = {
    "resolution": 32,
    "variants": 2,
    "regular_variants": 1,
    "gradient_accumulation_steps": ACCUMULATED,
    "checkpointing_steps": 2,
    "ema_decay": 0.9,
    "lr_scheduler": "constant_with_warmup",
    "lr_warmup_steps": 3,
    "subjects_at_once": 2,
}


class Driver:
    def __init__(self, corpus: Path, bank: Path) -> None:
        self._fixed = {"corpus": str(corpus), "base": str(tiny("sd9")), "bank": str(bank), "recipe": "dreammix"}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("drive_training.py")), str(tiny("sd9"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )

    def run(self, output: Path, steps: int = STEPS, **order: Any) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        settings = {**SETTINGS, "max_train_steps": steps, **order.pop("settings", {})}
        line = json.dumps({**self._fixed, "output": str(output), "settings": settings, **order})
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        status: int = json.loads(self._process.stdout.readline())
        return status

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(120)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def driver(balls: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    driver = Driver(balls, tmp_path_factory.mktemp("bank"))
    yield driver
    driver.close()


def result(output: Path) -> dict[str, bytes]:
    """Adapters, logs and the last checkpoint, byte for byte."""
    found = {}
    for path in sorted(output.rglob("*")):
        kept = path.suffix == ".safetensors" or path.name in ("log.jsonl", "adapter.json")
        older = path.parent.parent.name == "checkpoints" and path.parent != max(path.parent.parent.iterdir())
        if path.is_file() and kept and not older:
            found[path.relative_to(output).as_posix()] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def straight(driver: Driver, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    output = tmp_path_factory.mktemp("straight") / "out"
    assert driver.run(output) == 0
    return result(output)


@pytest.mark.parametrize(
    ("at", "how", "workers"),
    [(5, "kill", 0), (6, "kill", 2), (10, "stop", 0), (11, "stop", 2)],
)
def test_f13_a_run_stopped_before_a_micro_step_ends_on_the_same_bits(driver, straight, tmp_path, at, how, workers):
    output = tmp_path / "out"
    settings = {"dataloader_workers": workers}
    assert driver.run(output, at=at, how=how, settings=settings) == (-9 if how == "kill" else 130)
    assert not (output / "red-ball" / "adapter.json").exists()
    assert driver.run(output, settings={"dataloader_workers": 2 - workers}) == 0
    ended = result(output)
    assert ended.keys() == straight.keys()
    assert [name for name in ended if ended[name] != straight[name]] == []
    assert len([name for name in ended if name.endswith("optimizer.safetensors")]) == 1


@pytest.mark.parametrize(("at", "how"), [(7, "kill"), (10, "stop")])
def test_f13_a_trained_word_and_convolutions_too(driver, tmp_path, at, how):
    more = {"train_token": True, "token_learning_rate": 0.01, "lora_targets": ["to_k", "to_v", "conv1"]}
    assert driver.run(tmp_path / "straight", settings=more) == 0
    assert driver.run(tmp_path / "out", at=at, how=how, settings=more) == (-9 if how == "kill" else 130)
    assert driver.run(tmp_path / "out", settings=more) == 0
    straight, ended = result(tmp_path / "straight"), result(tmp_path / "out")
    assert "red-ball/learned_embeds.safetensors" in straight
    assert ended == straight


def test_a_clean_stop_keeps_the_steps_that_were_finished(driver, tmp_path):
    output = tmp_path / "out"
    assert driver.run(output, at=2 * 5 + 2, how="stop") == 130  # inside the sixth step
    (run,) = (output / ".work" / "runs").iterdir()
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["000004", "000005"]


def test_f13_compares_what_would_differ(straight, driver, tmp_path):
    """The comparison is not blind: another seed gives other bytes in every file it looks at."""
    assert driver.run(tmp_path / "out", settings={"seed": 1}) == 0
    other = result(tmp_path / "out")
    assert other.keys() == straight.keys()
    assert all(other[name] != straight[name] for name in straight)


def test_f13_more_steps_go_on_from_where_a_finished_run_ended(driver, straight, tmp_path):
    output = tmp_path / "out"
    assert driver.run(output, steps=3) == 0
    assert driver.run(output, steps=STEPS) == 0
    longer = result(output)
    assert all(longer[name] == straight[name] for name in straight if name.endswith(("weights.safetensors", "jsonl")))


@pytest.mark.slow
def test_f13_every_one_of_100_micro_steps(driver, tmp_path):
    steps = 50
    settings = {"checkpointing_steps": 7, "subjects_at_once": 1, "resolution": 32}
    corpus = f"{driver._fixed['corpus']}#red-ball"
    assert driver.run(tmp_path / "straight", steps, settings=settings, corpus=corpus) == 0
    wanted = result(tmp_path / "straight")
    equal = 0
    for at in range(1, 101):
        output = tmp_path / f"at{at}"
        how, workers = ("kill", "stop")[at % 2], (0, 2)[at % 10 == 0]
        stopped = driver.run(
            output, steps, at=at, how=how, settings={**settings, "dataloader_workers": workers}, corpus=corpus
        )
        assert stopped == (-9 if how == "kill" else 130)
        assert driver.run(output, steps, settings=settings, corpus=corpus) == 0
        equal += all(result(output).get(name) == content for name, content in wanted.items())
    print(f"{equal} of 100 resumed runs are bit-equal")
    assert equal == 100
