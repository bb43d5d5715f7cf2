"""A folder of subjects goes through `dataforge build` as any user's does."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np

from manifests import Corpus
from toyworld.subjects import SUBJECTS, Places, picture, write
from toyworld.words import SEEN


def test_subjects_are_known_by_marks_that_training_never_shows():
    assert len({subject.name for subject in SUBJECTS}) == len({subject.mark for subject in SUBJECTS}) == 12
    assert all((subject.shape, subject.colour, subject.texture) in SEEN for subject in SUBJECTS)


def test_a_place_is_empty_and_a_larger_canvas_makes_small_ones():
    scene, box = Places(canvas=128, size=(0.12, 0.16))(3)
    assert scene.backdrop.canvas == 128
    assert max(box[2] - box[0], box[3] - box[1]) < 40


def test_dataforge_build_takes_the_folder_with_its_masks(tmp_path):
    listing = write(tmp_path / "subjects", SUBJECTS[:2], views=3, places=range(2), strike=["purple"])
    quick = ["compose.pairs=1", "compose.max_prompts=2", "generate.generator.size=64", "generate.images_per_prompt=1"]
    command = [
        sys.executable,
        "-m",
        "dataforge",
        "build",
        str(listing),
        "-o",
        str(tmp_path / "corpus"),
        "--workers",
        "1",
        "--json",
    ]
    for setting in quick:
        command += ["--set", setting]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)["counts"]
    assert (counts["subjects"], counts["photographs"], counts["scenes"]) == (2, 6, 2)
    with Corpus(tmp_path / "corpus") as corpus:
        assert "purple" not in {word.word for word in corpus.subjects["moon-box"].attributes if word.origin == "source"}
        photographs = list(corpus.samples(role="src"))
        assert len(photographs) == 6
        for sample in photographs:
            subject = next(each for each in SUBJECTS if each.name in sample.source_uri)
            number = int(sample.source_uri.rsplit("/", 1)[1].removesuffix(".png"))
            truth = picture(subject, number)
            assert np.array_equal(corpus.mask(sample), truth.masks[-1])
            assert [made.backend for made in sample.provenance if made.stage == "segment"] == ["given"]
            assert sample.class_noun == subject.shape
