"""The code on README and how-to pages runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dataforge.config import Recipe
from dataforge.ingest.listing import Listing
from manifests.overrides import Overrides
from tests.conftest import REPOSITORY, draw_subjects
from tests.project.task_pages import blocks_of, task_pages

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs" / "how-to").glob("*.md"))]
TASKS = set(task_pages().values())  # run from top to bottom by test_task_pages.py
BLOCK = re.compile(r"<!-- (run|load: \w+) -->\n```(\w+)\n(.*?)```", re.DOTALL)


def blocks(marker: str, language: str) -> list:
    found = []
    for page in PAGES:
        for number, match in enumerate(BLOCK.finditer(page.read_text())):
            if match[1].startswith(marker) and match[2] == language and not (marker == "run" and page in TASKS):
                found.append(pytest.param(match[1], match[3], id=f"{page.stem}-{number}"))
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with `photos/` in it and, after the README's commands have run, `corpus/`."""
    folder = tmp_path_factory.mktemp("how-to")
    photos = draw_subjects(folder / "photos", subjects=2, photographs=2)
    (photos / "red_ball0").rename(photos / "blue_mug")
    return folder


def shell(text: str, folder: Path) -> None:
    for line in text.splitlines():
        command = line.split("  #")[0].strip()
        if command:
            command = command.replace("dataforge ", f"{sys.executable} -m dataforge ", 1)
            done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, f"{line}\n{done.stderr}"


@pytest.mark.parametrize(("marker", "text"), blocks("run", "sh"))
def test_shell_blocks_run(place, marker, text):
    shell(text, place)
    assert (place / "corpus" / "report" / "index.html").is_file()


@pytest.mark.parametrize(("marker", "text"), blocks("run", "python"))
def test_python_blocks_run(place, marker, text):
    if not (place / "corpus").exists():
        shell("dataforge build photos -o corpus --set generate.images_per_photograph=1", place)
    done = subprocess.run([sys.executable, "-c", text], cwd=place, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("marker", "text"), blocks("load", "yaml"))
def test_yaml_blocks_load(marker, text):
    model = {"load: listing": Listing, "load: overrides": Overrides, "load: recipe": Recipe}[marker]
    assert model.model_validate(yaml.safe_load(text)) != model()


def test_every_block_of_code_is_run_or_loaded():
    for page in PAGES:
        text = page.read_text()
        if page in TASKS:
            assert blocks_of(text), page.name
            continue
        fenced = re.findall(r"^```\w+$", text, re.MULTILINE)
        assert len(fenced) == len(BLOCK.findall(text)), f"{page.name} has code that no test looks at"


def test_links_between_pages_lead_somewhere():
    for page in [*PAGES, *REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
