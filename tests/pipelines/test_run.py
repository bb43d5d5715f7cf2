"""Jobs from the command line's side: schema, checks before any model, grouping, resuming, tables."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import pipelines
from manifests.errors import ReportedError
from pipelines.jobs import Job, parse_edit, read_jobs
from pipelines.run import run
from tests.pipelines.conftest import scene, write_lora
from tests.tiny_models import tiny

KIND = "sd9"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    for number in range(2):
        write_lora(folder / f"adapter{number}", KIND, subject=f"teapot{number}", seed=number)
    for number in range(3):
        Image.fromarray(scene(number)).save(folder / f"scene{number}.png")
    Image.fromarray(np.zeros((50, 60), np.uint8)).save(folder / "other-size.png")
    return folder


def job(place, **fields) -> Job:
    given = {"scene": str(place / "scene0.png"), "adapter": str(place / "adapter0"), "box": (32, 32, 64, 64)} | fields
    return Job(**given)


def test_result_has_the_scene_size_and_its_bytes_outside_the_blend_band(place, tmp_path):
    rows = run([job(place, box=(40, 40, 48, 48), settings={"blend_px": 8})], tmp_path)
    found = np.asarray(Image.open(tmp_path / rows[0].image))
    changed = np.argwhere((found != scene(0)).any(axis=2))
    assert found.shape == (96, 96, 3)
    assert len(changed)
    assert changed.min() > 40 - 8
    assert changed.max() < 48 + 8


def test_adapter_changes_the_result_and_its_seed_repeats_it(place, tmp_path):
    two = [job(place, seed=1), job(place, seed=1, adapter=str(place / "adapter1"))]
    first, again = run(two, tmp_path / "a"), run(two, tmp_path / "b")
    assert [row.image_sha256 for row in first] == [row.image_sha256 for row in again]
    assert first[0].image_sha256 != first[1].image_sha256
    assert [row.subject for row in first] == ["teapot0", "teapot1"]


def test_finished_job_is_not_done_again_and_a_half_done_one_is(place, tmp_path):
    jobs = [job(place, seed=number) for number in range(3)]
    run(jobs[:2], tmp_path)
    kept = tmp_path / "images" / next(iter((tmp_path / "parts").iterdir())).with_suffix(".png").name
    before = kept.stat().st_mtime_ns
    lost = next(path for path in (tmp_path / "parts").iterdir() if path.stem != kept.stem)
    lost.unlink()
    rows = run(jobs, tmp_path)
    assert kept.stat().st_mtime_ns == before
    assert lost.is_file()
    assert len(rows) == len(pq.read_table(tmp_path / "results.parquet")) == 3


def test_table_and_gallery_say_what_was_done(place, tmp_path):
    rows = run([job(place, edit={"colour": "blue"}, prompt="a photo of {identifier} teapot <b>")], tmp_path)
    table = pq.read_table(tmp_path / "results.parquet").to_pylist()
    assert table[0]["prompt"] == "a photo of sks blue teapot <b>"
    assert table[0]["removed_words"] == ["red"]
    assert table[0]["edit"] == [{"category": "colour", "word": "blue"}]
    assert table[0]["id"] == rows[0].id == f"{rows[0].adapter}/out-{rows[0].job}"
    page = (tmp_path / "index.html").read_text()
    assert "removed: red" in page
    assert "<b>" not in page


def test_python_call_gives_what_the_command_gives(place, tmp_path):
    rows = run([job(place, seed=5, edit={"colour": "blue"})], tmp_path)
    painter = pipelines.load(place / "adapter0")
    result = painter(str(place / "scene0.png"), (32, 32, 64, 64), edit={"colour": "blue"}, seed=5)
    assert (result.image == np.asarray(Image.open(tmp_path / rows[0].image))).all()


def test_base_alone_paints_without_an_adapter(place, tmp_path):
    settings = {"num_inference_steps": 1}
    (row,) = run([job(place, adapter=None, base=str(tiny(KIND)), prompt="a teapot", settings=settings)], tmp_path)
    assert row.adapter == ""
    assert row.base_digest


def test_external_callable_is_one_more_method(place, tmp_path):
    grey = run(
        [job(place, method="grey")], tmp_path, methods={"grey": lambda prepared: np.full_like(prepared.scene, 7)}
    )
    assert (np.asarray(Image.open(tmp_path / grey[0].image)) == 7).all()
    assert grey[0].method == "grey"


BAD = {
    "box outside": ({"box": (0, 0, 97, 10)}, "E211 bad-box: box 0,0,97,10 leaves the scene of 96x96."),
    "box empty": ({"box": (10, 10, 10, 20)}, "E211 bad-box: box 10,10,10,20 is empty"),
    "mask of another size": ({"box": None, "mask": "other-size.png"}, "E201 mask-size: the mask is 60x50, the scene"),
    "no words": ({"edit": {"material": "wood"}}, "E604 no-words: teapot0 has no words for 'material'; it has words"),
    "no scene": ({"scene": "nowhere.png"}, "E503 not-found: no picture 'nowhere.png'"),
    "no adapter": ({"adapter": "nowhere"}, "E503 not-found: nowhere holds no adapter.json"),
    "no such method": ({"method": "magic"}, "E502 configuration: job"),
    "wrong setting": ({"settings": {"lambda_gch": 2}}, "lambda_gch: 2.0 found, 0 to 1 expected"),
    "unknown setting": ({"settings": {"lamda": 1}}, "lamda"),
    "long prompt": ({"prompt": "sks teapot " + "plushie " * 30}, "E602 prompt-too-long: prompt 'sks teapot plushie"),
    "other base": ({"base": "sd4"}, "E603 adapter-mismatch: teapot0/lora-"),
    "prompt without subject": ({"prompt": "a table"}, "E501 usage: prompt 'a table' names neither 'sks' nor 'teapot'"),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_input_gets_one_sentence(place, tmp_path, fault):
    fields, sentence = BAD[fault]
    fields = dict(fields)
    if "mask" in fields:
        fields["mask"] = str(place / fields["mask"])
    if "base" in fields:
        fields["base"] = str(tiny("sd4"))
    with pytest.raises(ReportedError) as caught:
        run([job(place, **fields)], tmp_path)
    assert sentence in str(caught.value)
    assert not (tmp_path / "images").exists()


def test_jobs_file_takes_defaults_and_names_the_row_that_is_wrong(tmp_path):
    path = tmp_path / "jobs.yaml"
    path.write_text("- {scene: a.png, box: [1, 2, 3, 4]}\n- {scene: b.png, edit: {colour: blue}}\n")
    first, second = read_jobs(path, {"adapter": "x"})
    assert (first.adapter, first.box, second.edit) == ("x", (1, 2, 3, 4), {"colour": "blue"})
    lines = tmp_path / "jobs.jsonl"
    lines.write_text(json.dumps({"scene": "a.png"}) + "\n" + json.dumps({"scen": "b.png"}) + "\n")
    with pytest.raises(ReportedError, match=r"jobs\.jsonl job 2: "):
        read_jobs(lines)


def test_edit_is_read_as_categories_and_words():
    assert parse_edit(["colour=blue,material=wood", "shape=round"]) == {
        "colour": "blue", "material": "wood", "shape": "round",
    }  # fmt: skip
    with pytest.raises(ReportedError, match="--edit takes"):
        parse_edit(["blue"])
