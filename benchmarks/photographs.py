"""A corpus of many photographs to measure with: real ones made unlike each other by sensor noise, or drawn ones.

    python -m benchmarks.photographs FOLDER [--count 2000] [--side 512]

Photographs are those under DATAFORGE_TEST_DATA; without them, shaded things on noise. JPEG quality 91, 1-bit masks,
records as a build writes them. The same arguments give the same corpus.
"""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from manifests.corpus import open_corpus
from manifests.ids import sample_id, sha256_hex
from manifests.pixels import ImageArray, MaskArray, box_from_mask, encode_mask
from manifests.records import (
    Attribute,
    LedgerRow,
    MemberRef,
    Provenance,
    Sample,
    Score,
    Subject,
    SubjectAttribute,
)
from manifests.writer import CorpusContent, UnpackedSample, commit_corpus, write_derived

DATA = Path(os.environ.get("DATAFORGE_TEST_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
PER_SUBJECT = 20


def sources(side: int) -> list[tuple[ImageArray, MaskArray]]:
    """Photographs with their masks, `side` x `side`."""
    found: list[tuple[ImageArray, MaskArray]] = []
    pairs = [
        (path, DATA / "dreambench" / "masks" / path.parent.name / f"{path.stem}.png")
        for path in sorted(DATA.glob("dreambench/subjects/*/*.jpg"))
    ] + [(path, path.with_suffix(".png")) for path in sorted(DATA.glob("murecom/*/fg*/*.jpg"))]
    for path, mask_path in pairs:
        if mask_path.is_file():
            with Image.open(path) as image, Image.open(mask_path) as mask:
                pixels = np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS))
                found.append((pixels, np.asarray(mask.convert("L").resize((side, side))) > 127))
    return [pair for pair in found if pair[1].any()] or [drawn(number, side) for number in range(40)]


def drawn(seed: int, side: int) -> tuple[ImageArray, MaskArray]:
    """A thing drawn on a shaded background, where there are no photographs."""
    rng = np.random.default_rng(seed)
    shade = np.linspace(0, 80, side)[:, None, None] + rng.integers(40, 140, 3)
    image = Image.fromarray(np.broadcast_to(shade, (side, side, 3)).astype(np.uint8))
    mask = Image.new("L", (side, side))
    points = [
        (side / 2 + radius * np.cos(angle), side / 2 + radius * np.sin(angle))
        for angle, radius in zip(np.linspace(0, 6.28, 40), rng.uniform(side / 5, side / 3, 40), strict=True)
    ]
    ImageDraw.Draw(image).polygon(points, fill=tuple(int(value) for value in rng.integers(0, 256, 3)))
    ImageDraw.Draw(mask).polygon(points, fill=255)
    return np.asarray(image), np.asarray(mask) > 127


def photographs(count: int, side: int) -> Iterator[tuple[str, bytes, MaskArray]]:
    """Owner, JPEG bytes and mask of each."""
    given = sources(side)
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels, mask = given[number % len(given)]
        noisy = np.clip(pixels + rng.normal(0, 4.5, pixels.shape), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noisy).save(buffer, "JPEG", quality=91)
        yield f"thing-{number // PER_SUBJECT:05d}", buffer.getvalue(), mask


def record(owner: str, image: bytes, mask: MaskArray, mask_png: bytes, number: int) -> Sample:
    """A row as a build writes it."""
    found = sha256_hex(image)

    def step(stage: str, backend: str) -> Provenance:
        return Provenance(
            stage=stage, backend=backend, model="", version="3", settings_digest="0123456789abcdef", seed=0
        )

    return Sample(
        id=sample_id(owner, "src", found),
        subject=owner,
        role="src",
        split="train",
        class_noun="thing",
        width=mask.shape[1],
        height=mask.shape[0],
        box_xyxy=box_from_mask(mask),
        box_score=0.82,
        other_boxes=(),
        mask_area=float(mask.mean()),
        mask_quality=0.9,
        flags=(),
        caption=f"a photo of a red glossy round thing, number {number}",
        prompt="a photo of {identifier} thing",
        own_pixels=False,
        attributes=(
            Attribute(category="colour", word="red", score=0.9, origin="source"),
            Attribute(category="texture", word="glossy", score=0.6, origin="source"),
        ),
        scores=(Score(name="sharpness", value=0.51),),
        image=MemberRef(shard="", offset=0, length=len(image), format="jpg", sha256=found),
        mask=MemberRef(shard="", offset=0, length=len(mask_png), format="png", sha256=sha256_hex(mask_png)),
        source_uri=f"{owner}/{number}.jpg",
        source_sha256=found,
        licence="CC-BY-4.0",
        parents=(),
        provenance=(step("ground", "embedded"), step("segment", "embedded"), step("describe", "embedded")),
    )


def subject(owner: str, samples: list[Sample]) -> Subject:
    """The row of the one who owns these samples."""
    ids = tuple(sorted(sample.id for sample in samples))
    return Subject(
        id=owner,
        name=owner,
        class_noun="thing",
        class_noun_origin="folder",
        status="ok",
        split="train",
        licence="CC-BY-4.0",
        credit="",
        consent="",
        instance_prompt="a photo of {identifier} thing",
        attributes=(SubjectAttribute(category="colour", word="red", score=0.9, origin="source", sample_ids=ids),),
        regular_prompts=(),
        sample_ids=ids,
        regular_ids=(),
        scene_ids=(),
    )


def write_photographs(root: Path, count: int = 2000, side: int = 512, shard_bytes: int = 64 << 20) -> Path:
    """Write the corpus (once: a folder that already holds one is taken as it is)."""
    if (root / "corpus.json").exists():
        return root
    made: list[tuple[Sample, bytes, bytes]] = []
    for number, (owner, image, mask) in enumerate(photographs(count, side)):
        mask_png = encode_mask(mask)
        made.append((record(owner, image, mask, mask_png, number), image, mask_png))
    commit(root, made, shard_bytes)
    return root


def commit(root: Path, made: list[tuple[Sample, bytes, bytes]], shard_bytes: int) -> None:
    """Commit samples with their bytes, and make the derived files."""
    made = sorted(made, key=lambda item: item[0].id)
    by_owner: dict[str, list[Sample]] = {}
    for sample, _, _ in made:
        by_owner.setdefault(sample.subject, []).append(sample)

    def unpacked() -> Iterator[UnpackedSample]:
        for sample, image, mask in made:
            yield UnpackedSample(sample, lambda image=image: image, lambda mask=mask: mask)

    ledger = [
        LedgerRow(
            path=sample.source_uri,
            kind="photograph",
            status="accepted",
            subject=sample.subject,
            sample_id=sample.id,
            size=len(image),
            sha256=sample.source_sha256,
        )
        for sample, image, _ in made
    ]
    content = CorpusContent(
        samples=unpacked,
        subjects=[subject(owner, samples) for owner, samples in sorted(by_owner.items())],
        ledger=sorted(ledger, key=lambda row: row.path),
        recipe={},
        made_with={"dataforge": "benchmark"},
        shard_bytes=shard_bytes,
    )
    commit_corpus(root, content)
    with open_corpus(root) as corpus:
        write_derived(root, corpus.samples())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--side", type=int, default=512)
    options = parser.parse_args()
    write_photographs(options.folder, options.count, options.side)
