"""By ID among a million rows: opening, finding a row, bytes of a picture; beside `datasets`, `lance` and `litdata`.

    python -m benchmarks.by_id [--folder /dev/shm/bench] [--rows 1000000] [--count 2000]

The index is the one a corpus has, made of a million records; bytes are those of the photographs of
`benchmarks.photographs`, warm. Microseconds are of the wall clock: the 50th and 99th percentile of single look-ups in
random order.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import manifests
from benchmarks.contest import missing_peer
from benchmarks.photographs import write_photographs
from manifests.index import INDEX_NAME, IdIndex, write_index
from manifests.records import Sample


def ids(rows: int) -> list[str]:
    return [f"thing-{number // 20:05d}/src-{number:012x}" for number in range(rows)]


def samples(rows: int, like: Sample) -> Iterator[Sample]:
    for number, name in enumerate(ids(rows)):
        yield dataclasses.replace(like, id=name, image=dataclasses.replace(like.image, offset=512 * number))


def percentiles(look_up: Callable[[str], Any], names: list[str]) -> tuple[float, float]:
    """50th and 99th percentile in microseconds."""
    took = []
    for name in names:
        started = time.perf_counter_ns()
        found = look_up(name)
        took.append(time.perf_counter_ns() - started)
        assert found is not None, name
    took.sort()
    return took[len(took) // 2] / 1000, took[len(took) * 99 // 100] / 1000


def line(what: str, look_up: Callable[[str], Any], names: list[str]) -> None:
    middle, slow = percentiles(look_up, names)
    print(f"{what:<44} p50 {middle:10.1f} us   p99 {slow:10.1f} us", flush=True)


def ours(folder: Path, rows: int, draw: random.Random) -> None:
    with manifests.open(folder / "photos") as corpus:
        like = next(corpus.samples())
    place = folder / f"index-{rows}"
    place.mkdir(parents=True, exist_ok=True)
    if not (place / INDEX_NAME).exists():
        write_index(place, "0" * 64, samples(rows, like))
    names = ids(rows)
    opened = []
    for _ in range(5):
        started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        index = IdIndex(place)
        index.row(names[rows // 2])
        opened.append(time.perf_counter() - started)
        index.close()
    index = IdIndex(place)
    print(f"ours: open and find one: {1000 * sorted(opened)[2]:.1f} ms; file {_megabytes(place / INDEX_NAME):.0f} MB")
    line("ours: ID to row", index.row, draw.choices(names, k=50_000))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"ours: resident memory grew by {grown / 1024:.0f} MB, pages of the file included")
    index.close()
    with manifests.open(folder / "photos") as corpus:
        there = list(corpus)
        look_up = draw.choices(there, k=20_000)
        line("ours: ID to unverified bytes", lambda name: corpus.image_bytes(name, verify=False), look_up)
        line("ours: ID to bytes checked by sha256", corpus.image_bytes, look_up[:5000])


def _megabytes(path: Path) -> float:
    return path.stat().st_size / 1e6


def datasets_filter(folder: Path, rows: int, draw: random.Random) -> None:
    import datasets

    datasets.disable_progress_bars()
    place = folder / f"hf-ids-{rows}"
    if not place.exists():
        datasets.Dataset.from_dict({"id": ids(rows), "row": list(range(rows))}).save_to_disk(str(place))
    data = datasets.load_from_disk(str(place)).with_format("arrow")

    def look_up(name: str) -> Any:
        import pyarrow.compute as pc

        return data.filter(lambda table: pc.equal(table["id"], name), batched=True, load_from_cache_file=False)[0]

    line("datasets: filter", look_up, draw.choices(ids(rows), k=20))


def lance_scalar_index(folder: Path, rows: int, draw: random.Random) -> None:
    import lance
    import pyarrow as pa

    place = folder / f"lance-{rows}"
    if not place.exists():
        lance.write_dataset(pa.table({"id": ids(rows), "row": list(range(rows))}), str(place))
        lance.dataset(str(place)).create_scalar_index("id", "BTREE")
    data = lance.dataset(str(place))
    line(
        "lance: BTREE filter",
        lambda name: data.to_table(filter=f"id = '{name}'").column("row")[0],
        draw.choices(ids(rows), k=1000),
    )


def litdata_keys(folder: Path, rows: int, draw: random.Random) -> None:
    import litdata

    place = folder / f"litdata-keys-{rows}"
    shutil.rmtree(place, ignore_errors=True)
    litdata.optimize(
        fn=keyed,
        inputs=list(range(rows)),
        output_dir=str(place),
        num_workers=1,
        chunk_bytes="64MB",
        key_fn=key_of,
        verbose=False,
    )
    data = litdata.StreamingDataset(str(place), shuffle=False)
    line("litdata: get_by_key", data.get_by_key, draw.choices(ids(rows), k=1000))


def keyed(number: int) -> dict[str, Any]:
    return {"id": f"thing-{number // 20:05d}/src-{number:012x}", "row": number}


def key_of(row: dict[str, Any]) -> str:
    return str(row["id"])


NEEDS = {"datasets": ("datasets",), "lance": ("lance",), "litdata": ("litdata", "polars")}
PEERS: dict[str, Callable[[Path, int, random.Random], None]] = {
    "datasets": datasets_filter,
    "lance": lance_scalar_index,
    "litdata": litdata_keys,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm/bench"))
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--count", type=int, default=2000, help="photographs whose bytes are looked up")
    parser.add_argument("--peers", default=",".join(PEERS))
    options = parser.parse_args()
    write_photographs(options.folder / "photos", options.count)
    ours(options.folder, options.rows, random.Random(0))
    for name in filter(None, options.peers.split(",")):
        sentence = missing_peer(*NEEDS[name])
        if sentence:
            print(f"{name}: {sentence}")
        else:
            PEERS[name](options.folder, options.rows, random.Random(0))


if __name__ == "__main__":
    main()
