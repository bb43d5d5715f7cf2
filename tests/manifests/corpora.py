"""Small corpora made straight through the writer, and edits of them that keep every digest in step."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from manifests.corpus import open_corpus
from manifests.ids import sample_id, sha256_hex
from manifests.pixels import box_from_mask, encode_image, encode_mask
from manifests.records import (
    Attribute,
    LedgerRow,
    MemberRef,
    Provenance,
    RegularPrompt,
    Sample,
    Score,
    Subject,
    SubjectAttribute,
    Word,
)
from manifests.writer import CorpusContent, UnpackedSample, commit_corpus, write_derived

SHARD_BYTES = 24 << 10


@dataclass(frozen=True)
class Made:
    """A sample with its bytes."""

    sample: Sample
    image: bytes
    mask: bytes

    @property
    def id(self) -> str:
        return self.sample.id

    def unpacked(self) -> UnpackedSample:
        return UnpackedSample(self.sample, lambda: self.image, lambda: self.mask)


def picture(seed: int, image_format: str = "webp") -> tuple[np.ndarray, bytes, str, np.ndarray]:
    """A tiny picture of 32 to 64 px, its bytes and format, and a mask that differs in every half of it."""
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(32, 65, 2))
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[4:20, 6:28] = rng.integers(0, 256, 3)
    mask = np.zeros((height, width), bool)
    mask[4:20, 6:28] = True
    mask[4:8, 6:10] = False
    if image_format == "webp":
        data, image_format = encode_image(pixels)
    else:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, {"jpg": "JPEG", "png": "PNG"}[image_format])
        data = buffer.getvalue()
    return pixels, data, image_format, mask


def make(owner: str, role: str, seed: int, *, split: str = "train", image_format: str = "webp", **more: Any) -> Made:
    """One sample of an owner; the seed decides its pixels and its ID."""
    _, data, image_format, mask = picture(seed, image_format)
    mask_png = encode_mask(mask)
    found = sha256_hex(b"as found " + data)
    step = Provenance(stage="segment", backend="embedded", model="", version="1", settings_digest="0" * 16, seed=seed)
    values: dict[str, Any] = {
        "id": sample_id(owner, role, found),
        "subject": owner,
        "role": role,
        "split": split,
        "class_noun": "mug",
        "width": mask.shape[1],
        "height": mask.shape[0],
        "box_xyxy": box_from_mask(mask),
        "box_score": 0.75,
        "other_boxes": ((0, 0, 3, 4),),
        "mask_area": float(mask.mean()),
        "mask_quality": 0.5,
        "flags": ("look",) if seed % 5 == 0 else (),
        "caption": f"a café mug № {seed}",
        "prompt": "a photo of {identifier} mug",
        "own_pixels": role == "reg",
        "attributes": (Attribute(category="colour", word="red", score=0.9, origin="source"),),
        "scores": (Score(name="sharpness", value=seed / 7),),
        "image": MemberRef(shard="", offset=0, length=len(data), format=image_format, sha256=sha256_hex(data)),
        "mask": MemberRef(shard="", offset=0, length=len(mask_png), format="png", sha256=sha256_hex(mask_png)),
        "source_uri": f"{owner}/{seed}.jpg",
        "source_sha256": "" if role == "reg" else found,
        "licence": "CC-BY-4.0",
        "parents": (),
        "provenance": (step,),
    }
    return Made(Sample(**(values | more)), data, mask_png)


def subject(name: str, photographs: Sequence[Made], regular: Sequence[Made] = (), **more: Any) -> Subject:
    """A subject of those photographs: one word all of them support, and one that only the first supports."""
    ids = tuple(sorted(made.id for made in photographs))

    def word(text: str, support: tuple[str, ...], origin: str = "source") -> SubjectAttribute:
        return SubjectAttribute(category="colour", word=text, score=0.8, origin=origin, sample_ids=support)

    values: dict[str, Any] = {
        "id": name,
        "name": name,
        "class_noun": "mug",
        "class_noun_origin": "folder",
        "status": "ok",
        "split": photographs[0].sample.split,
        "licence": "CC-BY-4.0",
        "credit": "",
        "consent": "",
        "instance_prompt": "a photo of {identifier} mug",
        "attributes": (word("red", ids), word("chipped", (photographs[0].id,)), word("teal", (), "candidate")),
        "regular_prompts": (
            RegularPrompt(prompt="a mug", template="a mug", words=(Word(category="colour", word="red"),), seed=1),
        ),
        "sample_ids": ids,
        "regular_ids": tuple(sorted(made.id for made in regular)),
        "scene_ids": (),
    }
    return Subject(**(values | more))


def ledger_row(made: Made) -> LedgerRow:
    sample = made.sample
    kind = "scene" if sample.role == "bg" else "photograph"
    return LedgerRow(
        path=sample.source_uri,
        kind=kind,
        status="accepted",
        subject="" if kind == "scene" else sample.subject,
        sample_id=sample.id,
        notes=("turned upright",),
        size=len(made.image),
        sha256=sample.source_sha256,
    )


def content(
    samples: Sequence[Made], subjects: Sequence[Subject], ledger: Sequence[LedgerRow], shard_bytes: int = SHARD_BYTES
) -> CorpusContent:
    """All that a corpus is made of, with the counts a build would write."""
    ordered = sorted(samples, key=lambda made: made.id)

    def unpacked() -> Iterator[UnpackedSample]:
        for made in ordered:
            yield made.unpacked()

    return CorpusContent(
        samples=unpacked,
        subjects=sorted(subjects, key=lambda row: row.id),
        ledger=ledger,
        recipe={"pack": {"shard_bytes": shard_bytes}},
        made_with={"dataforge": "0.1.0", "python": "3"},
        shard_bytes=shard_bytes,
    )


def small_content() -> CorpusContent:
    """Three subjects, thirteen samples: nine photographs, a scene, a regular picture of the first photograph and the
    scene, one made from that one, and one that belongs to a class and that two subjects share."""
    names = {"blue-mug": "train", "green-mug": "validation", "red-mug": "train"}
    formats = ("webp", "png", "jpg")
    photographs = {
        name: [make(name, "src", 10 * row + column, split=split, image_format=formats[column]) for column in range(3)]
        for row, (name, split) in enumerate(names.items())
    }
    scene = make("scenes", "bg", 50, provenance=(), prompt="", own_pixels=False)
    first = make("red-mug", "reg", 60, parents=(photographs["red-mug"][0].id, scene.id))
    second = make("red-mug", "reg", 61, parents=(first.id,))
    shared = make("class-mug", "reg", 62, own_pixels=False)
    subjects = [
        subject("blue-mug", photographs["blue-mug"], [shared]),
        subject("green-mug", photographs["green-mug"]),
        subject("red-mug", photographs["red-mug"], [first, second, shared], scene_ids=(scene.id,)),
    ]
    found = [made for several in photographs.values() for made in several] + [scene]
    copy = replace(ledger_row(photographs["red-mug"][0]), path="red-mug/copy.jpg", status="alias", notes=())
    bad = LedgerRow(
        path="red-mug/bad.jpg",
        kind="photograph",
        status="quarantined",
        subject="red-mug",
        code="E130",
        sentence="E130 truncated: cut at byte 12. Copy the photograph again.",
        size=12,
        sha256="ab" * 32,
    )
    ledger = sorted([*map(ledger_row, found), copy, bad], key=lambda row: row.path)
    return content([*found, first, second, shared], subjects, ledger)


def derive(root: Path) -> Path:
    """The fixed-name tables and the index of a committed corpus."""
    with open_corpus(root) as corpus:
        write_derived(root, corpus.samples())
    return root


def write_corpus(root: Path, what: CorpusContent) -> Path:
    """Commit a corpus and make its derived files."""
    commit_corpus(root, what)
    return derive(root)


def edit_header(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change corpus.json as an attacker would."""
    path = root / "corpus.json"
    value = json.loads(path.read_bytes())
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def edit_table(root: Path, which: str, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """Change rows of a committed table and put the new size, digest and row count into corpus.json."""
    table = pq.read_table(root / _header(root)[which]["path"])
    rows = table.to_pylist()
    change(rows)
    replace_table(root, which, pa.Table.from_pylist(rows, schema=table.schema))


def replace_table(root: Path, which: str, table: pa.Table | bytes) -> None:
    """Put another table, or any bytes, where a committed table is; corpus.json vouches for them."""
    path = root / _header(root)[which]["path"]
    if isinstance(table, bytes):
        path.write_bytes(table)
    else:
        pq.write_table(table, path)
    data = path.read_bytes()

    def change(header: dict[str, Any]) -> None:
        header[which] |= {"size": len(data), "sha256": sha256_hex(data)}
        if not isinstance(table, bytes):
            header[which]["rows"] = table.num_rows

    edit_header(root, change)


def _header(root: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((root / "corpus.json").read_bytes())
    return value


def committed_files(root: Path) -> list[Path]:
    """The tables and shards that corpus.json names."""
    header = _header(root)
    named = [header["manifest"], header["subjects"], header["ledger"], *header["shards"]]
    return [root / entry["path"] for entry in named]


def shards(root: Path) -> list[Path]:
    return [path for path in committed_files(root) if path.suffix == ".tar"]


def flip(path: Path, position: int, bit: int = 0) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)
