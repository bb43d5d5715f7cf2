"""Every real backend inside a build: tiny models from disk, and what is stored is what the model gave.

Four recipes cover them all; each corpus is built once a session from real photographs of three subjects.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import manifests
from dataforge.backends import load
from dataforge.building import build
from dataforge.config import Recipe
from dataforge.protocols import GenerationRequest, Grounding, Photo, Segmentation
from manifests.corpus import open_corpus
from manifests.records import RegularPrompt
from tests.models.chat_server import ChatServer, answer_to
from tests.models.conftest import OPEN
from tests.models.tiny import tiny
from tests.tiny_models import tiny as tiny_pipeline

LOOSE = {"box_threshold": 0.0, "text_threshold": 0.0}
BRIEF = {"words": 1, "candidates": 1, "word_letters": 8, "caption_letters": 24}
FAKE = {"describe": {"kind": "fake"}, "generate": {"generator": {"kind": "fake"}, "images_per_prompt": 0}}


def painter(kind: str) -> dict[str, Any]:
    flows = kind in ("sd3", "flux")  # their schedulers are their own
    model = str(tiny(kind) if flows else tiny_pipeline(kind))
    generator = {"kind": "diffusers", "model": model, "size": 32, "steps": 2} | (
        {} if flows else {"scheduler": "euler"}
    )
    return {"generator": generator, "images_per_prompt": 2}


def first_recipe() -> dict[str, Any]:
    return {
        "ground": {"kind": "grounding-dino", "model": str(tiny("grounding-dino")), "queries": ["spoon"], **LOOSE},
        "segment": {"kind": "sam-hf", "model": str(tiny("sam-hf"))},
        "describe": {"kind": "vlm", "model": str(tiny("vlm")), "max_side": 64, "answer": BRIEF, "batch_size": 3},
        "compose": {"kind": "vlm", "max_prompts": 2, "pairs": 0},
        "generate": painter("sd4"),
    }


def second_recipe(url: str) -> dict[str, Any]:
    text = {"text_encoder": str(tiny("bert")), "short_side": 64}
    return {
        "ground": {"kind": "groundingdino-py", "model": str(tiny("groundingdino-py")), **text, **LOOSE},
        "segment": {"kind": "sam", "model": str(tiny("sam")), "choose": "best"},
        "describe": {"kind": "vlm-server", "url": url, "model": "m", "allow_http": True},
        "compose": {"max_prompts": 3, "pairs": 0},
        "generate": painter("sdxl4"),
        "recheck": {"kind": "clip", "model": str(tiny("clip"))},
    }


def third_recipe() -> dict[str, Any]:
    model = {"kind": "sam3", "model": str(tiny("sam3"))}
    sections = {"ground": model | {"box_threshold": 0.0}, "segment": model, "describe": {"kind": "fake"}}
    return sections | {"compose": {"max_prompts": 1, "pairs": 0}, "generate": painter("sd3")}


def fourth_recipe() -> dict[str, Any]:
    ground = {"kind": "grounding-dino", "model": str(tiny("mm-grounding-dino")), **LOOSE}
    sections = {"ground": ground, "segment": {"kind": "sam2", "model": str(tiny("sam2"))}, "describe": {"kind": "fake"}}
    return sections | {"compose": {"max_prompts": 1, "pairs": 0}, "generate": painter("flux")}


@pytest.fixture(scope="session")
def first(three_subjects: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as the command line does it, in a worker process."""
    root = tmp_path_factory.mktemp("first") / "corpus"
    result = build(three_subjects, root, Recipe.model_validate(OPEN | first_recipe()), workers=1)
    assert result.exit_code == 0
    return root


@pytest.fixture(scope="session")
def second(corpus_of: Any) -> Path:
    with ChatServer() as server:
        return corpus_of("second", second_recipe(server.url))


@pytest.fixture(scope="session")
def third(corpus_of: Any) -> Path:
    return corpus_of("third", third_recipe())


@pytest.fixture(scope="session")
def fourth(corpus_of: Any) -> Path:
    return corpus_of("fourth", fourth_recipe())


CORPORA = ("first", "second", "third", "fourth")


def sections(name: str) -> Recipe:
    recipes = {"first": first_recipe, "third": third_recipe, "fourth": fourth_recipe}
    recipes["second"] = lambda: second_recipe("http://127.0.0.1:9/v1")
    return Recipe.model_validate(OPEN | recipes[name]())


def photo_of(corpus: Any, sample: Any) -> Photo:
    return Photo(id=sample.id, subject=sample.subject, class_noun=sample.class_noun, image=corpus.image(sample))


@pytest.mark.parametrize("name", CORPORA)
def test_boxes_and_masks_that_are_stored_are_those_the_models_gave(name, request):
    recipe = sections(name)
    grounder = load("ground", recipe.ground, leave_out=frozenset({"min_score"}))
    segmenter = load("segment", recipe.segment)
    with open_corpus(request.getfixturevalue(name)) as corpus:
        samples = list(corpus.samples(role="src"))
        assert len(samples) == 6
        assert len({sample.subject for sample in samples}) == 3
        photos = [photo_of(corpus, sample) for sample in samples]
        # in the batches of the build: padding in a batch is part of what a model sees
        boxes = grounder.ground(photos)
        assert all(isinstance(box, Grounding) for box in boxes)
        masks = [box.segmentation for box in boxes] if name == "third" else segmenter.segment(photos, boxes)
        for sample, box, found in zip(samples, boxes, masks, strict=True):
            assert isinstance(found, Segmentation)
            assert np.array_equal(corpus.mask(sample), found.mask)
            assert sample.box_score == pytest.approx(box.score, abs=1e-6)
            assert sample.other_boxes == box.other_boxes
            assert sample.mask_quality == pytest.approx(found.quality, abs=1e-5)
            assert {score.name for score in found.scores} <= {score.name for score in sample.scores}
            by = {step.stage: step for step in sample.provenance}
            assert (by["ground"].backend, by["ground"].model) == (recipe.ground.kind, grounder.model)
            assert (by["segment"].backend, by["segment"].model) == (recipe.segment.kind, segmenter.model)
            assert "@sha256:" in by["ground"].model


@pytest.mark.parametrize("name", CORPORA)
def test_regular_pictures_belong_to_the_class_and_each_can_be_made_again_alone(name, request):
    """Stable Diffusion 1.5, SDXL, 3.5 and FLUX, in the order of the corpora."""
    recipe = sections(name)
    painter_ = load("generate", recipe.generate.generator)
    with open_corpus(request.getfixturevalue(name)) as corpus:
        pictures = list(corpus.samples(role="reg"))
        asked = sum(2 * len({p.prompt for p in subject.regular_prompts}) for subject in corpus.subjects.values())
        kept_or_accounted = len(pictures) + sum(row.kind == "made" for row in corpus.ledger)
        assert kept_or_accounted == asked
        assert len(pictures) >= 6
        for picture in pictures[::3]:
            assert picture.subject == f"class-{picture.class_noun}"
            assert not picture.own_pixels
            (step,) = [step for step in picture.provenance if step.stage == "generate"]
            assert (step.backend, step.model) == ("diffusers", painter_.model)
            prompt = RegularPrompt(prompt=picture.prompt, template="", words=(), seed=0)
            (again,) = painter_.generate(
                [GenerationRequest(prompt=prompt, class_noun=picture.class_noun, seed=step.seed, size=32)]
            )
            difference = np.abs(again.image.astype(int) - corpus.image(picture))
            # a batch of four and a batch of one may round differently, by a step of 255
            assert difference.max() <= 1
            assert picture.mask_area > 0
            assert {"ground", "segment", "generate", "compose"} <= {step.stage for step in picture.provenance}
            assert any(picture.id in subject.regular_ids for subject in corpus.subjects.values())


def test_a_generated_picture_without_a_detection_is_dropped_and_the_ledger_says_why(three_subjects, tmp_path):
    ground = {"kind": "grounding-dino", "model": str(tiny("mm-grounding-dino")), **LOOSE, "box_threshold": 0.99}
    recipe = FAKE | {"ground": ground, "segment": {"kind": "fake"}}
    recipe["generate"] = {"generator": {"kind": "fake"}, "images_per_prompt": 1}
    (three_subjects_copy := tmp_path / "in").mkdir()
    for subject in three_subjects.iterdir():
        (three_subjects_copy / subject.name).mkdir()
        for photograph in subject.iterdir():
            (three_subjects_copy / subject.name / photograph.name).write_bytes(photograph.read_bytes())
        names = sorted(photograph.name for photograph in subject.iterdir())
        boxes = ", ".join(f"{name}: [10, 10, 200, 200]" for name in names)
        (three_subjects_copy / subject.name / "overrides.yaml").write_text(f"boxes: {{{boxes}}}\n")
    result = build(three_subjects_copy, tmp_path / "corpus", Recipe.model_validate(OPEN | recipe), workers=0)
    with open_corpus(result.root) as corpus:
        made = [row for row in corpus.ledger if row.kind == "made"]
        assert len(made) >= 3
        assert {row.code for row in made} == {"E210"}
        assert all(row.sample_id.startswith("class-") and "asked is 0.99" in row.sentence for row in made)
        assert list(corpus.samples(role="reg")) == []


def test_words_and_captions_that_are_stored_are_those_the_model_gave(first):
    recipe = sections("first")
    describer = load("describe", recipe.describe)
    with open_corpus(first) as corpus:
        looks = []
        for subject in sorted(corpus.subjects.values(), key=lambda subject: subject.id):
            samples = [corpus[name] for name in subject.sample_ids]
            looks.append(describer.look([photo_of(corpus, s) for s in samples], [corpus.mask(s) for s in samples]))
        for said, subject in zip(
            describer.describe_looks(looks), sorted(corpus.subjects.values(), key=lambda s: s.id), strict=True
        ):
            assert {corpus[name].caption for name in subject.sample_ids} == set(said.captions.values())
            assert {(w.category, w.word, w.origin) for w in subject.attributes} == {
                (w.category, w.word, w.origin) for w in said.words
            }


def test_words_of_a_server_reach_the_prompts_and_the_scores_of_the_second_gate_the_manifest(second):
    schema = {"properties": {"captions": {"minItems": 2}, "has": {}, "could": {}}}
    with open_corpus(second) as corpus:
        for subject in corpus.subjects.values():
            said = answer_to(schema, subject.class_noun)
            assert {word.word for word in subject.attributes} == {"red", *said["has"]["shape"], "oak"}
            assert f"a photo of a red {subject.class_noun}" in {prompt.prompt for prompt in subject.regular_prompts}
            assert [corpus[name].caption for name in subject.sample_ids] == said["captions"]
        for picture in corpus.samples(role="reg"):
            scores = {score.name: score.value for score in picture.scores}
            assert -1 <= scores["clip_agreement"] <= 1
            assert -1 <= scores["clip_identity"] <= 1


@pytest.mark.parametrize("name", CORPORA)
def test_no_corpus_names_the_folders_its_models_lay_in(name, request):
    root = request.getfixturevalue(name)
    places = [str(tiny("sam").parent).encode(), str(tiny_pipeline("sd4").parent).encode()]
    files = [path for path in root.rglob("*") if path.is_file() and ".work" not in path.parts]
    assert len(files) > 5
    with manifests.open(str(root)) as corpus:
        assert "tiny-" in str(corpus.header.recipe["ground"]["model"])
    assert [path for path in files if any(place in path.read_bytes() for place in places)] == []


def test_a_second_build_computes_nothing_and_other_weights_under_the_same_name_compute_anew(
    three_subjects, tmp_path, request
):
    import shutil

    model = tmp_path / "model"
    shutil.copytree(tiny("grounding-dino"), model)
    recipe = FAKE | {"ground": {"kind": "grounding-dino", "model": str(model), **LOOSE}, "segment": {"kind": "fake"}}

    def run() -> Any:
        return build(three_subjects, tmp_path / "corpus", Recipe.model_validate(OPEN | recipe), workers=0)

    assert run().stages["ground"].computed == 6
    moved = tmp_path / "moved" / "model"
    shutil.copytree(model, moved)
    recipe["ground"]["model"] = str(moved)
    again = run()
    assert again.stages["ground"].computed == 0
    assert run().unchanged
    weights = moved / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-8:] = b"\0" * 8
    weights.write_bytes(data)
    assert run().stages["ground"].computed == 6
