"""A small corpus of three subjects, written once and copied for every test that changes it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.manifests.corpora import small_content, write_corpus


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus as written; never changed by a test."""
    return write_corpus(tmp_path_factory.mktemp("corpora") / "small", small_content())


@pytest.fixture
def corpus_root(pristine: Path, tmp_path: Path) -> Path:
    """A copy of the corpus for a test to damage."""
    return Path(shutil.copytree(pristine, tmp_path / "corpus"))
