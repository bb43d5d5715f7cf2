"""Are the words true, and do the pictures show them? Measured on real photographs with known main colours.

    python benchmarks/words_and_pictures.py [SHEET.jpg] [--pictures 300]

Prints how many of the subjects have an accepted main colour first, how often an independent colour table agrees with
the colour word of a regular picture's prompt, and CPU seconds; writes a contact sheet of 20 pictures to SHEET.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import os
import textwrap
import time
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from dataforge.backends.embedded_describer import EmbeddedDescriber
from dataforge.backends.embedded_generator import EmbeddedGenerator
from dataforge.backends.vocabulary import can_show
from dataforge.protocols import Description, GenerationRequest, Photo
from manifests.errors import Fault
from manifests.pixels import ImageArray, MaskArray
from manifests.records import RegularPrompt, SubjectAttribute, Word

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("DATAFORGE_TEST_DATA", ROOT.parent / "shared" / "data"))
Subject = tuple[str, str, list[str], list[Photo], list[MaskArray]]


def read(path: Path) -> ImageArray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def read_subjects() -> list[Subject]:
    folder = DATA / "dreambench"
    subjects = []
    with (folder / "subjects.csv").open() as lines:
        for row in csv.DictReader(lines):
            photos, masks = [], []
            for path in sorted((folder / "subjects" / row["subject"]).glob("*.jpg")):
                mask_path = folder / "masks" / row["subject"] / f"{path.stem}.png"
                if mask_path.exists():
                    image = read(path)
                    photos.append(
                        Photo(
                            id=f"{row['subject']}/{path.stem}",
                            subject=row["subject"],
                            class_noun=row["class_noun"],
                            image=image,
                        )
                    )
                    masks.append(np.asarray(read(mask_path)[..., 0] > 127))
            subjects.append((row["subject"], row["class_noun"], row["accepted_main_colours"].split("|"), photos, masks))
    return subjects


def read_scenes() -> list[ImageArray]:
    return [read(path) for path in sorted(DATA.glob("murecom/*/bg/*.jpg"))]


def words_of(subject: Subject, description: Description, rng: np.random.Generator, *, colour: bool) -> tuple[Word, ...]:
    """Words of one prompt: always a colour where asked, and half the time one more."""

    def pick(choices: list[SubjectAttribute]) -> Word:
        chosen = choices[int(rng.integers(len(choices)))]
        return Word(category=chosen.category, word=chosen.word, origin=chosen.origin)

    shown = [word for word in description.words if word.origin == "source" or can_show(word.category, word.word)]
    colours = [word for word in shown if word.category == "colour"]
    others = [word for word in shown if word.category != "colour" and word.origin == "candidate"]
    words = [pick(colours)] if colour else []
    if others and (not colour or rng.random() < 0.5):
        words.append(pick(others))
    return tuple(words)


def request_for(subject: Subject, words: tuple[Word, ...], seed: int, scenes: list[ImageArray]) -> GenerationRequest:
    prompt = f"a photo of a {' '.join(word.word for word in words)} {subject[1]}"
    return GenerationRequest(
        prompt=RegularPrompt(prompt=prompt, template="a photo of a {words} {class_noun}", words=words, seed=seed),
        class_noun=subject[1],
        seed=seed,
        size=512,
        sources=tuple(subject[3]),
        masks=tuple(subject[4]),
        scenes=tuple(scenes),
    )


def contact_sheet(cells: list[tuple[str, ImageArray]], path: Path, *, side: int = 256, columns: int = 5) -> None:
    rows = []
    for start in range(0, len(cells), columns):
        row = []
        for text, image in cells[start : start + columns]:
            cell = np.full((side + 34, side, 3), 255, np.uint8)
            cell[:side] = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
            for line, part in enumerate(textwrap.wrap(text, 36)[:2]):
                cv2.putText(
                    cell,
                    part,
                    (4, side + 13 + 15 * line),
                    cv2.FONT_HERSHEY_SIMPLEX,
                    0.4,
                    (0, 0, 0),
                    1,
                    cv2.LINE_AA,
                )
            row.append(cell)
        while len(row) < columns:
            row.append(np.full((side + 34, side, 3), 255, np.uint8))
        rows.append(np.hstack(row))
    cv2.imwrite(str(path), np.vstack(rows)[..., ::-1])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    arguments.add_argument("sheet", nargs="?", type=Path)
    arguments.add_argument("--pictures", type=int, default=300)
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    cv2.setNumThreads(1)
    spec = importlib.util.spec_from_file_location(
        "independent_colours", ROOT / "tests" / "backends" / "independent_colours.py"
    )
    assert spec is not None
    assert spec.loader is not None
    independent = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(independent)

    subjects, scenes = read_subjects(), read_scenes()
    describer = EmbeddedDescriber()
    started, first, descriptions = time.process_time(), 0, []
    for subject in subjects:
        description = describer.describe(subject[3], subject[4])
        descriptions.append(description)
        colour = next(
            (word.word for word in description.words if word.category == "colour" and word.origin == "source"),
            "",
        )
        first += colour in subject[2]
        print(f"{'ok ' if colour in subject[2] else 'NOT'} {subject[0]:18} {colour:8} accepted {'|'.join(subject[2])}")
    photographs = sum(len(subject[3]) for subject in subjects)
    print(f"first colour accepted: {first} of {len(subjects)} subjects")
    print(f"describe: {(time.process_time() - started) / photographs:.3f} CPU s per photograph ({photographs})")

    generator = EmbeddedGenerator(512)
    rng = np.random.default_rng(options.seed)
    agreed, made, faults, started = 0, 0, 0, time.process_time()
    judging = 0.0
    by_word: dict[str, list[int]] = {}
    for number in range(options.pictures):
        which = number % len(subjects)
        words = words_of(subjects[which], descriptions[which], rng, colour=True)
        (answer,) = generator.generate([request_for(subjects[which], words, 1000 * options.seed + number, scenes)])
        made += 1
        before = time.process_time()
        tally = by_word.setdefault(words[0].word, [0, 0])
        tally[1] += 1
        if isinstance(answer, Fault):
            faults += 1
            print("fault:", number, subjects[which][0], [word.word for word in words], answer.detail)
        elif independent.agrees(answer.image, answer.mask, words[0].word):
            agreed += 1
            tally[0] += 1
        else:
            print(
                "differs:",
                number,
                subjects[which][0],
                [word.word for word in words],
                words[0].origin,
                "reads",
                independent.main_colour(answer.image, answer.mask),
            )
        judging += time.process_time() - before
    if made:
        print("by word:", ", ".join(f"{word} {good}/{all_}" for word, (good, all_) in sorted(by_word.items())))
        print(f"independent table agrees: {agreed} of {made} ({100 * agreed / made:.1f} %), faults {faults}")
        print(f"generate: {(time.process_time() - started - judging) / made:.3f} CPU s per 512 px picture")

    if options.sheet:
        cells = []
        for number in range(20):
            which = number % len(subjects)
            request = request_for(
                subjects[which],
                words_of(subjects[which], descriptions[which], rng, colour=number % 2 == 0),
                number,
                scenes,
            )
            (answer,) = generator.generate([request])
            cells.append(
                (
                    request.prompt.prompt,
                    answer.image if not isinstance(answer, Fault) else np.zeros((64, 64, 3), np.uint8),
                )
            )
        contact_sheet(cells, options.sheet)


if __name__ == "__main__":
    main()
