"""Three subjects of two real photographs each, and builds of them through tiny real models."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from dataforge.building import build
from dataforge.config import Recipe

SUBJECTS = ("can", "teapot", "vase")
# random models see noise: nothing is asked of their scores
OPEN: dict[str, Any] = {"gate": {"min_area": 0.0, "max_area": 1.0, "flag_below": 0.0}}


@pytest.fixture(scope="session")
def three_subjects(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three subjects with two photographs each."""
    folder = tmp_path_factory.mktemp("three")
    for name in SUBJECTS:
        found = sorted((test_data / "dreambench" / "subjects" / name).glob("*.jpg"))[:2]
        assert len(found) == 2
        (folder / name).mkdir()
        for photograph in found:
            shutil.copy(photograph, folder / name)
    return folder


@pytest.fixture(scope="session")
def corpus_of(three_subjects: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Builds once per name and recipe in this process, and gives the corpus folder."""
    made: dict[str, Path] = {}

    def make(name: str, recipe: dict[str, Any]) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            result = build(three_subjects, folder / "corpus", Recipe.model_validate(OPEN | recipe), workers=0)
            assert result.exit_code == 0
            made[name] = result.root
        return made[name]

    return make
