"""Small builds: a recipe that is quick, and helpers to run builds in processes that can be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dataforge.config import Recipe
from tests.conftest import draw_subjects

# quick, not good: these tests are about what happens around the stages
QUICK: dict[str, Any] = {
    "segment": {"max_side": 64, "iterations": 1},
    "describe": {"max_side": 64},
    "compose": {"pairs": 1, "max_prompts": 6},
    "generate": {"generator": {"size": 64}, "images_per_photograph": 1},
    "gate": {"min_area": 0.0, "max_area": 1.0},
}


# no models at all: for the tests that build hundreds of times
FAKE: dict[str, Any] = {
    "ground": {"kind": "fake"},
    "segment": {"kind": "fake"},
    "describe": {"kind": "fake"},
    "generate": {"generator": {"kind": "fake", "size": 64}, "images_per_prompt": 1},
}


@pytest.fixture(scope="session")
def fake() -> Recipe:
    return Recipe.model_validate(FAKE)


@pytest.fixture(scope="session")
def quick() -> Recipe:
    return Recipe.model_validate(QUICK)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """20 photographs of 4 subjects, 128 px."""
    return draw_subjects(tmp_path / "photographs")


def worker_processes(parent: int) -> list[int]:
    """Worker processes of a parent; 1 for those whose own is gone."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
                its_parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, ValueError):
                continue
            if b"dataforge.worker" in line and its_parent == parent:
                found.append(int(entry.name))
    return found


class CrashDriver:
    """Runs builds in forked children of one process that has everything imported."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("crash_driver.py"))]
        root = Path(__file__).parent.parent.parent
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
        )

    def run(self, subjects: Path, output: Path, recipe: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        order = {"subjects": str(subjects), "output": str(output), "recipe": recipe or FAKE, **options}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture(scope="module")
def crash_driver() -> Any:
    driver = CrashDriver()
    yield driver
    driver.close()
