"""How-to pages that are run from top to bottom: their blocks, a reader's own words in them, and a desk to run them at.

A block is marked by a comment above it: `<!-- run -->` is run, `<!-- file: NAME -->` is written to that file for the
blocks below, `<!-- load: KIND -->` is loaded by tests/project/test_how_to.py. Words that stand for the reader's own, in
capitals or as IDs, and settings that would take hours are replaced from a list per page that has to fit it exactly.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import REPOSITORY

BLOCK = re.compile(r"^<!-- (run|load|file)(?:: (\S+))? -->\n```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# what a reader replaces: words in capitals but for those that are the thing itself, and IDs
PLACEHOLDER = re.compile(
    r"\b(?!(?:AND|PIL|PNG|OPENAI_API_KEY|HF_TOKEN)\b)[A-Z][A-Z_]{2,}\b|\b(?:src|reg|bg|lora|out)-[0-9a-f]{12}\b"
)
# a program in the background fails the block too
WAIT = "\nfor job in $(jobs -p); do wait $job; done\n"

Own = Mapping[str, str | Callable[[Path], str]]


class PageFault(AssertionError):
    """A page is wrong: a block nobody runs, a word nobody knows, a command that fails."""


@dataclass(frozen=True)
class Block:
    """One block of code: what is done with it, the file it is for or the kind it loads as, its text and line."""

    verb: str
    target: str
    language: str
    text: str
    line: int


def task_pages() -> dict[str, Path]:
    """The pages that the README lists by task, by name."""
    readme = REPOSITORY / "README.md"
    section = readme.read_text("utf-8").partition("\n## By task\n")[2].partition("\n## ")[0]
    return {Path(link).stem: readme.parent / link for link in re.findall(r"\]\(([^)#\s]+)\)", section)}


def blocks_of(text: str) -> list[Block]:
    """The blocks of a page, top to bottom. Raises `PageFault` for code that has no mark, fenced or indented."""
    found = [
        Block(match[1], match[2] or "", match[3], match[4], text.count("\n", 0, match.start(3)) + 1)
        for match in BLOCK.finditer(text)
    ]
    fences = len(re.findall(r"^\s*(?:```|~~~)", text, re.MULTILINE))
    if fences != 2 * len(found):
        raise PageFault(f"{fences / 2:g} blocks, {len(found)} of them marked")
    if indented := re.search(r"^(?: {4}|\t).*", BLOCK.sub("", text), re.MULTILINE):
        raise PageFault(f"code that is not in a marked block: {indented[0]!r}")
    for block in found:
        if (block.verb == "run") != (block.target == "") or (
            block.verb == "run" and block.language not in ("sh", "python")
        ):
            raise PageFault(f"line {block.line}: a block of {block.language} cannot be marked `{block.verb}`")
    return found


def fill_in(text: str, own: Own, folder: Path, used: set[str]) -> str:
    """The text with a reader's own words put in; `used` gets those found. Raises `PageFault` for one unknown."""
    known = re.compile("|".join(re.escape(word) for word in sorted(own, key=len, reverse=True)) or r"(?!)")
    for piece in known.split(text):
        if unknown := PLACEHOLDER.search(piece):
            raise PageFault(f"nobody knows what to put for {unknown[0]} in {piece.strip()!r}")

    def word(match: re.Match[str]) -> str:
        used.add(match[0])
        value = own[match[0]]
        return value if isinstance(value, str) else value(folder)

    return known.sub(word, text)


@dataclass
class Desk:
    """Where a page is run: the programs `dataforge` and `python` are found in `programs`, as `installed` puts them."""

    programs: Path
    environment: dict[str, str]

    def read(self, text: str, folder: Path, own: Own) -> list[str]:
        """Run a page in a folder, top to bottom; what each block printed. Raises `PageFault`."""
        used: set[str] = set()
        printed = [self.do(block, fill_in(block.text, own, folder, used), folder) for block in blocks_of(text)]
        if unused := own.keys() - used:
            raise PageFault(f"the page does not have {', '.join(sorted(unused))}")
        return printed

    def do(self, block: Block, text: str, folder: Path) -> str:
        """Run one block, or write its file; what it printed."""
        if block.verb == "file":
            path = folder / block.target
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        if block.verb != "run":
            return ""
        command = ["bash", "-euo", "pipefail", "-c", text + WAIT] if block.language == "sh" else ["python", "-c", text]
        environment = {**self.environment, "PATH": f"{self.programs}{os.pathsep}{self.environment['PATH']}"}
        if block.language == "python":
            command[0] = str(self.programs / "python")
        done = subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600
        )
        if done.returncode != 0:
            raise PageFault(f"line {block.line}, exit {done.returncode}:\n{text}\n{done.stdout}\n{done.stderr}")
        return done.stdout


# The libraries of training and painting take seconds to import, and a page has many commands: one process imports them
# once and forks for each command, which gets the caller's arguments, folder, environment and files.
FORKS = """
import importlib, json, os, signal, socket, sys, tempfile, traceback
from importlib.metadata import entry_points
(script,) = entry_points(group="console_scripts", name="dataforge")
main = script.load()
for name in sys.argv[2:]:
    importlib.import_module(name)
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind(sys.argv[1])
listener.listen()
print("ready", flush=True)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    caller, _ = listener.accept()
    if os.fork():
        caller.close()
        continue
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, files, _, _ = socket.recv_fds(caller, 1 << 18, 3)
    if child := os.fork():
        caller.send(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
        os._exit(0)
    program, arguments, folder, environment = json.loads(message)
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    status = 1
    try:
        if program == "python":
            sys.argv = arguments[:1]
            exec(compile(arguments[1], "page", "exec"), {"__name__": "__main__"})
            status = 0
        else:
            sys.argv = [program, *arguments]
            status = main() or 0
    except SystemExit as stop:
        status = stop.code or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1)
"""
CALL = """#!{python} -SEs
import json, os, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
    line.connect({place!r})
    asked = [os.path.basename(sys.argv[0]), sys.argv[1:], os.getcwd(), dict(os.environ)]
    socket.send_fds(line, [json.dumps(asked).encode()], [0, 1, 2])
    status = int(line.recv(64) or 70)
    sys.exit(status if status >= 0 else 128 - status)
"""
IMPORTS = (
    *(
        "diffusers",
        "peft",
        "transformers",
        "trainer.training",
        "trainer.loop",
        "trainer.planning",
        "trainer.publishing",
    ),
    *("pipelines.run", "pipelines.painter", "pipelines.evaluate.runs", "dataforge.building", "dataforge.doctor"),
    *("dataforge.publishing.hub", "manifests.cli", "manifests.remote", "huggingface_hub.hf_file_system"),
    # what those import when they are used
    *("pandas", "duckdb", "skimage.metrics", "transformers.models.clip.modeling_clip"),
    *("diffusers.models.autoencoders.autoencoder_kl", "diffusers.models.unets.unet_2d_condition"),
)


@contextmanager
def installed(folder: Path, environment: Mapping[str, str]) -> Iterator[Desk]:
    """A desk at which `dataforge` is what pip installed, called as its script calls it; for the length of the block."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "AWS_", "DATAFORGE_", "HUGGING", "OPENAI_", "PYTEST_"))
    }
    clean |= {"OMP_NUM_THREADS": "1", **environment}
    programs, place = folder / "programs", str(folder / "line")
    programs.mkdir()
    for name in ("dataforge", "python"):
        (programs / name).write_text(CALL.format(python=sys.executable, place=place), "utf-8")
        (programs / name).chmod(0o755)
    with subprocess.Popen(
        [sys.executable, "-c", FORKS, place, *IMPORTS], cwd=folder, env=clean, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n", "the process that forks commands did not start"
            yield Desk(programs, clean)
        finally:
            server.terminate()
