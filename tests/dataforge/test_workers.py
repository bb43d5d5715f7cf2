"""Workers may die, hang or fail: one item is lost at most, and it is said."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import manifests
from dataforge import build, units
from dataforge.config import Recipe
from dataforge.executor import InlineExecutor, LocalExecutor, Resources, UnitResult
from dataforge.ray_executor import Hand
from dataforge.runner import Runner, Task
from dataforge.store import Store
from dataforge.units import Unit, UnitFunction
from dataforge.worker_process import WorkerProcess
from manifests.errors import EnvironmentFault
from manifests.writer import commit_corpus
from tests.conftest import draw_photograph, tree_digest
from tests.dataforge.conftest import FAKE, worker_processes


def test_workers_killed_from_outside_cost_nothing(photographs, tmp_path, fake):
    build(photographs, tmp_path / "whole", fake, workers=1)
    killed = 0
    done = threading.Event()

    def kill_now_and_then() -> None:
        nonlocal killed
        while not done.is_set() and killed < 4:
            for process in worker_processes(os.getpid())[:1]:
                os.kill(process, signal.SIGKILL)
                killed += 1
            time.sleep(0.25)

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    try:
        build(photographs, tmp_path / "battered", fake, workers=2)
    finally:
        done.set()
        killer.join()
    assert killed >= 2
    assert tree_digest(tmp_path / "battered") == tree_digest(tmp_path / "whole")


class DeadlyExecutor(InlineExecutor):
    """An executor on which workers die whenever a unit holds a marked photograph."""

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self.deaths = 0

    def map_units(self, fn, units, resources):
        for unit in units:
            if self.mark in json.dumps(unit):
                self.deaths += 1
                yield UnitResult(unit, None, died="SIGSEGV")
            else:
                yield from super().map_units(fn, [unit], resources)


def test_a_photograph_that_kills_three_workers_is_quarantined_and_its_neighbours_are_not(photographs, tmp_path, fake):
    executor = DeadlyExecutor("red_ball0/2.jpg")
    result = build(photographs, tmp_path / "corpus", fake, executor=executor)
    assert result.counts["photographs"] == 19
    assert executor.deaths == 4  # once in its batch, three times alone
    with manifests.open(str(tmp_path / "corpus")) as corpus:
        (row,) = [row for row in corpus.ledger if row.status == "quarantined"]
    assert (row.path, row.code) == ("red_ball0/2.jpg", "E198")
    assert "SIGSEGV" in row.sentence
    # what died is not tried again by itself, but on demand
    build(photographs, tmp_path / "corpus", fake, executor=executor)
    assert executor.deaths == 4
    mended = build(photographs, tmp_path / "corpus", fake, workers=0, retry_failed=True)
    assert mended.counts["photographs"] == 20


def test_twenty_deaths_in_a_row_stop_the_build_as_the_machinerys_fault(tmp_path, fake):
    for number in range(25):
        draw_photograph(tmp_path / "in" / "a" / f"{number:02}.jpg", colour=(200, 30, 40), seed=number, size=48)
    with pytest.raises(EnvironmentFault, match="E512 infrastructure: ingest failed 20 times in a row"):
        build(tmp_path / "in", tmp_path / "corpus", fake, executor=DeadlyExecutor(".jpg"))
    assert not (tmp_path / "corpus" / "corpus.json").exists()
    assert build(tmp_path / "in", tmp_path / "corpus", fake, workers=0, retry_failed=True).counts["photographs"] == 25


def test_a_photograph_that_decodes_for_ever_is_ended_by_its_deadline(tmp_path):
    draw_photograph(tmp_path / "in" / "a" / "good.jpg", colour=(200, 30, 40), seed=1)
    draw_photograph(tmp_path / "in" / "a" / "good2.jpg", colour=(200, 30, 40), seed=2)
    ramp = np.arange(6800 * 6800 * 3, dtype=np.uint32).reshape(6800, 6800, 3)
    Image.fromarray((ramp >> 9).astype(np.uint8)).save(tmp_path / "in" / "a" / "slow.png", compress_level=1)
    limits = {"decode_cpu_s": 1, "min_bytes_per_megapixel": 0}
    recipe = Recipe.model_validate({**FAKE, "ingest": {"limits": limits}})
    started = time.monotonic()
    build(tmp_path / "in", tmp_path / "corpus", recipe, workers=1)
    assert time.monotonic() - started < 120  # on a machine that is busy with other things
    with manifests.open(str(tmp_path / "corpus")) as corpus:
        codes = {row.path: row.code for row in corpus.ledger if row.path}
    assert codes == {"a/good.jpg": "", "a/good2.jpg": "", "a/slow.png": "E197"}


def test_decode_workers_see_no_secrets_and_little_memory(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "canary")
    monkeypatch.setenv("OPENAI_API_KEY", "canary")
    for untrusted in (True, False):
        worker = WorkerProcess(Resources(untrusted=untrusted, max_memory_bytes=2 << 30))
        try:
            limits = Path(f"/proc/{worker.pid}/limits")
            end = time.monotonic() + (30 if untrusted else 0.5)
            while time.monotonic() < end and str(2 << 30) not in limits.read_text():
                time.sleep(0.1)
            environment = Path(f"/proc/{worker.pid}/environ").read_bytes()
            limits_text = limits.read_text()
        finally:
            worker.kill()
        assert (b"canary" not in environment) is untrusted
        (line,) = [line for line in limits_text.splitlines() if line.startswith("Max address space")]
        assert (line.split()[3] == str(2 << 30)) is untrusted


class ForgetfulExecutor(InlineExecutor):
    """An executor that loses the last unit."""

    def map_units(self, fn, units, resources):
        units = list(units)
        yield from super().map_units(fn, units[:-1], resources)


def test_the_runner_refuses_to_end_when_results_are_missing(photographs, tmp_path, fake):
    with pytest.raises(AssertionError, match=r"ingest: 20 tasks went in, 16 results came out"):
        build(photographs, tmp_path / "corpus", fake, executor=ForgetfulExecutor())


def test_every_task_comes_out_once_whatever_the_batches(tmp_path):
    store = Store(tmp_path / "work")
    settings = Recipe().compose.model_dump(mode="json")
    tasks = [
        Task(f"key{n}", {"class_noun": f"noun{n}", "words": [], "showable": None}, weight=1 + n % 3) for n in range(50)
    ]
    for batch in (1, 7, 100):
        seen: list[tuple[int, int]] = []
        runner = Runner(
            InlineExecutor(), store, str(tmp_path), lambda stage, done, total, seen=seen: seen.append((done, total))
        )
        outcomes = runner.run(
            "compose", settings, iter(tasks), total=50, batch=batch, resources=Resources(), fresh=True
        )
        assert all(outcomes[task.key].fault is None for task in tasks)
        assert runner.counts["compose"].computed == 50
        assert seen[-1] == (50, 50)
        assert outcomes["key7"].value["prompts"][0]["prompt"] == "a photo of a noun7"
    store.close()


def test_outcomes_come_in_the_order_asked_for_however_many_are_read_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("dataforge.store.ROWS", 8)
    store = Store(tmp_path / "work")
    runner = Runner(InlineExecutor(), store, str(tmp_path), lambda *_: None)
    tasks = [Task(f"key{n}", {"class_noun": f"noun{n}", "words": [], "showable": None}) for n in range(20)]
    settings = Recipe().compose.model_dump(mode="json")
    outcomes = runner.run("compose", settings, tasks, total=20, batch=3, resources=Resources())
    asked = [*range(19, -1, -1), 3, 3]
    prompts = [outcome.value["prompts"][0]["prompt"] for outcome in outcomes.of(f"key{n}" for n in asked)]
    assert prompts == [f"a photo of a noun{n}" for n in asked]
    assert next(outcomes.of(["key4"])) == outcomes["key4"]
    with pytest.raises(KeyError, match="never"):
        list(outcomes.of(["key1", "never run"]))
    store.close()


def composing(folder: Path) -> tuple[UnitFunction, list[Unit]]:
    """A function and two units for it."""
    fn = UnitFunction("compose", Recipe().compose.model_dump(mode="json"), str(folder), str(folder))
    noun = {"class_noun": "cup", "words": [], "showable": None}
    return fn, [{"serial": n, "tasks": [{"key": f"key{n}", "input": noun}], "alone": True} for n in range(2)]


def test_a_stage_that_is_done_is_let_go_of(tmp_path, monkeypatch):
    """While its results are taken this process holds nothing of it, and its workers have been told to let go."""
    told: list[str] = []
    release = WorkerProcess.release
    monkeypatch.setattr(WorkerProcess, "release", lambda worker: (told.append("worker"), release(worker))[1])
    settings = Recipe().compose.model_dump(mode="json")
    task = Task("key", {"class_noun": "mug", "words": [], "showable": None})
    for number, executor in enumerate((InlineExecutor(), LocalExecutor(1))):
        with contextlib.closing(Store(tmp_path / str(number))) as store, contextlib.closing(executor):
            runner = Runner(executor, store, str(tmp_path), lambda *_: None)
            for _ in range(2):
                outcomes = runner.run("compose", settings, [task], total=1, batch=1, resources=Resources(), fresh=True)
                assert outcomes["key"].fault is None
                assert units._stage is None
    assert told == ["worker", "worker"]


def test_a_worker_that_has_lived_long_is_not_kept_for_another_stage(photographs, tmp_path, fake, monkeypatch):
    started: list[WorkerProcess] = []
    begin = WorkerProcess.__init__
    monkeypatch.setattr(WorkerProcess, "__init__", lambda self, *given: (started.append(self), begin(self, *given))[1])
    build(photographs, tmp_path / "kept", fake, workers=1)
    usual = len(started)
    monkeypatch.setattr("dataforge.worker_process.LONG_S", -1.0)
    result = build(photographs, tmp_path / "fresh", fake, workers=1)
    runs = [name for name, counts in result.stages.items() if counts.computed]
    assert len(started) - usual >= len(runs) > usual
    assert tree_digest(tmp_path / "fresh") == tree_digest(tmp_path / "kept")


@pytest.mark.parametrize("model", [True, False])
def test_a_long_lived_worker_is_kept_where_it_would_load_a_model_s_libraries_again(tmp_path, monkeypatch, model):
    monkeypatch.setattr("dataforge.worker_process.LONG_S", -1.0)
    fn, two = composing(tmp_path)
    with contextlib.closing(LocalExecutor(1)) as executor:
        for unit in two:
            (result,) = executor.map_units(fn, [unit], Resources(model=model, max_workers=1))
            assert result.part is not None
            (worker,) = executor._workers
            executor.release()
            assert worker.ended is not model


def test_a_long_lived_worker_of_a_ray_actor_ends_and_another_takes_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr("dataforge.worker_process.LONG_S", -1.0)
    fn, two = composing(tmp_path)
    hand = Hand(Resources())
    for unit in two:
        answer = hand.work(fn, [unit])
        assert isinstance(answer, tuple)
        assert answer[0][0].part is not None
        hand.release()
        assert hand._worker is not None
        assert hand._worker.ended
    hand._drop()


def test_a_stage_that_raised_is_let_go_of_when_its_executor_is_closed(tmp_path):
    fn, two = composing(tmp_path)
    executor = InlineExecutor()
    list(executor.map_units(fn, two, Resources()))
    assert units._stage is not None
    executor.close()
    assert units._stage is None


def test_no_worker_outlives_its_executor(photographs, tmp_path, fake):
    executor = LocalExecutor(2)
    build(photographs, tmp_path / "corpus", fake, executor=executor)
    assert worker_processes(os.getpid()) == []


def test_no_worker_lives_while_files_are_written(photographs, tmp_path, fake, monkeypatch):
    alive = []

    def commit(root, content):
        alive.append(worker_processes(os.getpid()))
        return commit_corpus(root, content)

    monkeypatch.setattr("dataforge.building.commit_corpus", commit)
    build(photographs, tmp_path / "out", fake, workers=2)
    assert alive == [[]]


def test_two_answers_that_arrive_together_are_both_taken_at_once(tmp_path):
    """What lies in a reader's buffer wakes no selector: the second answer must not wait for the unit's deadline."""
    fn = UnitFunction("compose", Recipe().compose.model_dump(mode="json"), str(tmp_path), str(tmp_path))
    parts = tmp_path / "parts" / "compose"
    asked = 0.0

    def slowly():
        nonlocal asked
        for serial in range(2):
            task_input = {"class_noun": f"noun{serial}", "words": [], "showable": None}
            yield {"serial": serial, "tasks": [{"key": f"key{serial}", "input": task_input}], "alone": False}
        end = time.monotonic() + 60
        while len(list(parts.glob("*.part"))) < 2:  # both are answered before anyone looks
            assert time.monotonic() < end
            time.sleep(0.05)
        time.sleep(0.5)
        asked = time.monotonic()

    executor = LocalExecutor(1)
    pids = set()
    try:
        for result in executor.map_units(fn, slowly(), Resources(model=True, ahead=1, timeout_s=20.0)):
            assert result.part is not None
            pids |= {worker.pid for worker in executor._workers}
    finally:
        executor.close()
    assert len(pids) == 1
    assert time.monotonic() - asked < 15  # not the 20 s after which a worker is taken for stuck


def test_a_worker_killed_while_idle_costs_no_unit_a_try(tmp_path):
    fn, two = composing(tmp_path)
    executor = LocalExecutor(1)
    try:
        for unit in two:
            (result,) = executor.map_units(fn, [unit], Resources())
            assert result.part is not None
            (worker,) = executor._workers
            os.kill(worker.pid, signal.SIGKILL)
            while not worker.ended:
                time.sleep(0.01)
    finally:
        executor.close()
