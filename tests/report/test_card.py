"""The card parses, tells the truth, runs as printed, and cannot be written into by data."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token
from PIL import Image

from dataforge.report import card_bytes, croissant_bytes, write_card, write_descriptions
from dataforge.report.card import markdown_text
from dataforge.report.thumbnails import contact_sheet
from manifests.corpus import open_corpus
from manifests.pixels import encode_image, encode_mask
from tests.conftest import REPOSITORY
from tests.report.conftest import commit

MakeCorpus = Callable[..., Path]

HOSTILE = [
    "a | b | c",
    "line one\nline two\n\n# heading\n\n| x | y |",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[link](https://evil.example)",
    "![picture](https://evil.example/x.png)",
    "[ref]: https://evil.example",
    "<https://evil.example>",
    "https://evil.example/ and www.evil.example and a@evil.example",
    "`code` ``` fence",
    "**bold** _it_ ~~gone~~ $x$",
    "\\| \\` \\[x](y)",
    "ends with a backslash \\",
    "&lt;b&gt; &#124;",
    "---\nlicense: mit\n---",
]


def card(root: Path) -> str:
    with open_corpus(root) as corpus:
        write_card(corpus)
    return (root / "README.md").read_text("utf-8")


def body_of(text: str) -> str:
    return text.split("---\n", 2)[2]


def tokens(text: str) -> list[Token]:
    parsed = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(body_of(text))
    return [inner for token in parsed for inner in [token, *(token.children or [])]]


def front_matter(text: str) -> dict[str, object]:
    loaded = yaml.safe_load(text.split("---\n", 2)[1])
    assert isinstance(loaded, dict)
    return loaded


def test_front_matter_names_a_licence_only_where_all_subjects_share_it(make_corpus: MakeCorpus) -> None:
    assert front_matter(card(make_corpus(licence="CC-BY-4.0")))["license"] == "cc-by-4.0"
    own = front_matter(card(make_corpus(licence="my: own\n- 'licence' #1")))
    assert (own["license"], own["license_name"]) == ("other", "my: own\n- 'licence' #1")
    root = make_corpus(["cat", "dog"], licence="MIT")
    with open_corpus(root) as corpus:
        object.__setattr__(corpus.subjects["cat"], "licence", "CC0-1.0")
        write_card(corpus)
    assert "license" not in front_matter((root / "README.md").read_text())


def test_the_same_corpus_gives_the_same_bytes(make_corpus: MakeCorpus) -> None:
    first, second = card(make_corpus(["cat", "dog"])), card(make_corpus(["cat", "dog"]))
    assert first == second
    assert "not-told" not in first


@pytest.mark.parametrize("payload", HOSTILE)
def test_hostile_text_adds_nothing_to_the_card(make_corpus: MakeCorpus, payload: str) -> None:
    def shape(text: str) -> list[str]:
        return [token.type for token in tokens(text) if token.type not in ("text", "text_special", "softbreak")]

    plain, hostile = card(make_corpus(licence="MIT")), card(make_corpus(text=payload, licence="MIT"))
    assert shape(hostile) == shape(plain)
    assert front_matter(hostile).keys() == front_matter(plain).keys()
    shown = [
        " ".join(inner.content for inner in token.children or []) for token in tokens(hostile) if token.type == "inline"
    ]
    said = " ".join(payload.split())
    assert sum(said.replace(" ", "") in text.replace(" ", "") for text in shown) >= 5
    # bare addresses are links in GitHub's and the Hub's dialects, which this parser does not speak
    assert not re.search(r"https?://|www\.|\w@\w", body_of(hostile))


def test_text_is_escaped_to_one_line() -> None:
    assert markdown_text("plain_name, 3 of 4 (a-b)") == "plain_name, 3 of 4 (a-b)"
    assert markdown_text("a|b\n<c>`d`[e]") == r"a\|b &lt;c&gt;\`d\`\[e\]"
    assert markdown_text("\x1b[31m\u202e") == r"\\x1b\[31m\\u202e"


def test_size_is_that_of_every_file_the_header_names(make_corpus: MakeCorpus) -> None:
    root = make_corpus(["cat", "dog"])
    with open_corpus(root) as corpus:
        names = [entry.path for entry in corpus.header.files]
    size = sum((root / name).stat().st_size for name in names)
    assert f"| bytes, in the files that `corpus.json` names | {size:,} |" in card(root)


def test_models_stand_one_by_one_with_the_licences_their_makers_gave_them(make_corpus: MakeCorpus) -> None:
    said = {
        "stabilityai/stable-diffusion-3.5-large@0123456789ab": ["Stability AI Community License"],
        "openai/clip-vit-large-patch14@0123456789ab": ["MIT"],
        "groundingdino_swint_ogc.pth@sha256:0123 somebody/bert@0123": ["Apache-2.0", "see its own page"],
        "a model of mine": ["see its own page"],
    }
    for model, licences in said.items():
        text = card(make_corpus(text=model))
        rows = text.partition("| model | licence |\n| --- | --- |\n")[2].partition("\n\n")[0].splitlines()
        assert [row.split(" | ")[1].removesuffix(" |") for row in rows] == licences, model


def test_many_subjects_are_counted_not_listed(make_corpus: MakeCorpus) -> None:
    text = card(make_corpus([f"subject-{number:03d}" for number in range(203)], photographs=1))
    assert text.count("| `subject-") == 200
    assert "and 3 more, in `subjects.parquet`." in text


def snippets(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A corpus of each shape, with its card and what the card speaks of."""
    made = {}
    for name, parquet in (("shards", False), ("both", True)):
        made[name] = commit(tmp_path_factory.mktemp("cards") / name, ["cat", "dog"], parquet=parquet)
        with open_corpus(made[name]) as corpus:
            write_descriptions(corpus)
    return made


# the libraries that a snippet of the card is for, in the card's order; none but our own has any of our code in it
BOTH = ["datasets", "manifests", "webdataset", "pyarrow.parquet", "tarfile", "duckdb"]
LOCAL = {"shards": [*BOTH, "mlcroissant"], "both": [*BOTH, "pandas", "pyarrow.dataset", "mlcroissant"]}
CASES = [(shape, number, library) for shape, names in LOCAL.items() for number, library in enumerate(names)]


@pytest.mark.parametrize(("shape", "number", "library"), CASES, ids=[f"{case[0]}-{case[2]}" for case in CASES])
def test_every_snippet_runs_as_printed(
    cards: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    shape: str,
    number: int,
    library: str,
) -> None:
    root = cards[shape]
    found = snippets((root / "README.md").read_text("utf-8"))
    assert len(found) == len(LOCAL[shape])
    snippet = found[number]
    assert f"import {library}" in snippet
    monkeypatch.chdir(root)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    settings = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", snippet], env={**os.environ, **settings}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    out = done.stdout
    if library in ("manifests", "webdataset", "tarfile", "pandas", "pyarrow.dataset"):
        with open_corpus(root) as corpus:
            wanted = [sample.id for sample in corpus.samples(role="src" if library == "manifests" else None)]
        assert all(name in out for name in wanted)
    assert out.strip()


def test_card_of_a_published_corpus_names_the_place_and_the_version(cards: dict[str, Path]) -> None:
    for root in cards.values():
        with open_corpus(root) as corpus:
            text = card_bytes(corpus, "hf://datasets/user/name").decode()
            assert f'manifests.open("hf://datasets/user/name@{corpus.digest}")' in text
            assert f'datasets.load_dataset("user/name", revision="{corpus.digest}")' in text
            assert card_bytes(corpus).decode() == (root / "README.md").read_text("utf-8")
            assert all(compile(snippet, "snippet", "exec") for snippet in snippets(text))


def test_front_matter_declares_files_and_columns(cards: dict[str, Path]) -> None:
    for shape, folder in (("shards", "shards"), ("both", "data")):
        facts: Any = front_matter((cards[shape] / "README.md").read_text("utf-8"))
        (config,) = facts["configs"]
        files = [path for split in config["data_files"] for path in split["path"]]
        assert files == sorted(files, key=files.index)
        assert {cards[shape] / path for path in files} == set((cards[shape] / folder).iterdir())
        names = [feature["name"] for feature in facts["dataset_info"]["features"]]
        assert {"image", "mask", "attributes"} <= set(names) or {"jpg", "mask.png", "json", "__key__"} <= set(names)


# mlcroissant speaks to rdflib and pandas in words that both have given up
@pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated", "ignore:The inplace keyword")
def test_croissant_is_valid_and_reads_the_pictures(cards: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    for shape, root in cards.items():
        with open_corpus(root) as corpus:
            described = mlcroissant.Dataset(root / "croissant.json")
            assert not described.metadata.issues.errors
            assert len(list(described.records("samples"))) == len(corpus)
            (rights,) = {record["subjects/consent"] for record in described.records("subjects")}
            assert rights.decode() == "a plain text"
            if shape == "both":
                for record in described.records("pictures-train"):
                    sample = corpus.record(record["pictures-train/id"].decode())
                    image, mask = record["pictures-train/image"], record["pictures-train/mask"]
                    assert np.array_equal(np.asarray(image.convert("RGB")), corpus.image(sample))
                    assert np.array_equal(np.asarray(mask), corpus.mask(sample))
            published = json.loads(croissant_bytes(corpus, "hf://datasets/user/name"))
            assert not mlcroissant.Dataset(published).metadata.issues.errors
            assert published["url"] == "https://huggingface.co/datasets/user/name"
            assert len(published["prov:wasGeneratedBy"]) == 1
            assert "folder-not-told" not in json.dumps(published)


@pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated")
def test_croissant_that_is_wrong_would_be_seen(cards: dict[str, Path]) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    value = json.loads((cards["both"] / "croissant.json").read_bytes())
    value["recordSet"][0]["field"][0]["source"]["fileObject"]["@id"] = "nothing"
    with pytest.raises(mlcroissant.ValidationError):
        mlcroissant.Dataset(value)


def test_sheet_of_thumbnails_shows_each_subject(cards: dict[str, Path]) -> None:
    with Image.open(cards["both"] / "thumbnails.webp") as sheet:
        assert sheet.size == (4 * 128, 128)  # two subjects of two photographs


def test_outlines_of_masks_are_drawn_on_thumbnails() -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    mask = np.zeros((64, 64), bool)
    plain = encode_image(grey)
    drawn = []
    for box in ((0, 0, 0, 0), (16, 16, 48, 48)):
        mask[box[1] : box[3], box[0] : box[2]] = True
        data = contact_sheet([(plain[0], plain[1], encode_mask(mask))], 128, 6)
        with Image.open(io.BytesIO(data)) as sheet:
            drawn.append(np.asarray(sheet.convert("RGB")).astype(int))
    changed = abs(drawn[1] - drawn[0]).sum(axis=2) > 60
    ys, xs = np.nonzero(changed)
    assert 200 < changed.sum() < 1000, "a line, not an area"
    assert (xs.min(), ys.min(), xs.max(), ys.max()) == pytest.approx((46, 46, 81, 81), abs=4)
