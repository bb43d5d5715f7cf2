"""What every backend of a role has to hold, whichever it is: one suite, run for each."""

from __future__ import annotations

import atexit
from functools import cache

import numpy as np
import pytest

from dataforge.backends import _FILES, backend_class, load
from dataforge.config import Recipe
from dataforge.protocols import Description, GeneratedImage, GenerationRequest, Grounding, Photo, Segmentation
from manifests.errors import Fault
from manifests.overrides import CATEGORIES
from manifests.records import RegularPrompt, Word
from tests.models.chat_server import ChatServer
from tests.models.tiny import tiny
from tests.tiny_models import tiny as tiny_pipeline

# role -> the kinds whose settings a recipe has; real models are tiny ones from disk, asked for any score at all
KINDS = {
    "ground": ("embedded", "fake", "grounding-dino", "groundingdino-py", "sam3"),
    "segment": ("embedded", "fake", "sam", "sam-hf", "sam2", "sam3"),
    "describe": ("embedded", "fake", "vlm", "vlm-server"),
    "generate": ("embedded", "fake", "diffusers"),
}


def settings(kind: str, role: str) -> dict:
    if kind in ("embedded", "fake"):
        return {"kind": kind}
    if kind == "vlm-server":
        return {"kind": kind, "url": chat_server().url, "model": "m", "allow_http": True}
    if kind == "diffusers":
        return {"kind": kind, "model": str(tiny_pipeline("sd4")), "size": 64, "steps": 1}
    loose = {"sam3": {"box_threshold": 0.0}} if role == "ground" else {}
    loose["grounding-dino"] = {"box_threshold": 0.0, "text_threshold": 0.0}
    loose["groundingdino-py"] = loose["grounding-dino"] | {"short_side": 64, "text_encoder": str(tiny("bert"))}
    loose["vlm"] = {"max_side": 64, "answer": {"words": 1, "candidates": 1, "word_letters": 8, "caption_letters": 24}}
    return {"kind": kind, "model": str(tiny(kind)), **loose.get(kind, {})}


@cache
def chat_server() -> ChatServer:
    server = ChatServer()
    atexit.register(server.__exit__)
    return server.__enter__()


def backend(role: str, kind: str):
    section = settings(kind, role)
    recipe = Recipe.model_validate({role: section if role != "generate" else {"generator": section}})
    chosen = getattr(recipe, role) if role != "generate" else recipe.generate.generator
    return load(role, chosen, leave_out=frozenset({"min_score"}) if role == "ground" else frozenset())


def test_every_backend_that_a_recipe_may_name_is_under_the_suite():
    assert {(role, kind) for role, kinds in KINDS.items() for kind in kinds} == {
        key for key in _FILES if key[0] != "recheck"
    }


def photos(count=3, size=(96, 128)):
    """Pictures of an orange disc before grey noise, of no square shape."""
    made = []
    for number in range(count):
        rng = np.random.default_rng(number)
        image = np.clip(rng.normal(130, 10, (*size, 3)), 0, 255).astype(np.uint8)
        rows, columns = np.ogrid[: size[0], : size[1]]
        disc = (rows - 45 - 3 * number) ** 2 + (columns - 60 + 4 * number) ** 2 < 24**2
        image[disc] = np.clip(np.array([230, 120, 20]) + rng.normal(0, 6, (int(disc.sum()), 3)), 0, 255)
        image.setflags(write=False)  # pictures are shared: a backend that writes into one fails here
        made.append(Photo(id=f"disc/src-{number:012x}", subject="disc", class_noun="disc", image=image))
    return made


def boxes(pictures):
    return [Grounding(box=(30 - 4 * n, 18 + 3 * n, 90 - 4 * n, 74 + 3 * n), score=0.5) for n in range(len(pictures))]


def same(first, second) -> bool:
    return repr(first) == repr(second)


@pytest.mark.parametrize(("role", "kind"), [(role, kind) for role, kinds in KINDS.items() for kind in kinds])
def test_a_backend_says_who_it_is(role, kind):
    made = backend(role, kind)
    assert made.name
    assert isinstance(made.model, str)
    assert made.version
    if role in ("ground", "segment"):
        assert backend_class(role, kind).scope in ("sample", "subject")


@pytest.mark.parametrize("kind", KINDS["ground"])
def test_a_grounder_gives_one_box_inside_each_picture_and_the_same_one_again(kind):
    grounder, pictures = backend("ground", kind), photos()
    answers = grounder.ground(pictures)
    assert len(answers) == len(pictures)
    for answer in answers:
        assert isinstance(answer, Grounding)
        x0, y0, x1, y1 = answer.box
        assert 0 <= x0 < x1 <= 128
        assert 0 <= y0 < y1 <= 96
        assert all(isinstance(value, int) for value in answer.box)
        # 1 is kept for boxes that a person gave
        assert 0 <= answer.score < 1
    assert same(backend("ground", kind).ground(pictures), answers)
    assert grounder.ground([]) == []


@pytest.mark.parametrize("kind", KINDS["segment"])
def test_a_segmenter_gives_a_bool_mask_of_the_pictures_size_with_its_quality(kind):
    segmenter, pictures = backend("segment", kind), photos()
    answers = segmenter.segment(pictures, boxes(pictures))
    assert len(answers) == len(pictures)
    for answer in answers:
        assert isinstance(answer, Segmentation)
        assert answer.mask.dtype == np.bool_
        assert answer.mask.shape == (96, 128)
        assert answer.mask.any()
        assert 0 <= answer.quality <= 1
        assert all(np.isfinite(score.value) for score in answer.scores)
        assert all(flag == flag.lower() and " " not in flag for flag in answer.flags)
    again = backend("segment", kind).segment(pictures, boxes(pictures))
    assert all(np.array_equal(a.mask, b.mask) and a.quality == b.quality for a, b in zip(answers, again, strict=True))
    assert segmenter.segment([], []) == []


@pytest.mark.parametrize("kind", KINDS["describe"])
def test_a_describer_gives_known_categories_supported_by_photographs_it_saw(kind):
    pictures = photos()
    rows, columns = np.ogrid[:96, :128]
    masks = [(rows - 45 - 3 * n) ** 2 + (columns - 60 + 4 * n) ** 2 < 24**2 for n in range(len(pictures))]
    said = backend("describe", kind).describe(pictures, masks)
    assert isinstance(said, Description)
    ids = {picture.id for picture in pictures}
    assert said.captions.keys() == ids
    assert all(caption.strip() and "\n" not in caption for caption in said.captions.values())
    for word in said.words:
        assert word.category in CATEGORIES
        assert 0 <= word.score <= 1
        assert set(word.sample_ids) <= ids
        assert bool(word.sample_ids) == (word.origin == "source")
    assert len({(w.category, w.word) for w in said.words}) == len(said.words)
    assert same(backend("describe", kind).describe(pictures, masks), said)


@pytest.mark.parametrize("kind", KINDS["generate"])
def test_a_generator_gives_a_picture_of_the_size_asked_or_a_fault_and_the_same_one_again(kind):
    generator, (picture, *_) = backend("generate", kind), photos()
    rows, columns = np.ogrid[:96, :128]
    mask = (rows - 45) ** 2 + (columns - 60) ** 2 < 24**2
    prompt = RegularPrompt(
        prompt="a photo of a blue disc",
        template="a photo of a {words} {class_noun}",
        words=(Word(category="colour", word="blue", origin="candidate"),),
        seed=0,
    )
    own = generator.own_pixels
    requests = [
        GenerationRequest(
            prompt=prompt,
            class_noun="disc",
            seed=seed,
            size=64,
            sources=(picture,) if own else (),
            masks=(mask,) if own else (),
        )
        for seed in (1, 2)
    ]
    answers = generator.generate(requests)
    assert len(answers) == 2
    for answer in answers:
        assert isinstance(answer, GeneratedImage | Fault)
        assert isinstance(answer, GeneratedImage), answer
        assert answer.image.shape == (64, 64, 3)
        assert answer.image.dtype == np.uint8
        assert (answer.mask is not None) == own
        assert answer.parents == ((picture.id,) if own else ())
    again = backend("generate", kind).generate(requests)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(answers, again, strict=True))
    assert not np.array_equal(answers[0].image, answers[1].image)
