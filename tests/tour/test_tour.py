"""The tour end to end, as the verb runs it: few steps, so that what is painted is poor and what is shown is true."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manifests.corpus import open_corpus
from manifests.validation import validate
from tests.tour.conftest import dataforge, links_of, times_of
from tour.reading import Reading, read, shares
from tour.walk import EDITS, PLACE, prompt_of
from toyworld import subjects as toys
from toyworld.render import render

TOUR = "tour -o out --subjects 2 --scenes 2 --steps 3"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tour")
    done = dataforge(folder, TOUR)
    assert done.returncode == 0, done.stderr
    return folder / "out", done.stdout


def test_the_tour_leaves_a_corpus_adapters_pictures_and_a_page(made):
    root, said = made
    assert validate(root / "corpus", full=True) == []
    assert sorted(path.parent.name for path in root.glob("adapters/*/adapter.json")) == ["ankh-mug", "moon-box"]
    assert "edits: colour and mark, by pixels" in said
    assert len(links_of(root / "index.html")) > 30
    page = (root / "index.html").read_text("utf-8")
    assert page.count('<figure id="') == 2 * 2 * 2  # subjects, scenes, as it is and in another colour
    assert "--set max_train_steps=3 " in page
    assert prompt_of("blue") in page


def test_a_second_run_computes_nothing_again(made):
    root, _ = made
    before = times_of(root)
    done = dataforge(root.parent, TOUR)
    assert done.returncode == 0, done.stderr
    assert "train: 0/" not in done.stdout + done.stderr
    assert before == times_of(root)


def test_results_are_traced_to_their_photographs(made):
    root, _ = made
    name = json.loads(next(root.glob("painted/parts/*.json")).read_text("utf-8"))["id"]
    done = dataforge(root.parent, f"trace {root}/painted#{name}")
    assert done.returncode == 0, done.stderr
    assert "images/0.png" in done.stdout


def rows_like(root: Path, folder: Path, paint):
    """Results whose pictures are `paint(subject, scene, number, colour)` instead of what a model made."""
    from pipelines.results import read_row

    rows = []
    for part in sorted(root.glob("painted/parts/*.json")):
        row = read_row(root / "painted", part.stem)
        with open_corpus(str(root / "corpus")) as corpus:
            number = int(Path(corpus[row.scene.rpartition("#")[2]].source_uri).stem)
        subject = next(subject for subject in toys.SUBJECTS if subject.name == row.subject)
        scene, box = PLACE(number)
        path = folder / row.image
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(paint(subject, scene, box, dict(row.edit).get("colour", subject.colour))).save(path)
        rows.append(dataclasses.replace(row))
    return rows


def ideal(subject, scene, box, colour):
    """The subject rendered into the scene, in the colour asked for."""
    view = dataclasses.replace(
        toys.photograph(subject, 1).things[-1].view,
        x=(box[0] + box[2]) / 2,
        y=(box[1] + box[3]) / 2,
        size=0.8 * min(box[2] - box[0], box[3] - box[1]),
    )
    thing = dataclasses.replace(toys.photograph(subject, 1).things[-1], colour=colour, view=view, tint=(0, 0, 0))
    return render(dataclasses.replace(scene, things=(*scene.things, thing))).image


def markless(subject, scene, box, colour):
    return ideal(dataclasses.replace(subject, mark=None), scene, box, colour)


@pytest.mark.parametrize(("paint", "right"), [(ideal, True), (markless, False)])
def test_the_figures_follow_the_pictures(made, tmp_path, paint, right):
    root, _ = made
    rows = rows_like(root, tmp_path, paint)
    with open_corpus(str(root / "corpus")) as corpus:
        readings = read(rows, tmp_path, corpus)
    figures = shares(readings)
    assert figures["edits: colour, by pixels"].value == 1
    assert figures["edits: colour and mark, by pixels"].value == right
    assert figures["mark, by the judge"].value == right
    assert all(isinstance(reading, Reading) for reading in readings)
    assert np.isfinite(readings[0].fitted.error)


def test_prompts_have_the_words_of_training():
    assert prompt_of("") == "a photo of {identifier} {class_noun}"
    assert prompt_of("blue") == "a photo of a blue {identifier} {class_noun}"
    assert prompt_of("orange") == "a photo of an orange {identifier} {class_noun}"
    assert EDITS[0] == ""


def test_the_page_leads_to_a_corpus_of_real_photographs(made):
    root, _ = made
    done = dataforge(root.parent, f"{TOUR} --real {root}/corpus")
    assert done.returncode == 0, done.stderr
    assert 'href="corpus/report/index.html">The same for real photographs' in (root / "index.html").read_text("utf-8")
    assert len(links_of(root / "index.html")) > 30
