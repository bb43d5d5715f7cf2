"""`evaluate` from the command line's plan to table and gallery: protocols, both ablations, and the study after them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from manifests import fsops
from manifests.corpus import open_corpus
from manifests.errors import UsageError
from pipelines.evaluate.ablations import ABLATIONS
from pipelines.evaluate.cli import app
from pipelines.evaluate.metrics.dino import Dino
from pipelines.evaluate.metrics.similarity import cosine
from pipelines.evaluate.painting import parse_method
from pipelines.evaluate.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from pipelines.evaluate.runs import Plan, run_plan
from pipelines.evaluate.studies import groups_of_runs
from pipelines.evaluate.weights import find_model
from tests.tiny_models import tiny

PAINT = ("num_inference_steps=2",)


@pytest.fixture(scope="module")
def light(models) -> tuple[str, ...]:
    """Metrics that take next to nothing."""
    return (f"dino.model={models / 'dino'}", "clip=null", "lpips=null", "fid=null", "ssim.side=64")


def plan(corpus: Path, output: Path, light: tuple[str, ...], **changes) -> Plan:
    values = {
        "corpus": str(corpus),
        "output": output,
        "protocol": "murecom",
        "methods": ("copy-and-blend", f"tiny base:base={tiny('sd9')}"),
        "seeds": 1,
        "limit": 2,
        "sets": light,
        "paint_sets": PAINT,
    }
    return Plan(**{**values, **changes})


@pytest.fixture(scope="module")
def evaluated(drawn_corpus, light, tmp_path_factory) -> Path:
    """The MureCom protocol over drawn subjects, by copy-and-blend and a tiny base."""
    output = tmp_path_factory.mktemp("evaluated") / "run"
    fsops.set_crashpoint(0, str(output.parent / "points"))  # kills nothing, writes down where a kill could be
    run_plan(plan(drawn_corpus, output, light))
    fsops.set_crashpoint(0)
    return output


def method_of(part: Path) -> str:
    return json.loads(part.read_bytes())["method"]


def what_is_said(folder: Path) -> dict[str, bytes]:
    return {
        name: (folder / name).read_bytes() for name in ("table.parquet", "scores.parquet", "items.json", "index.html")
    }


def test_protocol_gives_one_table_with_every_method_and_the_real_image(evaluated, drawn_corpus):
    rows = pq.read_table(evaluated / "table.parquet").to_pylist()
    measured = [row for row in rows if row["source"] == "measured"]
    assert {row["method"] for row in measured} == {"copy-and-blend", "tiny base", "real image"}
    for method in ("copy-and-blend", "tiny base"):
        columns = {row["column"]: row for row in measured if row["method"] == method}
        assert set(columns) == {"dino_box", "ssim_zeroed", "ssim_excluded"}
        assert columns["dino_box"]["pairs"] == 3 * 2
        assert columns["dino_box"]["low"] <= columns["dino_box"]["value"] <= columns["dino_box"]["high"]
    # copy-and-blend changes nothing outside the box
    assert next(r for r in measured if r["method"] == "copy-and-blend" and r["column"] == "ssim_excluded")["value"] == 1
    others = [row for row in rows if row["source"] == "published"]
    assert {row["method"] for row in others} == {"ObjectStitch", "Paint-by-Example", "DreamEdit", "DreamCom"}
    assert all("another protocol" in row["protocol"] for row in others)


def test_gallery_shows_every_pair_by_every_method(evaluated):
    page = (evaluated / "index.html").read_text()
    listed = json.loads((evaluated / "items.json").read_text())["items"]
    assert len(listed) == 3 * 2 * 2
    for item in listed:
        assert (evaluated / item["image"]).is_file()
        assert f'src="{item["image"]}"' in page
    assert page.count("<figcaption>the thing<") == page.count("<figcaption>the scene<") == 3 * 2
    assert "Not comparable with the numbers above" in page
    assert "short side 36, centre crop 32 (Pillow bicubic)" in page


def test_what_is_painted_on_an_empty_canvas_is_compared_with_whole_photographs(drawn_corpus, sets, tmp_path):
    """One prompt a subject. Photographs whose subject is small in them: by the box, they are another picture."""
    whole = plan(drawn_corpus, tmp_path, tuple(sets), protocol="dreambooth", limit=1, methods=("copy-and-blend",))
    study = run_plan(whole)
    assert study.missing == []
    measured = [row for row in study.rows if row.source == "measured"]
    assert {row.crop for row in measured} == {"whole"}
    columns = {"clip_i_whole", "clip_t_whole", "dino_whole", "clip_fid_whole"}
    for method in ("copy-and-blend", "real image"):
        assert {row.column for row in measured if row.method == method} == columns
    assert all("whole pictures" in row.preset for row in measured)
    model = Dino(find_model(sets[1].partition("=")[2], "", setting="dino", metric="DINO"))
    see = Preprocessing(model.side, IMAGENET_MEAN, IMAGENET_STD, short_side=model.side * 256 // 224)
    with open_corpus(drawn_corpus) as corpus:
        found = []
        for subject in corpus.subjects.values():
            # photographs are two a subject: each is the other's only reference
            if subject.sample_ids:
                tokens = model([see(corpus.image(corpus.record(name))) for name in subject.sample_ids])
                found.append(cosine(*tokens))
    real = next(row.value for row in measured if row.method == "real image" and row.column == "dino_whole")
    assert real == pytest.approx(np.mean(found), abs=1e-6)
    printed = {(row.method, row.column): row.value for row in study.rows if row.source == "published"}
    assert printed["DreamBooth (Stable Diffusion)", "CLIP-I"] == 0.803


def test_dreameditbench_is_one_run_and_one_table(benchmark, light, tmp_path):
    """Two sets, named one by one and as a folder: the same table, each subject in the scenes of its own set."""

    def run(name: str, *boxes: Path) -> tuple[dict, list[dict]]:
        options = [f"--set={setting}" for setting in light] + [f"--boxes={place}" for place in boxes]
        command = ["evaluate", str(benchmark / "corpus"), "--protocol", "dreameditbench", "--method", "copy-and-blend"]
        done = CliRunner().invoke(app, [*command, "--seeds", "1", "-o", str(tmp_path / name), *options, "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout), json.loads((tmp_path / name / "items.json").read_text())["items"]

    sets = [benchmark / "boxes" / name / "bbox.json" for name in ("dog", "robot_toy")]
    table, items = run("files", *sets)
    assert (table, items) == run("folder", benchmark / "boxes")
    (row,) = (r for r in table["rows"] if (r["method"], r["column"]) == ("copy-and-blend", "dino_box"))
    assert (row["pairs"], row["subjects"]) == (3 * 2, 3)
    scenes = {
        name: {item["scene"] for item in items if item["subject"] == name} for name in ("dog", "dog2", "robot_toy")
    }
    assert scenes["dog"] == scenes["dog2"]
    assert not scenes["dog"] & scenes["robot_toy"]
    assert len(scenes["dog"] | scenes["robot_toy"]) == 4


def test_report_names_no_machine(evaluated, drawn_corpus):
    for name, content in what_is_said(evaluated).items():
        assert str(drawn_corpus.parent).encode() not in content, name


def test_second_run_does_nothing_and_a_fresh_one_gives_the_same_bytes(evaluated, drawn_corpus, light):
    def times() -> dict[Path, int]:
        kept = [*evaluated.rglob("*.png"), *(evaluated / ".parts").iterdir(), *evaluated.rglob("parts/*.json")]
        return {path: path.stat().st_mtime_ns for path in kept}

    before, said = times(), what_is_said(evaluated)
    run_plan(plan(drawn_corpus, evaluated, light))
    assert times() == before
    assert what_is_said(evaluated) == said
    # beside the first, so that paths relative to it are the same
    fresh = evaluated.parent / "fresh"
    run_plan(plan(drawn_corpus, fresh, light))
    assert what_is_said(fresh) == said


def test_run_that_was_killed_paints_no_pair_again(evaluated, drawn_corpus, light):
    """Killed among the model's pictures, gone on with: nothing that was done is redone, and all bytes are the same."""
    output = evaluated.parent / "killed"
    whole = plan(drawn_corpus, output, light)
    arguments = ["run", str(drawn_corpus), "--protocol", "murecom", "--seeds", "1", "--limit", "2", "-o", str(output)]
    for option, values in (("--method", whole.methods), ("--set", light), ("--paint-set", PAINT)):
        arguments += [part for value in values for part in (option, value)]
    command = [sys.executable, "-c", "from pipelines.evaluate.cli import evaluate; evaluate()", *arguments]
    # the row of the model's first picture is down, its second is being written
    by_model = {path.name for path in (evaluated / "painted" / "parts").glob("*.json") if method_of(path) == "adapter"}
    points = (evaluated.parent / "points").read_text().splitlines()
    first = next(number for number, point in enumerate(points, 1) if point.removeprefix("renamed ") in by_model)
    armed = {**os.environ, "DATAFORGE_CRASH_AT": str(first + 2)}
    killed = subprocess.run(command, capture_output=True, env=armed)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    finished = {path.stem: method_of(path) for path in (output / "painted" / "parts").glob("*.json")}
    assert list(finished.values()).count("adapter") == 1 < len(by_model)
    before = {path: path.stat().st_mtime_ns for path in (output / "painted").rglob("*.png")}
    run_plan(whole)
    after = {path: path.stat().st_mtime_ns for path in (output / "painted").rglob("*.png")}
    assert len(after) == 6 + 2  # the base alone paints a scene of a class once, whoever is meant
    assert all(after[path] == time_ns for path, time_ns in before.items() if path.stem in finished)
    assert what_is_said(output) == what_is_said(evaluated)


def test_preference_study_is_made_of_evaluated_runs(evaluated):
    groups = groups_of_runs([evaluated])
    assert len(groups) == 3 * 2
    assert all(set(group.results) == {"copy-and-blend", "tiny base"} for group in groups)
    assert all(group.scene is not None and group.reference is not None for group in groups)
    with pytest.raises(UsageError, match="is no evaluated run"):
        groups_of_runs([evaluated.parent])


def has_verb(name: str) -> bool:
    from importlib.metadata import entry_points

    return any(entry.name == name for entry in entry_points(group="dataforge.verbs"))


needs_trainer = pytest.mark.skipif(not has_verb("trainer"), reason="the verb `train` is not registered: install again")
TRAIN = (
    "max_train_steps=2",
    "variants=1",
    "regular_variants=1",
    "gradient_accumulation_steps=1",
    "resolution=64",
    "learning_rate=0.05",
)


@needs_trainer
@pytest.mark.parametrize(("name", "references"), [("dreammix", []), ("dreamcom", [1, 2])])
def test_ablation_runs_all_its_rows(drawn_corpus, light, tmp_path, name, references):
    """With DreamCom's numbers of references without being asked, as far as two photographs a subject go."""
    # two steps see no regular picture at a probability of 0.3; rows without regular data keep their 0
    train = (*TRAIN, "method=lora" if name == "dreamcom" else "regular_prob=0.9")
    asked = plan(
        Path(f"{drawn_corpus}#blue-ball,green-ball"),
        tmp_path,
        light,
        protocol=None,
        methods=(),
        ablation=name,
        base=str(tiny("sd9")),
        train_sets=train,
        limit=1,
    )
    study = run_plan(asked)
    setups = ABLATIONS[name].with_references(references, 2)
    assert [setup.name for setup in setups[4:]] == ["1 reference", "2 references"][: len(references)]
    assert study.missing == []
    measured = [row for row in study.rows if row.source == "measured" and row.column == "dino_box"]
    tasks = {row.task for row in measured}
    assert tasks == ({"identity", "editing"} if name == "dreammix" else {"murecom"})
    for task in tasks:
        assert {row.method for row in measured if row.task == task} == {*(setup.name for setup in setups), "real image"}
    for row in measured:
        assert row.subjects == 2
        assert row.low <= row.value <= row.high
    printed = {row.method for row in study.rows if row.source == "published"}
    assert printed >= {setup.name for setup in setups}
    assert ("5 references" in printed) == bool(references)
    page = (tmp_path / "index.html").read_text()
    assert all(assignment in page for assignment in train)
    # every row paints something else, but for all references, which is the full row: rows that agree change nothing
    items = json.loads((tmp_path / "items.json").read_text())["items"]
    pictures = {setup.name: tuple(i["sha256"] for i in items if i["method"] == setup.name) for setup in setups}
    assert len(set(pictures.values())) == len(setups) - (2 in references)
    assert len(list((tmp_path / "adapters").iterdir())) == len({repr(setup.training) for setup in setups}) == 3
    # and again: nothing is trained or painted twice
    adapters = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    said = what_is_said(tmp_path)
    run_plan(asked)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == adapters
    assert what_is_said(tmp_path) == said


def test_ablations_have_the_papers_rows():
    assert [setup.name for setup in ABLATIONS["dreammix"].setups] == ["baseline", "+DIF", "++TAS", "+++ADM"]
    assert [setup.name for setup in ABLATIONS["dreamcom"].setups] == [
        "full",
        "without masked cross-attention",
        "without masked self-attention",
        "without both",
    ]
    assert ABLATIONS["dreamcom"].references == (1, 2, 3, 4, 5)
    numbered = ABLATIONS["dreamcom"].with_references([1, 2, 3], 3)[4:]
    assert [setup.training.references for setup in numbered] == [1, 2, None]
    assert [setup.name for setup in numbered] == ["1 reference", "2 references", "3 references"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"protocol": None}, "name a --protocol or an --ablation"),
        ({"protocol": "coco"}, "no protocol 'coco'; there are murecom"),
        ({"methods": ()}, "name who paints"),
        ({"methods": ("copy-and-blend", "copy-and-blend")}, "two methods have one name"),
        ({"methods": ("magic",)}, "--method takes one of base=PLACE"),
        ({"ablation": "dreammix"}, "name their base with --base PLACE"),
        ({"ablation": "dreamcom", "base": "x", "protocol": "dreambooth"}, "runs over protocol murecom"),
        ({"ablation": "x", "base": "x"}, "no ablation 'x'"),
        ({"references": "one"}, "--references takes N,N"),
        ({"paint_sets": ("steps",)}, "--paint-set takes key=value"),
        ({"preset": "theirs"}, "no preset 'theirs'; there are ours, dreamedit, bcmi"),
        ({"sets": ("clip.modle=x",)}, "clip.modle: extra inputs are not permitted"),
        ({"sets": ("clap.model=x",)}, "clap is no group of settings"),
    ],
)
def test_plan_that_makes_no_sense_is_one_sentence(drawn_corpus, light, tmp_path, changes, said):
    with pytest.raises(UsageError) as caught:
        run_plan(plan(drawn_corpus, tmp_path, light, **changes))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_adapter_that_is_not_there_is_named(drawn_corpus, light, tmp_path):
    with pytest.raises(UsageError, match="mine: none/blue-ball is no adapter"):
        run_plan(plan(drawn_corpus, tmp_path, light, methods=(f"mine:adapters={tmp_path / 'none'}",)))


def test_methods_are_named_by_what_paints_or_by_hand(tmp_path):
    assert parse_method("copy-and-blend").name == "copy-and-blend"
    assert parse_method("base=x/sd15").name == "base sd15"
    assert parse_method("a row:adapters=x").name == "a row"
    assert parse_method("base=hf://user/name").base == "hf://user/name"
    example = parse_method("theirs:paint-by-example=hf://user/name")
    assert (example.name, example.baseline, example.base) == ("theirs", "paint-by-example", "hf://user/name")
    for lacking in ("paint-by-example", "copy-and-blend=x"):
        with pytest.raises(UsageError, match=r"copy-and-blend, .*paint-by-example=PLACE"):
            parse_method(lacking)


@pytest.mark.slow
def test_murecom_of_real_photographs(test_data, light, tmp_path):
    """The four classes of MureCom: every pair once, by copy-and-blend and the tiny base."""
    from dataforge import build, load_recipe

    build(test_data / "murecom", tmp_path / "corpus", load_recipe(None, ["generate.images_per_photograph=0"]))
    study = run_plan(plan(tmp_path / "corpus", tmp_path / "run", light, limit=None))
    rows = [row for row in study.rows if row.column == "dino_box"]
    assert {(row.method, row.pairs) for row in rows} == {
        ("copy-and-blend", 240),
        ("tiny base", 240),
        ("real image", 60),
    }
    shutil.rmtree(tmp_path / "run" / "painted")
