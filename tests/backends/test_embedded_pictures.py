"""The embedded generator makes pictures that show their prompt's words, from the subject's own pixels."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from dataforge.backends.cutout import cut_out
from dataforge.backends.embedded_describer import EmbeddedDescriber
from dataforge.backends.embedded_generator import EmbeddedGenerator
from dataforge.backends.retexture import retexture
from dataforge.backends.scenes import given_scene, painted_scene
from dataforge.backends.vocabulary import COLOUR_TARGETS, SHOWABLE, TREATMENTS
from dataforge.protocols import GeneratedImage, GenerationRequest, Photo
from manifests.errors import Fault
from manifests.records import RegularPrompt, Word

_spec = importlib.util.spec_from_file_location(
    "independent_colours", Path(__file__).with_name("independent_colours.py")
)
independent = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(independent)

SIDE = 128


def subject(colour, form="ball", seed=0):
    """A shaded thing with two dark eyes on a noisy background: picture and mask."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    radius = np.hypot(x - 64, y - 66)
    mask = radius < 40 if form == "ball" else (abs(x - 64) < 24) & (abs(y - 66) < 44)
    light = np.clip(1.08 - 0.5 * np.hypot(x - 50, y - 48) / 70, 0.3, 1.1)[..., None]
    thing = np.asarray(colour, np.float32) * light
    eyes = (np.hypot(x - 52, y - 56) < 4) | (np.hypot(x - 76, y - 56) < 4)
    thing[eyes] = 18
    image = np.where(mask[..., None], thing, (96, 132, 92))
    image = image + np.random.default_rng(seed).normal(0, 3, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), mask


def request_for(*words, colour=(205, 60, 40), form="ball", seed=0, size=192, scenes=(), sources=2):
    pairs = [subject(colour, form, index) for index in range(sources)]
    return GenerationRequest(
        prompt=RegularPrompt(
            prompt="a photo of a thing", template="a photo of a {words} {class_noun}", words=words, seed=0
        ),
        class_noun="toy",
        seed=seed,
        size=size,
        sources=tuple(
            Photo(id=f"s/src-{index:012x}", subject="s", class_noun="toy", image=image)
            for index, (image, _) in enumerate(pairs)
        ),
        masks=tuple(mask for _, mask in pairs),
        scenes=scenes,
    )


def make(*words, **options):
    (answer,) = EmbeddedGenerator(192).generate([request_for(*words, **options)])
    return answer


def asked(category, word, origin="candidate"):
    return Word(category=category, word=word, origin=origin)


def test_a_picture_has_the_asked_size_a_mask_and_its_parent():
    picture = make()

    assert isinstance(picture, GeneratedImage)
    assert picture.image.shape == (192, 192, 3)
    assert picture.image.dtype == np.uint8
    assert picture.mask.shape == (192, 192)
    assert picture.mask.dtype == np.bool_
    assert 0.02 < picture.mask.mean() < 0.7
    assert len(picture.parents) == 1
    assert picture.parents[0] in {"s/src-000000000000", "s/src-000000000001"}
    assert EmbeddedGenerator.own_pixels is True


def labelled(*words):
    """A request for a blue ball with a lime label and a white cap: less than half of it is blue."""
    request = request_for(*words, colour=(40, 70, 220), sources=1)
    y, x = np.mgrid[:SIDE, :SIDE]
    image = request.sources[0].image.copy()
    image[np.hypot(x - 64, y - 74) < 21] = (176, 240, 80)
    image[(np.hypot(x - 64, y - 66) < 40) & (y < 50)] = (245, 245, 245)
    return replace(request, sources=(replace(request.sources[0], image=image),))


def lime(picture):
    """Share of the subject that is still the label's lime."""
    near = abs(picture.image.astype(int) - (176, 240, 80)).max(-1) < 40
    return near[picture.mask].mean()


def test_a_label_keeps_its_colour_where_details_are_kept():
    (repainted,), (kept,) = (
        EmbeddedGenerator(192, keep_details=keep).generate([labelled(asked("colour", "red"))]) for keep in (False, True)
    )
    assert lime(repainted) < 0.1
    assert lime(kept) > 0.25


def test_the_subject_is_as_large_as_asked():
    (small,), (large,) = (
        EmbeddedGenerator(192, subject_share=share).generate([request_for()]) for share in ((0.3, 0.3), (0.8, 0.8))
    )
    for picture, share in ((small, 0.3), (large, 0.8)):
        rows, columns = np.nonzero(picture.mask)
        longer = max(np.ptp(rows), np.ptp(columns)) + 1
        assert longer == pytest.approx(share * 192, rel=0.15)


def test_equal_requests_give_equal_bytes_whatever_was_made_before():
    words = (asked("colour", "blue"), asked("pattern", "striped"))
    generator = EmbeddedGenerator(192)
    first = generator.generate([request_for(*words, seed=5)])
    cv2.setRNGSeed(99)
    second = generator.generate([request_for(seed=8), request_for(*words, seed=5)])

    assert np.array_equal(first[0].image, second[1].image)
    assert np.array_equal(first[0].mask, second[1].mask)
    assert first[0].parents == second[1].parents


def test_other_seeds_give_other_pictures_and_other_sources():
    pictures = [make(seed=seed) for seed in range(8)]

    assert len({picture.image.tobytes() for picture in pictures}) == 8
    assert len({picture.parents for picture in pictures}) == 2


def test_the_mask_is_where_the_subject_is():
    # a colour that no painted scene has
    for seed in range(4):
        picture = make(colour=(230, 20, 210), seed=seed)
        distance = np.abs(picture.image.astype(int) - np.array([230, 20, 210])).sum(2)
        found = (picture.image[..., 0].astype(int) - picture.image[..., 1] > 60) & (distance < 400)
        overlap = (found & picture.mask).sum() / (found | picture.mask).sum()
        assert overlap > 0.9  # the eyes are not of that colour


@pytest.mark.parametrize(
    "word", ["red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey"]
)
def test_the_main_colour_is_the_asked_one_by_a_table_of_its_own(word):
    wrong = []
    for number, colour in enumerate([(205, 60, 40), (60, 80, 150), (235, 230, 220), (60, 45, 35)]):
        picture = make(asked("colour", word), colour=colour, seed=number, form="ball" if number % 2 else "box")
        if isinstance(picture, Fault) or not independent.agrees(picture.image, picture.mask, word):
            wrong.append(
                (
                    colour,
                    picture if isinstance(picture, Fault) else independent.main_colour(picture.image, picture.mask),
                )
            )

    assert wrong == []


def test_every_colour_word_can_be_shown():
    for word in COLOUR_TARGETS:
        picture = make(asked("colour", word), seed=3)
        assert isinstance(picture, GeneratedImage), word
        assert independent.agrees(picture.image, picture.mask, word), word


def test_the_describer_reads_the_colour_back():
    picture = make(asked("colour", "green"), seed=2)
    photo = Photo(id="s/reg-000000000000", subject="s", class_noun="toy", image=picture.image)
    description = EmbeddedDescriber().describe([photo], [picture.mask])

    assert description.words[0].word == "green"


def test_a_colour_the_subject_already_has_is_left_nearly_alone():
    plain = make(seed=4)
    named = make(asked("colour", "red", "source"), seed=4)
    other = make(asked("colour", "blue"), seed=4)

    def change(picture):
        return float(np.abs(picture.image.astype(int) - plain.image).mean())

    assert change(named) < 0.25 * change(other)


def test_recolouring_keeps_shading_and_eyes():
    picture = make(asked("colour", "yellow"), seed=0)
    lightness = cv2.cvtColor(picture.image, cv2.COLOR_RGB2GRAY)[picture.mask]

    assert lightness.std() > 8
    assert (lightness < 70).mean() > 0.01


@pytest.mark.parametrize(("category", "word"), sorted(TREATMENTS))
def test_every_treatment_changes_the_subject_and_only_the_subject(category, word):
    plain, treated = make(seed=1), make(asked(category, word), seed=1)
    difference = np.abs(treated.image.astype(int) - plain.image).mean(2)

    assert isinstance(treated, GeneratedImage)
    assert difference[treated.mask].mean() > 1.5
    assert difference[~cv2.dilate(treated.mask.astype(np.uint8), np.ones((9, 9))).astype(bool)].mean() < 14


def test_patterns_are_read_back_by_the_describer():
    for word in ("striped", "dotted", "checkered"):
        seen = 0
        for seed in range(4):
            picture = make(asked("colour", "red"), asked("pattern", word), size=384, seed=seed, form="box")
            photo = Photo(id="s/reg-000000000000", subject="s", class_noun="toy", image=picture.image)
            words = EmbeddedDescriber().describe([photo], [picture.mask]).words
            seen += any(w.word == word and w.origin == "source" for w in words)
        assert seen >= 2, word


@pytest.mark.parametrize(
    ("category", "word"),
    [("accessories", "with a hat"), ("state", "sleeping"), ("shape", "round"), ("material", "glass")],
)
def test_a_word_that_cannot_be_shown_is_a_fault_that_names_it(category, word):
    assert (category, word) not in SHOWABLE
    assert make(asked(category, word)) == Fault("E221", f"the embedded generator cannot show the word {word!r}")


def test_a_word_the_subject_already_has_needs_no_showing():
    assert isinstance(
        make(asked("shape", "round", "source"), asked("accessories", "with a hat", "source")), GeneratedImage
    )


def test_one_bad_request_does_not_stop_its_neighbours():
    answers = EmbeddedGenerator(128).generate([request_for(asked("state", "wet")), request_for()])

    assert isinstance(answers[0], Fault)
    assert isinstance(answers[1], GeneratedImage)


def test_without_a_usable_source_there_is_a_fault():
    request = request_for()
    empty = replace(request, masks=tuple(np.zeros_like(mask) for mask in request.masks))
    none = replace(request, sources=(), masks=())

    for answer in EmbeddedGenerator(128).generate([empty, none]):
        assert isinstance(answer, Fault)
        assert answer.code == "E221"


def test_given_scenes_are_used():
    rng = np.random.default_rng(0)
    scene = np.zeros((200, 300, 3), np.uint8)
    scene[..., 2] = 255
    pictures = [make(seed=seed, scenes=(scene,)) for seed in range(12)]
    blue = [float((picture.image[~picture.mask][:, 2] > 200).mean()) for picture in pictures]

    assert 2 <= sum(share > 0.4 for share in blue) < 12
    assert given_scene(scene, 64, rng).image.shape == (64, 64, 3)


def test_painted_scenes_are_many_and_fit_any_size():
    scenes = [painted_scene(96, np.random.default_rng(seed)).image for seed in range(12)]

    assert len({scene.tobytes() for scene in scenes}) == 12
    assert np.std([scene.mean() for scene in scenes]) > 10
    for size in (32, 33, 257):
        assert painted_scene(size, np.random.default_rng(4)).image.shape == (size, size, 3)


def test_no_rim_of_the_old_background_comes_along():
    image, mask = subject((205, 60, 40))
    loose = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))) > 0
    cutout = cut_out(image, loose, side=100)
    rim = (cutout.alpha > 0.2) & (cutout.alpha < 0.8)

    # the old background is greener than red
    assert (cutout.image[rim][:, 0].astype(int) - cutout.image[rim][:, 1] > 20).mean() > 0.95


def test_a_subject_cut_by_the_frame_is_set_against_the_frame():
    image, mask = subject((230, 20, 210))
    request = request_for(sources=1)
    cut = replace(
        request,
        sources=(replace(request.sources[0], image=np.ascontiguousarray(image[:70])),),
        masks=(np.ascontiguousarray(mask[:70]),),
    )
    for seed in range(4):
        (picture,) = EmbeddedGenerator(128).generate([replace(cut, seed=seed)])
        assert picture.mask[-1].any()


def test_sizes_from_small_to_large_sources():
    image, mask = subject((205, 60, 40))
    large = cv2.resize(image, (1500, 1500)), cv2.resize(mask.astype(np.uint8), (1500, 1500)) > 0
    small = cv2.resize(image, (24, 24), interpolation=cv2.INTER_AREA), cv2.resize(mask.astype(np.uint8), (24, 24)) > 0
    for picture, outline in (large, small):
        request = request_for(asked("colour", "blue"), asked("material", "wooden"), sources=1)
        photo = replace(request.sources[0], image=picture)
        (answer,) = EmbeddedGenerator(64).generate([replace(request, sources=(photo,), masks=(outline,), size=64)])
        assert isinstance(answer, GeneratedImage)
        assert answer.image.shape == (64, 64, 3)


def test_a_treatment_nobody_wrote_is_a_bug_not_a_picture():
    image, mask = subject((205, 60, 40))
    region = np.ones(mask.shape, np.float32)
    with pytest.raises(KeyError):
        retexture("tartan", image, mask, np.random.default_rng(0), keep_colour=False, region=region, photograph=image)
