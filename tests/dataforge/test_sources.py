"""Which layouts of folders are understood, and what a person says of them."""

from __future__ import annotations

import pytest
import yaml

import manifests
from dataforge import build
from dataforge.config import Recipe
from dataforge.ingest.scan import match_glob
from dataforge.ingest.sources import noun_from_name, read_inputs
from manifests.errors import NotFoundError, UsageError
from tests.conftest import draw_mask, draw_photograph, draw_subjects
from tests.dataforge.conftest import QUICK


@pytest.mark.parametrize(
    ("name", "noun"),
    [("Coffee_cup", "coffee cup"), ("dog6", "dog"), ("MUG", "mug"), ("rc-car 2", "rc car"), ("42", "42")],
)
def test_class_noun_from_a_folder_name(name, noun):
    assert noun_from_name(name) == noun


def test_class_noun_comes_from_overrides_then_table_then_folder(tmp_path):
    for name in ("a_thing", "b_thing", "c_thing"):
        draw_photograph(tmp_path / name / "0.jpg", colour=(9, 9, 200), seed=1)
    (tmp_path / "subjects.csv").write_text("subject,class_noun,licence\na_thing,mug,CC0-1.0\nb_thing,bowl,\n")
    (tmp_path / "a_thing" / "overrides.yaml").write_text("class_noun: teacup\n")
    inputs = read_inputs(tmp_path)
    nouns = {s.slug: (s.class_noun, s.class_noun_origin) for s in inputs.subjects}
    assert nouns == {
        "a_thing": ("teacup", "overrides"),
        "b_thing": ("bowl", "subjects.csv"),
        "c_thing": ("c thing", "folder"),
    }
    assert inputs.subjects[0].licence == "CC0-1.0"
    assert inputs.files_found == 5


def test_table_beside_the_folder_under_its_own_name_is_read(tmp_path):
    draw_photograph(tmp_path / "photos" / "x" / "0.jpg", colour=(9, 9, 200), seed=1)
    (tmp_path / "photos.csv").write_text("subject,class_noun\nx,clock\n")
    (inputs,) = read_inputs(tmp_path / "photos").subjects
    assert inputs.class_noun == "clock"


def test_dreambooth_class_list_is_read(tmp_path):
    draw_photograph(tmp_path / "dog6" / "0.jpg", colour=(9, 9, 200), seed=1)
    draw_photograph(tmp_path / "backpack_dog" / "0.jpg", colour=(9, 9, 200), seed=1)
    (tmp_path / "prompts_and_classes.txt").write_text(
        "Classes\nsubject_name,class\nbackpack_dog,backpack\ndog6,dog\n\nPrompts\nprompt_list = [\n'a {0} {1}',\n]\n"
    )
    assert [s.class_noun for s in read_inputs(tmp_path).subjects] == ["backpack", "dog"]


def test_masks_beside_images_are_given_masks(tmp_path, quick):
    draw_photograph(tmp_path / "in" / "mug" / "image" / "00.jpg", colour=(9, 9, 200), seed=1)
    draw_photograph(tmp_path / "in" / "mug" / "image" / "01.jpg", colour=(9, 9, 200), seed=2)
    draw_mask(tmp_path / "in" / "mug" / "mask" / "00.png")
    draw_mask(tmp_path / "in" / "mug" / "mask" / "07.png")
    build(tmp_path / "in", tmp_path / "corpus", quick, workers=0)
    with manifests.open(str(tmp_path / "corpus")) as corpus:
        given = next(s for s in corpus.samples(role="src") if s.source_uri.endswith("00.jpg"))
        assert (given.mask_quality, given.box_xyxy) == (1.0, (40, 30, 100, 90))
        assert corpus.mask(given).sum() == 60 * 60
        assert [p.backend for p in given.provenance if p.stage == "segment"] == ["given"]
        rows = {row.path: (row.status, row.code) for row in corpus.ledger if row.path}
    assert rows["mug/mask/00.png"] == ("accepted", "")
    assert rows["mug/mask/07.png"] == ("quarantined", "E204")
    assert len(rows) == 4


def test_mask_of_the_wrong_size_is_refused_and_the_photograph_goes_on_flagged(tmp_path, quick):
    draw_photograph(tmp_path / "in" / "mug" / "image" / "00.jpg", colour=(9, 9, 200), seed=1)
    draw_mask(tmp_path / "in" / "mug" / "mask" / "00.png", size=127)
    build(tmp_path / "in", tmp_path / "corpus", quick, workers=0)
    with manifests.open(str(tmp_path / "corpus")) as corpus:
        (sample,) = corpus.samples(role="src")
        assert "given-mask-refused" in sample.flags
        assert next(row.code for row in corpus.ledger if row.kind == "mask") == "E201"


def murecom(root):
    for number in range(2):
        draw_photograph(root / "Coffee_cup" / "bg" / f"{number}.jpg", colour=(120, 120, 120), seed=number)
    (root / "Coffee_cup" / "bg" / "bbox.txt").write_text("Coffee_cup 0.jpg 10 20 49 59\nCoffee_cup 1.jpg 0 0 127 127\n")
    for subject in ("fg1", "fg2"):
        for number in range(2):
            draw_photograph(root / "Coffee_cup" / subject / f"{number}.jpg", colour=(200, 30, 40), seed=10 + number)
            draw_mask(root / "Coffee_cup" / subject / f"{number}.png")
    return root


def test_murecom_tree_gives_scenes_with_half_open_boxes_and_subjects_with_masks(tmp_path, quick):
    build(murecom(tmp_path / "in"), tmp_path / "corpus", quick, workers=0)
    with manifests.open(str(tmp_path / "corpus")) as corpus:
        assert list(corpus.subjects) == ["coffee_cup-fg1", "coffee_cup-fg2"]
        assert {s.class_noun for s in corpus.subjects.values()} == {"coffee cup"}
        scenes = {s.source_uri: s for s in corpus.samples(role="bg")}
        # inclusive ends 10..49 and 20..59 are 40 pixels each way
        assert scenes["Coffee_cup/bg/0.jpg"].box_xyxy == (10, 20, 50, 60)
        assert corpus.mask(scenes["Coffee_cup/bg/0.jpg"]).sum() == 40 * 40
        assert scenes["Coffee_cup/bg/1.jpg"].box_xyxy == (0, 0, 128, 128)
        assert set(corpus.subjects["coffee_cup-fg1"].scene_ids) == {s.id for s in scenes.values()}
        assert all(s.mask_quality == 1.0 for s in corpus.samples(role="src"))
        assert sum(bool(row.path) for row in corpus.ledger) == 2 + 1 + 8
    assert manifests.validate(tmp_path / "corpus", full=True) == []


def test_one_class_of_murecom_can_be_given_alone(tmp_path):
    inputs = read_inputs(murecom(tmp_path / "in") / "Coffee_cup")
    assert [s.slug for s in inputs.subjects] == ["coffee_cup-fg1", "coffee_cup-fg2"]
    assert len(inputs.scenes) == 2


def test_given_masks_can_be_left_unused(tmp_path):
    recipe = Recipe.model_validate({**QUICK, "ingest": {"use_given_masks": False}})
    build(murecom(tmp_path / "in"), tmp_path / "corpus", recipe, workers=0)
    with manifests.open(str(tmp_path / "corpus")) as corpus:
        assert {p.backend for s in corpus.samples(role="src") for p in s.provenance if p.stage == "segment"} == {
            "embedded"
        }
        assert {row.rule for row in corpus.ledger if row.kind == "mask"} == {"given-masks-not-used"}


def test_bad_box_line_names_file_and_line(tmp_path):
    murecom(tmp_path)
    (tmp_path / "Coffee_cup" / "bg" / "bbox.txt").write_text("Coffee_cup 0.jpg 10 20 49\n")
    with pytest.raises(UsageError, match=r"Coffee_cup/bg/bbox.txt line 1: expected"):
        read_inputs(tmp_path)


def test_scene_whose_box_lies_outside_is_quarantined(tmp_path, quick):
    murecom(tmp_path / "in")
    (tmp_path / "in" / "Coffee_cup" / "bg" / "bbox.txt").write_text("Coffee_cup 0.jpg 900 900 950 950\n")
    build(tmp_path / "in", tmp_path / "corpus", quick, workers=0)
    with manifests.open(str(tmp_path / "corpus")) as corpus:
        codes = {row.path: row.code for row in corpus.ledger if row.kind == "scene"}
        assert codes == {"Coffee_cup/bg/0.jpg": "E211", "Coffee_cup/bg/1.jpg": ""}
        (scene,) = corpus.samples(role="bg")
        assert scene.flags == ("default-box",)


def test_listing_gives_nouns_globs_boxes_masks_and_rights(tmp_path, quick):
    root = tmp_path / "in"
    draw_photograph(root / "shop" / "day1" / "a.jpg", colour=(9, 9, 200), seed=1)
    draw_photograph(root / "shop" / "day2" / "b.jpg", colour=(9, 9, 200), seed=2)
    draw_mask(root / "cutouts" / "b.png")
    draw_photograph(root / "desk" / "1.jpg", colour=(120, 120, 120), seed=3)
    draw_photograph(root / "unlisted" / "x.jpg", colour=(120, 120, 120), seed=4)
    listing = {
        "defaults": {"licence": "CC-BY-4.0", "consent": "owner"},
        "subjects": [
            {
                "name": "Blue Mug",
                "class_noun": "mug",
                "photographs": ["shop/**/*.jpg"],
                "boxes": {"shop/day1/a.jpg": [20, 20, 100, 100]},
                "masks": "cutouts/{stem}.png",
                "credit": "A. Person",
            }
        ],
        "scenes": [{"photographs": ["desk/*.jpg"], "class_noun": "mug", "boxes": {"desk/1.jpg": [8, 8, 40, 40]}}],
    }
    (root / "subjects.yaml").write_text(yaml.safe_dump(listing))
    build(root / "subjects.yaml", tmp_path / "corpus", quick, workers=0)
    with manifests.open(str(tmp_path / "corpus")) as corpus:
        subject = corpus.subjects["blue-mug"]
        assert (subject.class_noun, subject.licence, subject.credit, subject.consent) == (
            "mug",
            "CC-BY-4.0",
            "A. Person",
            "owner",
        )
        samples = {s.source_uri: s for s in corpus.samples() if s.role != "reg"}
        assert samples["shop/day1/a.jpg"].box_xyxy == (20, 20, 100, 100)
        assert samples["shop/day2/b.jpg"].mask_quality == 1.0
        assert samples["desk/1.jpg"].box_xyxy == (8, 8, 40, 40)
        assert "unlisted/x.jpg" not in {row.path for row in corpus.ledger}
        assert sum(bool(row.path) for row in corpus.ledger) == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("subjects: [{class_noun: mug}]", r"subjects\.yaml: subjects\.0\.name: field required"),
        (
            "subjects: [{name: a, boxes: {a.jpg: [9, 9, 1, 1]}}]",
            r"subjects\.0\.boxes: the box 9,9,1,1 is empty or inverted",
        ),
        ("subjects: [{name: a, fotos: [x]}]", r"subjects\.0\.fotos: extra inputs are not permitted"),
        ("subjects: [", r"subjects\.yaml line 1: not YAML"),
        ("subjects: [{name: a, photographs: [../up/*.jpg]}]", "not a safe relative path"),
        ("subjects: [{name: a, photographs: [/etc/*]}]", "not a safe relative path"),
    ],
)
def test_a_wrong_listing_is_one_sentence_with_the_place(tmp_path, text, message):
    (tmp_path / "subjects.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_inputs(tmp_path / "subjects.yaml")


def test_csv_as_input_takes_only_listed_subjects(tmp_path):
    draw_subjects(tmp_path / "photos", subjects=3, photographs=1)
    (tmp_path / "photos.csv").write_text("subject,class_noun,folder\nred_ball0,ball,\nmine,globe,photos/blue_ball1\n")
    inputs = read_inputs(tmp_path / "photos.csv")
    assert [(s.slug, s.class_noun) for s in inputs.subjects] == [("mine", "globe"), ("red_ball0", "ball")]
    (tmp_path / "photos.csv").write_text("subject,class_noun\ngone,ball\n")
    with pytest.raises(UsageError, match="no folder gone or photos/gone for subject gone"):
        read_inputs(tmp_path / "photos.csv")


def test_loose_photographs_get_a_hint(tmp_path):
    draw_photograph(tmp_path / "0.jpg", colour=(1, 2, 3), seed=1)
    with pytest.raises(NotFoundError, match="1 files lie loose: put them into one folder per subject"):
        read_inputs(tmp_path)


def test_override_that_names_a_missing_photograph_is_a_warning(tmp_path):
    draw_photograph(tmp_path / "a" / "0.jpg", colour=(1, 2, 3), seed=1)
    (tmp_path / "a" / "overrides.yaml").write_text("drop: [gone.jpg]\n")
    assert read_inputs(tmp_path).warnings == ["a/overrides.yaml names gone.jpg, which is not there"]


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("a/*.jpg", "a/b.jpg", True),
        ("a/*.jpg", "a/b/c.jpg", False),
        ("a/**", "a/b/c.jpg", True),
        ("a/**/*.jpg", "a/c.jpg", True),
        ("**/x.jpg", "x.jpg", True),
        ("a/?.jpg", "a/bb.jpg", False),
    ],
)
def test_globs(pattern, path, matches):
    assert match_glob(pattern, path) is matches


def test_a_mask_of_a_misspelt_photograph_is_no_photograph(tmp_path):
    for name in ("00.jpg", "mask.png"):
        draw_photograph(tmp_path / "a" / name, colour=(1, 2, 3), seed=1)
    (tmp_path / "a" / "overrides.yaml").write_text("masks: {0.jpg: mask.png}\n")
    inputs = read_inputs(tmp_path)
    assert [photo.file.path for photo in inputs.subjects[0].photographs] == ["a/00.jpg"]
    assert inputs.warnings == ["a/overrides.yaml names 0.jpg, which is not there"]
    assert {row.path: row.rule for row in inputs.settled}["a/mask.png"] == "mask-of-no-photograph"
    # said once more and rightly: it is that photograph's
    (tmp_path / "a" / "overrides.yaml").write_text("masks: {0.jpg: mask.png, 00.jpg: mask.png}\n")
    inputs = read_inputs(tmp_path)
    (photo,) = inputs.subjects[0].photographs
    assert photo.mask is not None
    assert photo.mask.path == "a/mask.png"
    assert "a/mask.png" not in {row.path for row in inputs.settled}


def test_a_column_that_is_not_read_is_said(tmp_path):
    draw_photograph(tmp_path / "a" / "0.jpg", colour=(1, 2, 3), seed=1)
    (tmp_path / "subjects.csv").write_text("subject,license,price\na,CC0-1.0,3\n")
    assert read_inputs(tmp_path).warnings == [
        "subjects.csv has a column 'license', which is not read: did you mean licence?",
        "subjects.csv has a column 'price', which is not read: known are subject, class_noun, licence, credit, "
        "consent, folder",
    ]
