"""What a build costs, and what it costs again: first build, nothing changed, one photograph added, one override edited.

Usage: python benchmarks/build.py [FOLDER OF SUBJECTS] (default: the dreambench subjects below DATAFORGE_TEST_DATA)
Prints wall and CPU seconds of whole processes, and the shard writer beside tarfile and webdataset, interleaved.
"""

from __future__ import annotations

import hashlib
import io
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import webdataset

from manifests.shards import Member, ShardSample, write_shard

REPOSITORY = Path(__file__).parent.parent
ROUNDS = 7


def cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def timed_build(subjects: Path, output: Path, name: str, first: float | None = None) -> float:
    started, cpu = time.monotonic(), cpu_of_children()
    done = subprocess.run(
        [sys.executable, "-m", "dataforge", "build", str(subjects), "-o", str(output)], capture_output=True, text=True
    )
    wall, used = time.monotonic() - started, cpu_of_children() - cpu
    stages = next(
        (line for line in done.stdout.splitlines() if line.startswith(("Stages", "Nothing"))), done.stderr[-200:]
    )
    share = f" {100 * used / first:5.1f} % of the first" if first else ""
    print(f"{name:<28} exit {done.returncode}  wall {wall:6.1f} s  CPU {used:6.1f} s{share}\n    {stages}")
    return used


def build_times(source: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        subjects, output = Path(folder) / "subjects", Path(folder) / "corpus"
        shutil.copytree(source, subjects)
        table = source.parent / f"{source.name}.csv"
        if table.is_file():
            shutil.copy(table, Path(folder) / table.name)
        first = timed_build(subjects, output, "first build")
        timed_build(subjects, output, "nothing changed", first)
        subject = sorted(path for path in subjects.iterdir() if path.is_dir())[0]
        photograph = sorted(subject.glob("*.jpg"))[0]
        new = subject / "new.jpg"
        new.write_bytes(sorted(subjects.iterdir())[1].glob("*.jpg").__next__().read_bytes()[:-2] + b"\xff\xd9\0")
        timed_build(subjects, output, "one photograph added", first)
        (subject / "overrides.yaml").write_text(f"boxes: {{{photograph.name}: [60, 60, 440, 440]}}\n")
        timed_build(subjects, output, "one override edited", first)
        (subject / "overrides.yaml").write_text("strike_words: [brown]\n")
        timed_build(subjects, output, "one word struck", first)


def shard_writers(folder: Path, samples: int = 400) -> None:
    """Samples per CPU second: ours (sha256, fsync, rename), tarfile, webdataset.ShardWriter; same bytes in each."""
    image, mask, text = os.urandom(79_000), os.urandom(2_000), b"{}" * 300
    keys = [f"subject/src-{number:012x}" for number in range(samples)]

    def ours(path: Path) -> None:
        members = [
            Member(ending, len(data), hashlib.sha256(data).hexdigest(), partial(bytes, data))
            for ending, data in (("jpg", image), ("mask.png", mask), ("json", text))
        ]
        write_shard(path, [ShardSample(key, members) for key in keys])

    def with_tarfile(path: Path) -> None:
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for key in keys:
                for ending, data in (("jpg", image), ("mask.png", mask), ("json", text)):
                    info = tarfile.TarInfo(f"{key}.{ending}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))

    def with_webdataset(path: Path) -> None:
        with webdataset.TarWriter(str(path)) as writer:
            for key in keys:
                writer.write({"__key__": key, "jpg": image, "mask.png": mask, "json": text})

    writers: dict[str, Callable[[Path], None]] = {"ours": ours, "tarfile": with_tarfile, "webdataset": with_webdataset}
    rates: dict[str, list[float]] = {name: [] for name in writers}
    for _ in range(ROUNDS):
        for name, write in writers.items():
            started = time.process_time()
            write(folder / f"{name}.tar")
            rates[name].append(samples / (time.process_time() - started))
    for name in writers:
        ratio = statistics.median(a / b for a, b in zip(rates["ours"], rates[name], strict=True))
        print(f"shard writer {name:<11} {statistics.median(rates[name]):9,.0f} samples/CPU s   ours is {ratio:.2f} x")


if __name__ == "__main__":
    data = Path(os.environ.get("DATAFORGE_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    build_times(Path(sys.argv[1]) if len(sys.argv) > 1 else data / "dreambench" / "subjects")
    with tempfile.TemporaryDirectory() as place:
        shard_writers(Path(place))
