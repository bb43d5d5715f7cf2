"""Killed anywhere, a build goes on where it stopped and ends with the very same bytes."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import manifests
from manifests.validation import validate
from tests.conftest import draw_photograph, draw_subjects, tree_digest
from tests.dataforge.conftest import FAKE, worker_processes

KILLS = 50
# every file is opened, written, synced and renamed: fewer points than this means that hooks were lost
EXPECTED_POINTS = 100


@pytest.fixture(scope="module")
def scene(tmp_path_factory, crash_driver):
    """Photographs, an uninterrupted corpus of them, and how long it took."""
    folder = tmp_path_factory.mktemp("crashes")
    photographs = draw_subjects(folder / "photographs")
    answer = crash_driver.run(photographs, folder / "whole", log=str(folder / "points"))
    assert answer["exit"] == 0, answer["error"]
    started = time.monotonic()
    assert crash_driver.run(photographs, folder / "timed")["exit"] == 0
    took_s = time.monotonic() - started
    points = (folder / "points").read_text().splitlines()
    assert validate(folder / "whole", full=True) == []
    return photographs, tree_digest(folder / "whole"), points, took_s


def finish_and_compare(crash_driver, photographs: Path, output: Path, expected: dict[str, str]) -> None:
    answer = crash_driver.run(photographs, output)
    assert answer["exit"] == 0, answer["error"]
    assert tree_digest(output) == expected
    assert not list(output.rglob(".tmp-*"))


def test_kill_at_every_commit_point_then_resume_gives_identical_bytes(tmp_path, scene, crash_driver, capsys):
    photographs, expected, points, _ = scene
    assert len(points) >= EXPECTED_POINTS
    for number in range(1, len(points) + 1):
        output = tmp_path / str(number)
        answer = crash_driver.run(photographs, output, crash_at=number)
        assert answer["signal"] == signal.SIGKILL, f"point {number} ({points[number - 1]}) was not reached: {answer}"
        finish_and_compare(crash_driver, photographs, output, expected)
        shutil.rmtree(output)
    with capsys.disabled():
        print(f" [{len(points)} commit points, all identical]", end="")


def test_fifty_kills_at_random_moments_then_resume_gives_identical_bytes(tmp_path, scene, crash_driver, capsys):
    photographs, expected, _, took_s = scene
    moments = random.Random(0)
    landed = builds = 0
    while landed < KILLS:
        output = tmp_path / str(builds)
        for _ in range(2):  # also a kill of the build that goes on after a kill
            answer = crash_driver.run(photographs, output, kill_after_s=moments.uniform(0, 0.9 * took_s))
            landed += answer["signal"] == signal.SIGKILL
        finish_and_compare(crash_driver, photographs, output, expected)
        shutil.rmtree(output)
        builds += 1
        assert builds < 3 * KILLS, f"only {landed} kills landed in {builds} builds"
    with capsys.disabled():
        print(f" [{landed} kills landed in {builds} builds, all identical]", end="")


def test_old_corpus_stays_readable_while_a_rebuild_is_killed_at_every_point_of_its_commit(
    tmp_path, crash_driver, scene
):
    photographs, old_digest, _, _ = scene
    changed = tmp_path / "photographs"
    shutil.copytree(photographs, changed)
    draw_photograph(changed / "red_ball0" / "new.jpg", colour=(200, 30, 40), seed=999)
    prepared = tmp_path / "prepared"
    assert crash_driver.run(photographs, prepared)["exit"] == 0
    after = tmp_path / "after"
    shutil.copytree(prepared, after)
    log = tmp_path / "points"
    assert crash_driver.run(changed, after, log=str(log))["exit"] == 0
    new_digest = tree_digest(after)
    points = log.read_text().splitlines()
    commit = points.index("before commit")
    # every point from the first shard on; the stage results before it never touch the corpus
    first = next(number for number, name in enumerate(points) if name.startswith("open train-"))
    for number in range(first + 1, len(points) + 1):
        output = tmp_path / "output"
        shutil.copytree(prepared, output)
        assert crash_driver.run(changed, output, crash_at=number)["signal"] == signal.SIGKILL
        with manifests.open(str(output)) as corpus:
            assert len(corpus) in (36, 37)
            assert [corpus.image(name).shape for name in corpus]
            if number <= commit:
                assert {name: tree_digest(output).get(name) for name in old_digest} == old_digest
        assert crash_driver.run(changed, output)["exit"] == 0
        assert tree_digest(output) == new_digest
        shutil.rmtree(output)


def command(photographs: Path, output: Path, recipe: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "dataforge",
        "build",
        str(photographs),
        "-o",
        str(output),
        "--recipe",
        str(recipe),
        *more,
    ]


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "fake.yaml"
    path.write_text(yaml.safe_dump(FAKE))
    return path


def test_killed_build_with_worker_processes_leaves_no_worker_and_resumes_identically(
    tmp_path, scene, crash_driver, recipe_file
):
    photographs, expected, _, _ = scene
    output = tmp_path / "output"
    for delay in (0.5, 0.8, 1.2, 1.6):
        process = subprocess.Popen(
            command(photographs, output, recipe_file, "--workers", "2"), stderr=subprocess.DEVNULL
        )
        time.sleep(delay)
        process.kill()
        process.wait()
        deadline = time.monotonic() + 20
        while workers := worker_processes(1):  # those whose parent is gone
            assert time.monotonic() < deadline, f"workers {workers} outlive their build"
            time.sleep(0.05)
    finish_and_compare(crash_driver, photographs, output, expected)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_build_with_128_plus_n_and_it_resumes(tmp_path, scene, crash_driver, recipe_file, number):
    photographs, expected, _, _ = scene
    output = tmp_path / "output"
    process = subprocess.Popen(
        command(photographs, output, recipe_file, "--workers", "1"),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    time.sleep(1.0)
    process.send_signal(number)
    started = time.monotonic()
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert time.monotonic() - started < 10
    assert "E511 interrupted" in errors
    assert "Traceback" not in errors
    finish_and_compare(crash_driver, photographs, output, expected)


def test_of_two_builders_one_proceeds_and_the_other_exits_6(tmp_path, scene, recipe_file):
    photographs, expected, _, _ = scene
    output = tmp_path / "output"
    both = [
        subprocess.Popen(
            command(photographs, output, recipe_file), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        for _ in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in both]
    codes = [process.returncode for process in both]
    # the slower one may start after the faster one is done; then both are right and nothing was mixed
    assert sorted(codes) in ([0, 6], [0, 0])
    if 6 in codes:
        assert "E520 output-locked" in errors[codes.index(6)]
        assert f"process {both[codes.index(0)].pid}" in errors[codes.index(6)]
    assert tree_digest(output) == expected


def test_builder_exits_6_while_another_process_holds_the_lock(tmp_path, scene, recipe_file):
    photographs, _, _, _ = scene
    output = tmp_path / "output"
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys,time\nfrom pathlib import Path\nfrom manifests.fsops import output_lock\n"
            "with output_lock(Path(sys.argv[1]) / '.work' / 'lock'):\n print('held', flush=True)\n time.sleep(60)",
            str(output),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        refused = subprocess.run(command(photographs, output, recipe_file), capture_output=True, text=True, timeout=60)
        assert refused.returncode == 6
        assert f"process {holder.pid}" in refused.stderr
        assert not (output / "corpus.json").exists()
    finally:
        holder.kill()
        holder.wait()
        assert holder.stdout is not None
        holder.stdout.close()
    freed = subprocess.run(command(photographs, output, recipe_file), capture_output=True, text=True, timeout=120)
    assert freed.returncode == 0, freed.stderr


@pytest.fixture
def small_disk(tmp_path: Path):
    """A tmpfs that can be resized; skipped where this user may not mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_full_disk_stops_with_exit_5_keeps_the_old_corpus_and_resumes(
    tmp_path, scene, crash_driver, small_disk, capsys
):
    photographs, expected, _, _ = scene
    output = small_disk / "corpus"
    full = 0
    for kilobytes in (64, 128, 256, 384, 512, 640, 768, 896, 1024, 1152, 1280, 1408, 1536, 1792, 2048):
        subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(small_disk)], check=True)
        answer = crash_driver.run(photographs, output)
        if answer["exit"] == 0:
            break
        assert answer["exit"] == 5, answer["error"]
        assert "bytes free" in answer["error"] or "full" in answer["error"]
        full += 1
    assert full >= 5
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    finish_and_compare(crash_driver, photographs, output, expected)
    # a rebuild that runs into the full disk leaves the corpus as it was
    changed = tmp_path / "photographs"
    shutil.copytree(photographs, changed)
    for number in range(8):
        draw_photograph(changed / "red_ball0" / f"new{number}.jpg", colour=(200, 30, 40), seed=900 + number, size=256)
    used = sum(path.stat().st_blocks * 512 for path in small_disk.rglob("*")) // 1024
    subprocess.run(["mount", "-o", f"remount,size={used + 100}k", str(small_disk)], check=True)
    answer = crash_driver.run(changed, output)
    assert answer["exit"] == 5, answer["error"]
    assert {name: digest for name, digest in tree_digest(output).items() if name in expected} == expected
    assert validate(output, full=True) == []
    with capsys.disabled():
        print(f" [{full} full disks]", end="")
