"""Builds in forked children that are killed on request; everything is imported once, so a kill is cheap.

Reads JSON lines {"subjects", "output", "recipe", "crash_at", "kill_after_s", "log"}.
Answers {"signal", "exit", "error"}.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback

import dataforge.backends.embedded_describer
import dataforge.backends.embedded_generator
import dataforge.backends.embedded_grounder
import dataforge.backends.embedded_segmenter

# imported before the fork, also what a build imports on its way, and nothing that starts a thread
import dataforge.backends.fake
import dataforge.building
import dataforge.ingest.policy
import dataforge.stages.describe
import dataforge.stages.generate
import dataforge.stages.ground
import dataforge.stages.ingest
import dataforge.stages.segment
from dataforge.config import Recipe
from manifests import fsops

for package in ("pandas", "pyarrow.dataset"):  # pyarrow imports them when first used
    importlib.import_module(package)


def child(order: dict, errors: int) -> None:
    fsops.set_crashpoint(order.get("crash_at", 0), order.get("log"))
    try:
        recipe = Recipe.model_validate(order["recipe"])
        result = dataforge.building.build(order["subjects"], order["output"], recipe, workers=0)
        os._exit(result.exit_code)
    except BaseException as error:
        os.write(errors, f"{type(error).__name__}: {error}\n{traceback.format_exc()}".encode()[:4000])
        os._exit(getattr(error, "exit_code", 1))


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        reading, writing = os.pipe()
        assert threading.active_count() == 1
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            child(order, writing)
        os.close(writing)
        if "kill_after_s" in order:
            time.sleep(order["kill_after_s"])
            os.kill(pid, signal.SIGKILL)
        with os.fdopen(reading, "rb") as errors:
            text = errors.read().decode("utf-8", "replace")
        _, status = os.waitpid(pid, 0)
        killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        exit_code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        print(json.dumps({"signal": killed, "exit": exit_code, "error": text}), flush=True)


if __name__ == "__main__":
    main()
