"""A worker: reads units as JSON lines, runs each, answers with the path of the part it wrote.

Run as `python -m dataforge.worker`; it ends when its input ends, so a killed build leaves no worker behind.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import traceback

from dataforge.deadline import allow_deadlines
from dataforge.units import UnitFunction
from manifests.errors import CorpusError, EnvironmentFault, ReportedError, UsageError

__all__ = ["main"]


def _restrict(max_memory_bytes: int) -> None:
    if max_memory_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (max_memory_bytes, max_memory_bytes))


def main(arguments: list[str]) -> None:
    """Serve units until the input ends."""
    allow_deadlines()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the build's to handle
    # answers go to the pipe alone: a library that prints must not talk into the protocol
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    if arguments[:1] == ["--untrusted"]:
        _restrict(int(arguments[1]))
    for line in sys.stdin.buffer:
        question = json.loads(line)
        answer: dict[str, str]
        try:
            answer = {"part": UnitFunction(**question["fn"])(question["unit"])}
        except ReportedError as error:
            kind = next(
                (k.__name__ for k in (EnvironmentFault, UsageError, CorpusError) if isinstance(error, k)), "bug"
            )
            answer = {"kind": kind, "code": error.code, "detail": error.detail}
        except Exception:
            answer = {"kind": "bug", "code": "", "detail": traceback.format_exc()}
        try:
            answers.write(json.dumps(answer).encode() + b"\n")
            answers.flush()
        except BrokenPipeError:
            return


if __name__ == "__main__":
    # under its own name, so that `dataforge.worker` and `__main__` are not two modules with two states
    from dataforge import worker

    worker.main(sys.argv[1:])
