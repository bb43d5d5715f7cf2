"""As many subjects as wanted to measure with: crops, flips and recolours of real photographs, new bytes each.

    python -m benchmarks.many_subjects FOLDER [--subjects 2000] [--photographs 5] [--side 256]

Photographs are those under DATAFORGE_TEST_DATA; without them, drawn things. A folder of folders with a subjects.csv;
the same arguments give the same bytes. For measuring only: what is made is never kept.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.photographs import DATA, drawn

__all__ = ["write_subjects"]

# photographs are read once at this side, so that a crop of them is made in a millisecond
READ_SIDE = 384


def _families(side: int) -> list[tuple[str, list[Image.Image]]]:
    """Class noun and photographs of each real subject."""
    nouns: dict[str, str] = {}
    table = DATA / "dreambench" / "subjects.csv"
    if table.is_file():
        with table.open(newline="") as file:
            nouns = {row["subject"]: row["class_noun"] for row in csv.DictReader(file)}
    families = []
    for name, noun in sorted(nouns.items()):
        images = []
        for path in sorted((DATA / "dreambench" / "subjects" / name).glob("*.jpg")):
            with Image.open(path) as image:
                images.append(image.convert("RGB").resize((READ_SIDE, READ_SIDE), Image.Resampling.BILINEAR))
        if images:
            families.append((noun, images))
    return families or [("ball", [Image.fromarray(drawn(seed, side)[0]) for seed in range(8)])]


def _variants(image: Image.Image, seed: int, side: int) -> Image.Image:
    """A crop of at least three quarters, perhaps flipped, its hue turned and its light changed."""
    rng = np.random.default_rng(seed)
    share = rng.uniform(0.75, 1.0)
    width = round(image.width * share)
    left, top = rng.integers(0, image.width - width + 1, 2)
    cut = image.resize((side, side), Image.Resampling.BILINEAR, (left, top, left + width, top + width))
    if rng.integers(2):
        cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    hue, saturation, value = cut.convert("HSV").split()
    turn, light = int(rng.integers(0, 256)), rng.uniform(0.85, 1.1)
    turned = hue.point([(level + turn) % 256 for level in range(256)])
    lit = value.point([min(255, round(level * light)) for level in range(256)])
    return Image.merge("HSV", (turned, saturation, lit)).convert("RGB")


def write_subjects(folder: Path, *, subjects: int, photographs: int = 5, side: int = 256) -> Path:
    """Write `subjects` folders of `photographs` JPEG files each, `side` x `side` pixels; returns the folder."""
    families = _families(side)
    rows = []
    for number in range(subjects):
        noun, images = families[number % len(families)]
        name = f"{noun.replace(' ', '-')}-{number:05}"
        rows.append((name, noun))
        (folder / name).mkdir(parents=True, exist_ok=True)
        for picture, seed in zip(range(photographs), _seeds(number), strict=False):
            made = _variants(images[picture % len(images)], seed, side)
            made.save(folder / name / f"{picture:02}.jpg", quality=90)
    with (folder / "subjects.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("subject", "class_noun"), *rows])
    return folder


def _seeds(number: int) -> Iterator[int]:
    yield from range(number * 1000, (number + 1) * 1000)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--subjects", type=int, default=2000)
    parser.add_argument("--photographs", type=int, default=5)
    parser.add_argument("--side", type=int, default=256)
    arguments = parser.parse_args()
    write_subjects(
        arguments.folder, subjects=arguments.subjects, photographs=arguments.photographs, side=arguments.side
    )
