"""The world: what is drawn, what is said of it, and what training never sees."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from toyworld import words
from toyworld.marks import SUBJECT_MARKS, TRAINING_MARKS
from toyworld.render import Backdrop, Scene, Thing, View, bounding_box, render
from toyworld.scenes import (
    Captioned,
    generator,
    mask_box,
    random_backdrop,
    random_scene,
    seen_combination,
    training_scene,
)
from toyworld.shapes import SHAPES
from toyworld.subjects import SUBJECTS, edited, emptied, photograph

SCENES = 400


@pytest.fixture(scope="module")
def drawn() -> list[Captioned]:
    return [training_scene(0, 1000 * canvas + number, canvas) for canvas in (48, 64, 128) for number in range(SCENES)]


def forbidden(scenes: list[Scene]) -> list[Thing]:
    """The things in these scenes that training must never show."""
    return [
        thing
        for scene in scenes
        for thing in scene.things
        if words.is_held_out(thing.shape, thing.colour, thing.texture) or thing.mark in SUBJECT_MARKS
    ]


def test_a_scene_is_drawn_the_same_whatever_was_drawn_before():
    alone = training_scene(3, 17)
    for number in range(17):
        render(training_scene(3, number).scene)
    again = training_scene(3, 17)
    assert again == alone
    assert render(again.scene).image.tobytes() == render(alone.scene).image.tobytes()
    assert training_scene(4, 17) != alone


def test_a_mask_is_where_the_thing_is_and_its_box_holds_all_that_it_changes():
    for number in range(60):
        scene = random_scene(generator(1, "test", number), words.SEEN[number], 10 + 0.6 * number)
        whole, empty = render(scene), render(emptied(scene))
        changed = (whole.image.astype(int) - empty.image).any(2)
        x0, y0, x1, y1 = whole.boxes[-1]
        outside = np.ones_like(changed)
        outside[y0:y1, x0:x1] = False
        assert not changed[outside].any()
        # black on black may change nothing; elsewhere nearly every pixel of the mask does
        assert (changed & whole.masks[-1]).sum() >= 0.9 * whole.masks[-1].sum()
        tight = bounding_box(whole.masks[-1])
        assert x0 <= tight[0]
        assert y0 <= tight[1]
        assert tight[2] <= x1
        assert tight[3] <= y1
        assert 0.25 < whole.masks[-1].mean() / (scene.things[-1].view.size / 64) ** 2 < 1.2


def test_a_ball_covers_the_area_of_a_ball():
    view = View(32.0, 32.0, 40.0)
    picture = render(Scene(Backdrop(64, (200, 200, 200), "sand", 64), (Thing("ball", "red", "plain", view),)))
    assert picture.masks[0].sum() == pytest.approx(np.pi * (0.98 * 20) ** 2, rel=0.02)
    assert bounding_box(picture.masks[0]) == (12, 12, 52, 52)
    middle = picture.image[32, 32].astype(int)
    assert middle[0] > 2 * middle[1]  # red


def test_masks_show_visible_pixels_only():
    backdrop = Backdrop(64, (200, 200, 200), "sand", 64)
    far, near = (Thing("box", colour, "plain", View(x, 32.0, 30.0)) for colour, x in (("red", 26.0), ("blue", 40.0)))
    alone, both = render(Scene(backdrop, (far,))), render(Scene(backdrop, (far, near)))
    assert not (both.masks[0] & both.masks[1]).any()
    assert (both.masks[0] == alone.masks[0] & ~both.masks[1]).all()


def test_distractors_keep_clear_of_the_thing():
    others = 0
    for number in range(200):
        picture = render(training_scene(5, number).scene)
        for mask in picture.masks[:-1]:
            others += 1
            assert not (mask & picture.masks[-1]).any()
    assert others > 60


def test_a_seventh_of_all_combinations_is_held_out_and_every_pair_is_seen():
    assert len(words.HELD_OUT) == 24
    assert len(words.HELD_OUT) / len(words.SEEN + words.HELD_OUT) > 0.1
    for first, second in itertools.combinations(range(3), 2):
        kinds = (tuple(words.SHAPES), tuple(words.COLOURS), words.TEXTURES)
        seen = {(combination[first], combination[second]) for combination in words.SEEN}
        assert seen == set(itertools.product(kinds[first], kinds[second]))


def test_training_never_shows_what_is_held_out(drawn):
    assert forbidden([each.scene for each in drawn]) == []
    assert {thing.shape for each in drawn for thing in each.scene.things} == set(words.SHAPES) == set(SHAPES)
    assert {each.scene.things[-1].mark for each in drawn} == {None, *TRAINING_MARKS}


def test_a_planted_combination_or_mark_is_found(drawn):
    scene = drawn[0].scene
    shape, colour, texture = words.HELD_OUT[3]
    held_out = dataclasses.replace(scene.things[-1], shape=shape, colour=colour, texture=texture)
    marked = dataclasses.replace(scene.things[-1], mark=SUBJECT_MARKS[0])
    for planted in (held_out, marked):
        assert forbidden([dataclasses.replace(scene, things=(planted, *scene.things))])[0] == planted


def test_captions_say_what_is_drawn(drawn):
    for each in drawn:
        thing = each.scene.things[-1]
        said = each.caption.split()
        assert thing.shape in said
        assert not set(said) & set(words.COLOURS) - {thing.colour}
        assert not set(said) & set(words.TEXTURES) - {thing.texture}
        assert not set(said) & {mark.name for mark in TRAINING_MARKS} - {thing.mark.name if thing.mark else ""}
        assert not set(said) & set(words.SURFACES) - {each.scene.backdrop.surface}
    assert sum("mug" in each.caption.split() for each in drawn) > SCENES / 4
    small = np.mean([each.scene.things[-1].view.size < 24 for each in drawn])
    assert 0.2 < small < 0.3


def test_the_box_to_paint_in_holds_the_thing_and_its_shadow():
    odd = 0
    for number in range(300):
        canvas = (48, 64)[number % 2]
        x0, y0, x1, y1 = render(training_scene(2, number, canvas).scene).boxes[-1]
        left, top, right, bottom = mask_box(generator(2, "box", number), (x0, y0, x1, y1), canvas)
        assert 0 <= left <= x0 < x1 <= right <= canvas
        assert 0 <= top <= y0 < y1 <= bottom <= canvas
        odd += left % 2
    assert 75 < odd < 225


def test_an_edit_changes_the_look_and_nothing_else():
    for subject in SUBJECTS:
        scene = photograph(subject, 1)
        before, after = render(scene), render(edited(scene, colour="yellow" if subject.colour != "yellow" else "red"))
        assert (before.masks[-1] == after.masks[-1]).all()
        changed = (before.image != after.image).any(2)
        x0, y0, x1, y1 = before.boxes[-1]
        assert changed[before.masks[-1]].mean() > 0.15
        changed[y0:y1, x0:x1] = False
        assert not changed.any()
        if not subject.mark.is_pattern:
            dotted = render(edited(scene, texture="dotted" if subject.texture != "dotted" else "striped"))
            assert (dotted.image != before.image).any()
        assert render(edited(scene)).image.tobytes() == before.image.tobytes()


def test_views_of_a_subject_differ():
    views = [photograph(SUBJECTS[0], number).things[-1].view for number in range(6)]
    assert len({(view.size, view.tilt, view.yaw) for view in views}) == 6
    assert photograph(SUBJECTS[0], 2) == photograph(SUBJECTS[0], 2)


def test_strong_walls_and_distractors_of_the_same_shape_can_be_asked_for():
    rng = np.random.default_rng(0)
    strong = [max(wall) - min(wall) for wall in (random_backdrop(rng, 64, 1.0).wall for _ in range(50))]
    assert min(strong) > 50
    combination = seen_combination(rng)
    others = [
        other for _ in range(50) for other in random_scene(rng, combination, 20.0, 128, same_shape=1.0).things[:-1]
    ]
    assert len(others) > 20
    assert {other.shape for other in others} == {combination[0]}
    assert combination[1] not in {other.colour for other in others}
