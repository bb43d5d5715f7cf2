"""Static pages: the tour with every step's pictures and the way back from one of them, and the study's table."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from manifests.corpus import Corpus, open_corpus
from manifests.fsops import write_atomic
from manifests.pixels import ImageArray, MaskArray, encode_image
from manifests.tracing import trace_composite
from tour.questions import QUESTIONS
from tour.reading import Reading, shares
from tour.study import COLUMNS, Answer
from tour.walk import DREAMMIX, PAINTING, TRAINING, Walk, prompt_of

__all__ = ["write_page", "write_study"]

ORANGE = np.array([255, 120, 0], np.uint8)


def write_page(made: Walk, readings: Sequence[Reading], real_corpus: Path | None = None) -> Path:
    """Write `index.html` and its pictures beside the rest of the tour; returns its path."""
    pictures = made.root / "pictures"
    pictures.mkdir(exist_ok=True)
    with open_corpus(str(made.corpus)) as corpus:
        subjects = [_subject(made, corpus, subject.name, readings, pictures) for subject in made.subjects]
        digest = corpus.digest
        counts = corpus.header.counts
    traced = trace_composite(made.painted, readings[-1].row.id) if readings else None
    return _write(
        made.root,
        "tour.html",
        subjects=subjects,
        shares=shares(readings),
        seconds=made.seconds,
        digest=digest,
        counts=counts,
        traced=traced,
        example=readings[-1] if readings else None,
        training=_settings(_of_training(subjects[0]["adapter"]["settings"])),
        painting=_settings(PAINTING),
        prompt=prompt_of("blue"),
        real=os.path.relpath(real_corpus / "report" / "index.html", made.root) if real_corpus else "",
    )


def _settings(values: Mapping[str, Any]) -> str:
    return " ".join(f"--set {name}={json.dumps(value)}" for name, value in values.items())


def _of_training(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """What the tour sets of what an adapter's record keeps; the rest is the recipe's own."""
    return {name: resolved[name] for name in (*TRAINING, *DREAMMIX) if name in resolved}


def write_study(root: Path, answers: Sequence[Answer], *, subjects: int, seeds: int) -> Path:
    """Write the study's `index.html`; returns its path."""
    return _write(
        root,
        "study.html",
        questions=[
            (name, QUESTIONS[name], list(those)) for name, those in groupby(answers, lambda answer: answer.question)
        ],
        columns=list(COLUMNS),
        subjects=subjects,
        seeds=seeds,
        number=lambda value, column: f"{value:.1f}" if column == "error" else f"{value:.2f}",
        signed=lambda value, column: f"{value:+.1f}" if column == "error" else f"{value:+.2f}",
    )


def _write(root: Path, template: str, **values: Any) -> Path:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tour"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    page = root / "index.html"
    write_atomic(page, environment.get_template(template).render(**values).encode())
    return page


def _subject(made: Walk, corpus: Corpus, name: str, readings: Sequence[Reading], pictures: Path) -> dict[str, Any]:
    subject = corpus.subjects[name]
    record = json.loads((made.adapters / name / "adapter.json").read_text("utf-8"))
    own = [reading for reading in readings if reading.row.subject == name]
    photographs = []
    for number, sample_id in enumerate(subject.sample_ids):
        image = corpus.image(sample_id)
        photographs.append(_save(pictures / f"{name}-{number}.webp", image))
        if number == 0:
            photographs.append(_save(pictures / f"{name}-mask.webp", _outlined(image, corpus.mask(sample_id))))
    return {
        "id": name,
        "class_noun": subject.class_noun,
        "words": [word for word in subject.attributes if word.origin == "source"],
        "photographs": photographs,
        "regular": [
            {
                "path": _save(pictures / f"{name}-regular-{number}.webp", corpus.image(sample_id)),
                "prompt": corpus[sample_id].prompt,
            }
            for number, sample_id in enumerate(subject.regular_ids[:10])
        ],
        "adapter": record,
        "losses": _line(_smooth([row["subjects"][name]["loss"] for row in _log(made.adapters, name)])),
        "painted": own,
    }


def _save(path: Path, image: ImageArray) -> str:
    data, _ = encode_image(image)
    write_atomic(path, data)
    return f"{path.parent.name}/{path.name}"


def _outlined(image: ImageArray, mask: MaskArray) -> ImageArray:
    """The picture with everything outside the mask dimmed and its edge drawn."""
    inside = mask.astype(bool)
    padded = np.pad(inside, 1)
    core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:] & inside
    shown = np.where(inside[..., None], image, image // 3)
    shown[inside & ~core] = ORANGE
    return shown


def _log(adapters: Path, name: str) -> Iterator[dict[str, Any]]:
    for path in sorted(adapters.glob(".work/runs/*/log.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            row = json.loads(line)
            if name in row.get("subjects", {}):
                yield row


def _smooth(values: Iterable[float], share: float = 0.9) -> list[float]:
    smooth: list[float] = []
    for value in values:
        smooth.append(share * smooth[-1] + (1 - share) * value if smooth else value)
    return smooth


def _line(values: Sequence[float], width: int = 240, height: int = 48) -> str:
    """Points of an SVG polyline."""
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return " ".join(
        f"{width * at / (len(values) - 1):.1f},{height - 4 - (height - 8) * (value - low) / span:.1f}"
        for at, value in enumerate(values)
    )
