"""The second look at made pictures: scores are recorded, limits reject, and of two alike one is kept."""

from __future__ import annotations

import pytest

from dataforge.config import Gate
from dataforge.model_config import ClipCheck
from dataforge.samples import Picture
from dataforge.stages.gate import judge_again, reject_made_twice
from manifests.errors import Fault

LOOK = {"picture": [1.0, 0.0], "cutout": [0.6, 0.8], "prompt": [0.28, 0.96]}
SAME = {"picture": [0.0, 1.0], "cutout": [0.6, 0.8]}
OTHER = {"picture": [0.0, 1.0], "cutout": [0.8, -0.6]}


def settings(**limits: float) -> ClipCheck:
    return ClipCheck.model_validate({"kind": "clip", **limits})


def made(name: str = "class-mug/reg-0", perceptual_hash: int = 0, **more: object) -> Picture:
    return Picture("reg", name.partition("/")[0], "mug", id=name, perceptual_hash=perceptual_hash, **more)


def test_agreement_and_likeness_are_recorded_and_reject_nothing_without_limits():
    picture = made()
    judge_again(picture, LOOK, [OTHER, SAME], settings())
    assert picture.fault is None
    assert picture.scores == {"clip_agreement": pytest.approx(0.28), "clip_identity": pytest.approx(1.0)}


@pytest.mark.parametrize(
    ("limits", "photographs", "code"),
    [
        ({"min_agreement": 0.3}, [OTHER], "E224"),
        ({"min_agreement": 0.2}, [OTHER], None),
        ({"max_identity": 0.9}, [OTHER, SAME], "E225"),
        ({"max_identity": 0.9}, [OTHER], None),
        ({"min_agreement": 0.3, "max_identity": 0.9}, [SAME], "E224"),
    ],
)
def test_limits_reject_with_what_was_measured(limits, photographs, code):
    picture = made()
    judge_again(picture, LOOK, photographs, settings(**limits))
    assert (picture.fault.code if picture.fault else None) == code


def test_a_picture_of_the_subjects_own_pixels_may_look_like_it():
    picture = made("mug/reg-0", own_pixels=True)
    judge_again(picture, LOOK, [SAME], settings(max_identity=0.5))
    assert picture.fault is None
    assert "clip_identity" not in picture.scores


def test_limits_are_no_part_of_what_the_vectors_depend_on():
    assert settings(max_identity=0.5).digest == settings().digest
    assert settings(model="openai/clip-vit-large-patch14").digest != settings().digest


def test_of_pictures_that_are_nearly_the_same_the_first_is_kept_per_owner():
    pictures = [
        made("class-mug/reg-2", 0b0111),
        made("class-mug/reg-1", 0b0000),
        made("class-mug/reg-3", 0b1111 << 20),
        made("class-cup/reg-4", 0b0000),
    ]
    reject_made_twice(pictures, Gate())
    assert all(picture.alive for picture in pictures)
    reject_made_twice(pictures, Gate(regular_duplicate_bits=3))
    assert [picture.id for picture in pictures if not picture.alive] == ["class-mug/reg-2"]
    sentence = "differs from class-mug/reg-1 in 3 of 64 bits, asked is more than 3"
    assert pictures[0].fault == Fault("E226", sentence)
