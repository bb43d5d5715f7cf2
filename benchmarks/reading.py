"""Reading in order, decoded into batches of 32 x 512 x 512: CPU time of this and of its peers, the same pixels in each.

    python -m benchmarks.reading [--folder /dev/shm/bench] [--count 2000] [--rounds 5]

Everybody reads image, mask and record of every sample; two workers each; steady epochs, after one in which all pixels
are compared. Peers that are not installed are left out.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import manifests
from benchmarks.contest import Round, hold, main_of_contestant, missing_peer
from benchmarks.photographs import write_photographs

BATCH, SIDE, WORKERS = 32, 512, 2


class Digest:
    """How much was read and, to check, a digest of all pixels and captions, in whatever order they come."""

    def __init__(self, check: bool) -> None:
        self._check, self._sum = check, 0
        self.count = 0

    def add(self, images: np.ndarray, masks: np.ndarray, records: Sequence[Any]) -> None:
        """A batch: uint8 BxHxWx3, bool BxHxW, and its records."""
        self.count += len(records)
        if self._check:
            for image, mask, record in zip(images, masks, records, strict=True):
                caption = record["caption"] if isinstance(record, dict) else record.caption
                # bits, since Pillow's True is a byte of 255
                digest = hashlib.sha256(image.tobytes() + np.packbits(mask).tobytes() + caption.encode()).digest()
                self._sum = (self._sum + int.from_bytes(digest)) % 2**256

    def result(self) -> tuple[int, str]:
        """Samples, and the sum of their digests."""
        return self.count, f"{self._sum:064x}"


def ours(mode: str, **more: Any) -> Callable[[Path], Round]:
    def set_up(folder: Path) -> Round:
        corpus = manifests.open(folder / "photos")
        stream = corpus.stream(batch_size=BATCH, size=SIDE, workers=WORKERS, mode=mode, **more)

        def run(check: bool) -> tuple[int, str]:
            digest = Digest(check)
            for batch in stream:
                digest.add(batch.images, batch.masks, batch.samples)
            return digest.result()

        return run

    return set_up


def by_pillow(image: bytes, mask: bytes, text: bytes) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """The straight way to decode a sample."""
    with Image.open(io.BytesIO(image)) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    with Image.open(io.BytesIO(mask)) as opened:
        subject = np.asarray(opened)
    return pixels, subject, json.loads(text)


def collate(samples: list[tuple[np.ndarray, np.ndarray, dict[str, Any]]]) -> Any:
    import torch

    return (
        torch.from_numpy(np.stack([image for image, _, _ in samples])),
        torch.from_numpy(np.stack([mask for _, mask, _ in samples])),
        [record for _, _, record in samples],
    )


def epochs(batches: Iterable[Any]) -> Round:
    def run(check: bool) -> tuple[int, str]:
        digest = Digest(check)
        for images, masks, records in batches:
            digest.add(images.numpy(), masks.numpy(), records)
        return digest.result()

    return run


def in_manifest_order(folder: Path) -> list[dict[str, Any]]:
    """ID, shard and bytes of every sample, for peers that keep data in a form of their own."""
    with manifests.open(folder / "photos") as corpus:
        return [
            {
                "image": corpus.image_bytes(sample),
                "mask": corpus.mask_bytes(sample),
                "record": json.dumps({"caption": sample.caption, "prompt": sample.prompt, "id": sample.id}).encode(),
            }
            for sample in corpus.samples()
        ]


def loader(data: Any, **more: Any) -> Any:
    import torch

    torch.set_num_threads(1)
    return torch.utils.data.DataLoader(data, num_workers=WORKERS, persistent_workers=True, **more)


def decode_tar_sample(sample: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    return by_pillow(sample["jpg"], sample["mask.png"], sample["json"])


def webdataset_pillow(folder: Path) -> Round:
    """`webdataset` with Pillow called by hand, decoding no more than needed."""
    import webdataset

    data = webdataset.WebDataset(one_shard_per_worker(folder), shardshuffle=False).map(decode_tar_sample)
    return epochs(loader(data.batched(BATCH, collation_fn=collate), batch_size=None))


def as_read(sample: tuple[np.ndarray, np.ndarray, dict[str, Any]]) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    image, mask, record = sample
    return image, mask[..., 0] > 0, record


def webdataset_decode(folder: Path) -> Round:
    """`webdataset` as its manual has it: `.decode("rgb8")`."""
    import webdataset

    data = webdataset.WebDataset(one_shard_per_worker(folder), shardshuffle=False)
    data = data.decode("rgb8").to_tuple("jpg", "mask.png", "json").map(as_read)
    return epochs(loader(data.batched(BATCH, collation_fn=collate), batch_size=None))


def one_shard_per_worker(folder: Path) -> list[str]:
    # the samples of batch n come from worker n modulo 2; see `write_for_webdataset`
    return [str(path) for path in sorted((folder / "wds").glob("*.tar"))]


def write_for_webdataset(folder: Path) -> None:
    """The same members in two plain tars, batches of 32 in turn, so that two workers give them back in order."""
    import tarfile

    samples = in_manifest_order(folder)
    (folder / "wds").mkdir(exist_ok=True)
    for worker in range(WORKERS):
        with tarfile.open(folder / "wds" / f"{worker}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for number, sample in enumerate(samples):
                if number // BATCH % WORKERS == worker:
                    for ending, data in (
                        ("jpg", sample["image"]),
                        ("mask.png", sample["mask"]),
                        ("json", sample["record"]),
                    ):
                        info = tarfile.TarInfo(f"{number:09d}.{ending}")
                        info.size = len(data)
                        tar.addfile(info, io.BytesIO(data))


def datasets_pillow(folder: Path) -> Round:
    """HF `datasets`, an Arrow file with embedded bytes, its own `Image` features."""
    import datasets

    datasets.disable_progress_bars()
    place = folder / "hf"
    if not place.exists():
        features = datasets.Features(
            {"image": datasets.Image(), "mask": datasets.Image(), "record": datasets.Value("string")}
        )
        rows = [
            {"image": {"bytes": s["image"]}, "mask": {"bytes": s["mask"]}, "record": s["record"].decode()}
            for s in in_manifest_order(folder)
        ]
        datasets.Dataset.from_list(rows, features=features).save_to_disk(str(place))
    return epochs(loader(datasets.load_from_disk(str(place)), batch_size=BATCH, collate_fn=collate_datasets))


def collate_datasets(rows: list[dict[str, Any]]) -> Any:
    return collate(
        [(np.asarray(row["image"].convert("RGB")), np.asarray(row["mask"]), json.loads(row["record"])) for row in rows]
    )


def litdata_pillow(folder: Path) -> Round:
    """`litdata`, bytes in its own chunks, Pillow in the workers."""
    import litdata

    place = folder / "litdata"
    if not place.exists():
        rows = in_manifest_order(folder)
        litdata.optimize(
            fn=litdata_row, inputs=rows, output_dir=str(place), num_workers=1, chunk_bytes="64MB", verbose=False
        )
    data = litdata.StreamingDataset(str(place), shuffle=False)
    return epochs(
        litdata.StreamingDataLoader(
            data, batch_size=BATCH, num_workers=WORKERS, collate_fn=collate_bytes, persistent_workers=True
        )
    )


def litdata_row(row: dict[str, Any]) -> dict[str, Any]:
    return row


def collate_bytes(rows: list[dict[str, Any]]) -> Any:
    return collate([by_pillow(row["image"], row["mask"], row["record"]) for row in rows])


CONTESTANTS: dict[str, Callable[[Path], Round]] = {
    "webdataset + Pillow": webdataset_pillow,
    "webdataset .decode('rgb8')": webdataset_decode,
    "datasets": datasets_pillow,
    "litdata + Pillow": litdata_pillow,
    "ours, threads": ours("threads"),
    "ours, threads, verify=always": ours("threads", verify="always"),
    "ours, processes": ours("processes"),
}
NEEDS = {
    "webdataset + Pillow": ("webdataset", "torch"),
    "webdataset .decode('rgb8')": ("webdataset", "torch"),
    "datasets": ("datasets", "torch"),
    "litdata + Pillow": ("litdata",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm/bench"))
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contestant", default="")
    options = parser.parse_args()
    if options.contestant:
        main_of_contestant(CONTESTANTS, options.contestant, options.folder)
        return
    write_photographs(options.folder / "photos", options.count, SIDE)
    write_for_webdataset(options.folder)
    names = []
    for name in CONTESTANTS:
        sentence = missing_peer(*NEEDS.get(name, ()))
        if sentence:
            print(f"{name}: {sentence}")
        else:
            names.append(name)
    first = "webdataset + Pillow" if "webdataset + Pillow" in names else names[0]
    results = hold("benchmarks.reading", names, options.folder, rounds=options.rounds, first=first)
    print(f"{'decoded batches in order':<32} {'CPU ms/sample':>14} {'x ' + first:>22} {'worst round':>12}")
    for name, (seconds, ratio, worst) in results.items():
        print(f"{name:<32} {1000 * seconds:14.2f} {ratio:22.2f} {worst:12.2f}")


if __name__ == "__main__":
    main()
