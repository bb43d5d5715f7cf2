"""Protocols: which composites to make, by manifest IDs, before anything is painted.

    murecom         every scene of a class with a box x every subject of that class, five seeds
    dreameditbench  the same over DreamEditBench's scenes, boxes from its `bbox.json`
    dreambooth      25 prompts a subject on an empty canvas, four seeds
    dreammix        two tasks: identity (the instance prompt) and editing (one candidate word in the prompt)

DreamMix published no protocol: data, prompts and seeds of its two tasks here are ours, and its rows say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from manifests.corpus import Corpus
from manifests.errors import UsageError
from manifests.records import Box, Subject
from pipelines.evaluate.boxes import boxes_of, given_boxes

__all__ = ["CANVAS", "LIVE", "OBJECT", "PROTOCOLS", "Case", "Protocol", "cases"]

CANVAS = "canvas"  # in place of a scene: nothing is given, everything is painted
CANVAS_SIDE = 512
_BOTH = (
    "in the jungle", "in the snow", "on the beach", "on a cobblestone street", "on top of pink fabric",
    "on top of a wooden floor", "with a city in the background", "with a mountain in the background",
    "with a blue house in the background", "on top of a purple rug in a forest",
)  # fmt: skip
_OBJECT_ONLY = (
    "with a wheat field in the background", "with a tree and autumn leaves in the background",
    "with the Eiffel Tower in the background", "floating on top of water", "floating in an ocean of milk",
    "on top of green grass with sunflowers around it", "on top of a mirror",
    "on top of the sidewalk in a crowded street", "on top of a dirt road", "on top of a white rug",
)  # fmt: skip
_LIVE_ONLY = (
    "wearing a red hat", "wearing a santa hat", "wearing a rainbow scarf",
    "wearing a black top hat and a monocle", "in a chef outfit", "in a firefighter outfit",
    "in a police outfit", "wearing pink glasses", "wearing a yellow shirt", "in a purple wizard outfit",
)  # fmt: skip
_ADJECTIVES = ("red", "purple", "shiny", "wet", "cube shaped")
_PROPERTIES = tuple(f"a {word} {{identifier}} {{class_noun}}" for word in _ADJECTIVES)
OBJECT = tuple(f"a {{identifier}} {{class_noun}} {place}" for place in (*_BOTH, *_OBJECT_ONLY)) + _PROPERTIES
LIVE = tuple(f"a {{identifier}} {{class_noun}} {place}" for place in (*_BOTH, *_LIVE_ONLY)) + _PROPERTIES
_LIVE_NOUNS = frozenset({"cat", "dog", "person", "horse", "bird", "rabbit", "hamster"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One composite to be made. `box` is half-open pixels of the scene; `edit` is ((category, word), ...)."""

    task: str
    group: str  # the pair; cases of a group differ in their seed
    subject: str
    scene: str  # sample ID, or `CANVAS`
    box: Box
    prompt: str  # with {identifier}
    edit: tuple[tuple[str, str], ...]
    seed: int


Scenes = Sequence[tuple[str, Box]]  # sample IDs with the box to paint into


@dataclass(frozen=True)
class Protocol:
    """A protocol by name: how it is described and counted, and its pairs (task, scene, box, prompt, edit)."""

    name: str
    description: str
    seeds: int
    whole: bool  # scored as whole pictures: what is painted has no scene around it
    pairs: Callable[[Subject, Scenes], Iterator[tuple[str, str, Box, str, tuple[tuple[str, str], ...]]]]


_Pairs = Iterator[tuple[str, str, Box, str, tuple[tuple[str, str], ...]]]


def _composition(task: str) -> Callable[[Subject, Scenes], _Pairs]:
    def pairs(subject: Subject, scenes: Scenes) -> _Pairs:
        for scene, box in scenes:
            yield task, scene, box, subject.instance_prompt, ()

    return pairs


def _dreambooth(subject: Subject, scenes: Scenes) -> _Pairs:
    del scenes
    templates = LIVE if subject.class_noun.split()[-1] in _LIVE_NOUNS else OBJECT
    for template in templates:
        prompt = template.replace("{class_noun}", subject.class_noun)
        yield "prompts", CANVAS, (0, 0, CANVAS_SIDE, CANVAS_SIDE), prompt, ()


def _dreammix(subject: Subject, scenes: Scenes) -> _Pairs:
    for scene, box in scenes:
        yield "identity", scene, box, subject.instance_prompt, ()
    # an edit asks for what the subject does not have, in a category of which it has something to remove
    has = {word.category for word in subject.attributes if word.origin == "source"}
    edits = sorted({(w.category, w.word) for w in subject.attributes if w.origin == "candidate" and w.category in has})
    for number, (scene, box) in enumerate(scenes):
        if edits:
            category, word = edits[number % len(edits)]
            # where training has its colours and `edited_prompt` its words: "a photo of a red sks mug"
            prompt = subject.instance_prompt.replace("{identifier}", f"{word} {{identifier}}")
            yield "editing", scene, box, prompt, ((category, word),)


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("murecom", "MureCom pairs: scene and box x subject of its class", 5, False, _composition("murecom")),
        Protocol("dreameditbench", "DreamEditBench, addition, box given", 5, False, _composition("dreameditbench")),
        Protocol("dreambooth", "DreamBooth's 25 prompts a subject on an empty canvas", 4, True, _dreambooth),
        Protocol(
            "dreammix", "DreamMix's two tasks; its own protocol is not published, this one is ours", 5, False, _dreammix
        ),
    )
}


def cases(
    corpus: Corpus,
    protocol: Protocol,
    *,
    subjects: tuple[str, ...] = (),
    seeds: int | None = None,
    limit: int | None = None,
    boxes: Sequence[Path] = (),
) -> list[Case]:
    """Every composite the protocol asks for, subject by subject; `limit` keeps so many pairs a task and subject.

    `boxes` are a benchmark's own files, or folders that hold one for each of its sets; they win over the manifest's.
    Raises `UsageError` E503 for a subject that is not there, E502 where nothing is left to paint.
    """
    chosen = subjects or tuple(sorted(corpus.subjects))
    given = given_boxes(corpus, boxes) if boxes else None
    everywhere = {sample.id: sample.box_xyxy for sample in corpus.samples(role="bg")}
    found = []
    for name in chosen:
        if name not in corpus.subjects:
            raise UsageError(f"no subject {name!r} in the corpus; there are {', '.join(corpus.subjects)}.", code="E503")
        subject = corpus.subjects[name]
        if not subject.sample_ids:
            continue  # an owner of shared regular pictures has nothing to be painted
        # every scene of the corpus for a class that has none of its own
        own = {scene: everywhere[scene] for scene in sorted(subject.scene_ids)} or everywhere
        scenes = own if given is None else boxes_of(subject, given, own)
        taken: dict[str, int] = {}
        for task, scene, box, prompt, edit in protocol.pairs(subject, list(scenes.items())):
            taken[task] = taken.get(task, 0) + 1
            if limit is not None and taken[task] > limit:
                continue
            words = "".join(f" {category}={word}" for category, word in edit)
            what = f" {prompt}" if scene == CANVAS else ""
            found += [
                Case(
                    task=task, group=f"{name} {scene}{words}{what}", subject=name, scene=scene, box=box,
                    prompt=prompt, edit=edit, seed=seed,
                )
                for seed in range(seeds or protocol.seeds)
            ]  # fmt: skip
    if not found:
        raise UsageError(
            f"protocol {protocol.name} finds nothing to paint: the corpus has no scenes for these subjects.",
            code="E502",
        )
    return found
