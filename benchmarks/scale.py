"""What many subjects cost: memory, the runner's own time, a resumed build, Ray and local, plans and what happened.

    python -m benchmarks.scale noop      [--subjects 2000]   memory and time with stages that compute nothing
    python -m benchmarks.scale runner    [--records 10000]   the runner beside datasets.map and Ray Data
    python -m benchmarks.scale embedded  [--subjects 2000]   the real thing at 256 px, beside a tenth of it
    python -m benchmarks.scale ray       [--subjects 100]    the same build on Ray and locally
    python -m benchmarks.scale plan      [--subjects 60]     predicted and actual time and room, three recipes

Peaks are of the build's process, and of it with all its workers (proportional set size, read every half second).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parent.parent
FEW_SUBJECTS = 200
RECIPES: dict[str, dict[str, Any]] = {
    "embedded, one regular picture": {"generate": {"images_per_photograph": 1, "generator": {"size": 256}}},
    "embedded, three small regular pictures": {"generate": {"images_per_photograph": 3, "generator": {"size": 128}}},
    "no models": {
        "ground": {"kind": "fake"},
        "segment": {"kind": "fake"},
        "describe": {"kind": "fake"},
        "generate": {"generator": {"kind": "fake", "size": 64}, "images_per_prompt": 1},
    },
}


# measuring -----------------------------------------------------------------------------------------------------------


class Peak(threading.Thread):
    """The largest memory of a process and of it with its children, in MB."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid, self._end = pid, threading.Event()
        self.alone = self.together = 0.0

    def run(self) -> None:
        """Look every half second."""
        while not self._end.wait(0.5):
            sizes = [self._size(pid) for pid in self._family()]
            if sizes:
                self.alone, self.together = max(self.alone, sizes[0]), max(self.together, sum(sizes))

    def _family(self) -> list[int]:
        parents = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                except OSError:
                    continue
        family = [self._pid]
        for pid in family:
            family += [child for child, parent in parents.items() if parent == pid]
        return family

    @staticmethod
    def _size(pid: int) -> float:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
        except (OSError, StopIteration):
            return 0.0

    def stop(self) -> None:
        """Look no more."""
        self._end.set()
        self.join()


def child(verb: str, **values: Any) -> dict[str, Any]:
    """Run one of the functions below in a process of its own; its answer, with CPU seconds and peaks."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.scale", "child", verb, json.dumps(values)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    peak = Peak(process.pid)
    peak.start()
    said, _ = process.communicate()
    peak.stop()
    if process.returncode:
        raise SystemExit(f"{verb} ended with {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    answer: dict[str, Any] = json.loads(said.strip().splitlines()[-1])
    return {
        **answer,
        "wall": time.monotonic() - started,
        "cpu": cpu,
        "peak": peak.alone,
        "together": peak.together,
    }


def own_peak() -> float:
    """MB of this process at its largest; `ru_maxrss` would begin at the size of the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def child_build(subjects: str, output: str, recipe: dict[str, Any], executor: str | None, workers: int) -> Any:
    from benchmarks.noop import NoopExecutor
    from dataforge.building import build
    from dataforge.config import Recipe

    began = time.monotonic()
    runs_on: Any = NoopExecutor() if executor == "noop" else executor
    result = build(subjects, output, Recipe.model_validate(recipe), executor=runs_on, workers=workers)
    return {
        "digest": result.digest,
        "unchanged": result.unchanged,
        "counts": result.counts,
        "seconds": time.monotonic() - began,
        "driver_peak": own_peak(),
    }


def build(subjects: Path, output: Path, recipe: dict[str, Any], executor: str | None = None, workers: int = 2) -> Any:
    return child("build", subjects=str(subjects), output=str(output), recipe=recipe, executor=executor, workers=workers)


# verbs ---------------------------------------------------------------------------------------------------------------


def noop(folder: Path, subjects: int) -> dict[str, float]:
    """What the driver's peak grows by a picture, in kB, and CPU seconds to find that nothing is to be done."""
    from benchmarks.noop import write_names

    # shards as many as there would be of real pictures
    recipe = {
        "pack": {"shard_bytes": 1 << 20},
        "generate": {"images_per_photograph": 1},
        "gate": {"min_area": 0.0, "max_area": 1.0},
    }
    peaks, idle = [], 0.0
    for count in (subjects // 10, subjects):
        source = write_names(folder / f"in{count}", subjects=count)
        done = build(source, folder / f"out{count}", recipe, "noop")
        again = build(source, folder / f"out{count}", recipe, "noop")
        peaks.append(done["driver_peak"])
        assert again["unchanged"]
        idle = again["cpu"]  # it waits for nothing, and what else runs here does not count
        print(
            f"{count:6} subjects: driver's peak {done['driver_peak']:6.1f} MB, {1000 * done['cpu'] / count / 5:6.2f} "
            f"ms CPU a photograph, all of the build; nothing to do found in {idle:.1f} s CPU"
        )
    # five photographs a subject, each with one regular picture
    growth = (peaks[1] - peaks[0]) * 1e3 / (10 * (subjects - subjects // 10))
    print(f"the driver grows by {growth:.1f} kB a picture, {peaks[1] / peaks[0]:.2f} x from {subjects // 10} subjects")
    return {"growth": growth, "idle_s": idle}


def child_runner(records: int, folder: str, batch: int) -> Any:
    """Ten thousand tasks through runner, store and parts; the stage's own work is left out by answering in place."""
    _run_noop(64, f"{folder}/warm", batch)
    began = time.process_time()
    _run_noop(records, f"{folder}/work", batch)
    return {"ms": 1000 * (time.process_time() - began) / records}


def _run_noop(records: int, folder: str, batch: int) -> None:
    from benchmarks.noop import NoopExecutor
    from dataforge.executor import Resources
    from dataforge.runner import Runner, Task
    from dataforge.store import Store

    store = Store(Path(folder))
    runner = Runner(NoopExecutor(), store, folder, lambda *_: None)
    tasks = (Task(f"{number:064x}", {"photos": [{"id": f"thing/src-{number:012x}"}]}) for number in range(records))
    outcomes = runner.run("ground", {}, tasks, total=records, batch=batch, resources=Resources())
    found = outcomes.of(f"{number:064x}" for number in range(records))
    scores = [outcome.value["items"][0]["score"] for outcome in found]
    store.close()
    assert len(scores) == records


def child_datasets(records: int, folder: str) -> Any:
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"id": ["warm"] * 64}).map(lambda row: row, cache_file_name=f"{folder}/warm.arrow")
    began = time.process_time()
    made = datasets.Dataset.from_dict({"id": [f"thing/src-{number:012x}" for number in range(records)]})
    made = made.map(lambda row: {"box": [4, 4, 12, 12], "score": 0.7}, cache_file_name=f"{folder}/cache.arrow")
    scores = [row["score"] for row in made]
    assert len(scores) == records
    return {"ms": 1000 * (time.process_time() - began) / records}


def child_ray_data(records: int, folder: str) -> Any:
    import logging

    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False

    def spent() -> float:  # of this process and of Ray's workers: those do the mapping
        import psutil

        mine = psutil.Process()
        return sum(sum(p.cpu_times()[:2]) for p in [mine, *mine.children(recursive=True)])

    warm = ray.data.range(64).map(lambda row: row)
    assert warm.count() == 64
    began = spent()
    rows = ray.data.from_items([{"id": f"thing/src-{number:012x}"} for number in range(records)])
    rows = rows.map(lambda row: {**row, "box": [4, 4, 12, 12], "score": 0.7})
    rows.write_parquet(folder)
    used = spent() - began
    ray.shutdown()
    return {"ms": 1000 * used / records}


def runner(folder: Path, records: int) -> dict[str, float]:
    """CPU milliseconds a record of this runner and of those beside it that are installed."""
    print(f"{records} records through a stage that does nothing, CPU a record (ours and datasets in one process):")
    contestants: dict[str, tuple[str, str, dict[str, int]]] = {
        "this runner": ("runner", "json", {"batch": 256}),
        "datasets.map": ("datasets", "datasets", {}),
        "this runner, 8 a part": ("runner", "json", {"batch": 8}),
        "Ray Data": ("ray_data", "ray.data", {}),
    }
    costs: dict[str, list[float]] = {}
    for round_ in range(5):
        for number, (name, (verb, package, more)) in enumerate(contestants.items()):
            try:
                __import__(package)
            except ImportError:
                continue
            place = folder / f"{number}-{round_}"
            place.mkdir()
            costs.setdefault(name, []).append(child(verb, records=records, folder=str(place), **more)["ms"])
    medians = {name: statistics.median(found) for name, found in costs.items()}
    for name in contestants:
        took = f"{medians[name]:.3f} ms ({min(costs[name]):.3f} to {max(costs[name]):.3f})" if name in costs else "-"
        print(f"  {name:<21} {took}")
    return medians


def embedded(folder: Path, subjects: int) -> dict[str, float]:
    """Peak and CPU a photograph of many subjects over those of few; the worst exit code of `validate --full`.

    Few are a tenth, built before and after: a machine is not equally busy for an hour. They are 200 at least, or a
    worker's pictures in memory do not reach their bound.
    """
    from benchmarks.many_subjects import write_subjects

    recipe = RECIPES["embedded, one regular picture"]
    measured, worst = [], 0
    few_subjects = max(FEW_SUBJECTS, subjects // 10)
    for number, count in enumerate((few_subjects, subjects, few_subjects)):
        source = write_subjects(folder / f"in{number}", subjects=count)
        output = folder / f"out{number}"
        done = build(source, output, recipe)
        checked = subprocess.run(
            [sys.executable, "-m", "dataforge", "validate", str(output), "--full"],
            capture_output=True,
            text=True,
        )
        worst = max(worst, checked.returncode)
        each = done["cpu"] / count / 5
        measured.append((done["together"], done["peak"], each))
        print(
            f"{count:6} subjects: {done['counts']['photographs']} photographs, {done['counts']['regular']} regular; "
            f"peak {done['together']:.0f} MB together, {done['peak']:.0f} MB the build alone; {1000 * each:.0f} ms CPU "
            f"({1000 * done['wall'] / count / 5:.0f} ms wall) a photograph; validate --full: exit {checked.returncode}",
            flush=True,
        )
    before, (many, many_alone, many_each), after = measured
    few, few_alone, few_each = (statistics.mean(both) for both in zip(before, after, strict=True))
    print(
        f"many over few: peak {many / few:.3f} together, {many_alone / few_alone:.3f} alone; "
        f"CPU a photograph {many_each / few_each:.3f}"
    )
    return {"peak": many / few, "each": many_each / few_each, "exit": worst}


def on_ray(folder: Path, subjects: int) -> dict[str, float]:
    """Seconds on Ray, its start left out, over seconds here, and whether the corpus is the same."""
    from benchmarks.many_subjects import write_subjects

    source = write_subjects(folder / "in", subjects=subjects)
    recipe = RECIPES["embedded, one regular picture"]
    local = build(source, folder / "local", recipe)
    ray = build(source, folder / "ray", recipe, "ray")
    started = build(source, folder / "ray", recipe, "ray")  # nothing to do: what starting and ending Ray takes
    seconds = ray["seconds"] - started["seconds"]
    print(f"local {local['seconds']:.1f} s, Ray {seconds:.1f} s after its start of {started['seconds']:.1f} s")
    same = local["digest"] == ray["digest"]
    print(f"Ray over local: {seconds / local['seconds']:.3f}; same corpus: {same}")
    return {"ratio": seconds / local["seconds"], "same": same}


def planned(folder: Path, subjects: int) -> dict[str, tuple[float, float]]:
    """Planned over actual seconds and bytes, by recipe."""
    from benchmarks.many_subjects import write_subjects

    source = write_subjects(folder / "in", subjects=subjects)
    ratios = {}
    for number, (name, recipe) in enumerate(RECIPES.items()):
        place = folder / f"out{number}"
        settings = folder / f"recipe{number}.yaml"
        settings.write_text(json.dumps(recipe))
        command = ["plan", str(source), "-o", str(place), "--recipe", str(settings), "--workers", "2", "--json"]
        said = subprocess.run([sys.executable, "-m", "dataforge", *command], capture_output=True, text=True, check=True)
        guess = json.loads(said.stdout)
        before = used(place)
        done = build(source, place, recipe)
        needed = used(place) - before
        room = guess["work_bytes"] + guess["corpus_bytes"]
        ratios[name] = guess["seconds"] / done["seconds"], room / needed
        print(
            f"{name}: time {guess['seconds']:.1f} s planned, {done['seconds']:.1f} s taken, ratio "
            f"{ratios[name][0]:.2f}; disk {room / 1e6:.1f} MB planned, {needed / 1e6:.1f} MB used, ratio "
            f"{ratios[name][1]:.2f}"
        )
    return ratios


def used(place: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in place.rglob("*") if path.is_file())


def main() -> None:
    if sys.argv[1] == "child":
        name, values = sys.argv[2], json.loads(sys.argv[3])
        children = {
            "build": child_build,
            "runner": child_runner,
            "datasets": child_datasets,
            "ray_data": child_ray_data,
        }
        print(json.dumps(children[name](**values)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["noop", "runner", "embedded", "ray", "plan"])
    parser.add_argument("--subjects", type=int)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder by default")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=given.folder))
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        match given.verb:
            case "noop":
                noop(folder, given.subjects or 2000)
            case "runner":
                runner(folder, given.records)
            case "embedded":
                embedded(folder, given.subjects or 2000)
            case "ray":
                on_ray(folder, given.subjects or 100)
            case "plan":
                planned(folder, given.subjects or 60)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
