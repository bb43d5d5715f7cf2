"""What protocols ask for, by manifest IDs; boxes in every convention they come in."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import PurePosixPath

import pytest

from manifests.corpus import open_corpus
from manifests.errors import UsageError
from pipelines.evaluate.boxes import given_boxes, read_boxes
from pipelines.evaluate.items import without_identifier
from pipelines.evaluate.painting import Method, jobs_of
from pipelines.evaluate.presets import PRESETS
from pipelines.evaluate.protocols import CANVAS, LIVE, OBJECT, PROTOCOLS, cases
from pipelines.evaluate.published import published
from pipelines.records import AdapterRecord, Base, adapter_id, write_record
from pipelines.words import edited_prompt
from tests.evaluate.conftest import drawn
from tests.manifests import corpora


def test_murecom_boxes_have_inclusive_ends_and_never_leave_the_picture(tmp_path):
    (tmp_path / "bbox.txt").write_text("Dog 0.jpg 64 270 137 339\nDog 2.jpg 0 333 195 512\nDog 9.jpg 0 0 1 1\n")
    assert read_boxes(tmp_path / "bbox.txt", {"0.jpg": (512, 512), "2.jpg": (512, 512)}) == {
        "0.jpg": (64, 270, 138, 340),
        "2.jpg": (0, 333, 196, 512),
    }


def test_dreamedit_boxes_are_exclusive_and_in_a_frame_of_512(tmp_path):
    (tmp_path / "bbox.json").write_text(json.dumps({"found0.jpg": [0, 128, 256, 512], "found1.jpg": [10, 10, 20, 20]}))
    assert read_boxes(tmp_path / "bbox.json", {"found0.jpg": (1024, 768), "found1.jpg": (512, 512)}) == {
        "found0.jpg": (0, 192, 512, 768),
        "found1.jpg": (10, 10, 20, 20),
    }


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("bbox.txt", "Dog 0.jpg 1 2 3\n", "bbox.txt:1: `<Class> <file> x1 y1 x2 y2` was expected"),
        ("bbox.txt", "Dog 0.jpg 30 2 20 9\n", r"0.jpg: \(30, 2, 21, 10\) is no box inside 64x64"),
        ("bbox.json", "[", "is not JSON"),
        ("bbox.json", '{"0.jpg": [1, 2, 3]}', r"0.jpg: \[x1, y1, x2, y2\] was expected"),
        ("bbox.json", '{"0.jpg": [1, 2, 900, 900]}', "is no box inside 64x64"),
    ],
)
def test_boxes_that_are_none_are_named(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=said):
        read_boxes(tmp_path / name, {"0.jpg": (64, 64)})


def test_dreambooth_has_twenty_five_prompts_for_things_and_for_animals():
    assert len(set(OBJECT)) == len(set(LIVE)) == 25
    assert len(set(OBJECT) & set(LIVE)) == 15
    assert OBJECT[-1] == LIVE[-1] == "a cube shaped {identifier} {class_noun}"
    assert "a {identifier} {class_noun} floating in an ocean of milk" in OBJECT
    assert "a {identifier} {class_noun} wearing a black top hat and a monocle" in LIVE


@pytest.mark.parametrize("name", PRESETS)
def test_no_preset_cuts_anything_out_of_what_was_painted_on_an_empty_canvas(name):
    whole = PRESETS[name].of_whole_pictures()
    assert whole.clip.crops == whole.dino.crops == ("whole",)
    assert set(whole.clip.text_crops) <= {"whole"}
    assert whole.clip.fid_crop in ("whole", None)
    assert whole.fid is None or whole.fid.crop == "whole"
    assert (whole.lpips, whole.ssim, whole.segmenter, whole.overall) == (None, None, None, False)
    assert whole.title == f"{name} with whole pictures"


def test_dreambooth_paints_each_prompt_four_times_on_an_empty_canvas(corpus):
    found = cases(corpus, PROTOCOLS["dreambooth"])
    assert len(found) == 3 * 25 * 4
    assert {case.scene for case in found} == {CANVAS}
    assert len({case.group for case in found}) == 3 * 25
    assert {case.seed for case in found} == {0, 1, 2, 3}


def test_composition_pairs_every_scene_with_every_subject_of_its_class(corpus):
    scenes = list(corpus.samples(role="bg"))
    found = cases(corpus, PROTOCOLS["murecom"], seeds=2)
    assert len(found) == len(scenes) * 3 * 2
    for case in found:
        assert case.box == corpus.record(case.scene).box_xyxy
        assert case.prompt == corpus.subjects[case.subject].instance_prompt
        assert case.edit == ()
    assert len(cases(corpus, PROTOCOLS["murecom"], seeds=1, limit=1)) == 3
    assert PROTOCOLS["murecom"].seeds == 5


def test_editing_asks_for_words_the_subject_does_not_have(corpus):
    found = cases(corpus, PROTOCOLS["dreammix"], seeds=1)
    assert {case.task for case in found} == {"identity", "editing"}
    for case in found:
        if case.task == "editing":
            ((category, word),) = case.edit
            words = corpus.subjects[case.subject].attributes
            assert word in {w.word for w in words if w.origin == "candidate" and w.category == category}
            assert [w for w in words if w.origin == "source" and w.category == category]
            # as training has it, and nothing is left for the painter to put in
            assert case.prompt == f"a photo of {word} {{identifier}} ball"
            as_read = edited_prompt(case.prompt, dict(case.edit), identifier="sks", class_noun="ball")
            assert as_read == f"a photo of {word} sks ball"


def test_boxes_of_a_benchmarks_file_win_over_the_manifests(corpus, tmp_path):
    scenes = {PurePosixPath(sample.source_uri).name: sample for sample in corpus.samples(role="bg")}
    (tmp_path / "bbox.json").write_text(json.dumps({"0.jpg": [128, 128, 256, 384]}))
    found = cases(corpus, PROTOCOLS["dreameditbench"], seeds=1, boxes=[tmp_path / "bbox.json"])
    assert {case.scene for case in found} == {scenes["0.jpg"].id}
    assert {case.box for case in found} == {(32, 32, 64, 96)}


def test_each_subject_is_painted_into_the_set_of_its_name_or_class(benchmark):
    """dog2 has no set and shares dog's; the boxes of a third set, whose scenes are not there, are left out."""
    with open_corpus(benchmark / "corpus") as corpus:
        folder = {sample.id: PurePosixPath(sample.source_uri).parent.name for sample in corpus.samples(role="bg")}
        found = cases(corpus, PROTOCOLS["dreameditbench"], seeds=1, boxes=[benchmark / "boxes"])
    assert Counter((case.subject, folder[case.scene]) for case in found) == {
        ("dog", "dog"): 2,
        ("dog2", "dog"): 2,
        ("robot_toy", "robot_toy"): 2,
    }
    boxes = {"dog": {(0, 32, 64, 96), (0, 32, 64, 112)}, "robot_toy": {(16, 32, 80, 96), (16, 32, 80, 112)}}
    for name, expected in boxes.items():
        assert {case.box for case in found if folder[case.scene] == name} == expected


def test_murecoms_sets_lie_in_folders_of_one_name(tmp_path):
    """Each class has its `bg/`: the folder above it tells which is meant."""
    made = [
        drawn("scenes", "bg", n, "", (20, 30, 70, 80), source_uri=f"{name}/bg/0.jpg") for n, name in enumerate("AB")
    ]
    ledger = sorted((corpora.ledger_row(one) for one in made), key=lambda row: row.path)
    corpora.write_corpus(tmp_path / "corpus", corpora.content(made, [], ledger))
    for edge, name in enumerate("AB"):
        (tmp_path / "murecom" / name / "bg").mkdir(parents=True)
        (tmp_path / "murecom" / name / "bg" / "bbox.txt").write_text(f"{name} 0.jpg {edge} 0 99 99\n")
    with open_corpus(tmp_path / "corpus") as corpus:
        sets = given_boxes(corpus, [tmp_path / "murecom"])
        found = {corpus.record(scene).source_uri: box for one in sets for scene, box in one.boxes.items()}
    assert found == {"A/bg/0.jpg": (0, 0, 100, 100), "B/bg/0.jpg": (1, 0, 100, 100)}


def test_boxes_that_fit_nothing_are_one_sentence(benchmark, tmp_path):
    with open_corpus(benchmark / "corpus") as corpus:
        with pytest.raises(UsageError, match=r"holds no bbox\.json or bbox\.txt"):
            given_boxes(corpus, [tmp_path])
        with pytest.raises(UsageError, match=r"teapot/bbox\.json: two scenes of the corpus are named found0\.jpg"):
            given_boxes(corpus, [benchmark / "boxes" / "teapot" / "bbox.json"])
        with pytest.raises(UsageError, match="finds nothing to paint"):
            cases(corpus, PROTOCOLS["dreameditbench"], boxes=[benchmark / "boxes" / "teapot"])


def test_subject_that_is_not_there_is_named(corpus):
    with pytest.raises(UsageError, match="no subject 'nobody'"):
        cases(corpus, PROTOCOLS["murecom"], subjects=("nobody",))


def test_identifier_is_taken_out_of_a_prompt_and_nothing_else():
    assert without_identifier("a photo of a {identifier} sks-like mug", "sks") == "a photo of a sks-like mug"
    assert without_identifier("a photo of sks mug", "sks") == "a photo of mug"


def test_published_rows_say_that_they_are_of_another_protocol():
    rows = published("dreammix-ablation", "dreamcom-ablation", "dreamcom-references")
    assert len(rows) == 8 * 3 + 4 * 2 + 5 * 2
    assert all(row.source == "published" and "another protocol" in row.protocol for row in rows)
    assert all(row.low != row.low and row.model == "not stated" for row in rows)
    row = next(r for r in rows if (r.task, r.method, r.column) == ("editing", "+++ADM", "CLIP-T"))
    assert row.value == 0.289
    assert published("nothing") == []


def test_dreambooths_own_numbers_are_of_whole_pictures_and_have_no_prompt_for_photographs():
    rows = published("dreambooth")
    assert len(rows) == 3 + 3 + 2
    assert all("another protocol" in row.protocol and "whole pictures" in row.protocol for row in rows)
    values = {(row.method, row.column): row.value for row in rows}
    assert values["DreamBooth (Stable Diffusion)", "DINO"] == 0.668
    assert values["real image", "CLIP-I"] == 0.885
    assert ("real image", "CLIP-T") not in values
    assert {row.task for row in rows} == {"prompts"}


@pytest.mark.parametrize(("preset", "refers"), [("dreaminpainter", True), ("plain", False)])
def test_adapters_that_paint_from_a_photograph_get_another_one_with_each_seed(corpus, tmp_path, preset, refers):
    found = cases(corpus, PROTOCOLS["murecom"], seeds=2, limit=1)
    base = Base(model="a base", revision="", family="sd", channels=9, digest="0" * 64)
    made = {"recipe": "dreammix", "settings": {}, "corpus_digest": "0" * 64, "seed": 0}
    for name in corpus.subjects:
        (tmp_path / name).mkdir()
        write_record(
            tmp_path / name,
            AdapterRecord(
                id=adapter_id(name, base=base, samples=(), **made),
                subject=name,
                class_noun="mug",
                identifier="sks",
                source_words=(),
                kind="lora",
                base=base,
                corpus="corpus",
                sample_ids=(),
                steps=1,
                losses=(1.0,),
                versions={},
                inference={"preset": preset},
                **made,
            ),
        )
    jobs = jobs_of(Method(name="adapters", adapters=tmp_path), found, corpus, "place", tmp_path / "canvas.png")
    for case, job in zip(found, jobs, strict=True):
        photographs = sorted(corpus.subjects[case.subject].sample_ids)
        assert job.reference == (f"place#{photographs[case.seed % len(photographs)]}" if refers else None)
