"""The README's recipes by task, read as their reader would: every block, in order, on toy subjects and a toy base."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from manifests.corpus import open_corpus
from manifests.header import read_header
from manifests.validation import validate
from pipelines.evaluate.ablations import ABLATIONS
from tests.conftest import REPOSITORY
from tests.models.chat_server import ChatServer
from tests.project.task_pages import Desk, PageFault, blocks_of, fill_in, installed, task_pages
from tests.publish.hub import TOKEN, Hub, running

PAGES = task_pages()
BASE = {"BASE": str(REPOSITORY / "toyworld" / "base")}
PHOTOGRAPHS, SCENES = ("IMG_1.png", "IMG_2.png"), ("desk.png", "shelf.png")

# pictures of 64 px, so also those that are made of them
BUILD = {
    "build photos -o corpus": "build photos -o corpus --set generate.generator.size=64 "
    "--set generate.images_per_photograph=1"
}


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with running() as server:
        yield server


@pytest.fixture(scope="module")
def desk(hub, tmp_path_factory) -> Iterator[Desk]:
    """Where nothing of this machine's caches and accounts is known."""
    folder = tmp_path_factory.mktemp("desk")
    caches = {name: str(folder / name.lower()) for name in ("HF_HOME", "TORCH_HOME", "DATAFORGE_CACHE")}
    xet = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    with installed(folder, {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "PYTHONWARNINGS": "", **xet, **caches}) as desk:
        yield desk


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """A folder with `photos/` as the pages have it: two toy subjects under their names, and scenes with boxes."""
    folder = tmp_path_factory.mktemp("photos")
    toys = [sys.executable, "-m", "toyworld.subjects", "toys", "--subjects", "2", "--views", "2", "--places", "2"]
    subprocess.run(toys, cwd=folder, check=True)
    for name, toy in (("travel_mug", "ankh-mug"), ("gift_box", "moon-box")):
        (folder / "photos" / name).mkdir(parents=True)
        for number, photograph in enumerate(PHOTOGRAPHS):
            shutil.copy(folder / "toys" / toy / "images" / f"{number}.png", folder / "photos" / name / photograph)
    (folder / "photos" / "scenes").mkdir()
    for number, scene in enumerate(SCENES):
        shutil.copy(folder / "toys" / "scenes" / f"{number}.png", folder / "photos" / "scenes" / scene)
    boxes = [f"{noun} {scene} 12 12 51 51\n" for noun, scene in zip(("mug", "box"), SCENES, strict=True)]
    (folder / "photos" / "scenes" / "bbox.txt").write_text("".join(boxes))
    return folder


def read(desk: Desk, page: str, folder: Path, own) -> list[str]:
    return desk.read(PAGES[page].read_text("utf-8"), folder, own)


@pytest.fixture(scope="module")
def published(desk, photos, tmp_path_factory) -> Path:
    """Where the first page was read."""
    folder = tmp_path_factory.mktemp("products")
    shutil.copytree(photos / "photos", folder / "photos")
    read(desk, "product-photographs", folder, {"USER/NAME": "user/products", **BUILD})
    return folder


@pytest.fixture(scope="module")
def trained(desk, published) -> Path:
    """Where the second page was read too."""
    # a CPU does not train a base that pools its text itself in half precision
    few = {"max_train_steps: 1000": "max_train_steps: 2", "mixed_precision: bf16": "mixed_precision: 'no'"}
    read(desk, "train-overnight", published, {**few, **BASE})
    return published


def test_product_photographs_are_published_and_pulled(published, hub):
    repo = hub.repos["user/products"]
    assert repo.private
    assert repo.tags.keys() == {read_header(published / "corpus").digest}
    assert validate(published / "copy", full=True) == []
    with open_corpus(published / "copy") as copy:
        assert {name: subject.licence for name, subject in copy.subjects.items()} == dict.fromkeys(
            ("gift_box", "travel_mug"), "CC-BY-4.0"
        )


def test_a_night_leaves_an_adapter_for_each_subject_trained_once(trained):
    records = [json.loads(path.read_text()) for path in sorted(trained.glob("adapters/*/adapter.json"))]
    assert [record["subject"] for record in records] == ["gift_box", "travel_mug"]
    assert all(record["settings"]["max_train_steps"] == 2 for record in records)
    (log,) = trained.glob("adapters/.work/runs/*/log.jsonl")
    assert len(log.read_text().splitlines()) == 2, "the morning's command trains nothing again"
    assert "travel_mug: adapters/travel_mug" in (trained / "train.log").read_text()


def a_result(folder: Path) -> str:
    rows = pq.read_table(folder / "catalogue" / "results.parquet").to_pylist()
    return next(row["id"] for row in rows if row["subject"] == "travel_mug")


def test_a_catalogue_has_every_product_in_every_scene_and_colour(desk, trained):
    few = {f"-o {name}": f"-o {name} --set num_inference_steps=2" for name in ("first", "few", "catalogue")}
    said = read(desk, "paint-a-catalogue", trained, {**few, "travel_mug/lora-0c6dec8ebc9e/out-5b1f0e2d9c77": a_result})
    rows = pq.read_table(trained / "catalogue" / "results.parquet").to_pylist()
    assert len(rows) == len(SCENES) * 2 * 2
    assert len({(row["subject"], row["scene"], str(row["edit"])) for row in rows}) == len(rows)
    assert {row["subject"] for row in rows} == {"gift_box", "travel_mug"}
    assert sum("red" in str(row["edit"]) for row in rows) == len(rows) / 2
    assert len(list((trained / "catalogue" / "images").iterdir())) == len(rows), "again paints nothing"
    by_hand = pq.read_table(trained / "few" / "results.parquet").to_pylist()
    assert [row["box_xyxy"] for row in by_hand] == [[16, 7, 47, 38], [16, 7, 47, 38], [16, 16, 48, 48]]
    assert all(Image.open(trained / "catalogue" / row["image"]).size == (64, 64) for row in rows)
    assert f"file travel_mug/{PHOTOGRAPHS[0]}, sha256" in said[-1].replace("photos/", "")


def test_an_ablation_has_the_rows_of_its_paper(desk, published):
    own = {
        "max_train_steps=20": "max_train_steps=1",
        "num_inference_steps=5": "num_inference_steps=2",
        "--limit 2": "--limit 1 --seeds 1 --train-set max_train_steps=1 --paint-set num_inference_steps=2",
    }
    said = read(desk, "reproduce-an-ablation", published, {**own, **BASE})
    assert re.search(r"left out: .*`hf download \S+` gets it", said[0])
    measured = [
        row
        for row in pq.read_table(published / "ablation" / "table.parquet").to_pylist()
        if row["source"] == "measured"
    ]
    assert {row["method"] for row in measured} >= {setup.name for setup in ABLATIONS["dreammix"].setups}
    assert all(row["method"] in said[-1] for row in measured)


def test_words_come_from_a_server_of_ones_own(desk, photos, tmp_path):
    shutil.copytree(photos / "photos", tmp_path / "photos")
    with ChatServer() as server:
        said = read(desk, "describers", tmp_path, {"http://127.0.0.1:8000/v1": server.url, **BUILD})
    assert server.answered == {"gift box": 1, "travel mug": 1}, "what is there is not asked again"
    with open_corpus(tmp_path / "corpus") as corpus:
        captions = {sample.caption for sample in corpus.samples(role="src")}
    assert captions == {f"{noun} number {n} on a table" for noun in server.answered for n in range(len(PHOTOGRAPHS))}
    assert "like gift box" in said[1]
    assert said[1].endswith("0 samples\n")


def sample_of(folder: Path, photograph: str) -> str:
    with open_corpus(folder / "corpus") as corpus:
        return next(s.id for s in corpus.samples(role="src") if s.source_uri == photograph).rpartition("/")[2]


def test_a_mask_by_hand_changes_what_depends_on_it_and_nothing_else(desk, published, tmp_path):
    for name in ("photos", "corpus"):
        shutil.copytree(published / name, tmp_path / name)
    name = sample_of(tmp_path, "travel_mug/IMG_1.png")
    said = read(desk, "correct-a-corpus", tmp_path, {"src-1a5d7aa4e710": name, **BUILD})
    with open_corpus(tmp_path / "before") as before, open_corpus(tmp_path / "corpus") as corpus:
        mine = np.asarray(Image.open(tmp_path / "photos" / "travel_mug" / "IMG_1-mask.png"))
        sample = corpus[f"travel_mug/{name}"]
        assert mine.any()
        assert np.array_equal(sample.mask, mine)
        assert not np.array_equal(sample.mask, before[sample.id].mask)
        assert "override" in {step.backend for step in sample.provenance}
        others = [one.id for one in before.samples() if one.subject == "gift_box"]
        assert [corpus.record(one).mask.sha256 for one in others] == [before.record(one).mask.sha256 for one in others]
    changed = re.findall(r"^[~+-] (\S+)", next(text for text in said if "subjects: " in text), re.MULTILINE)
    assert sample.id in changed
    assert {name.partition("/")[0] for name in changed} == {"travel_mug"}
    assert validate(tmp_path / "without", full=True) == []
    with open_corpus(tmp_path / "without") as without:
        assert sample.id not in without
        assert not any(sample.id in one.parents for one in without.samples())


def test_there_are_six_tasks_and_each_is_short():
    assert PAGES.keys() == {
        *("product-photographs", "train-overnight", "paint-a-catalogue"),
        *("reproduce-an-ablation", "describers", "correct-a-corpus"),
    }
    for name, path in PAGES.items():
        assert len(path.read_text("utf-8").splitlines()) <= 85, name


SHELL = "<!-- run -->\n```sh\n{}\n```\n"


@pytest.mark.parametrize(
    ("page", "told"),
    [
        (SHELL.format("dataforge buidl photos -o corpus"), "No such command 'buidl'"),
        (SHELL.format("dataforge build photos -o corpus --recipe-name laptop"), "No such option"),
        (SHELL.format("dataforge build photos -o corpus | tail -n 1"), "E503"),
        (SHELL.format("dataforge status nothing &\necho started"), "E503"),
        (SHELL.format("dataforge publish corpus hf://datasets/USER/NAME"), "nobody knows what to put for USER"),
        (SHELL.format("dataforge show corpus#mug/src-0123456789ab"), "nobody knows what to put for src-0123456789ab"),
        ("<!-- run -->\n```python\nimport manifests\nmanifests.opne('corpus')\n```\n", "opne"),
        ("```sh\ndataforge ls corpus\n```\n", "1 blocks, 0 of them marked"),
        ("Then\n\n    dataforge ls corpus\n", "code that is not in a marked block: '    dataforge ls corpus'"),
        ("<!-- file: -->\n```yaml\na: 1\n```\n", "1 blocks, 0 of them marked"),
        ("<!-- run -->\n```yaml\na: 1\n```\n", "a block of yaml cannot be marked `run`"),
    ],
    ids=range(11),
)
def test_a_page_that_is_wrong_is_caught(desk, tmp_path, page, told):
    with pytest.raises(PageFault) as caught:
        desk.read(page, tmp_path, {})
    assert told in str(caught.value)


def test_a_list_of_own_words_fits_its_page_exactly(desk, tmp_path):
    with pytest.raises(PageFault, match="the page does not have --limit 2"):
        desk.read(SHELL.format("dataforge --help"), tmp_path, {"--limit 2": "--limit 1"})
    used: set[str] = set()
    assert fill_in("a USER/NAME, USER", {"USER/NAME": "USER", "USER": "x"}, tmp_path, used) == "a USER, x"
    assert used == {"USER/NAME", "USER"}
    assert [block.line for block in blocks_of("a\n\n" + SHELL.format("ls"))] == [4]
