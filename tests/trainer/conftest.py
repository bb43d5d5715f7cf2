"""A corpus of drawn things made straight through the writer, tiny bases, and jobs opened the way `train` opens them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from manifests.ids import sha256_hex
from manifests.pixels import box_from_mask, encode_image, encode_mask
from manifests.records import Attribute, MemberRef
from tests.manifests import corpora
from tests.manifests.corpora import Made
from tests.tiny_models import session_folder, tiny
from trainer.job import Job

torch.set_num_threads(1)

SIZE = 72
COLOURS = {"red": (200, 30, 40), "blue": (40, 60, 200), "green": (40, 150, 60), "yellow": (230, 200, 40)}


def drawn(
    owner: str, role: str, seed: int, colour: str, *, own_pixels: bool = False, size: int = SIZE, **more: Any
) -> Made:
    """A round thing of a colour on a noisy ground, larger than 64 px so that crops differ."""
    rng = np.random.default_rng(seed)
    height, width = size, size + 24
    image = Image.fromarray(rng.integers(90, 190, (height, width, 3), dtype=np.uint8))
    mask = Image.new("1", (width, height))
    x, y = (int(v) for v in rng.integers(20, 32, 2))
    for canvas, fill in ((image, COLOURS[colour]), (mask, 1)):
        ImageDraw.Draw(canvas).ellipse((x, y, x + 28, y + 24), fill=fill)
    pixels, shape = np.asarray(image), np.asarray(mask)
    data, image_format = encode_image(pixels)
    mask_png = encode_mask(shape)
    found = sha256_hex(data)
    prompt = {"src": "a photo of {identifier} ball", "reg": f"a photo of a {colour} ball", "bg": ""}[role]
    made = corpora.make(owner, role, seed)
    facts: dict[str, Any] = {
        "id": f"{owner}/{role}-{found[:12]}",
        "class_noun": "ball",
        "width": width,
        "height": height,
        "box_xyxy": box_from_mask(shape),
        "mask_area": float(shape.mean()),
        "prompt": prompt,
        "own_pixels": own_pixels,
        "attributes": (Attribute(category="colour", word=colour, score=0.9, origin="source"),),
        "image": MemberRef(shard="", offset=0, length=len(data), format=image_format, sha256=sha256_hex(data)),
        "mask": MemberRef(shard="", offset=0, length=len(mask_png), format="png", sha256=sha256_hex(mask_png)),
        "source_sha256": "" if role == "reg" else found,
        "parents": (),
    }
    return Made(dataclasses.replace(made.sample, **(facts | more)), data, mask_png)


def write_balls(root: Path, subjects: int = 2, photographs: int = 2) -> Path:
    """Subjects `red-ball`, `blue-ball` and so on: photographs, one regular picture of own pixels each, and two
    regular pictures of the class that all share."""
    shared = [drawn("class-ball", "reg", 900 + n, colour) for n, colour in enumerate(("green", "blue"))]
    everything, rows, ledger = [*shared], [], []
    for number, colour in zip(range(subjects), COLOURS, strict=False):
        name = f"{colour}-ball"
        found = [drawn(name, "src", 100 * number + n, colour) for n in range(photographs)]
        own = drawn(name, "reg", 100 * number + 50, "green", own_pixels=True, parents=(found[0].id,))
        everything += [*found, own]
        rows.append(
            corpora.subject(
                name,
                found,
                [own, *shared],
                class_noun="ball",
                instance_prompt="a photo of {identifier} ball",
                attributes=(),
            )
        )
        ledger += [corpora.ledger_row(made) for made in found]
    what = corpora.content(everything, rows, sorted(ledger, key=lambda row: row.path))
    return corpora.write_corpus(root, what)


def speck(side: int, *, size: int = 1) -> Made:
    """A square photograph of the red ball whose object is a square of `size` px in a large grey frame."""
    mask = np.zeros((side, side), bool)
    mask[side // 2 + 1 :, side // 2 + 3 :][:size, :size] = True
    data, image_format = encode_image(np.full((side, side, 3), 90, np.uint8))
    shape = encode_mask(mask)
    made = drawn("red-ball", "src", 77, "red")
    sample = dataclasses.replace(
        made.sample,
        id=f"red-ball/src-{sha256_hex(data)[:12]}",
        width=side,
        height=side,
        image=MemberRef(shard="", offset=0, length=len(data), format=image_format, sha256=sha256_hex(data)),
        mask=MemberRef(shard="", offset=0, length=len(shape), format="png", sha256=sha256_hex(shape)),
    )
    return Made(sample, data, shape)


def write_red_ball(root: Path, *photographs: Made) -> Path:
    """The red ball alone, of these photographs."""
    row = corpora.subject("red-ball", list(photographs), class_noun="ball")
    ledger = sorted(map(corpora.ledger_row, photographs), key=lambda line: line.path)
    return corpora.write_corpus(root, corpora.content(list(photographs), [row], ledger))


@cache
def place_of(kind: str) -> str:
    """Where a tiny base lies; `sdxl4+fooocus` is SDXL with a tiny Fooocus patch and head."""
    plain, mark, _ = kind.partition("+fooocus")
    if not mark:
        return str(tiny(kind))
    from pipelines import backbones
    from tests.pipelines.test_backbones import write_fooocus

    folder = session_folder() / "fooocus"
    write_fooocus(folder, backbones.load(tiny(plain)).unet, strength=0.02)
    return f"{tiny(plain)}+fooocus={folder}"


@pytest.fixture(scope="session")
def balls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of two subjects; read only."""
    return write_balls(tmp_path_factory.mktemp("balls") / "corpus")


# small enough that a step takes a few hundredths of a second
QUICK: dict[str, Any] = {
    "resolution": 64,
    "variants": 2,
    "regular_variants": 2,
    "max_train_steps": 3,
    "gradient_accumulation_steps": 1,
    "checkpointing_steps": 2,
}


@pytest.fixture
def open_job(balls: Path, tmp_path: Path) -> Iterator[Any]:
    """`open_job(recipe, base_kind, **settings)`: a job on the balls, its bank filled."""
    jobs: list[Job] = []

    def opened(
        recipe: str, kind: str = "sd9", *, corpus: str | None = None, bank: Path | None = None, **more: Any
    ) -> Job:
        job = Job.open(
            corpus or balls, recipe, tiny(kind), tmp_path / f"out{len(jobs)}", settings={**QUICK, **more}, bank=bank
        )
        jobs.append(job)
        job.prepare(lambda *_: None)
        return job

    yield opened
    for job in jobs:
        job.__exit__()
