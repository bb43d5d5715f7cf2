"""By ID among a million rows: opening, finding a row, bytes of a picture; beside `datasets`, `lance` and `litdata`.

    python -m benchmarks.by_id [--folder /dev/shm/bench] [--rows 1000000] [--count 2000]

A corpus of a million rows, whose bytes are those of the photographs of `benchmarks.photographs` over and over, warm.
Microseconds are of the wall clock: the 50th and 99th percentile of single look-ups in random order.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import manifests
from benchmarks.contest import missing_peer
from benchmarks.photographs import write_photographs
from manifests.fsops import sha256_of_file
from manifests.header import FileEntry, read_header, write_header
from manifests.index import INDEX_NAME, IdIndex, write_index
from manifests.writer import ROWS_PER_GROUP


def ids(rows: int) -> list[str]:
    return [f"thing-{number // 20:05d}/src-{number:012x}" for number in range(rows)]


def write_large(root: Path, photographs: Path, rows: int) -> Path:
    """A corpus of many rows whose bytes are those of a few photographs, over and over (once)."""
    if (root / "corpus.json").exists():
        return root
    opened = read_header(photographs)
    (root / "shards").mkdir(parents=True)
    for entry in opened.header.shards:
        os.link(photographs / entry.path, root / entry.path)
    few = pq.read_table(photographs / opened.header.manifest.path)
    many = few.take(np.arange(rows) % len(few))
    for column, values in (("id", ids(rows)), ("subject", [name.partition("/")[0] for name in ids(rows)])):
        at = many.schema.get_field_index(column)
        many = many.set_column(at, many.schema.field(at), pa.array(values))
    place = root / "manifest-00000000000000aa.parquet"
    pq.write_table(many, place, compression="zstd", row_group_size=ROWS_PER_GROUP, write_page_index=True)
    size, sha256 = sha256_of_file(place)
    for entry in (opened.header.subjects, opened.header.ledger):
        os.link(photographs / entry.path, root / entry.path)
    manifest = FileEntry(path=place.name, size=size, sha256=sha256, rows=rows)
    digest = write_header(root, opened.header.model_copy(update={"manifest": manifest}))
    with manifests.open(photographs) as corpus:
        records = list(corpus.samples())
    rows_of = (dataclasses.replace(records[n % len(records)], id=name) for n, name in enumerate(ids(rows)))
    write_index(root, digest, rows_of)
    return root


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
    root = write_large(folder / f"large-{rows}", folder / "photos", rows)
    names = ids(rows)
    before, opened, first = resident(), [], []
    for _ in range(5):
        started = time.perf_counter()
        corpus = manifests.open(root)
        opened.append(time.perf_counter() - started)
        _ = corpus[names[rows // 2]].picture
        first.append(time.perf_counter() - started)
        corpus.close()
    manifest = next(root.glob("manifest-*.parquet"))
    print(
        f"ours: open {1000 * sorted(opened)[2]:.1f} ms; with the first picture {1000 * sorted(first)[2]:.0f} ms "
        f"(manifest of {_megabytes(manifest):.0f} MB, hashed once; index of {_megabytes(root / INDEX_NAME):.0f} MB)"
    )
    index = IdIndex(root)
    line("ours: ID to row", index.row, draw.choices(names, k=50_000))
    index.close()
    print(f"ours: resident memory grew by {(resident() - before) / 1e6:.0f} MB, pages of the files included")
    with manifests.open(root) as corpus:
        look_up = draw.choices(names, k=20_000)
        line("ours: ID to unverified bytes", lambda name: corpus.image_bytes(name, verify=False), look_up)
        line("ours: ID to bytes checked by sha256", corpus.image_bytes, look_up[:2000])


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


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
