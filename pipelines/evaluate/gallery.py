"""The pictures of a report: pairs spread over all subjects, each with scene, thing, and what every method made."""

from __future__ import annotations

import base64
import io
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from manifests.corpus import Corpus
from manifests.pixels import ImageArray
from manifests.records import Box
from pipelines.evaluate.items import REAL, PairReader
from pipelines.evaluate.pairs import View
from pipelines.evaluate.scoring import Scored

__all__ = ["MOST", "below", "cut", "gallery"]

MOST = 60
_SIDE = 200


def gallery(scored: Sequence[Scored], corpus: Corpus, folder: Path) -> list[dict[str, Any]]:
    """At most `MOST` pairs, evenly over all there are; of each method the first seed's picture with its scores."""
    by_group: dict[tuple[str, str], dict[str, Scored]] = defaultdict(dict)
    for one in scored:
        if one.item.method != REAL:
            shown = by_group[one.item.task, one.item.group].get(one.item.method)
            if shown is None or one.item.seed < shown.item.seed:
                by_group[one.item.task, one.item.group][one.item.method] = one
    groups = sorted(by_group.items())
    groups = [groups[number * len(groups) // MOST] for number in range(MOST)] if len(groups) > MOST else groups
    read = PairReader(corpus)
    return [
        {
            "task": task,
            "name": group,
            "prompt": next(iter(results.values())).item.prompt,
            "given": _given(read, next(iter(results.values()))),
            "results": [
                {"method": method, "image": below(folder, one.item.image), "seed": one.item.seed,
                 "scores": {name: value for name, value in one.scores.items() if not math.isnan(value)}}
                for method, one in results.items()
            ],
        }
        for (task, group), results in groups
    ]  # fmt: skip


def below(folder: Path, image: str) -> str:
    """A picture's path relative to the folder of the report."""
    return Path(image).resolve().relative_to(folder.resolve()).as_posix()


def cut(view: View) -> ImageArray:
    """The box of a photograph: where several things stand in it, this one is meant."""
    x0, y0, x1, y1 = view.box
    return view.image[y0:y1, x0:x1]


def _given(read: PairReader, one: Scored) -> list[tuple[str, str]]:
    """The thing, and the scene before with the box that was painted, as (caption, small picture)."""
    pair = read(one.item)
    found = [("the thing", _small(cut(pair.references[0])))] if pair.references else []
    return found + ([] if pair.scene is None else [("the scene", _small(pair.scene, one.item.box))])


def _small(image: ImageArray, box: Box | None = None) -> str:
    picture = Image.fromarray(image)
    if box is not None:
        width = max(2, max(picture.size) // 100)
        ImageDraw.Draw(picture).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline=(220, 50, 50), width=width)
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
