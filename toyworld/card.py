"""The model card: what was spent on the base model and how good it is.

    python -m toyworld.card RUN scores.json

fills `card.md.j2` from the accounts of a training run and from the scores that `toyworld.evaluate` wrote.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2
import torch

from toyworld import model
from toyworld.marks import SUBJECT_MARKS, TRAINING_MARKS
from toyworld.scenes import MARKED_SHARE
from toyworld.words import COLOURS, HELD_OUT, SEEN, SHAPES, SURFACES, TEXTURES

BANDS = ("24-46 px", "24-46 px, unseen", "12-24 px")


def card(run: Path, scores: dict[str, Any], base: Path, notes: str = "") -> str:
    """The text of the card."""
    state = torch.load(run / "denoiser.pt", map_location="cpu", weights_only=True)
    _, samples, seconds = state["spent"].sum(0).tolist()
    history = state["history"]
    environment = jinja2.Environment(undefined=jinja2.ChainableUndefined, keep_trailing_newline=True)
    environment.filters |= {"share": _share, "listed": _listed}
    template = environment.from_string(Path(__file__).with_name("card.md.j2").read_text("utf-8"))
    return template.render(
        megabytes=sum(path.stat().st_size for path in base.rglob("*") if path.is_file()) / 1e6,
        shapes=SHAPES,
        colours=COLOURS,
        textures=TEXTURES,
        surfaces=SURFACES,
        decoder=torch.load(run / "decoder.pt", map_location="cpu", weights_only=True),
        samples=int(samples),
        seconds=seconds,
        workers=len(state["spent"]),
        seen=len(SEEN),
        held_out=len(HELD_OUT),
        marks=len(TRAINING_MARKS),
        marked=MARKED_SHARE,
        subject_marks=len(SUBJECT_MARKS),
        history=history[:: max(1, len(history) // 12)],
        scores=scores,
        bands=BANDS,
        notes=notes,
    )


def _share(found: dict[str, Any]) -> str:
    return f"{found['share']:.3f} ({found['low']:.3f}-{found['high']:.3f})"


def _listed(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}"


def main() -> None:
    """Write the card beside the base model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("scores", type=Path)
    parser.add_argument("--base", type=Path, default=model.BASE)
    parser.add_argument("--notes", default="", help="a paragraph on what was out of the ordinary")
    options = parser.parse_args()
    scores = json.loads(options.scores.read_text("utf-8"))
    (options.base / "README.md").write_text(card(options.run, scores, options.base, options.notes), "utf-8")


if __name__ == "__main__":
    main()
