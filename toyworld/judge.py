"""The judge: a small classifier of shape, colour, texture and mark, trained on renders alone.

It has never seen a picture that a model painted, and no model is trained against it. `read` gives what it sees in a
box; `colour_in` needs no network: it measures the colour of the pixels it is given. How far both can be trusted is in
the model card: their accuracy on renders kept apart, and on those renders after the autoencoder.

    python -m toyworld.judge OUT.safetensors
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F  # noqa: N812

from toyworld.marks import SUBJECT_MARKS, TRAINING_MARKS, Mark
from toyworld.render import Bits, Box, Image, render
from toyworld.scenes import LARGEST, SMALLEST, generator, mask_box, random_scene
from toyworld.words import COLOURS, HELD_OUT, SEEN, SHAPES, TEXTURES

WEIGHTS = Path(__file__).with_name("judge.safetensors")
SIDE = 32
"""Pixels a side of what the classifier looks at."""

MARKS = {mark.name: mark for mark in (*TRAINING_MARKS, *SUBJECT_MARKS)}
CLASSES: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "texture": TEXTURES,
    "mark": ("", *MARKS),
}


@dataclass(frozen=True, slots=True)
class Reading:
    """What is seen in a box; `mark` is the name of a mark, or empty."""

    shape: str
    colour: str
    texture: str
    mark: str


class Judge(nn.Module):
    """Four convolutions, mean and maximum over the plane, one linear layer for each question."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 96, 128)
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(itertools.pairwise(widths)):
            layers += [nn.Conv2d(before, after, 3, 2 if number else 1, 1), nn.BatchNorm2d(after), nn.ReLU()]
        self.look = nn.Sequential(*layers)
        self.say = nn.ModuleDict({question: nn.Linear(2 * widths[-1], len(of)) for question, of in CLASSES.items()})

    def forward(self, crops: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits [B, classes] of each question for `crops` [B, 3, 32, 32] in -1..1."""
        seen = self.look(crops)
        both = torch.cat([seen.mean((2, 3)), seen.amax((2, 3))], 1)
        return {question: layer(both) for question, layer in self.say.items()}

    @torch.no_grad()
    def read(self, images: Sequence[Image], boxes: Sequence[Box], marks: Sequence[str] = ()) -> list[Reading]:
        """What stands in each box of each image [H, W, 3]; `marks`: those to choose from beside none (all)."""
        logits = self(torch.stack([crop(image, box) for image, box in zip(images, boxes, strict=True)]))
        if marks:
            others = [at for at, name in enumerate(CLASSES["mark"]) if name not in ("", *marks)]
            logits["mark"][:, others] = -torch.inf
        answers = [[CLASSES[question][at] for at in logits[question].argmax(1).tolist()] for question in CLASSES]
        return [Reading(*answer) for answer in zip(*answers, strict=True)]


def load(path: Path = WEIGHTS) -> Judge:
    """The judge that ships."""
    judge = Judge()
    stored = load_file(path)
    judge.load_state_dict(
        {name: value.float() if value.is_floating_point() else value for name, value in stored.items()}
    )
    return judge.eval()


def crop(image: Image, box: Box) -> torch.Tensor:
    """The square about a box, resized to [3, 32, 32] in -1..1."""
    x0, y0, x1, y1 = box
    side = min(max(x1 - x0, y1 - y0), *image.shape[:2])
    left = min(max((x0 + x1 - side) // 2, 0), image.shape[1] - side)
    top = min(max((y0 + y1 - side) // 2, 0), image.shape[0] - side)
    piece = torch.from_numpy(image[top : top + side, left : left + side].copy())
    piece = piece.permute(2, 0, 1)[None].float() / 127.5 - 1
    return F.interpolate(piece, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)[0]


def colour_in(image: Image, mask: Bits) -> str:
    """The colour word that most pixels of a mask are nearest to, whatever light falls on them; "" if none is."""
    pixels = image[mask].astype(np.float32)
    if not len(pixels):
        return ""
    lights = np.array([0.55, 0.7, 0.85, 1.0, 1.12], np.float32)
    inks = np.array([(248, 242, 228), (120, 66, 20)], np.float32)
    palette = np.concatenate([np.outer(lights, rgb) for rgb in (*COLOURS.values(), *inks)])
    nearest = ((pixels[:, None] - palette.clip(0, 255)[None]) ** 2).sum(2).argmin(1) // len(lights)
    counts = np.bincount(nearest, minlength=len(COLOURS) + len(inks))[: len(COLOURS)]
    return list(COLOURS)[int(counts.argmax())] if counts.any() else ""


@dataclass(frozen=True, slots=True)
class Exhibit:
    """A render, its target's box to paint in and its pixels, and the truth about it."""

    image: Image
    box: Box
    mask: Bits
    truth: Reading
    size: float


def exhibit(
    stream: str,
    number: int,
    smallest: float = SMALLEST,
    largest: float = LARGEST,
    marks: Sequence[Mark] = tuple(MARKS.values()),
    marked: float = 0.5,
) -> Exhibit:
    """Draw one: every combination, held out or not; a share `marked` of them with one of `marks`."""
    rng = generator(0, stream, number)
    every = SEEN + HELD_OUT
    combination = every[int(rng.integers(len(every)))]
    mark = marks[int(rng.integers(len(marks)))] if rng.random() < marked else None
    if mark is not None and (mark.is_pattern or rng.random() < 0.6):
        combination = (*combination[:2], "plain")
    size = float(rng.uniform(smallest, largest))
    scene = random_scene(rng, combination, size, 64, mark)
    picture = render(scene)
    box = mask_box(rng, picture.boxes[-1], 64)
    return Exhibit(picture.image, box, picture.masks[-1], Reading(*combination, mark.name if mark else ""), size)


def train(steps: int, renders: int, batch: int = 64) -> Judge:
    """Train on `renders` exhibits, each blurred or with noise now and then, as a decoder might leave it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    judge = Judge()
    exhibits = [exhibit("judge", number) for number in track(range(renders), "renders")]
    crops = torch.stack([crop(shown.image, shown.box) for shown in exhibits])
    truth = {
        question: torch.tensor([of.index(getattr(shown.truth, question)) for shown in exhibits])
        for question, of in CLASSES.items()
    }
    optimiser = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    for _ in track(range(steps), "judge"):
        chosen = torch.randint(renders, (batch,))
        logits = judge(worn(crops[chosen]))
        loss = torch.stack([F.cross_entropy(logits[question], truth[question][chosen]) for question in CLASSES]).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return judge.eval()


def worn(crops: torch.Tensor) -> torch.Tensor:
    """Crops [B, 3, H, W] moved by a pixel or two, some blurred, some noisy."""
    crops = crops.roll((int(torch.randint(-2, 3, ())), int(torch.randint(-2, 3, ()))), (2, 3))
    blurred = F.avg_pool2d(F.pad(crops, (1, 1, 1, 1), mode="replicate"), 3, 1)
    amount = 0.7 * torch.rand(len(crops), 1, 1, 1) * (torch.rand(len(crops), 1, 1, 1) < 0.5)
    noise = 0.08 * torch.rand(len(crops), 1, 1, 1) * torch.randn_like(crops)
    return crops + amount * (blurred - crops) + noise


def main() -> None:
    """Train the judge and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--renders", type=int, default=40_000)
    options = parser.parse_args()
    judge = train(options.steps, options.renders)
    weights = judge.state_dict().items()
    save_file({name: value.half() if value.is_floating_point() else value for name, value in weights}, options.out)


if __name__ == "__main__":
    main()
