"""Writing shards, CPU time: ours (sha256, fsync, rename), `tarfile`, `webdataset`.

    python -m benchmarks.writing [--folder /dev/shm/bench] [--count 2000] [--rounds 5]

The same members, in random order of rounds, in one process; tar overhead is what a shard has over its members' bytes.
A build knows the sha256 of pictures and masks since they were made; it takes that of each record and of the shard while
it writes, which is timed. `hashing members too` takes all of them.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import random
import statistics
import tarfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import manifests
from benchmarks.photographs import write_photographs
from manifests.ids import sha256_hex
from manifests.shards import Member, ShardSample, write_shard
from manifests.writer import json_member

Members = list[tuple[str, tuple[tuple[str, bytes], ...]]]


def members_of(root: Path) -> Members:
    with manifests.open(root) as corpus:
        return [
            (
                sample.id,
                (
                    ("jpg", corpus.image_bytes(sample)),
                    ("mask.png", corpus.mask_bytes(sample)),
                    ("json", json_member(sample)),
                ),
            )
            for sample in corpus.samples()
        ]


def prepared(members: Members, known: dict[str, str]) -> list[ShardSample]:
    """As a build has them: `known` has the sha256 of what was made before."""
    return [
        ShardSample(
            key,
            [
                Member(end, len(data), known.get(f"{key}.{end}") or sha256_hex(data), partial(bytes, data))
                for end, data in parts
            ],
        )
        for key, parts in members
    ]


def with_tarfile(members: Members, path: Path) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, parts in members:
            for ending, data in parts:
                info = tarfile.TarInfo(f"{key}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def with_webdataset(members: Members, path: Path) -> None:
    import webdataset

    with webdataset.ShardWriter(str(path.with_suffix("")) + "-%d.tar", maxsize=1e12, maxcount=10**9, verbose=0) as out:
        for key, parts in members:
            out.write({"__key__": key, **dict(parts)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm/bench"))
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    members = members_of(write_photographs(options.folder / "photos", options.count))
    known = {f"{key}.{end}": sha256_hex(data) for key, parts in members for end, data in parts if end != "json"}
    writers: dict[str, Callable[[Path], object]] = {
        "ours": lambda path: write_shard(path, prepared(members, known)),
        "ours, hashing members too": lambda path: write_shard(path, prepared(members, {})),
        "tarfile": partial(with_tarfile, members),
    }
    if importlib.util.find_spec("webdataset"):
        writers["webdataset.ShardWriter"] = partial(with_webdataset, members)
    else:
        print("webdataset is not installed: left out.")
    rates: dict[str, list[float]] = {name: [] for name in writers}
    order = random.Random(0)
    for number in range(1 + options.rounds):
        for name in order.sample(list(writers), len(writers)):
            path = options.folder / f"written-{list(writers).index(name)}.tar"
            started = time.process_time()
            writers[name](path)
            if number:
                rates[name].append(len(members) / (time.process_time() - started))
    payload = sum(len(data) for _, parts in members for _, data in parts)
    print(f"{'writing shards':<26} {'samples/CPU s':>14} {'ours is':>9} {'worst round':>12} {'over payload':>13}")
    for place, name in enumerate(writers):
        ratios = [a / b for a, b in zip(rates["ours"], rates[name], strict=True)]
        written = sum(path.stat().st_size for path in options.folder.glob(f"written-{place}*.tar"))
        print(
            f"{name:<26} {statistics.median(rates[name]):14,.0f} {statistics.median(ratios):8.2f}x {min(ratios):11.2f}x"
            f" {100 * (written / payload - 1):11.2f} %"
        )
    for path in options.folder.glob("written-*.tar"):
        path.unlink()


if __name__ == "__main__":
    main()
