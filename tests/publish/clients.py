"""Real clients in processes of their own: one process imports them once, with the server's address in its environment,
and forks for every job. (`HF_ENDPOINT` and its like are read when the clients are imported.)"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import REPOSITORY

PRELOAD = (
    "fsspec hf_xet huggingface_hub.hf_api huggingface_hub.hf_file_system pyarrow.compute pyarrow.dataset datasets "
    "dataforge.cli dataforge.publishing dataforge.publishing.hub manifests.cli manifests.console manifests.validation "
    "manifests.remote"
)
SERVER = """
import importlib, json, os, sys, tempfile, traceback
for name in sys.argv[1].split():
    importlib.import_module(name)
for line in sys.stdin:
    job = json.loads(line)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(reading, 1)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.environ.update(job["environment"])
        tempfile.tempdir = None
        os.chdir(job["folder"])
        status = 1
        try:
            if "code" in job:
                exec(compile(job["code"], "job", "exec"), {"__name__": "__main__"})
                status = 0
            else:
                from dataforge.cli import main
                sys.argv = ["dataforge", *job["arguments"]]
                main()
        except SystemExit as stop:
            status = stop.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    print(child, flush=True)
    sys.stdin.readline()
    os.write(writing, b"g")
    os.close(reading)
    os.close(writing)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass
class Done:
    """How a job ended: exit code (negative for a signal) and what it printed."""

    code: int
    out: str
    err: str


class Clients:
    """The process that forks jobs; all of them have this environment."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "AWS_", "DATAFORGE_", "HUGGING"))
        }
        self.environment = environment
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER, PRELOAD],
            cwd=REPOSITORY,
            env={**clean, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def stop(self) -> None:
        self._process.communicate(timeout=60)

    def _run(self, job: dict[str, object], on_start: object = None, **environment: str) -> Done:
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            whole = {"out": str(out), "err": str(err), "environment": environment, "folder": folder, **job}
            pipe_in, pipe_out = self._process.stdin, self._process.stdout
            assert pipe_in is not None
            assert pipe_out is not None
            pipe_in.write(json.dumps(whole) + "\n")
            pipe_in.flush()
            child = int(pipe_out.readline())
            if callable(on_start):
                on_start(child)
            pipe_in.write("go\n")
            pipe_in.flush()
            code = int(pipe_out.readline())
            return Done(code, out.read_text(errors="replace"), err.read_text(errors="replace"))

    def dataforge(self, *arguments: object, on_start: object = None, **environment: str) -> Done:
        """The command line; `on_start` is called with the process's ID before it begins."""
        return self._run({"arguments": [str(each) for each in arguments]}, on_start, **environment)

    def python(self, code: str, *, folder: Path | None = None, **environment: str) -> Done:
        """Some code."""
        where = {"folder": str(folder)} if folder else {}
        return self._run({"code": code, **where}, **environment)
