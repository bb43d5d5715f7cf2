"""The ablations, answered on the toy world: adapters for each setting and seed, pictures, readings, and one table.

Every step is resumable, because each is a command of the toolkit that is; readings are kept beside the pictures.
The interval of a figure, and of a difference between two arms, is a bootstrap over subjects; a difference pairs the
pictures of the same subject, seed, scene and colour.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import trainer
from manifests.corpus import open_corpus
from manifests.fsops import write_atomic
from manifests.ids import digest_of
from pipelines.evaluate.intervals import bootstrap, mean
from pipelines.results import Row
from pipelines.run import run
from tour.plain_things import with_plain_things
from tour.questions import QUESTIONS, TRAININGS, Arm, Question
from tour.reading import Reading, read
from tour.walk import PAINTING, TRAINING, build_corpus, job_of, other_colours, scene_number
from toyworld import subjects as toys
from toyworld.model import BASE

__all__ = ["COLUMNS", "Answer", "Figure", "Progress", "study"]

Progress = Callable[[str, int, int], None]

STEPS = 250
BATCH = 4

COLUMNS: dict[str, Callable[[Reading], float]] = {
    "right": lambda reading: float(reading.right),
    "colour": lambda reading: float(reading.fitted.colour == reading.wanted.colour),
    "mark": lambda reading: float(reading.fitted.has_mark(reading.wanted)),
    "likeness": lambda reading: reading.fitted.mark_correlation,
    "mark, judge": lambda reading: float(reading.mark_judged),
    "error": lambda reading: reading.fitted.error,
}
"""Per picture: colour and mark right by pixels, each alone, how well the mark is drawn (correlation), the mark by the
judge, grey levels away from the render."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean over pictures with its 95 % interval over subjects."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Answer:
    """One row of the table."""

    question: str
    arm: Arm
    pictures: int
    figures: Mapping[str, Figure]
    differences: Mapping[str, Figure]  # to the arm it is compared with; empty for that arm itself
    examples: tuple[str, ...]  # pictures, relative to the study's folder, the same ones for each arm

    @property
    def verdict(self) -> str:
        """What the interval of the difference lets one say."""
        column = QUESTIONS[self.question].judged_by
        if column not in self.differences:
            return ""
        difference = self.differences[column]
        low, high = (-difference.high, -difference.low) if column == "error" else (difference.low, difference.high)
        if low > 0:
            return "helped"
        return "hurt" if high < 0 else "cannot be told"


@dataclass(frozen=True, slots=True)
class _Picture:
    """One reading as numbers, with what it is paired by."""

    subject: str
    paired_by: tuple[str, int, str, int]
    image: str
    values: Mapping[str, float]


def study(
    root: Path,
    names: Sequence[str] = tuple(QUESTIONS),
    *,
    count: int = 8,
    seeds: int = 3,
    places: int = 4,
    training: Mapping[str, Any] | None = None,
    base: Path = BASE,
    on_progress: Progress = lambda stage, done, total: None,
) -> list[Answer]:
    """Answer the named questions with `count` subjects, each trained `seeds` times and painted into `places` scenes.

    The same call again does what is missing; `training` is set on top of what all trainings share.
    """
    subjects = toys.SUBJECTS[:count]
    (root / "subjects").mkdir(parents=True, exist_ok=True)
    build_corpus(root / "subjects", subjects, (), on_progress=on_progress)
    shared = {
        **TRAINING,
        "max_train_steps": STEPS,
        "checkpointing_steps": STEPS,
        "train_batch_size": BATCH,
        "subjects_at_once": count,
        **(training or {}),
    }
    answers: list[Answer] = []
    for name in names:
        question = QUESTIONS[name]
        scenes = _suiting(question, subjects, places)
        numbers = sorted({number for chosen in scenes.values() for number in chosen})
        build_corpus(root / name, (), numbers, question.places, on_progress=on_progress)
        pictures: dict[str, list[_Picture]] = {}
        for arm in question.arms:
            adapters = [
                _train(root, arm.training, shared, seed, base, _labelled(on_progress, f"{name}, {arm.name}, {seed}"))
                for seed in range(seeds)
            ]
            pictures[arm.name] = _paint(
                root, name, arm, subjects, scenes, adapters, _labelled(on_progress, f"{name}, {arm.name}")
            )
        found = list(_answers(name, question, pictures))
        write_atomic(root / f"{name}.json", f"{json.dumps([asdict(a) for a in found], indent=1)}\n".encode())
        answers += found
    return answers


def _labelled(on_progress: Progress, label: str) -> Progress:
    return lambda stage, done, total: on_progress(f"{label}: {stage}", done, total)


def _suiting(question: Question, subjects: Sequence[toys.Subject], places: int) -> dict[str, list[int]]:
    """The numbers of the first scenes that suit each subject."""
    found: dict[str, list[int]] = {subject.name: [] for subject in subjects}
    number = 0
    while any(len(chosen) < places for chosen in found.values()):
        scene, _ = question.places(number)
        for subject in subjects:
            if len(found[subject.name]) < places and question.suits(subject, scene):
                found[subject.name].append(number)
        number += 1
    return found


def _train(root: Path, name: str, shared: Mapping[str, Any], seed: int, base: Path, on_progress: Progress) -> Path:
    training = TRAININGS[name]
    settings = {**shared, **training.settings, "seed": seed}
    output = root / "adapters" / f"{name.replace(' ', '-')}-{seed}"
    corpus = root / "subjects" / "corpus"
    if training.plain_things:
        corpus = with_plain_things(corpus, root / "plain-things" / "corpus")
    trainer.train(
        corpus,
        recipe=training.recipe,
        base=base,
        output=output,
        references=training.references,
        settings=settings,
        bank=root / "bank",
        on_progress=on_progress,
    )
    return output


def _paint(
    root: Path,
    name: str,
    arm: Arm,
    subjects: Sequence[toys.Subject],
    scenes: Mapping[str, Sequence[int]],
    adapters: Sequence[Path],
    on_progress: Progress,
) -> list[_Picture]:
    question = QUESTIONS[name]
    painted = root / "painted" / name / digest_of(asdict(arm))[:8]
    settings = {**PAINTING, "resolution": question.places.canvas, **arm.settings}
    jobs, paired_by = [], []
    with open_corpus(str(root / name / "corpus")) as corpus:
        ids = {scene_number(sample): sample.id for sample in corpus.samples(role="bg")}
        for seed, folder in enumerate(adapters):
            for subject in subjects:
                others = other_colours(subject)
                for at, number in enumerate(scenes[subject.name]):
                    colour = others[(seed + at) % len(others)] if question.edits else ""
                    place = f"{corpus.root}#{ids[number]}"
                    jobs.append(
                        job_of(place, folder / subject.name, colour, arm.preset, settings, seed=1000 * seed + number)
                    )
                    paired_by.append((subject.name, seed, colour, number))
        rows = run(jobs, painted, batch_size=16, on_progress=on_progress)
        kept = painted / "readings.json"
        known = json.loads(kept.read_text("utf-8")) if kept.is_file() else {}
        missing = [row for row in rows if _key(row) not in known]
        for reading in read(missing, painted, corpus, question.places, on_progress=on_progress):
            known[_key(reading.row)] = {column: value(reading) for column, value in COLUMNS.items()}
    if missing:
        write_atomic(kept, f"{json.dumps(known, indent=1)}\n".encode())
    folder = painted.relative_to(root)
    return [
        _Picture(row.subject, pair, f"{folder}/{row.image}", known[_key(row)])
        for row, pair in zip(rows, paired_by, strict=True)
    ]


def _key(row: Row) -> str:
    return f"{row.job} {row.image_sha256}"


def _answers(name: str, question: Question, pictures: Mapping[str, Sequence[_Picture]]) -> Iterator[Answer]:
    for arm in question.arms:
        own = pictures[arm.name]
        yield Answer(
            question=name,
            arm=arm,
            pictures=len(own),
            figures={column: _figure([(p.subject, p.values[column]) for p in own]) for column in COLUMNS},
            differences=_differences(own, pictures[arm.over]) if arm.over else {},
            examples=tuple(p.image for p in own if p.paired_by[1] == 0)[: 3 * len({p.subject for p in own}) : 2],
        )


def _figure(values: Sequence[tuple[str, float]]) -> Figure:
    by_subject: dict[str, list[float]] = defaultdict(list)
    for subject, value in values:
        if not math.isnan(value):
            by_subject[subject].append(value)
    return Figure(mean(value for those in by_subject.values() for value in those), *bootstrap(by_subject))


def _differences(own: Sequence[_Picture], other: Sequence[_Picture]) -> dict[str, Figure]:
    there = {picture.paired_by: picture.values for picture in other}
    return {
        column: _figure([(p.subject, p.values[column] - there[p.paired_by][column]) for p in own]) for column in COLUMNS
    }
