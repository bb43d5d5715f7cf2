"""The measure by pixels: right on what is right, and not fooled by another colour, another mark or none."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from toyworld.fitting import fit
from toyworld.marks import SUBJECT_MARKS
from toyworld.render import render
from toyworld.scenes import generator, mask_box
from toyworld.subjects import SUBJECTS, edited, emptied, photograph


def cases(count: int):
    """A subject in another colour, its scene without it, and the box to paint in."""
    for number in range(count):
        subject = SUBJECTS[number % len(SUBJECTS)]
        scene = photograph(subject, 50 + number, seed=3)
        colour = [name for name in ("red", "green", "blue", "yellow") if name != subject.colour][number % 3]
        yield edited(scene, colour), mask_box(generator(3, "box", number), render(scene).boxes[-1], 64)


def read(shown, box, wanted, noise=0.0):
    """What is read from a render of `shown` when `wanted` was asked for."""
    picture = render(shown).image
    if noise:
        drawn = np.random.default_rng(0).normal(0, noise, picture.shape)
        picture = (picture + drawn).clip(0, 255).astype(np.uint8)
    thing = wanted.things[-1]
    return fit(picture, render(emptied(wanted)).image, box, dataclasses.replace(thing, tint=(0, 0, 0))), thing


def with_mark(scene, mark):
    return dataclasses.replace(scene, things=(*scene.things[:-1], dataclasses.replace(scene.things[-1], mark=mark)))


@pytest.mark.parametrize("noise", [0.0, 12.0])
def test_what_is_right_is_read_as_right(noise):
    results = [found.is_right(thing) for found, thing in (read(s, b, s, noise) for s, b in cases(12))]
    assert sum(results) >= 11


def test_another_colour_another_mark_and_none_are_read_as_wrong():
    wrong = []
    for scene, box in cases(12):
        mark = scene.things[-1].mark
        other = SUBJECT_MARKS[(SUBJECT_MARKS.index(mark) + 3) % len(SUBJECT_MARKS)]
        for shown in (edited(scene, "black"), with_mark(scene, other), with_mark(scene, None), emptied(scene)):
            found, thing = read(shown, box, scene)
            wrong.append(found.is_right(thing))
    assert sum(wrong) <= 1
