"""`evaluate corpus` on a corpus of real photographs, against the same measures computed here from plain files."""

from __future__ import annotations

import csv
import itertools
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dataforge import build, load_recipe
from manifests.corpus import open_corpus
from manifests.errors import UsageError
from pipelines.evaluate.quality.evaluation import evaluate_corpus
from pipelines.evaluate.quality.leaks import difference_hash, find_leaks
from pipelines.evaluate.quality.masks import MaskScore, calibration, true_mask_path
from pipelines.evaluate.quality.words import COLOURS, colour_shares


# how many subjects and photographs of each; None: all there are
@pytest.fixture(scope="module", params=[3, pytest.param(None, marks=pytest.mark.slow)], ids=["three", "all"])
def real(request, test_data, tmp_path_factory) -> Path:
    """A corpus of subjects of the DreamBooth set, built without given masks: three of four photographs, or all."""
    folder = tmp_path_factory.mktemp("real")
    given = test_data / "dreambench" / "subjects"
    subjects = sorted(path.name for path in given.iterdir()) if request.param is None else ["can", "cat", "teapot"]
    for subject in subjects:
        (folder / "photographs" / subject).mkdir(parents=True)
        for path in sorted((given / subject).glob("*.jpg"))[: request.param and 4]:
            shutil.copy(path, folder / "photographs" / subject)
    # one photograph stands under another subject too, brighter by a little: a leak
    with Image.open(folder / "photographs" / "cat" / "00.jpg") as picture:
        picture.point(lambda value: min(value + 3, 255)).save(
            folder / "photographs" / "teapot" / "stray.jpg", quality=95
        )
    (folder / "photographs" / "subjects.csv").write_text(
        "subject,class_noun\n" + "".join(f"{name},{name}\n" for name in subjects)
    )
    settings = [
        "generate.images_per_photograph=1",
        "segment.max_side=64",
        "segment.iterations=1",
        "generate.generator.size=128",
    ]
    settings[1:1] = ["segment.kind=embedded"]
    settings.append("generate.generator.kind=embedded")
    build(folder / "photographs", folder / "corpus", load_recipe(None, settings), workers=1)
    return folder / "corpus"


@pytest.fixture(scope="module")
def measured(real, test_data, models):
    data = test_data / "dreambench"
    sets = [f"clip.model={models / 'clip'}", f"dino.model={models / 'dino'}"]
    with open_corpus(real) as corpus:
        return evaluate_corpus(corpus, masks=data / "masks", colours=data / "subjects.csv", sets=sets)


def members(real: Path, row: dict) -> tuple[np.ndarray, np.ndarray]:
    """Picture and mask of a manifest row, read with nothing of ours."""
    pixels = []
    for name in ("image", "mask"):
        place = row[name]
        with (real / place["shard"]).open("rb") as shard:
            shard.seek(place["offset"])
            pixels.append(cv2.imdecode(np.frombuffer(shard.read(place["length"]), np.uint8), cv2.IMREAD_UNCHANGED))
    return pixels[0][..., ::-1], pixels[1] > 0


@pytest.fixture(scope="module")
def rows(real) -> list[dict]:
    return pq.read_table(real / "manifest.parquet").to_pylist()


def value(measured, name: str) -> float:
    return next(measure.value for measure in measured.measures if measure.name == name)


def test_iou_and_calibration_agree_with_an_independent_computation(measured, real, rows, test_data):
    found, quality, flagged = [], [], []
    for row in rows:
        truth = test_data / "dreambench" / "masks" / row["subject"] / f"{Path(row['source_uri']).stem}.png"
        if row["role"] != "src" or not truth.exists():
            continue
        mask, true = members(real, row)[1], cv2.imread(str(truth), cv2.IMREAD_GRAYSCALE) > 127
        found.append(np.logical_and(mask, true).sum() / np.logical_or(mask, true).sum())
        quality.append(row["mask_quality"])
        flagged.append(bool(row["flags"]))
    assert len(found) == sum(row["role"] == "src" for row in rows) - 1  # all but the stray one
    assert value(measured, "mask_iou") == pytest.approx(np.mean(found), abs=1e-6)
    assert value(measured, "masks_good") == pytest.approx(np.mean(np.array(found) >= 0.75), abs=1e-6)
    assert value(measured, "mask_quality") == pytest.approx(np.mean(quality), abs=1e-6)
    assert value(measured, "quality_correlation") == pytest.approx(np.corrcoef(found, quality)[0, 1], abs=1e-6)
    which = np.clip(np.digitize(quality, np.linspace(0, 1, 11)) - 1, 0, 9)
    error = sum(
        (which == one).sum() * abs(np.mean(np.array(quality)[which == one]) - np.mean(np.array(found)[which == one]))
        for one in set(which)
    ) / len(found)
    assert value(measured, "calibration_error") == pytest.approx(error, abs=1e-6)
    assert 0 < sum(flagged) < len(flagged)
    for name, chosen in (("flagged", flagged), ("not flagged", ~np.array(flagged))):
        expected = np.mean(np.array(found)[chosen])
        assert value(measured, f"mask_iou, {name}") == pytest.approx(expected, abs=1e-6)


def test_colour_words_agree_with_an_independent_computation(measured, real, test_data):
    subjects = pq.read_table(real / "subjects.parquet").to_pylist()
    accepted = {
        line["subject"]: line["accepted_main_colours"].split("|")
        for line in csv.DictReader((test_data / "dreambench" / "subjects.csv").open())
    }
    first, every = [], []
    for subject in subjects:
        if subject["id"] in accepted:
            words = [w for w in subject["attributes"] if w["origin"] == "source" and w["category"] == "colour"]
            first.append(max(words, key=lambda w: w["score"])["word"] in accepted[subject["id"]] if words else False)
            every += [w["word"] in accepted[subject["id"]] for w in words]
    assert value(measured, "first_colour_accepted") == pytest.approx(np.mean(first), abs=1e-6)
    assert value(measured, "colours_accepted") == pytest.approx(np.mean(every), abs=1e-6)


def lab(pixels: np.ndarray) -> np.ndarray:
    """CIELAB (D65, 2 degrees) of sRGB values 0 to 255, [n, 3], written out from IEC 61966-2-1 and CIE 15."""
    share = pixels / 255
    linear = np.where(share > 0.04045, ((share + 0.055) / 1.055) ** 2.4, share / 12.92)
    matrix = [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
    xyz = linear @ np.array(matrix).T / [0.95047, 1, 1.08883]
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * 841 / 108 + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


def test_regular_pictures_agree_with_an_independent_computation(measured, real, rows):
    prototypes = lab(np.array(list(COLOURS.values())))
    shares, hits, by_subject, prompts = [], [], {}, {}
    for row in rows:
        if row["role"] != "reg":
            continue
        image, mask = members(real, row)
        small = Image.fromarray(np.ascontiguousarray(image)).resize((32, 32), Image.Resampling.BOX)
        by_subject.setdefault(row["subject"], []).append(np.asarray(small, float) / 255)
        prompts.setdefault(row["subject"], []).append(row["prompt"])
        asked = [w["word"] for w in row["attributes"] if w["category"] == "colour" and w["word"] in COLOURS]
        if asked:
            nearest = np.linalg.norm(lab(image[mask])[:, None] - prototypes[None], axis=2).argmin(axis=1)
            names = [list(COLOURS)[index] for index in nearest]
            shares.append(max(names.count(word) / len(names) for word in asked))
            hits.append(shares[-1] == max(names.count(word) / len(names) for word in COLOURS))
    assert value(measured, "asked_colour_share") == pytest.approx(np.mean(shares), abs=1e-6)
    assert value(measured, "asked_colour_first") == pytest.approx(np.mean(hits), abs=1e-6)
    distances = [
        np.mean([np.sqrt(np.mean((a - b) ** 2)) for a, b in itertools.combinations(pictures, 2)])
        for pictures in by_subject.values()
        if len(pictures) > 1
    ]
    assert value(measured, "pixel_distance") == pytest.approx(np.mean(distances), abs=1e-6)
    distinct = [len(set(asked)) / len(asked) for asked in prompts.values()]
    assert value(measured, "distinct_prompts") == pytest.approx(np.mean(distinct), abs=1e-6)


def test_prompt_agreement_is_the_models_own(measured, real, rows, models):
    import torch
    from transformers import CLIPModel, CLIPTokenizer

    from pipelines.evaluate.preprocessing import CLIP_MEAN, CLIP_STD, Preprocessing

    model = CLIPModel.from_pretrained(models / "clip").eval()
    tokenizer = CLIPTokenizer.from_pretrained(models / "clip")
    found = []
    for row in rows:
        if row["role"] == "reg" and row["prompt"]:
            x0, y0, x1, y1 = row["box_xyxy"]
            pixels = Preprocessing(32, CLIP_MEAN, CLIP_STD, short_side=32)(members(real, row)[0][y0:y1, x0:x1])
            with torch.inference_mode():
                out = model(
                    pixel_values=torch.from_numpy(pixels)[None], **tokenizer([row["prompt"]], return_tensors="pt")
                )
            found.append(float((out.image_embeds * out.text_embeds).sum()))
    assert value(measured, "prompt_clip_t") == pytest.approx(np.mean(found), abs=1e-6)


def test_dino_distance_is_the_models_own(measured, rows, real, models):
    """Every picture cut and normalised by torchvision, as torch hub's own recipe has it, and shown by itself."""
    import torch
    from torchvision.transforms import v2
    from transformers import ViTModel

    model = ViTModel.from_pretrained(models / "dino", add_pooling_layer=False).eval()
    see = v2.Compose(
        [
            v2.Resize(36, v2.InterpolationMode.BICUBIC),
            v2.CenterCrop(32),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    tokens: dict[str, list[np.ndarray]] = {}
    for row in rows:
        if row["role"] == "reg":
            picture = Image.fromarray(np.ascontiguousarray(members(real, row)[0]))
            with torch.inference_mode():
                token = model(pixel_values=see(picture)[None]).last_hidden_state[0, 0].double().numpy()
            tokens.setdefault(row["subject"], []).append(token)
    apart = [
        np.mean([1 - a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in itertools.combinations(one, 2)])
        for one in tokens.values()
        if len(one) > 1
    ]
    assert len(apart) > 1
    assert value(measured, "dino_distance") == pytest.approx(np.mean(apart), abs=1e-6)


def test_leak_between_subjects_is_found_and_nothing_else(measured, real, rows):
    stray = next(row["id"] for row in rows if row["role"] == "src" and row["source_uri"] == "teapot/stray.jpg")
    twin = next(row["id"] for row in rows if row["role"] == "src" and row["source_uri"] == "cat/00.jpg")
    assert [(leak.kind, leak.first, leak.second) for leak in measured.leaks] == [
        ("same picture in two subjects", *sorted((stray, twin)))
    ]
    hashes = {}
    for row in rows:
        if row["role"] == "src":
            grey = np.asarray(
                Image.fromarray(np.ascontiguousarray(members(real, row)[0])).convert("L").resize((9, 8), 1), int
            )
            hashes[row["id"]] = (row["subject"], np.diff(grey, axis=1).reshape(-1) > 0)
    near = {
        tuple(sorted((one, other)))
        for (one, (a, first)), (other, (b, second)) in itertools.combinations(hashes.items(), 2)
        if a != b and (first != second).sum() <= 3
    }
    assert near == {tuple(sorted((stray, twin)))}


def test_command_writes_tables_and_page(real, test_data, tmp_path):
    data = test_data / "dreambench"
    command = [
        sys.executable, "-c", "from pipelines.evaluate.cli import app; app()", "evaluate", "corpus", str(real),
        "-o", str(tmp_path), "--masks", str(data / "masks"), "--colours", str(data / "subjects.csv"), "--json",
        "--set", "clip=null", "--set", "dino=null",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["missing"] == []
    table = pq.read_table(tmp_path / "quality.parquet").to_pylist()
    assert [row["name"] for row in table] == [measure["name"] for measure in said["measures"]]
    assert pq.read_table(tmp_path / "masks.parquet").num_rows == len(
        list((real.parent / "photographs").glob("*/[0-9]*.jpg"))
    )
    page = (tmp_path / "quality.html").read_text()
    assert "calibration_error" in page
    assert "same picture in two subjects" in page


def test_quality_that_is_always_right_has_no_calibration_error():
    scores = [MaskScore(id=str(n), subject="s", iou=n / 10, mask_quality=n / 10, flagged=False) for n in range(11)]
    assert calibration(scores)[0] == pytest.approx(0)
    off = [MaskScore(id=str(n), subject="s", iou=0.25, mask_quality=0.75, flagged=False) for n in range(4)]
    assert calibration(off) == (0.5, [(0.75, 0.25, 4)])


def test_true_masks_lie_where_known_data_sets_put_them(tmp_path):
    for place in ("cat/00.png", "Dog/fg1/0.png", "vase/mask/00.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    for uri, found in (
        ("cat/00.jpg", "cat/00.png"),
        ("Dog/fg1/0.jpg", "Dog/fg1/0.png"),
        ("vase/image/00.jpg", "vase/mask/00.png"),
    ):
        assert true_mask_path(tmp_path, uri) == tmp_path / found
    assert true_mask_path(tmp_path, "../cat/00.jpg") is None
    assert true_mask_path(tmp_path, "cat/01.jpg") is None


def test_no_true_mask_at_all_is_a_sentence(corpus, tmp_path):
    with pytest.raises(UsageError, match=r"<subject>/<photograph>\.png was expected"):
        evaluate_corpus(corpus, masks=tmp_path, sets=["clip=null", "dino=null"])


def test_colour_shares_know_their_own_prototypes():
    for name, colour in COLOURS.items():
        image = np.full((4, 4, 3), colour, np.uint8)
        assert colour_shares(image, np.ones((4, 4), bool))[name] == 1


def test_split_that_leaks_is_found(corpus, monkeypatch):
    """The corpus's own rows with one photograph of each subject moved to the other split."""
    import dataclasses

    rows = list(corpus.samples())
    moved = {row.subject: row.id for row in rows if row.role == "src"}
    changed = [dataclasses.replace(row, split="validation") if row.id in moved.values() else row for row in rows]
    monkeypatch.setattr(
        type(corpus), "samples", lambda self, role=None: iter([r for r in changed if role in (None, r.role)])
    )
    kinds = {leak.kind for leak in find_leaks(corpus)}
    assert {"subject in two splits", "made from another split"} <= kinds


def test_hash_does_not_change_with_brightness_or_size():
    rng = np.random.default_rng(0)
    image = np.asarray(Image.fromarray(rng.integers(0, 200, (8, 9, 3), np.uint8)).resize((144, 128), 3))
    brighter = np.clip(image.astype(int) + 20, 0, 255).astype(np.uint8)
    smaller = np.asarray(Image.fromarray(image).resize((72, 64), 1))
    assert (difference_hash(image) ^ difference_hash(brighter)).bit_count() <= 2
    assert (difference_hash(image) ^ difference_hash(smaller)).bit_count() <= 2
    assert not math.isnan(difference_hash(image))
