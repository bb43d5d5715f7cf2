"""How fast a corpus is checked: `validate --full` in MB of shards per CPU second, the quick check of 1,000 shards.

python -m benchmarks.validating [--folder /dev/shm/bench] [--rounds 5]
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import statistics
import time
from pathlib import Path

import manifests
from benchmarks.photographs import commit, write_photographs
from manifests.records import Sample

SHARDS, SAMPLES_PER_SHARD = 1000, 4


def write_many_shards(root: Path, like: Sample, image: bytes, mask: bytes) -> Path:
    """A corpus of 1,000 shards, one subject each."""
    if (root / "corpus.json").exists():
        return root
    made = []
    for number in range(SHARDS * SAMPLES_PER_SHARD):
        owner = f"thing-{number // SAMPLES_PER_SHARD:05d}"
        found = hashlib.sha256(str(number).encode()).hexdigest()
        name = f"{owner}/src-{found[:12]}"
        uri = f"{owner}/{number}.jpg"
        sample = dataclasses.replace(like, id=name, subject=owner, source_sha256=found, source_uri=uri)
        made.append((sample, image, mask))
    commit(root, made, 1)
    return root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm/bench"))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    root = write_photographs(options.folder / "photos")
    size = sum(path.stat().st_size for path in root.glob("shards/*.tar"))
    data = b"".join(path.read_bytes() for path in sorted(root.glob("shards/*.tar")))
    speeds, hashing = [], []
    for number in range(1 + options.rounds):
        started = time.process_time()
        assert manifests.validate(root, full=True) == []
        full = time.process_time() - started
        started = time.process_time()
        hashlib.sha256(data)
        if number:
            hashing.append(size / (time.process_time() - started) / 1e6)
            speeds.append(size / full / 1e6)
    print(f"validate --full: {statistics.median(speeds):.0f} MB per CPU s (best {max(speeds):.0f})")
    print(f"one sha256 over the same bytes: {statistics.median(hashing):.0f} MB per CPU s; the check needs two")
    with manifests.open(root) as corpus:
        like = next(corpus.samples())
        image, mask = corpus.image_bytes(like), corpus.mask_bytes(like)
    many = write_many_shards(options.folder / "shards-1000", like, image, mask)
    took = []
    for _ in range(options.rounds):
        started = time.process_time()
        assert manifests.validate(many) == []
        took.append(time.process_time() - started)
    shards = len(list(many.glob("shards/*.tar")))
    print(f"quick: {statistics.median(took):.2f} CPU s for {shards:,} shards of {SHARDS * SAMPLES_PER_SHARD:,} samples")


if __name__ == "__main__":
    main()
