"""The same build on a Ray cluster: byte for byte the same corpus, whatever happens to workers and nodes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import manifests
from dataforge import build
from manifests.errors import EnvironmentFault
from tests.conftest import draw_subjects, tree_digest
from tests.dataforge.conftest import FAKE

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'dataforge[ray]'")

from dataforge.config import Recipe  # noqa: E402 below what skips
from dataforge.ray_executor import MAX_LOSSES, Hand, RayExecutor, room_of  # noqa: E402
from dataforge.worker_process import Resources  # noqa: E402

SLOW = FAKE | {"ground": {"kind": "fake", "delay_s": 0.2, "batch_size": 2}}


@pytest.fixture
def photographs(tmp_path):
    return draw_subjects(tmp_path / "photographs", subjects=2, photographs=4, size=64)


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])


def hands() -> list[int]:
    """Worker processes whose parent is a Ray actor of ours."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                actor = Path(f"/proc/{parent_of(int(entry.name))}/cmdline").read_bytes()
                worker = (entry / "cmdline").read_bytes()
            except (OSError, ValueError):
                continue
            if b"dataforge.worker" in worker and b"ray::" in actor and b"Hand" in actor:
                found.append(int(entry.name))
    return found


def await_part_of(process: subprocess.Popen, parts: Path) -> None:
    """Until a stage's first results are there."""
    end = time.monotonic() + 300
    while not list(parts.glob("*.part")):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_build_on_ray_is_the_local_build(photographs, tmp_path, fake, capfd):
    build(photographs, tmp_path / "local", fake, workers=1)
    capfd.readouterr()
    result = build(photographs, tmp_path / "ray", fake, executor="ray", workers=1)
    assert result.counts["photographs"] == 8
    assert tree_digest(tmp_path / "ray") == tree_digest(tmp_path / "local")
    assert not ray.is_initialized()
    assert hands() == []
    assert not list((tmp_path / "ray" / ".work").glob(".cluster-*"))
    said = capfd.readouterr()
    assert said.out + said.err == ""  # a build's own lines, and no chatter


def test_a_node_that_does_not_see_the_work_folder_is_named(tmp_path):
    found = {"node": "far", "installed": {}, "unseen": [str(tmp_path / ".work")]}
    with pytest.raises(EnvironmentFault, match=r"E514 cluster: node far does not see .*\.work.*share"):
        RayExecutor._check(found)


def test_a_node_with_other_packages_is_named():
    found = Hand(Resources()).look("/", "nothing-here", "/")
    assert found["unseen"] == ["/"]
    found["unseen"] = []
    RayExecutor._check(found)
    found["installed"]["pillow"] = "0.1"
    with pytest.raises(EnvironmentFault, match=r"node .* has pillow 0\.1, this machine has"):
        RayExecutor._check(found)


def test_an_address_where_nobody_answers_is_named_soon(photographs, tmp_path, fake, monkeypatch):
    monkeypatch.setattr("dataforge.ray_executor.CONNECT_S", 0.0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(EnvironmentFault, match=rf"E514 cluster: no Ray cluster answers at {address}: .*refused"):
            build(photographs, tmp_path / "corpus", fake, executor=f"ray:{address}")


MODEL = Resources(model=True, max_workers=2)


@pytest.mark.parametrize(
    ("nodes", "resources", "room"),
    [
        ([{"CPU": 16}, {"CPU": 4, "GPU": 1}], Resources(), (20, 0.0)),
        ([{"CPU": 16}, {"CPU": 16}], MODEL, (4, 0.0)),  # as many a machine as the recipe says
        ([{"CPU": 16, "GPU": 1}, {"CPU": 16, "GPU": 1}], MODEL, (4, 0.5)),
        ([{"CPU": 16, "GPU": 4}], MODEL, (4, 1.0)),  # never two on one GPU while there is another
        ([{"CPU": 16, "GPU": 2}, {"CPU": 16}], MODEL, (2, 1.0)),
        ([{"CPU": 2, "GPU": 4}], MODEL, (2, 1.0)),
        ([{"CPU": 9, "GPU": 3}], Resources(model=True, max_workers=9), (9, 1 / 3)),
        ([], MODEL, (0, 0.0)),
        ([{}], Resources(model=True), (0, 0.0)),
    ],
)
def test_models_share_the_gpus_of_a_cluster_as_those_of_one_machine(nodes, resources, room):
    assert room_of(nodes, resources) == pytest.approx(room)


@pytest.fixture
def cluster():
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.mark.slow
def test_a_node_removed_in_mid_build_costs_nothing(photographs, tmp_path, cluster):
    recipe = Recipe.model_validate(SLOW)
    build(photographs, tmp_path / "local", recipe, workers=1)
    node = cluster.add_node(num_cpus=1)
    removed = threading.Event()

    def watch(stage: str, done: int, total: int) -> None:
        if stage == "ground" and done and not removed.is_set():
            removed.set()
            cluster.remove_node(node, allow_graceful=False)

    build(photographs, tmp_path / "ray", recipe, executor=f"ray:{cluster.address}", on_progress=watch)
    assert removed.is_set()
    assert tree_digest(tmp_path / "ray") == tree_digest(tmp_path / "local")


@pytest.mark.slow
def test_a_node_that_joins_in_mid_build_is_given_work(photographs, tmp_path, cluster):
    recipe = Recipe.model_validate(FAKE | {"ground": {"kind": "fake", "delay_s": 1.5, "batch_size": 1}})
    build(photographs, tmp_path / "local", recipe, workers=2)
    workers: list[int] = []

    def watch(stage: str, done: int, total: int) -> None:
        if stage == "ground" and done:
            if not workers:
                cluster.add_node(num_cpus=1)
            workers.append(len(hands()))

    build(photographs, tmp_path / "ray", recipe, executor=f"ray:{cluster.address}", on_progress=watch)
    assert workers[0] == 1
    assert max(workers) == 2
    assert tree_digest(tmp_path / "ray") == tree_digest(tmp_path / "local")


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["worker", "actor"])
def test_workers_and_actors_killed_on_ray_cost_nothing(photographs, tmp_path, cluster, victim):
    """Actors more often than one unit may lose them: it is tried alone then, and nothing is quarantined."""
    recipe = Recipe.model_validate(SLOW)
    build(photographs, tmp_path / "local", recipe, workers=1)
    killed: list[int] = []
    done = threading.Event()

    def kill_now_and_then() -> None:
        while not done.is_set() and len(killed) < (2 if victim == "worker" else MAX_LOSSES + 1):
            for process in hands()[:1]:
                prey = process if victim == "worker" else parent_of(process)
                if prey not in killed:
                    os.kill(prey, signal.SIGKILL)
                    killed.append(prey)
            time.sleep(0.5)

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    try:
        build(photographs, tmp_path / "ray", recipe, executor=f"ray:{cluster.address}")
    finally:
        done.set()
        killer.join()
    assert len(killed) >= 2
    assert tree_digest(tmp_path / "ray") == tree_digest(tmp_path / "local")
    with manifests.open(str(tmp_path / "ray")) as corpus:
        assert not [row for row in corpus.ledger if row.status == "quarantined"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_build_on_ray_cleanly_and_it_resumes(photographs, tmp_path, number):
    settings = tmp_path / "recipe.yaml"
    settings.write_text(json.dumps(SLOW | {"ground": {"kind": "fake", "delay_s": 0.5, "batch_size": 1}}))
    command = [sys.executable, "-m", "dataforge", "build", str(photographs), "-o", str(tmp_path / "ray")]
    command += ["--recipe", str(settings), "--executor", "ray", "--workers", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    await_part_of(process, tmp_path / "ray" / ".work" / "parts" / "ground")
    process.send_signal(number)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "E511 interrupted: stopped by " + signal.Signals(number).name in errors
    assert "Traceback" not in errors
    assert said == ""
    recipe = Recipe.model_validate_json(settings.read_text())
    assert build(photographs, tmp_path / "ray", recipe, workers=1).stages["ground"].reused >= 1
    build(photographs, tmp_path / "local", recipe, workers=1)
    assert tree_digest(tmp_path / "ray") == tree_digest(tmp_path / "local")


@pytest.mark.slow
def test_a_driver_killed_and_started_again_goes_on(photographs, tmp_path, cluster):
    recipe = Recipe.model_validate(SLOW)
    build(photographs, tmp_path / "local", recipe, workers=1)
    settings = tmp_path / "recipe.json"
    settings.write_text(recipe.model_dump_json())
    code = (
        "import sys; from dataforge import build; from dataforge.config import Recipe\n"
        "recipe = Recipe.model_validate_json(open(sys.argv[3]).read())\n"
        "build(sys.argv[1], sys.argv[2], recipe, executor=sys.argv[4])\n"
    )
    arguments = [str(photographs), str(tmp_path / "ray"), str(settings), f"ray:{cluster.address}"]
    driver = subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.DEVNULL)
    await_part_of(driver, tmp_path / "ray" / ".work" / "parts" / "ground")
    driver.kill()
    assert driver.wait(60) == -signal.SIGKILL
    result = build(photographs, tmp_path / "ray", recipe, executor=f"ray:{cluster.address}")
    assert result.stages["ingest"].reused == 8
    assert tree_digest(tmp_path / "ray") == tree_digest(tmp_path / "local")
