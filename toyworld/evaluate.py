"""Score a base model with the judge: what it paints for captions it has not met, with intervals.

    python -m toyworld.evaluate --out scores.json --grid grid.png

Every case is an empty scene, a box drawn without regard to the shape asked for, and a caption. The model paints through
the stock pipeline; what lies outside the box is put back from the scene, as every painter here does. Beside the scores
stand the judge's own accuracy on renders and on renders that went through the autoencoder: no score can be trusted
further than those.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import typer
from PIL import Image as PillowImage
from rich.progress import track

from toyworld import judge as judging
from toyworld import model
from toyworld.marks import SUBJECT_MARKS, TRAINING_MARKS, Mark
from toyworld.render import Bits, Box, Image, render
from toyworld.scenes import generator, random_scene
from toyworld.subjects import emptied
from toyworld.words import HELD_OUT, IDENTIFIERS, SEEN, Combination, caption

STEPS, GUIDANCE = 12, 3.0
BATCH = 20
_PAINTED = 24  # grey levels: what differs more from the empty scene was painted as the thing
QUESTIONS = ("shape", "colour", "texture")


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked for: an empty scene, where, in what words, and what shall then be seen."""

    image: Image
    box: Box
    caption: str
    truth: Combination
    mark: str = ""


def case(
    stream: str,
    number: int,
    sides: tuple[int, int],
    among: Sequence[Combination],
    mark: Mark | None = None,
    word: str = "",
) -> Case:
    """Draw one: a square box with a side in `sides` (pixels, both included), anywhere, on odd and even pixels alike."""
    rng = generator(0, stream, number)
    shape, colour, texture = among[int(rng.integers(len(among)))]
    side = int(rng.integers(sides[0], sides[1], endpoint=True))
    scene = random_scene(rng, (shape, colour, texture), 0.9 * side, 64, mark)
    view = scene.things[-1].view
    left, top = (int(np.clip(round(middle - side / 2), 0, 64 - side)) for middle in (view.x, view.y))
    said = caption(shape, colour, texture, surface=scene.backdrop.surface if rng.random() < 0.5 else "")
    if mark is not None or word:
        said = caption(shape, colour, "", mark.name if mark else word)
    box = (left, top, left + side, top + side)
    return Case(render(emptied(scene)).image, box, said, (shape, colour, texture), mark.name if mark else "")


def paint(
    painter: Any,
    cases: Sequence[Case],
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    first_seed: int = 0,
) -> list[Image]:
    """Paint each case from noise of its own; the scene outside the box is as it was."""
    painted: list[Image] = []
    for first in range(0, len(cases), BATCH):
        some = cases[first : first + BATCH]
        out = painter(
            prompt=[each.caption for each in some],
            image=[PillowImage.fromarray(each.image) for each in some],
            mask_image=[PillowImage.fromarray(box_mask(each).astype(np.uint8) * 255) for each in some],
            height=some[0].image.shape[0],
            width=some[0].image.shape[1],
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(first_seed + first + at) for at in range(len(some))],
            output_type="np",
        ).images
        for each, whole in zip(some, (out * 255).round().astype(np.uint8), strict=True):
            painted.append(np.where(box_mask(each)[..., None], whole, each.image))
    return painted


def paint_in_processes(base: Path, cases: Sequence[Case], steps: int, guidance: float, workers: int) -> list[Image]:
    """What `paint` gives, computed by several processes."""
    starts = range(0, len(cases), BATCH)
    # sessions of their own: Linux shares time between sessions first
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), os.setsid) as pool:
        jobs = [pool.submit(_paint_some, base, cases[at : at + BATCH], steps, guidance, at) for at in starts]
        return [image for job in track(jobs, "paint") for image in job.result()]


@cache
def _painter(base: Path) -> Any:
    torch.set_num_threads(1)
    return model.load(base)


def _paint_some(base: Path, cases: Sequence[Case], steps: int, guidance: float, first_seed: int) -> list[Image]:
    return paint(_painter(base), cases, steps, guidance, first_seed)


def box_mask(asked: Case) -> Bits:
    """The box as a mask [H, W]."""
    mask = np.zeros(asked.image.shape[:2], np.bool_)
    x0, y0, x1, y1 = asked.box
    mask[y0:y1, x0:x1] = True
    return mask


def painted_thing(asked: Case, image: Image) -> Bits:
    """The pixels taken for the thing: the largest connected piece that differs from the empty scene, holes filled."""
    differs = np.abs(image.astype(np.int16) - asked.image).max(2) > _PAINTED
    count, labels, stats, _ = cv2.connectedComponentsWithStats(differs.astype(np.uint8), connectivity=4)
    if count < 2:
        return np.zeros(differs.shape, np.bool_)
    largest = (labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())).astype(np.uint8)
    outlines, _ = cv2.findContours(largest, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled: Bits = cv2.drawContours(largest, outlines, -1, 1, cv2.FILLED).astype(np.bool_)
    return filled


def halo(asked: Case, image: Image) -> tuple[float, float]:
    """How visible the box is, in grey levels.

    First the mean difference to the empty scene inside the box, two pixels and more away from the thing painted and
    from the shadow at its foot; then how much larger the step over the box's border is than it was in the empty scene.
    The grain of grass and sand cannot be guessed, so the first is not nought for a perfect model either.
    """
    inside, difference = box_mask(asked), np.abs(image.astype(np.float32) - asked.image).mean(2)
    thing = cv2.dilate(painted_thing(asked, image).astype(np.uint8), np.ones((5, 5), np.uint8))
    thing[1:] |= thing[:-1]
    thing[3:] |= thing[:-3]
    free = inside & (thing == 0)
    x0, y0, x1, y1 = asked.box

    def step(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        sides = []
        if x0:
            sides.append(pixels[y0:y1, x0] - pixels[y0:y1, x0 - 1])
        if y0:
            sides.append(pixels[y0, x0:x1] - pixels[y0 - 1, x0:x1])
        if x1 < pixels.shape[1]:
            sides.append(pixels[y0:y1, x1 - 1] - pixels[y0:y1, x1])
        if y1 < pixels.shape[0]:
            sides.append(pixels[y1 - 1, x0:x1] - pixels[y1, x0:x1])
        steps: npt.NDArray[np.float32] = np.abs(np.concatenate(sides)).mean(1)
        return steps

    jump = step(image.astype(np.float32)).mean() - step(asked.image.astype(np.float32)).mean()
    return float(difference[free].mean()) if free.any() else 0.0, float(jump)


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    share, square = right / count, z * z / count
    middle = (share + square / 2) / (1 + square)
    reach = z / (1 + square) * math.sqrt(share * (1 - share) / count + square / 4 / count)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def scored(right: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """A share, its interval and its count."""
    low, high = wilson(int(right.sum()), len(right))
    return {"share": round(float(right.mean()), 4), "low": round(low, 4), "high": round(high, 4), "n": len(right)}


def score(judge: judging.Judge, cases: Sequence[Case], images: Sequence[Image]) -> dict[str, Any]:
    """Each question by the judge, all three together, the colour as measured, and the halo."""
    readings = judge.read(images, [each.box for each in cases])
    right = {
        question: np.array([getattr(r, question) == each.truth[at] for r, each in zip(readings, cases, strict=True)])
        for at, question in enumerate(QUESTIONS)
    }
    right["all"] = np.logical_and.reduce([right[question] for question in QUESTIONS])
    right["colour_measured"] = np.array(
        [
            judging.colour_in(image, painted_thing(each, image)) == each.truth[1]
            for each, image in zip(cases, images, strict=True)
        ]
    )
    right["mark"] = np.array([r.mark == each.mark for r, each in zip(readings, cases, strict=True)])
    right["any_mark"] = np.array([r.mark != "" for r in readings])
    halos = np.array([halo(each, image) for each, image in zip(cases, images, strict=True)])
    return {question: scored(each) for question, each in right.items()} | {
        "halo": round(float(halos[:, 0].mean()), 2),
        "jump": round(float(halos[:, 1].mean()), 2),
    }


def reconstruct(vae: Any, images: Sequence[Image]) -> list[Image]:
    """Images after encoder and decoder."""
    out: list[Image] = []
    for first in range(0, len(images), BATCH):
        pixels = torch.from_numpy(np.stack(images[first : first + BATCH])).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            back = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
        out += list(((back.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
    return out


def ceilings(judge: judging.Judge, vae: Any, count: int = 500) -> dict[str, Any]:
    """The judge on renders kept apart and on those after the autoencoder, by size; and the autoencoder's own figure.

    "mark" counts the right name, or rightly none, on the same renders as the other questions; "subject_mark" is asked
    of `count` more renders that each carry a mark which the autoencoder never saw.
    """
    found: dict[str, Any] = {}
    for band, smallest, largest in (("24-46 px", 24, 46), ("12-24 px", 12, 24)):
        shown = [judging.exhibit(f"ceiling {band}", number, smallest, largest) for number in range(count)]
        marked = [
            judging.exhibit(f"ceiling marks {band}", number, smallest, largest, SUBJECT_MARKS, 1.0)
            for number in range(count)
        ]
        for name, through in (("renders", False), ("after the autoencoder", True)):
            images, new = ([each.image for each in some] for some in (shown, marked))
            if through:
                before, images, new = images, reconstruct(vae, images), reconstruct(vae, new)
                error = np.mean([(a.astype(np.float32) - b) ** 2 for a, b in zip(before, images, strict=True)])
                found[f"autoencoder, dB, {band}"] = round(float(10 * np.log10(255**2 / error)), 2)
            right = _right(judge, shown, images)
            right["subject_mark"] = _right(judge, marked, new)["mark"]
            right["colour_measured"] = np.array(
                [judging.colour_in(p, e.mask) == e.truth.colour for p, e in zip(images, shown, strict=True)]
            )
            found[f"{name}, {band}"] = {question: scored(each) for question, each in right.items()}
    return found


def _right(
    judge: judging.Judge, shown: Sequence[judging.Exhibit], images: Sequence[Image]
) -> dict[str, npt.NDArray[np.bool_]]:
    """For each question, which of the exhibits the judge reads rightly in `images`."""
    readings = judge.read(images, [each.box for each in shown])
    right = {
        question: np.array(
            [getattr(r, question) == getattr(e.truth, question) for r, e in zip(readings, shown, strict=True)]
        )
        for question in judging.CLASSES
    }
    return right | {"all": np.logical_and.reduce(list(right.values()))}


def suites(share: float = 1.0) -> dict[str, list[Case]]:
    """The cases that a model is scored on; `share` of them."""
    plain = [combination for combination in SEEN if combination[2] == "plain"]

    def count(whole: int) -> int:
        return max(4, round(share * whole))

    return {
        "24-46 px": [case("score large", n, (24, 46), SEEN + HELD_OUT) for n in range(count(500))],
        "24-46 px, unseen": [case("score unseen", n, (24, 46), HELD_OUT) for n in range(count(240))],
        "12-24 px": [case("score small", n, (12, 24), SEEN + HELD_OUT) for n in range(count(240))],
        "marks": [
            case("score marks", n, (24, 46), plain, TRAINING_MARKS[n % len(TRAINING_MARKS)]) for n in range(count(128))
        ],
        "unknown word": [
            case("score words", n, (24, 46), plain, word=IDENTIFIERS[n % len(IDENTIFIERS)]) for n in range(count(60))
        ],
    }


def grid(cases: Sequence[Case], images: Sequence[Image], columns: int = 12, scale: int = 2) -> PillowImage.Image:
    """Pictures in rows, in the order given, enlarged by whole pixels."""
    rows = []
    for first in range(0, len(cases) - columns + 1, columns):
        framed = [np.pad(image, ((1, 1), (1, 1), (0, 0))) for image in images[first : first + columns]]
        rows.append(np.concatenate(framed, 1))
    whole = PillowImage.fromarray(np.concatenate(rows))
    return whole.resize((whole.width * scale, whole.height * scale), PillowImage.Resampling.NEAREST)


def main() -> None:
    """Score a model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, default=model.BASE)
    parser.add_argument("--judge", type=Path, default=judging.WEIGHTS)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--grid", type=Path)
    parser.add_argument("--share", type=float, default=1.0, help="of the cases")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", help="one of the suites, or `ceilings`")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    painter, judge = model.load(options.base), judging.load(options.judge)
    scores: dict[str, Any] = {"steps": options.steps, "guidance": options.guidance}
    shown: list[tuple[Case, Image]] = []
    for name, cases in suites(options.share).items():
        if options.only in (None, name):
            images = paint_in_processes(options.base, cases, options.steps, options.guidance, options.workers)
            scores[name] = score(judge, cases, images)
            typer.echo(json.dumps({name: scores[name]}))
            shown += list(zip(cases, images, strict=True))[: 24 if name != "unknown word" else 12]
    if options.only in (None, "ceilings"):
        scores["ceilings"] = ceilings(judge, painter.vae, max(20, round(500 * options.share)))
        typer.echo(json.dumps({"ceilings": scores["ceilings"]}))
    if options.out:
        options.out.write_text(json.dumps(scores, indent=1) + "\n", "utf-8")
    if options.grid and shown:
        grid([each for each, _ in shown], [image for _, image in shown]).save(options.grid)


if __name__ == "__main__":
    main()
