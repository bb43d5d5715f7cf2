"""Metric models of the real classes, tiny, with random seeded weights, saved where a user's would lie."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from manifests.corpus import Corpus, open_corpus
from manifests.ids import sha256_hex
from manifests.pixels import box_from_mask, encode_image, encode_mask
from manifests.records import Attribute, Box, MemberRef, SubjectAttribute
from pipelines.evaluate.pairs import Pair, View
from pipelines.evaluate.presets import Preset, load_preset
from tests.conftest import COLOURS
from tests.manifests import corpora
from tests.manifests.corpora import Made
from tests.tiny_models import tokenizer

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """`clip/`, `dino/`, `sam/` as transformers saves them; `squeeze.pth` as torchvision has it."""
    import torch
    import torchvision
    from transformers import (
        CLIPConfig,
        CLIPModel,
        SamConfig,
        SamMaskDecoderConfig,
        SamModel,
        SamPromptEncoderConfig,
        SamVisionConfig,
        ViTConfig,
        ViTModel,
    )
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = tmp_path_factory.mktemp("metric-models")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokens = tokenizer()
        text = {**SMALL, "vocab_size": len(tokens)}
        text |= {f"{name}_token_id": getattr(tokens, f"{name}_token_id") for name in ("eos", "bos", "pad")}
        vision = {**SMALL, "image_size": 32, "patch_size": 8}
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(
            folder / "clip"
        )
        tokens.save_pretrained(folder / "clip")
        ViTModel(ViTConfig(**vision), add_pooling_layer=False).save_pretrained(folder / "dino")
        torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), folder / "squeeze.pth")
        sides = {"image_size": 64, "patch_size": 8}
        sam = SamVisionConfig(
            hidden_size=16, output_channels=16, num_hidden_layers=1, num_attention_heads=2, mlp_dim=32, window_size=4,
            global_attn_indexes=[0], num_pos_feats=8, **sides,
        )  # fmt: skip
        prompt = SamPromptEncoderConfig(hidden_size=16, mask_input_channels=4, **sides)
        decoder = SamMaskDecoderConfig(
            hidden_size=16, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
        )
        SamModel(
            SamConfig(vision_config=sam, prompt_encoder_config=prompt, mask_decoder_config=decoder)
        ).save_pretrained(folder / "sam")
    return folder


@pytest.fixture(scope="session")
def inception(tmp_path_factory) -> Path:
    """torch-fidelity's Inception with random weights, saved as its own file is."""
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Unloaded(FeatureExtractorInceptionV3):
        def load_state_dict(self, state):
            return None

    folder = tmp_path_factory.mktemp("inception")
    torch.save({}, folder / "empty.pth")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Unloaded("inception-v3-compat", ["64"], feature_extractor_weights_path=str(folder / "empty.pth"))
    torch.save({name: value.half() for name, value in model.state_dict().items()}, folder / "inception.pth")
    yield folder / "inception.pth"
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def sets(models) -> list[str]:
    """`--set` options that name the tiny models; FID left out, because its file is a hundred megabytes."""
    return [
        f"clip.model={models / 'clip'}",
        f"dino.model={models / 'dino'}",
        "lpips.net=squeeze",
        f"lpips.weights={models / 'squeeze.pth'}",
        "lpips.side=64",
        "ssim.side=64",
        "fid=null",
    ]


@pytest.fixture(scope="session")
def tiny_preset(sets) -> Preset:
    return load_preset("ours", sets)


def picture(seed: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """uint8 HxWx3 of noise that a resize does not level."""
    rng = np.random.default_rng(seed)
    rough = rng.integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
    return np.ascontiguousarray(rough.repeat(8, axis=0).repeat(8, axis=1))


@pytest.fixture
def make_pair():
    """A function from seeds to a pair; the same seed for scene and composite makes them equal."""

    def make(
        composite: int = 1, scene: int | None = 1, references: tuple[int, ...] = (2, 3), mask: bool = False
    ) -> Pair:
        box = (16, 8, 40, 32)
        inside = np.zeros((48, 64), bool)
        inside[10:30, 18:36] = True
        given = inside if mask else None
        return Pair(
            View(f"composite {composite}", picture(composite), box, given),
            None if scene is None else picture(scene),
            tuple(View(f"reference {seed}", picture(seed), box, given) for seed in references),
            "a photo of a red mug",
        )

    return make


def drawn(owner: str, role: str, seed: int, colour: str, box: Box, **more: Any) -> Made:
    """A disc of a colour in a box on soft noise, 128 x 128; of a scene the box only, nothing in it."""
    rng = np.random.default_rng(seed)
    noise = Image.fromarray(rng.integers(80, 200, (16, 16, 3), dtype=np.uint8)).resize((128, 128), 3)
    mask = Image.new("1", (128, 128))
    draw = ImageDraw.Draw(mask)
    x0, y0, x1, y1 = box
    (draw.rectangle if role == "bg" else draw.ellipse)((x0, y0, x1 - 1, y1 - 1), fill=1)
    if role != "bg":
        ImageDraw.Draw(noise).ellipse((x0, y0, x1 - 1, y1 - 1), fill=COLOURS[colour])
    pixels, shape = np.asarray(noise), np.asarray(mask)
    data, image_format = encode_image(pixels)
    mask_png = encode_mask(shape)
    found = sha256_hex(data)
    words = (Attribute(category="colour", word=colour, score=0.9, origin="source"),)
    facts: dict[str, Any] = {
        "id": f"{owner}/{role}-{found[:12]}",
        "class_noun": "ball",
        "width": 128,
        "height": 128,
        "box_xyxy": box_from_mask(shape),
        "mask_area": float(shape.mean()),
        "prompt": {"src": "a photo of {identifier} ball", "reg": f"a photo of a {colour} ball", "bg": ""}[role],
        "attributes": () if role == "bg" else words,
        "image": MemberRef(shard="", offset=0, length=len(data), format=image_format, sha256=found),
        "mask": MemberRef(shard="", offset=0, length=len(mask_png), format="png", sha256=sha256_hex(mask_png)),
        "source_sha256": "" if role == "reg" else found,
        "source_uri": f"{owner}/{seed % 10}.jpg",
    }
    return Made(dataclasses.replace(corpora.make(owner, role, seed).sample, **(facts | more)), data, mask_png)


@pytest.fixture(scope="session")
def drawn_corpus(tmp_path_factory) -> Path:
    """Three subjects with two photographs and a regular picture each, one that they share, three scenes with boxes."""
    scenes = [drawn("scenes", "bg", 900 + n, "", (20 + n, 30, 71 + n, 80)) for n in range(3)]
    # of the class and not of anyone's pixels: what DreamMix trains on beside the subject
    shared = drawn("class-ball", "reg", 700, "yellow", (30, 40, 90, 96), own_pixels=False)
    everything, rows = [*scenes, shared], []
    for number, colour in enumerate(("red", "blue", "green")):
        name = f"{colour}-ball"
        box = (30 + 4 * number, 40, 80 + 4 * number, 84)
        photographs = [drawn(name, "src", 100 * number + n, colour, box) for n in range(2)]
        regular = drawn(name, "reg", 100 * number + 5, "yellow", box, parents=(photographs[0].id,), own_pixels=True)
        everything += [*photographs, regular]
        ids = tuple(sorted(made.id for made in photographs))
        rows.append(
            corpora.subject(
                name,
                photographs,
                [regular, shared],
                class_noun="ball",
                instance_prompt="a photo of {identifier} ball",
                attributes=(
                    SubjectAttribute(category="colour", word=colour, score=0.9, origin="source", sample_ids=ids),
                    SubjectAttribute(category="colour", word="yellow", score=0.0, origin="candidate", sample_ids=()),
                    SubjectAttribute(category="material", word="glass", score=0.0, origin="candidate", sample_ids=()),
                ),
                scene_ids=tuple(sorted(made.id for made in scenes)),
            )
        )
    ledger = [corpora.ledger_row(made) for made in everything if made.sample.role != "reg"]
    what = corpora.content(everything, rows, sorted(ledger, key=lambda row: row.path))
    return corpora.write_corpus(tmp_path_factory.mktemp("drawn") / "corpus", what)


@pytest.fixture(scope="session")
def benchmark(tmp_path_factory) -> Path:
    """`corpus/` with dog, dog2 and robot_toy; `boxes/dog` and `boxes/robot_toy`: sets of two scenes, named alike.

    A third set has boxes and no scenes in the corpus.
    """
    folder = tmp_path_factory.mktemp("benchmark")
    everything, rows = [], []
    for number, (name, noun) in enumerate((("dog", "dog"), ("dog2", "dog"), ("robot_toy", "toy"))):
        photographs = [drawn(name, "src", 100 * number + n, "red", (30, 40, 90, 96)) for n in range(2)]
        everything += photographs
        prompt = f"a photo of {{identifier}} {noun}"
        rows.append(corpora.subject(name, photographs, [], class_noun=noun, instance_prompt=prompt, scene_ids=()))
    for number, name in enumerate(("dog", "robot_toy")):
        for n in range(2):
            uri = f"scenes/{name}/found{n}.jpg"
            everything.append(drawn("scenes", "bg", 900 + 10 * number + n, "", (20, 30, 70, 80), source_uri=uri))
    for number, name in enumerate(("dog", "robot_toy", "teapot")):
        (folder / "boxes" / name).mkdir(parents=True)
        boxes = {f"found{n}.jpg": [64 * number, 128, 64 * number + 256, 384 + 64 * n] for n in range(2)}
        (folder / "boxes" / name / "bbox.json").write_text(json.dumps(boxes))
    ledger = sorted((corpora.ledger_row(made) for made in everything), key=lambda row: row.path)
    corpora.write_corpus(folder / "corpus", corpora.content(everything, rows, ledger))
    return folder


@pytest.fixture
def corpus(drawn_corpus) -> Corpus:
    with open_corpus(drawn_corpus) as opened:
        yield opened
