"""Shared by all tests: small photographs drawn in code, and a digest of a whole folder."""

from __future__ import annotations

import gc
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

# workers inherit it: two threads on a busy two-core machine are many times slower
os.environ["OMP_NUM_THREADS"] = "1"

REPOSITORY = Path(__file__).parent.parent
COLOURS = {
    "red": (200, 30, 40),
    "blue": (40, 60, 200),
    "green": (40, 150, 60),
    "yellow": (230, 200, 40),
    "brown": (120, 70, 30),
}


def pytest_collection_finish() -> None:
    """A stage that ends collects garbage: what the tests import need not be gone through each time."""
    gc.collect()
    gc.freeze()


def draw_photograph(path: Path, *, colour: tuple[int, int, int], seed: int, size: int = 128) -> None:
    """A round, shaded thing of one colour on a noisy background; the file is a JPEG of that size."""
    rng = np.random.default_rng(seed)
    background = rng.integers(90, 190, 3)
    pixels = np.clip(background + rng.normal(0, 12, (size, size, 3)), 0, 255).astype(np.uint8)
    image = Image.fromarray(pixels)
    x, y = rng.integers(size // 4, size // 2, 2)
    radius = int(rng.integers(size // 5, size // 4))
    draw = ImageDraw.Draw(image)
    draw.ellipse((x - radius // 2, y - radius // 2, x + 3 * radius // 2, y + 3 * radius // 2), fill=colour)
    draw.ellipse((x, y, x + radius // 3, y + radius // 3), fill=tuple(min(255, c + 50) for c in colour))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=90)


def draw_mask(path: Path, size: int = 128) -> None:
    """A 1-bit mask of a rectangle of 60x60 pixels."""
    mask = np.zeros((size, size), bool)
    mask[30:90, 40:100] = True
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)


def draw_subjects(folder: Path, *, subjects: int = 4, photographs: int = 5, size: int = 128) -> Path:
    """A folder of folders: `subjects` things with `photographs` pictures each."""
    for number, (name, colour) in zip(range(subjects), (list(COLOURS.items()) * 20), strict=False):
        for picture in range(photographs):
            path = folder / f"{name}_ball{number}" / f"{picture}.jpg"
            draw_photograph(path, colour=colour, seed=100 * number + picture, size=size)
    return folder


def tree_digest(root: Path) -> dict[str, str]:
    """sha256 of every file of a corpus by path, the work folder left out."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and ".work" not in path.relative_to(root).parts
    }


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Real photographs, where they are; tests that need them are skipped elsewhere."""
    folder = Path(os.environ.get("DATAFORGE_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "dreambench").is_dir():
        pytest.skip(f"no test photographs at DATAFORGE_TEST_DATA or {folder.name}")
    return folder
