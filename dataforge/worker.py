"""A worker: reads units as JSON lines, runs each, answers with the path of the part it wrote.

Run as `python -m dataforge.worker`; it ends when its input ends, so a killed build leaves no worker behind. Where it is
given units ahead, it decodes the next one's pictures and writes the last one's results while the model works.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import resource
import signal
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dataforge.deadline import allow_deadlines
from dataforge.units import Results, Unit, UnitFunction, forget_stage
from manifests.errors import CorpusError, EnvironmentFault, ReportedError, UsageError

__all__ = ["main"]


def _restrict(max_memory_bytes: int) -> None:
    if max_memory_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (max_memory_bytes, max_memory_bytes))


class _Notes(logging.Handler):
    """What backends warn of, kept to be sent with the next answer."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._kept: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._kept.append(record.getMessage())

    def take(self) -> list[str]:
        kept, self._kept = self._kept, []
        return kept


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
    notes = _Notes()
    logging.getLogger("dataforge").addHandler(notes)
    questions: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(questions,), daemon=True).start()

    def answer(fn: UnitFunction, unit: Unit, results: Results | BaseException) -> None:
        said: dict[str, Any]
        try:
            if isinstance(results, BaseException):
                raise results
            said = {"part": fn.write(unit, results), "notes": notes.take()}
        except ReportedError as error:
            kinds = (EnvironmentFault, UsageError, CorpusError)
            kind = next((kind.__name__ for kind in kinds if isinstance(error, kind)), "bug")
            said = {"kind": kind, "code": error.code, "detail": error.detail}
        except Exception:
            said = {"kind": "bug", "code": "", "detail": traceback.format_exc()}
        try:
            answers.write(json.dumps(said).encode() + b"\n")
            answers.flush()
        except BrokenPipeError:
            os._exit(0)

    with ThreadPoolExecutor(max_workers=1) as writer:
        while (question := questions.get()) is not None:
            if "release" in question:
                forget_stage()
                continue
            fn, unit = UnitFunction(**question["fn"]), question["unit"]
            results: Results | BaseException
            try:
                results = fn.compute(unit)
            except Exception as error:
                results = error
            writer.submit(answer, fn, unit, results)


def _read(questions: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    """Pass on what comes in, and decode its pictures while the main thread works on the unit before."""
    for line in sys.stdin.buffer:
        question = json.loads(line)
        questions.put(question)
        if "unit" in question:
            UnitFunction(**question["fn"]).prefetch(question["unit"])
    questions.put(None)


if __name__ == "__main__":
    # under its own name, so that `dataforge.worker` and `__main__` are not two modules with two states
    from dataforge import worker

    worker.main(sys.argv[1:])
