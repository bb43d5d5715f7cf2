"""The code on README and how-to pages runs as it stands, and every command on any page is one the program takes."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml

from dataforge.cli import _verbs
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


SHELLS = {"", "sh", "bash", "shell", "console"}


def code_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines of shell with their numbers: in a fence with or without a language, or indented; continued ones joined."""
    fence, begun, so_far = None, 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        if mark := re.match(r"\s*(?:```|~~~)(\w*)", line):
            fence = None if fence is not None else mark[1]
        elif fence in SHELLS or (fence is None and (so_far or re.match(r" {4}|\t", line))):
            begun = begun if so_far else number
            so_far += line.strip()
            if so_far.endswith("\\"):
                so_far = f"{so_far[:-1]} "
                continue
            yield begun, so_far
            so_far = ""


def commands(line: str) -> Iterator[list[str]]:
    """The arguments of every `dataforge` in a line of shell."""
    lexer = shlex.shlex(re.sub(r"(^|\s)#.*", "", line), posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[str] = []
    for word in [*lexer, ";"]:
        if not set(word) <= set("();<>|&"):
            words.append(word)
            continue
        while words and (words[0] in ("$", "nohup", "time") or re.fullmatch(r"\w+=.*", words[0])):
            del words[0]
        if words[:1] == ["dataforge"]:
            yield words[1:]
        words = []


@pytest.fixture(scope="module")
def program():
    """The program with all its verbs, none of which does anything."""

    def disarm(command):
        for inner in getattr(command, "commands", {}).values():
            disarm(inner)
        if not hasattr(command, "commands"):
            command.callback = lambda **_: None
        return command

    return disarm(typer.main.get_command(_verbs()))


def faults(text: str, program) -> list[str]:
    """What the program says to the commands of a page that it does not take."""
    found = []
    for number, line in code_lines(text):
        for arguments in commands(line):
            said = io.StringIO()
            with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
                program.main(arguments, prog_name="dataforge")
            if said.getvalue():
                found.append(f"{number}: dataforge {shlex.join(arguments)}: {said.getvalue().splitlines()[-1]}")
    return found


@pytest.mark.parametrize("page", [PAGES[0], *sorted((REPOSITORY / "docs").rglob("*.md"))], ids=lambda page: page.stem)
def test_every_command_on_a_page_is_one_the_program_takes(program, page):
    assert faults(page.read_text("utf-8"), program) == []


def test_commands_are_found_in_every_kind_of_block():
    texts = {path.stem: path.read_text("utf-8") for path in PAGES}
    found = {name: [args for _, line in code_lines(text) for args in commands(line)] for name, text in texts.items()}
    assert ["show", "corpus#blue_mug"] in found["README"]  # in a fence with a language, a comment after it
    assert any(
        args[:2] == ["inpaint", "adapters/blue_mug"] and args[-2:] == ["-o", "painted"] for args in found["README"]
    )
    assert ["evaluate", "preference", "evaluated", "-o", "study"] in found["evaluate"]  # indented
    assert any("ray:$head:6379" in args for args in found["many-subjects"])  # in a fence without a language
    assert ["train", "corpus", "--recipe", "overnight.yaml", "--base", "BASE", "-o", "adapters"] in found[
        "train-overnight"
    ]
    assert sum(map(len, found.values())) > 60


@pytest.mark.parametrize(
    ("block", "told"),
    [
        ("```sh\ndataforge buidl photos -o corpus\n```\n", "No such command 'buidl'"),
        ("```\ndataforge evaluate corpus corpus\n```\n", "Missing option '-o'"),
        ("~~~\ndataforge build -o corpus\n~~~\n", "Missing argument 'SUBJECTS'"),
        ("    dataforge evaluate corpus corpus  # how good\n", "Missing option '-o'"),
        ("    dataforge evaluate corpus --protokol murecom -o x\n", "No such option"),
        ("    dataforge build photos \\\n        --recipe-name laptop -o corpus\n", "No such option"),
        ("    echo 1 && dataforge build photos -o corpus --limit few | tail\n", "Invalid value for '--limit'"),
        ("    nohup dataforge train > log 2>&1 &\n", "Missing argument"),
        ("\tdataforge show corpus      what is in it\n", "unexpected extra argument"),
    ],
    ids=range(9),
)
def test_a_command_that_the_program_does_not_take_is_caught(program, block, told):
    text = f"Text: dataforge nothing\n\n{block}\n```python\ndataforge = nothing\n```\n"
    (fault,) = faults(text, program)
    assert told in fault
    assert fault.startswith("4: " if block[0] in "`~" else "3: ")


def test_what_a_shell_takes_away_is_no_argument(program):
    line = "    DATAFORGE_CACHE=x dataforge build 'a b' -o corpus > log 2>&1 &  # it's the first\n"
    assert faults(line, program) == []
    assert [args for _, code in code_lines(line) for args in commands(code)] == [["build", "a b", "-o", "corpus"]]
