"""Import contracts: each one is broken on purpose in a copy of the tree, to show that `lint-imports` sees it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
PACKAGES = ("manifests", "dataforge", "pipelines", "trainer", "toyworld", "tour")
LINT = Path(sys.executable).with_name("lint-imports")

CONTRACTS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]

# contract -> the line that breaks it, and the file it is added to
BREACHES = {
    "the hourglass: manifests below, dataforge and pipelines above it and apart, trainer on pipelines": (
        "manifests/ids.py",
        "import pipelines",
    ),
    "trainer knows nothing of dataforge": ("trainer/__init__.py", "from dataforge import config"),
    "manifests imports no model library": ("manifests/pixels.py", "def load():\n    import torch"),
    "inside dataforge, read top to bottom": ("dataforge/protocols.py", "def late():\n    from dataforge import flow"),
    "model libraries only in backends": ("dataforge/runner.py", "def load():\n    from diffusers import UNet2DModel"),
    "inside trainer, read top to bottom": ("trainer/keyed.py", "def late():\n    from trainer import loop"),
    "inside pipelines, read top to bottom": ("pipelines/records.py", "def late():\n    from pipelines import run"),
    "the toy world imports none of the packages": ("toyworld/words.py", "from manifests import ids"),
    "no package imports the toy world": ("pipelines/__init__.py", "def demo():\n    from toyworld import words"),
    "scenes are drawn with no model library": ("toyworld/scenes.py", "def load():\n    import torch"),
    "inside evaluation, read top to bottom": (
        "pipelines/evaluate/intervals.py",
        "def late():\n    from pipelines.evaluate import scoring",
    ),
    "the tour above all, read bottom to top": ("tour/walk.py", "def late():\n    from tour import page"),
    "nothing imports the tour": ("trainer/cli.py", "def late():\n    from tour import walk"),
    "no cycles anywhere": ("manifests/ids.py", "def late():\n    from manifests import writer"),
}

pytestmark = pytest.mark.skipif(not LINT.exists(), reason="import-linter is in the lint extra and not installed")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages and their contracts."""
    root = tmp_path_factory.mktemp("tree")
    for package in PACKAGES:
        shutil.copytree(REPOSITORY / package, root / package, ignore=shutil.ignore_patterns("__pycache__", "base"))
    shutil.copy(REPOSITORY / "pyproject.toml", root)
    return root


def broken(tree: Path) -> tuple[int, set[str]]:
    """Exit status of `lint-imports` and the names of the contracts it calls broken."""
    run = subprocess.run(
        [LINT, "--no-cache"],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "COLUMNS": "500", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
    )
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", run.stdout).split())
    return run.returncode, {name for name in BREACHES if f"{name} BROKEN" in text}


def test_every_contract_has_a_breach():
    assert sorted(contract["name"] for contract in CONTRACTS) == sorted(BREACHES)


def test_tree_as_it_is_keeps_every_contract(tree):
    assert broken(tree) == (0, set())


@pytest.mark.parametrize("contract", BREACHES)
def test_planted_breach_is_caught_and_named(tree, contract):
    file, line = BREACHES[contract]
    whole = (tree / file).read_text()
    (tree / file).write_text(f"{whole}\n{line}\n")
    try:
        status, names = broken(tree)
    finally:
        (tree / file).write_text(whole)
    assert status == 1
    assert contract in names


def test_every_module_of_dataforge_outside_the_backends_is_under_the_contract_on_model_libraries():
    contract = next(contract for contract in CONTRACTS if contract["name"] == "model libraries only in backends")
    found = {
        f"dataforge.{path.stem}"
        for path in (REPOSITORY / "dataforge").iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists()) and not path.name.startswith("_")
    }
    assert found - {"dataforge.backends"} == set(contract["source_modules"])
