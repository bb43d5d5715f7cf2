"""Regular pictures to make: which prompt, from which photograph, on which scene, with which seed.

Each order depends on its own photograph and prompt alone, so that a new photograph adds pictures and leaves the
others as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeVar

from dataforge.config import Generate
from dataforge.samples import Picture, WorkingSubject
from dataforge.stages.blobs import photo_input
from manifests.ids import slug
from manifests.records import Attribute, RegularPrompt
from manifests.schema import encode

__all__ = ["Order", "class_orders", "orders_of", "own_pixel_orders"]


ChoiceT = TypeVar("ChoiceT")


@dataclass(frozen=True, slots=True)
class Order:
    """One picture to make and who it is for; `depends` is all that the result depends on."""

    owner: str
    class_noun: str
    prompt: RegularPrompt
    attributes: tuple[Attribute, ...]
    seed: int
    own_pixels: bool
    mask_quality: float
    subjects: tuple[WorkingSubject, ...]
    scene_ids: tuple[str, ...]
    task_input: dict[str, Any]
    depends: list[Any]


def orders_of(subjects: Sequence[WorkingSubject], settings: Generate, *, own_pixels: bool) -> int:
    """How many pictures will be ordered."""
    if own_pixels:
        return sum(len(s.kept()) * settings.images_per_photograph for s in subjects if s.prompts)
    asked = {(s.source.class_noun, prompt.prompt) for s in subjects if s.kept() for prompt in s.prompts}
    return len(asked) * settings.images_per_prompt


def own_pixel_orders(
    subjects: Sequence[WorkingSubject], scenes: Sequence[Picture], settings: Generate
) -> Iterator[Order]:
    """`images_per_photograph` pictures from each kept photograph, its prompts in an order of its own."""
    alive = [scene for scene in scenes if scene.alive]
    for subject in subjects:
        fitting = sorted(
            (s for s in alive if s.class_noun in ("", subject.source.class_noun)), key=lambda scene: scene.id
        )
        attributes = {prompt: _attributes(prompt, subject) for prompt in subject.prompts}
        for photo in subject.kept():
            ranked = _by_rank(subject.prompts, lambda prompt: prompt.prompt, settings.seed, photo.id)
            for number in range(settings.images_per_photograph if ranked else 0):
                draw = _number(settings.seed, photo.id, number)
                prompt = ranked[number % len(ranked)]
                # every second picture stands in a scene that was given, where there is one
                scene = (
                    _by_rank(fitting, lambda scene: scene.id, settings.seed, photo.id, number)[0]
                    if fitting and number % 2
                    else None
                )
                seed = draw % 2**31
                image = photo.image_ref()
                mask = photo.mask_ref()
                task_input = {
                    "prompt": encode(prompt),
                    "class_noun": subject.source.class_noun,
                    "seed": seed,
                    "size": settings.generator.size,
                    "photos": [
                        photo_input(
                            sample_id=photo.id,
                            subject=photo.owner,
                            class_noun=photo.class_noun,
                            image=image,
                            image_format=photo.format,
                        )
                    ],
                    "masks": [mask.place],
                    "scenes": [] if scene is None else [[scene.image_ref().place, scene.format]],
                }
                scene_sha256 = "" if scene is None else scene.image_ref().sha256
                yield Order(
                    owner=subject.slug,
                    class_noun=subject.source.class_noun,
                    prompt=prompt,
                    attributes=attributes[prompt],
                    seed=seed,
                    own_pixels=True,
                    mask_quality=photo.mask_quality,
                    subjects=(subject,),
                    scene_ids=() if scene is None else (scene.id,),
                    task_input=task_input,
                    depends=[
                        encode(prompt),
                        subject.source.class_noun,
                        seed,
                        photo.id,
                        image.sha256,
                        mask.sha256,
                        scene_sha256,
                    ],
                )


def class_orders(subjects: Sequence[WorkingSubject], settings: Generate) -> Iterator[Order]:
    """`images_per_prompt` pictures for each prompt of a class, made once however many subjects ask for it."""
    asked: dict[tuple[str, str], list[WorkingSubject]] = {}
    prompts: dict[tuple[str, str], RegularPrompt] = {}
    for subject in subjects:
        if not subject.kept():
            continue
        # a word may stand in two categories and give one prompt twice; it is one prompt
        for prompt in {prompt.prompt: prompt for prompt in reversed(subject.prompts)}.values():
            key = (subject.source.class_noun, prompt.prompt)
            asked.setdefault(key, []).append(subject)
            prompts.setdefault(key, prompt)
    for (class_noun, text), wanting in sorted(asked.items()):
        prompt = prompts[class_noun, text]
        for number in range(settings.images_per_prompt):
            seed = _number(settings.seed, class_noun, text, number) % 2**31
            task_input = {
                "prompt": encode(prompt),
                "class_noun": class_noun,
                "seed": seed,
                "size": settings.generator.size,
                "photos": [],
                "masks": [],
                "scenes": [],
            }
            yield Order(
                owner=f"class-{slug(class_noun, max_length=34)}",
                class_noun=class_noun,
                prompt=prompt,
                attributes=_attributes(prompt, wanting[0]),
                seed=seed,
                own_pixels=False,
                mask_quality=0.0,
                subjects=tuple(wanting),
                scene_ids=(),
                task_input=task_input,
                depends=[text, class_noun, seed],
            )


def _attributes(prompt: RegularPrompt, subject: WorkingSubject) -> tuple[Attribute, ...]:
    scores = {(word.category, word.word): word.score for word in subject.words}
    return tuple(
        Attribute(
            category=word.category,
            word=word.word,
            score=scores.get((word.category, word.word), 1.0),
            origin=word.origin,
        )
        for word in prompt.words
    )


def _number(*parts: object) -> int:
    return int.from_bytes(sha256(":".join(map(str, parts)).encode()).digest()[:8])


def _by_rank(choices: Sequence[ChoiceT], name: Callable[[ChoiceT], str], *parts: object) -> list[ChoiceT]:
    """The choices in an order of their own for these parts: one that comes or goes moves no other (rendezvous)."""
    return sorted(choices, key=lambda choice: _number(*parts, name(choice)))
