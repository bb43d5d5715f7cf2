"""Jobs from the command line's side: schema, checks before any model, grouping, resuming, tables."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import AutoencoderTiny
from PIL import Image

import pipelines
from manifests.corpus import open_corpus
from manifests.errors import ReportedError
from manifests.ids import sha256_hex
from pipelines import painter as painting
from pipelines import reference
from pipelines.adapters import open_adapter
from pipelines.jobs import Job, Region, parse_edit, read_jobs
from pipelines.painter import Request
from pipelines.preparing import Reader, prepare
from pipelines.run import _again, run
from tests.manifests.corpora import small_content, write_corpus
from tests.pipelines.conftest import scene, write_lora, write_reference_lora
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
    Image.fromarray(np.zeros((96, 96), np.uint8)).save(folder / "black.png")
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


def test_jobs_share_the_base_batches_and_what_a_reference_is_encoded_to(tmp_path, monkeypatch):
    corpus = write_corpus(tmp_path / "corpus", small_content())
    with open_corpus(corpus) as opened:
        first, second = [f"{corpus}#{sample.id}" for sample in opened.samples(role="src")][:2]
    for number in range(2):
        write_reference_lora(tmp_path / f"adapter{number}", KIND, subject=f"teapot{number}", seed=number)
    Image.fromarray(scene()).save(tmp_path / "scene.png")
    loads, forwards, passes = [], [], []
    load_recorded, features = painting.load_recorded, reference.reference_features

    def load(*given):
        backbone = load_recorded(*given)
        loads.append(backbone)
        backbone.unet.register_forward_pre_hook(lambda _, given: forwards.append(len(given[0])))
        return backbone

    def encoded(*given):
        passes.append(given)
        return features(*given)

    monkeypatch.setattr(painting, "load_recorded", load)
    monkeypatch.setattr(reference, "reference_features", encoded)
    steps = {"num_inference_steps": 3, "switch_step": 1}
    asked = [(0, first), (1, first), (0, second), (1, first), (0, first)]  # adapter and photograph
    jobs = [
        Job(
            scene=str(tmp_path / "scene.png"), adapter=str(tmp_path / f"adapter{adapter}"), box=(32, 32, 64, 64),
            reference=photograph, settings=steps, seed=seed,
        )
        for seed, (adapter, photograph) in enumerate(asked)
    ]  # fmt: skip
    rows = run(jobs, tmp_path / "out", batch_size=2)
    assert [row.subject for row in rows] == [f"teapot{adapter}" for adapter, _ in asked]
    assert len(loads) == 1
    # a forward holds both halves of guidance for each of its jobs: three jobs and two, in batches of two
    assert forwards == [2 * 2] * 3 + [2 * 1] * 3 + [2 * 2] * 3
    assert len(passes) == len(set(asked)) == 3  # the features are those of the UNet with its adapter


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


def painted_again(output, jobs) -> list[int]:
    """Which of the jobs were painted by this run: their pictures are newer than they were."""
    before = {path.name: path.stat().st_mtime_ns for path in (output / "images").iterdir()}
    rows = run(jobs, output)
    names = [row.image.removeprefix("images/") for row in rows]
    return [n for n, name in enumerate(names) if before.get(name) != (output / "images" / name).stat().st_mtime_ns]


def test_job_is_known_by_content_not_by_path(place, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(place, folder)
    mask = np.zeros((96, 96), np.uint8)
    mask[32:64, 32:64] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    few = {"num_inference_steps": 1}
    jobs = [job(folder, box=None, mask=str(folder / "mask.png"), settings=few),
            job(folder, scene=str(folder / "scene1.png"), settings=few)]  # fmt: skip
    run(jobs, out)
    assert painted_again(out, jobs) == []
    # the same contents elsewhere, and a mask that is the same as a box
    elsewhere = [job(place, settings=few, box=(32, 32, 64, 64))]
    assert painted_again(out, elsewhere) == []
    # each of these breaks what a path alone would have taken for done
    mask[0, 0] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    assert painted_again(out, jobs) == [0]
    Image.fromarray(scene(9)).save(folder / "scene1.png")
    assert painted_again(out, jobs) == [1]
    write_lora(folder / "adapter0", KIND, subject="teapot0", seed=5)
    assert painted_again(out, jobs) == [0, 1]
    assert painted_again(out, [job(folder, settings={"num_inference_steps": 2})]) == [0]
    assert painted_again(out, jobs) == []


def test_damaged_picture_is_painted_again(place, tmp_path):
    jobs = [job(place, settings={"num_inference_steps": 1})]
    (row,) = run(jobs, tmp_path)
    picture = tmp_path / row.image
    picture.write_bytes(picture.read_bytes()[:-20])
    run(jobs, tmp_path)
    assert sha256_hex(picture.read_bytes()) == row.image_sha256


def test_scene_that_changes_under_a_run_is_refused(place, tmp_path):
    Image.fromarray(scene(0)).save(tmp_path / "scene.png")
    jobs = [job(place, scene=str(tmp_path / "scene.png"), method="late")]
    with Reader() as reader:
        key = reader.prepare(jobs[0]).key
    Image.fromarray(scene(1)).save(tmp_path / "scene.png")
    with Reader() as reader, pytest.raises(ReportedError, match=r"E104 .*changed while the run was on"):
        list(_again([key], {key: jobs[0]}, reader))


def test_text_depends_on_identifier_and_words(place, tmp_path):
    write_lora(tmp_path / "other", KIND, subject="vase", identifier="zwx")
    painter = pipelines.load(place / "adapter0")
    settings, prompt = painter.settings(), "a sks zwx teapot"
    first = painter._text(prompt, ("red",), settings)
    assert painter._text(prompt, ("red",), settings) is first
    assert painter._text(prompt, ("blue",), settings) is not first
    painter.use(open_adapter(tmp_path / "other"))  # the words are read behind another identifier
    assert not torch.equal(painter._text(prompt, ("red",), settings).tokens, first.tokens)
    painter.use(open_adapter(place / "adapter0"))
    assert painter._text(prompt, ("red",), settings) is first


def test_words_are_removed_and_prompts_differ_in_the_stages_they_are_meant_for(place):
    painter = pipelines.load(place / "adapter0")
    asked = Request(scene=scene(0), mask=np.ones((96, 96), bool), prompt="a sks teapot", edit={"colour": "blue"})
    plain = painter.backbone.encode_text(["a blue sks teapot"]).tokens
    for stages in (("lcg",), ("gch",), ("lcg", "gch"), ()):
        texts, read = painter._stage_texts([asked], painter.settings(changes={"tas.stages": stages}))
        assert read == [("a blue sks teapot", ("red",) if stages else ())]
        assert torch.equal(texts.local.tokens, plain) == ("lcg" not in stages)
        assert torch.equal(texts.whole.tokens, plain) == ("gch" not in stages)
    closer = replace(asked, local_prompt="a sks teapot up close")
    texts, _ = painter._stage_texts([closer], painter.settings("plain"))
    assert torch.equal(texts.whole.tokens, plain)
    assert torch.equal(texts.local.tokens, painter.backbone.encode_text(["a blue sks teapot up close"]).tokens)


@pytest.mark.parametrize(
    ("changes", "removed"),
    [
        ({"lambda_gch": 0.5}, ("red",)),
        ({"lambda_gch": 0.5, "tas.alpha": 0.5}, ("red",)),
        ({"lambda_gch": 1.0, "tas.stages": ["gch"]}, ("red",)),
        ({"lambda_gch": 1.0}, ()),  # by default TAS is of the first stage, which does not run
        ({"lambda_gch": 0.0, "tas.stages": ["gch"]}, ()),
        ({"lambda_gch": 0.5, "tas.stages": []}, ()),
        ({"lambda_gch": 0.5, "tas.alpha": 1.0}, ()),
    ],
)
def test_words_are_said_to_be_removed_where_that_changes_the_picture(place, tmp_path, changes, removed):
    few = {"num_inference_steps": 2, "resolution": 64, **changes}
    edited = job(place, settings=few, seed=1, edit={"colour": "blue"})
    as_asked, kept = run([edited, replace(edited, remove=())], tmp_path)
    assert as_asked.removed_words == removed
    assert kept.removed_words == ()
    assert (as_asked.image_sha256 != kept.image_sha256) == bool(removed)
    assert ("removed: red" in (tmp_path / "index.html").read_text()) == bool(removed)


def test_a_jobs_prompt_of_the_first_stage_is_another_job(place, tmp_path):
    few = {"num_inference_steps": 2, "lambda_gch": 0.5}
    jobs = [job(place, settings=few, seed=1), job(place, settings=few, seed=1, local_prompt="sks teapot up close")]
    rows = run(jobs, tmp_path)
    assert rows[0].image_sha256 != rows[1].image_sha256
    table = {row["job"]: row for row in pq.read_table(tmp_path / "results.parquet").to_pylist()}
    assert [table[row.job]["local_prompt"] for row in rows] == ["", "sks teapot up close"]


def test_a_small_vae_hands_over_where_there_are_two_stages(place, tmp_path):
    torch.manual_seed(0)
    AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4, num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
    ).save_pretrained(tmp_path / "small")  # fmt: skip
    for share, same in ((0.5, False), (1.0, True)):
        few = {"num_inference_steps": 2, "lambda_gch": share}
        jobs = [job(place, seed=1, settings=few | more) for more in ({}, {"switch_vae": str(tmp_path / "small")})]
        plain, small = run(jobs, tmp_path / str(share))
        assert (plain.image_sha256 == small.image_sha256) == same


def test_what_a_baseline_is_told_is_not_what_it_would_do_untold(place):
    """Its own defaults are not the preset's, so the same resolved settings may be two pictures."""
    told = {"num_inference_steps": prepare(job(place, preset="plain")).settings.num_inference_steps}
    with_and_without = [job(place, preset="plain", method="dreamedit", settings=changes) for changes in (told, {})]
    assert len({prepare(one).key for one in with_and_without}) == 2
    assert len({prepare(replace(one, method="adapter")).key for one in with_and_without}) == 1


def test_base_alone_is_asked_without_placeholders(place):
    base = job(place, adapter=None, base=str(tiny(KIND)), prompt="a photo of {identifier} teapot")
    assert prepare(base).prompt == "a photo of teapot"


def test_table_and_gallery_say_what_was_done(place, tmp_path):
    rows = run([job(place, edit={"colour": "blue"}, prompt="a photo of {identifier} teapot <b>")], tmp_path)
    table = pq.read_table(tmp_path / "results.parquet").to_pylist()
    assert table[0]["prompt"] == "a photo of blue sks teapot <b>"
    assert table[0]["removed_words"] == ["red"]
    assert table[0]["edit"] == [{"category": "colour", "word": "blue"}]
    assert table[0]["id"] == rows[0].id == f"{rows[0].adapter}/out-{rows[0].job}"
    page = (tmp_path / "index.html").read_text()
    assert "removed: red" in page
    assert "<b>" not in page


def test_gallery_shows_scene_box_reference_and_result(place, tmp_path):
    corpus = write_corpus(tmp_path / "corpus", small_content())
    with open_corpus(corpus) as opened:
        samples = [sample.id for sample in opened.samples() if sample.role in ("reg", "src")]
        photograph = next(sample for sample in opened.samples(role="src") if sample.id in samples)
        pixels = opened.image(photograph)
    trained = tuple(sorted(samples, key=lambda name: ("/src-" in name, name != photograph.id)))
    write_lora(tmp_path / "known", KIND, corpus=f"{corpus}#{photograph.id.partition('/')[0]}", sample_ids=trained)
    write_lora(tmp_path / "moved", KIND, corpus="elsewhere", sample_ids=trained)
    write_lora(tmp_path / "pulled", KIND, corpus="hf://datasets/who/what", sample_ids=trained)
    few = {"settings": {"num_inference_steps": 1}, "box": (24, 48, 72, 60)}
    jobs = [job(place, adapter=str(tmp_path / name), **few) for name in ("known", "moved", "pulled")]
    jobs.append(job(place, reference=f"{corpus}#{photograph.id}", method="copy-and-blend", **few))
    rows = known, moved, pulled, shown = run(jobs, tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text()
    figures = {row.job: page.partition(f'id="{row.job}"')[2].partition("</figure>")[0] for row in rows}

    def pictures(row):
        found = re.findall('src="([^"]*)"', figures[row.job])
        assert all((tmp_path / "out" / name).is_file() for name in found)
        return [name.replace(row.job, "") for name in found]

    given = ["images/.png", "thumbs/-scene.jpg"]
    assert pictures(known) == [*given, "thumbs/-subject.jpg"]
    assert pictures(moved) == pictures(pulled) == given  # a corpus that does not open here is no error
    assert pictures(shown) == [*given, "thumbs/-reference.jpg"]
    for figure in figures.values():
        assert re.search(r'class="box" style="left: 25.0%; top: 50.0%;\s+width: 50.0%; height: 12.5%"', figure)
    thumbnail = np.asarray(Image.open(tmp_path / "out" / "thumbs" / f"{known.job}-subject.jpg")).astype(int)
    assert thumbnail.shape == pixels.shape
    assert np.abs(thumbnail - pixels).mean() < 12


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
    "empty mask": ({"box": None, "mask": "black.png"}, "E211 bad-box: the mask is empty: nothing to paint."),
    "no mask": ({"box": None, "mask": "none.png"}, "E503 not-found: no mask "),
    "unreadable mask": ({"box": None, "mask": "adapter0/adapter.json"}, "E203 mask-unreadable: "),
    "unreadable scene": ({"scene": "pyproject.toml"}, "E110 not-an-accepted-image: pyproject.toml cannot be read"),
    "no box at all": ({"box": None}, "E502 configuration: job 1: the scene has no box of its own: give a box or"),
    "masks and reference": (
        {"preset": "dreaminpainter", "settings": {"masks.cross": "paper"}},
        "E502 configuration: job 1: masks and reference do not go together; set one of them to null.",
    ),
    "long prompt of the first stage": (
        {"local_prompt": "sks teapot " + "plushie " * 30},
        "E602 prompt-too-long: prompt 'sks teapot plushie",
    ),
    "first stage without subject": ({"local_prompt": "a table"}, "E501 usage: prompt 'a table' names neither 'sks'"),
    "prompt longer than the released layout": (
        {"preset": "dreamcom-released", "prompt": "sks teapot " + "on " * 40},
        "tokens; DreamCom's released layout reads 38.",
    ),
    "no such preset": ({"preset": "papre"}, "E502 configuration: job 1: no preset 'papre'; there are plain, paper"),
    "no reference": ({"method": "copy-and-blend"}, "E502 configuration: job 1: method 'copy-and-blend' needs a job th"),
    "neither adapter nor base": ({"adapter": None}, "E502 configuration: job 1: names neither an adapter nor a base."),
    "several subjects, a baseline": (
        {"method": "dreamedit", "also": (Region(box=(0, 0, 4, 4)),)},
        "method 'dreamedit' paints one subject",
    ),
    "regions that overlap": (
        {"also": (Region(adapter="adapter1", box=(60, 60, 80, 80)),)},
        "E211 bad-box: job 1: regions 1 and 2 share 16 pixels; regions painted in one run lie apart (in_turn: true",
    ),
    "region without box": (
        {"also": (Region(adapter="adapter1"),)},
        "E502 configuration: job 1, region 2: the scene has no box",
    ),
    "prompt without subject": ({"prompt": "a table"}, "E501 usage: prompt 'a table' names neither 'sks' nor 'teapot'"),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_input_gets_one_sentence(place, tmp_path, fault):
    fields, sentence = BAD[fault]
    fields = dict(fields)
    if "mask" in fields:
        fields["mask"] = str(place / fields["mask"])
    if "also" in fields:
        fields["also"] = tuple(replace(one, adapter=one.adapter and str(place / one.adapter)) for one in fields["also"])
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
