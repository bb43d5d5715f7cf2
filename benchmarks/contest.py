"""Interleaved rounds of programs that do the same work, each in a process of its own, compared by CPU time.

A contestant is a function that sets itself up and returns what does one round. Rounds come in random order, so that a
busy machine is busy for everybody; figures are medians over rounds, ratios medians of the rounds' ratios.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

__all__ = ["cpu_seconds", "hold", "main_of_contestant", "missing_peer"]

# One round: how many samples it handled. Told to check, it also gives a digest of all it read; that round is not timed.
Round = Callable[[bool], tuple[int, str]]


def cpu_seconds() -> float:
    """CPU time of this process and of its children, living and waited for."""
    ended = os.times()
    total = time.process_time() + ended.children_user + ended.children_system
    for pid in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
        for child in pid.read_text().split():
            # the CPU clock of another process, as clock_getcpuclockid(3) makes it
            total += time.clock_gettime((~int(child) << 3) | 2)
    return total


def missing_peer(*modules: str) -> str:
    """One sentence where a package that a contestant needs is not installed; empty where all are."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} is not installed: left out." if missing else ""


def main_of_contestant(contestants: Mapping[str, Callable[[Path], Round]], name: str, folder: Path) -> None:
    """Serve rounds on standard input; ends with it."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    run = contestants[name](folder)
    for line in sys.stdin:
        before = cpu_seconds()
        count, digest = run(line == "check\n")
        answers.write(json.dumps([cpu_seconds() - before, count, digest]) + "\n")
        answers.flush()


def hold(
    module: str, names: Sequence[str], folder: Path, *, rounds: int, first: str
) -> dict[str, tuple[float, float, float]]:
    """CPU seconds per sample (median), `first`'s own divided by it (median, lowest) by name; all must read the same."""
    running = {
        name: subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", module, "--contestant", name, "--folder", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for name in names
    }
    spent: dict[str, list[float]] = {name: [] for name in names}
    read: dict[str, str] = {}
    order = random.Random(0)
    try:
        for number in range(1 + rounds):
            for name in order.sample(list(names), len(names)):
                worker = running[name]
                assert worker.stdin is not None
                assert worker.stdout is not None
                worker.stdin.write("go\n" if number else "check\n")
                worker.stdin.flush()
                line = worker.stdout.readline()
                if not line:
                    raise SystemExit(f"{name} ended with status {worker.wait()}")
                seconds, count, digest = json.loads(line)
                if number:
                    spent[name].append(seconds / count)
                else:
                    read[name] = digest
            if number == 0 and len(set(read.values())) > 1:
                different = [name for name, digest in read.items() if digest != read[first]]
                raise SystemExit(f"{', '.join(different)} did not read what {first} read")
            print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
    finally:
        for worker in running.values():
            if worker.stdin is not None:
                worker.stdin.close()
            worker.wait(timeout=60)
    results = {}
    for name in names:
        ratios = [base / own for base, own in zip(spent[first], spent[name], strict=True)]
        results[name] = (statistics.median(spent[name]), statistics.median(ratios), min(ratios))
    return results
