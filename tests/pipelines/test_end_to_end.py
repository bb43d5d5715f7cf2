"""From photographs to a picture and back: build, train, paint by ID, trace."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from dataforge.cli import app as dataforge_app
from manifests.cli import app as manifests_app
from manifests.corpus import open_corpus
from pipelines.cli import app as pipelines_app
from tests.tiny_models import tiny
from trainer.cli import app as trainer_app


def call(app, *words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.slow
def test_one_command_paints_teapot_into_a_scene_by_id_and_trace_names_its_photographs(test_data, tmp_path):
    photographs, corpus = tmp_path / "photographs", tmp_path / "corpus"
    shutil.copytree(test_data / "dreambench" / "subjects" / "teapot", photographs / "teapot")
    shutil.copytree(test_data / "dreambench" / "masks" / "teapot", photographs / "teapot" / "masks")
    scenes = test_data / "murecom" / "Coffee_cup" / "bg"
    (photographs / "scenes").mkdir()
    for name in ("0.jpg", "1.jpg"):
        shutil.copy(scenes / name, photographs / "scenes" / name)
    lines = (scenes / "bbox.txt").read_text().splitlines()
    (photographs / "scenes" / "bbox.txt").write_text("\n".join(lines[:2]) + "\n")

    call(dataforge_app, "build", photographs, "-o", corpus, "--workers", 0)
    with open_corpus(corpus) as opened:
        found = set(opened.subjects["teapot"].sample_ids)
        words = {word.word for word in opened.subjects["teapot"].attributes if word.category == "colour"}
        place = next(sample for sample in opened.samples(role="bg"))
    few = ("--set", "max_train_steps=2", "--set", "resolution=64")
    call(trainer_app, f"{corpus}#teapot", "--recipe", "dreammix", "--base", tiny("sd9"), "-o", tmp_path / "a", *few)
    (adapter,) = (path.parent for path in (tmp_path / "a").glob("*/adapter.json"))

    painted = call(
        pipelines_app, adapter, "--scene", f"{corpus}#{place.id}", "--edit", "colour=blue", "-o", tmp_path / "painted",
        "--set", "num_inference_steps=2", "--json",
    )  # fmt: skip
    (row,) = json.loads(painted[painted.index("[") :])
    assert tuple(row["box_xyxy"]) == place.box_xyxy
    assert set(row["removed_words"]) <= words
    assert row["prompt"] == "a photo of blue sks teapot"
    walked = call(manifests_app, "trace", f"{tmp_path / 'painted'}#{row['id']}")
    seen = {name for name in found if f"{name}  " in walked}
    assert seen
    assert all(f"teapot/0{number}.jpg" in walked for number in range(5))
