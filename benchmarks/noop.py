"""Stages that compute nothing: what is left is what the build itself costs, in memory and in time."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dataforge.executor import Resources, UnitResult
from dataforge.store import Made, write_part
from dataforge.units import Unit, UnitFunction
from manifests.pixels import encode_mask

__all__ = ["NoopExecutor", "write_names"]

SIDE = 16
WORDS = {
    "colour": ("red", "blue", "green", "white", "black", "brown", "yellow", "grey"),
    "material": ("wooden", "metal", "plastic", "glass"),
    "pattern": ("plain", "striped", "dotted", "chequered"),
    "shape": ("round", "long"),
}


def write_names(folder: Path, *, subjects: int, photographs: int = 5) -> Path:
    """A folder of folders whose photographs are a few bytes each: `NoopExecutor` never opens them."""
    for number in range(subjects):
        subject = folder / f"thing-{number:05}"
        subject.mkdir(parents=True)
        for picture in range(photographs):
            (subject / f"photograph {picture}.jpg").write_bytes(f"{number} {picture}".encode())
    return folder


class NoopExecutor:
    """Answers every unit in this process with results of the right shape, made up from the task's key."""

    def map_units(self, fn: UnitFunction, units: Iterable[Unit], resources: Resources) -> Iterator[UnitResult]:
        """Results in the order of the units; parts are written as workers write them."""
        del resources
        for unit in units:
            if fn.stage == "compose":  # no model and no pixels: nearly nothing as it is
                rows: list[Any] = [
                    (task["key"], made) for task, made in zip(unit["tasks"], fn.compute(unit), strict=True)
                ]
            else:
                rows = [(task["key"], _made(fn.stage, task["key"], task["input"])) for task in unit["tasks"]]
            yield UnitResult(unit, write_part(Path(fn.work), fn.stage, unit["serial"], rows))

    def release(self) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing to end."""


@cache
def _mask() -> bytes:
    pixels = np.zeros((SIDE, SIDE), bool)
    pixels[4:12, 4:12] = True
    return encode_mask(pixels)


def _picture(key: str) -> bytes:
    """A PNG of one colour: quick to write, and decodable for the report."""
    out = io.BytesIO()
    colour = tuple(hashlib.sha256(key.encode()).digest()[:3])
    Image.new("RGB", (SIDE, SIDE), colour).save(out, "png", compress_level=1)
    return out.getvalue() + key.encode()  # new bytes for each; decoders stop at the end of the picture


def _made(stage: str, key: str, given: dict[str, Any]) -> Made:
    by = ["none", "", "1"]
    if stage == "ground":
        items = [{"box": [4, 4, 12, 12], "score": 0.7, "other_boxes": []} for _ in given["photos"]]
        return Made({"items": items, "by": by})
    digest = hashlib.sha256(key.encode()).hexdigest()
    if stage == "ingest":
        facts = {"sha256": digest, "format": "png", "width": SIDE, "height": SIDE, "notes": []}
        return Made({**facts, "perceptual_hash": digest[:16]}, {"image": _picture(key)})
    if stage == "segment":
        # as many numbers as the embedded segmenter gives: what a build would keep of them shows in its memory
        scores = {f"measure_{number}": int(digest[number : number + 8], 16) / 2**32 for number in range(19)}
        facts = {"quality": 0.9, "scores": scores, "flags": [], "area": 0.25, "box": [4, 4, 12, 12]}
        items = [{**facts, "rival": [4, 12] * 100} for _ in given["photos"]]
        return Made({"items": items, "by": by}, {str(number): _mask() for number in range(len(items))})
    if stage == "describe":
        ids = [photo["id"] for photo in given["photos"]]
        number = int(digest[:4], 16)
        words = [
            {"category": category, "word": word, "score": 0.9, "origin": "source", "sample_ids": ids}
            for category, word in ((name, words[number % len(words)]) for name, words in WORDS.items())
        ]
        captions = dict.fromkeys(ids, "a striped red wooden thing that lies there")
        return Made({"words": words, "captions": captions, "by": by})
    assert stage == "generate", stage
    facts = {"format": "png", "width": SIDE, "height": SIDE, "area": 0.25, "box": [4, 4, 12, 12], "by": by}
    parents = [photo["id"] for photo in given["photos"]]
    more = {"parents": parents, "scores": {"change": 0.5}, "perceptual_hash": digest[:16]}
    return Made({**facts, **more}, {"image": _picture(key), "mask": _mask()})
