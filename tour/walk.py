"""The steps of the tour. Each is resumable, because each is a command of the toolkit that is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trainer
from dataforge.backends.colour_names import BASIC_TERMS, SHADES
from dataforge.backends.vocabulary import CANDIDATES
from dataforge.building import build
from dataforge.config import load_recipe
from manifests.corpus import Corpus, open_corpus
from pipelines.jobs import PROMPT, Job
from pipelines.results import Row
from pipelines.run import run
from pipelines.words import put_before
from toyworld import subjects as toys
from toyworld.model import BASE
from toyworld.words import COLOURS

__all__ = [
    "DREAMMIX",
    "EDITS",
    "PAINTING",
    "TRAINING",
    "Walk",
    "build_corpus",
    "job_of",
    "jobs_of",
    "other_colours",
    "prompt_of",
    "scene_number",
    "walk",
]

Progress = Callable[[str, int, int], None]

VIEWS, PLACES = 5, 6
PLACE = toys.Places(size=(0.5, 0.62))
"""Where the tour paints: boxes with room for the thing as large as it was photographed."""
CLOSE_UP = 48
"""Pixels of a photograph: the subject fills it, and training costs half as much as on a canvas of 64."""
UNKNOWN_WORDS = sorted(
    ({word for kind in CANDIDATES.values() for words in kind.values() for word in words} | {*BASIC_TERMS, *SHADES})
    - set(COLOURS)
)
"""Words that the base has never read: it would take them for marks."""
EDITS = ("", "red", "yellow", "green", "blue", "purple")
"""Colours a subject is asked for in; "" is its own."""

TRAINING: dict[str, Any] = {
    "rank": 16,
    "lora_targets": (
        *("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"),
        *("conv1", "conv2", "time_emb_proj", "add_embedding.proj"),
    ),
    "train_token": True,
    "token_learning_rate": 5e-3,
    "resolution": CLOSE_UP,
    "variants": 16,
    "regular_variants": 2,
    "name_source_words": 0.5,
    "max_train_steps": 380,
    "train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "learning_rate": 3e-3,
    "lr_scheduler": "linear",
    "mixed_precision": "bf16",
    "checkpointing_steps": 190,
}
"""Settings of any recipe for a base of four million weights and close-ups of 48 px."""

DREAMMIX: dict[str, Any] = {"regular_prob": 0.5, "mask": "box"}
"""Of `dreammix` alone. The base was trained on boxes, and regular pictures are the subject's own pixels."""

PAINTING: dict[str, Any] = {"num_inference_steps": 12, "guidance_scale": 2.0, "resolution": 64}


@dataclass(slots=True)
class Walk:
    """What the tour made: where it lies, what was painted, and the seconds each step took."""

    root: Path
    subjects: list[toys.Subject]
    rows: list[Row] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def corpus(self) -> Path:
        """The corpus of the subjects."""
        return self.root / "corpus"

    @property
    def adapters(self) -> Path:
        """One adapter folder a subject."""
        return self.root / "adapters"

    @property
    def painted(self) -> Path:
        """The results."""
        return self.root / "painted"

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Count the wall time of a step."""
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started


def walk(
    root: Path,
    *,
    count: int = 3,
    places: int = PLACES,
    training: dict[str, Any] | None = None,
    base: Path = BASE,
    on_progress: Progress = lambda stage, done, total: None,
) -> Walk:
    """Photographs of `count` toy subjects, their corpus, one adapter each, and each painted into `places` scenes.

    The same call again does what is missing.
    """
    made = Walk(root, list(toys.SUBJECTS[:count]))
    with made.step("photographs and corpus"):
        build_corpus(root, made.subjects, range(places), on_progress=on_progress)
    with made.step("training"):
        settings = {**TRAINING, **DREAMMIX, "subjects_at_once": count, **(training or {})}
        trainer.train(
            made.corpus,
            recipe="dreammix",
            base=base,
            output=made.adapters,
            settings=settings,
            on_progress=on_progress,
        )
    with made.step("painting"), open_corpus(str(made.corpus)) as corpus:
        jobs = list(jobs_of(corpus, made.adapters, made.subjects, PAINTING))
        made.rows = run(jobs, made.painted, batch_size=12, on_progress=on_progress)
    return made


def build_corpus(
    root: Path,
    subjects: Sequence[toys.Subject],
    places: Sequence[int],
    where: toys.Places = PLACE,
    *,
    on_progress: Progress,
) -> None:
    """Render the subjects' photographs and these scenes, and build their corpus as any user's."""
    listing = toys.write(root / "photographs", subjects, VIEWS, places, where, canvas=CLOSE_UP, strike=UNKNOWN_WORDS)
    # as large as in the photographs, or its mark would be a few pixels
    generator = {"size": CLOSE_UP, "subject_share": [0.6, 0.9], "keep_details": "true"}
    recipe = load_recipe("laptop", [f"generate.generator.{name}={value}" for name, value in generator.items()])
    build(listing, root / "corpus", recipe, on_progress=on_progress)


def jobs_of(
    corpus: Corpus, adapters: Path, subjects: Sequence[toys.Subject], settings: dict[str, Any]
) -> Iterator[Job]:
    """Each subject in each scene of the corpus in each colour, by ID; the word stands where training had it."""
    scenes = sorted((sample for sample in corpus.samples(role="bg")), key=scene_number)
    for subject in subjects:
        others = other_colours(subject)
        for number, scene in enumerate(scenes):
            # every scene shows the thing as it is and in one other colour
            for colour in ("", others[number % len(others)]):
                place = f"{corpus.root}#{scene.id}"
                yield job_of(place, adapters / subject.name, colour, "plain", settings, seed=number)


def other_colours(subject: toys.Subject) -> list[str]:
    """The colours a subject is asked for in beside its own."""
    return [colour for colour in EDITS if colour and colour != subject.colour]


def job_of(scene: str, adapter: Path, colour: str, preset: str, settings: dict[str, Any], *, seed: int) -> Job:
    """One picture: the adapter's subject in a scene, in another colour or, where that is "", as it is."""
    return Job(
        scene=scene,
        adapter=str(adapter),
        prompt=prompt_of(colour),
        edit={"colour": colour} if colour else {},
        preset=preset,
        settings=settings,
        seed=seed,
    )


def prompt_of(colour: str) -> str:
    """A prompt template in the words of training: a new colour stands before the identifier."""
    template = "a photo of a {identifier} {class_noun}"
    return put_before(template, template.index("{identifier}"), colour) if colour else PROMPT


def scene_number(sample: Any) -> int:
    """The number under which the toy world made a scene: the name of its file."""
    return int(Path(sample.source_uri).stem)
