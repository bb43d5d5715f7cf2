"""Scoring: what is scored stays scored, reading overlaps computing, numbers carry what made them."""

from __future__ import annotations

import dataclasses
import math
import shutil
import time

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from manifests.errors import CorpusError
from manifests.ids import sha256_hex
from pipelines.evaluate.assembling import Metrics, assemble
from pipelines.evaluate.intervals import bootstrap, mean
from pipelines.evaluate.items import REAL, Item, PairReader, real_images
from pipelines.evaluate.metrics import Column
from pipelines.evaluate.presets import PRESETS, load_preset
from pipelines.evaluate.reading import read_ahead
from pipelines.evaluate.scoring import BATCH, score
from pipelines.evaluate.tables import summarise


@pytest.fixture
def items(corpus, tmp_path) -> list[Item]:
    """Two seeds of every subject in every scene, each a scene with noise in its box, as pictures on disk."""
    found = []
    for number, (name, subject) in enumerate(sorted(corpus.subjects.items())):
        for scene in corpus.samples(role="bg"):
            for seed in range(2):
                image = corpus.image(scene).copy()
                x0, y0, x1, y1 = scene.box_xyxy
                rng = np.random.default_rng([number, seed])
                image[y0:y1, x0:x1] = rng.integers(0, 256, (y1 - y0, x1 - x0, 3))
                path = tmp_path / f"{name}-{scene.id.rpartition('/')[2]}-{seed}.png"
                Image.fromarray(image).save(path)
                found.append(
                    Item(
                        id=path.stem, method="noise", task="murecom", group=f"{name} {scene.id}", subject=name,
                        seed=seed, prompt="a photo of a ball", box=scene.box_xyxy, references=subject.sample_ids,
                        image=str(path), sha256=sha256_hex(path.read_bytes()), scene=scene.id,
                    )
                )  # fmt: skip
    return found


class Counting:
    """Metrics that count the pairs they are shown."""

    def __init__(self, columns: tuple[Column, ...], fail_after: int = 1 << 30, sleep_s: float = 0.0) -> None:
        self.columns, self.shown, self._fail_after, self._sleep_s = columns, 0, fail_after, sleep_s
        self.took_s = 0.0

    def score(self, pairs):
        if self.shown + len(pairs) > self._fail_after:
            raise KeyboardInterrupt
        self.shown += len(pairs)
        started = time.perf_counter()
        time.sleep(self._sleep_s * len(pairs))
        self.took_s += time.perf_counter() - started
        return [{"brightness": float(pair.composite.image.mean())} for pair in pairs]


BRIGHTNESS = (Column("brightness", "up", "none", "mean", "whole"),)


def counting(**options) -> Metrics:
    return Metrics(PRESETS["ours"], of_pairs=[Counting(BRIGHTNESS, **options)])


def test_run_that_was_stopped_scores_no_pair_again_and_gives_the_same(corpus, items, tmp_path):
    read = PairReader(corpus)
    whole = score(items, counting(), read, tmp_path / "whole")
    stopped = counting(fail_after=BATCH)
    with pytest.raises(KeyboardInterrupt):
        score(items, stopped, read, tmp_path / "parts")
    assert stopped.of_pairs[0].shown == BATCH < len(items)
    rest = counting()
    assert score(items, rest, read, tmp_path / "parts") == whole
    assert rest.of_pairs[0].shown == len(items) - BATCH
    again = counting()
    assert score(list(reversed(items)), again, read, tmp_path / "parts") == whole
    assert again.of_pairs[0].shown == 0
    parts = [sorted(path.read_bytes() for path in (tmp_path / name).iterdir()) for name in ("whole", "parts")]
    assert parts[0] == parts[1]


def test_picture_that_changed_is_refused_and_one_painted_anew_is_scored_anew(corpus, items, tmp_path):
    score(items, counting(), PairReader(corpus), tmp_path / "parts")
    changed = dataclasses.replace(items[0], sha256="0" * 64)
    with pytest.raises(CorpusError, match="is not the picture that was painted"):
        score([changed, *items[1:]], counting(), PairReader(corpus), tmp_path / "parts")


def test_scene_of_another_size_is_refused(corpus, items, tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "small.png")
    small = dataclasses.replace(items[0], image=str(tmp_path / "small.png"), sha256="")
    with pytest.raises(CorpusError, match="the composite is 8x8, its scene 128x128"):
        PairReader(corpus)(small)


@pytest.mark.slow
def test_reading_overlaps_a_model_that_sleeps(corpus, items, tmp_path):
    """2,000 pairs: wall time at most 1.15 times the model's own."""
    many = [dataclasses.replace(items[number % len(items)], id=f"{number:05}") for number in range(2000)]
    metrics = counting(sleep_s=0.006)
    started = time.perf_counter()
    score(many, metrics, PairReader(corpus), tmp_path / "parts")
    ratio = (time.perf_counter() - started) / metrics.of_pairs[0].took_s
    print(f"{ratio:.3f} times the model's own time")
    assert metrics.of_pairs[0].shown == 2000
    assert ratio <= 1.15


def test_reading_ahead_keeps_order_and_raises_in_place():
    def slow(number: int) -> int:
        time.sleep(0.01 * (number % 3))
        if number == 7:
            raise ValueError("seven")
        return number

    results = read_ahead(range(20), slow, threads=3)
    assert [next(results) for _ in range(7)] == list(range(7))
    with pytest.raises(ValueError, match="seven"):
        next(results)


def test_reading_ahead_stays_that_far_ahead():
    begun = []
    for number in read_ahead(range(50), begun.append, ahead=4):
        assert number is None
        time.sleep(0.001)
        assert len(begun) <= 50
    first = read_ahead(iter(range(1000)), begun.append, ahead=4)
    next(first)
    first.close()
    assert len(begun) <= 50 + 6


def test_table_says_of_each_number_what_made_it(corpus, items, tmp_path, tiny_preset, models):
    metrics = assemble(tiny_preset)
    real = real_images(corpus, {item.subject for item in items}, task="murecom")
    scored = score([*items, *real], metrics, PairReader(corpus), tmp_path / "parts")
    rows = summarise(scored, metrics, protocol="murecom")
    assert {row.method for row in rows} == {"noise", REAL}
    of_noise = {row.column: row for row in rows if row.method == "noise"}
    assert set(of_noise) == {column.name for column in metrics.columns} - {"clip_i_mask", "dino_mask"}
    for row in rows:
        assert "sha256" in row.model or "scikit-image" in row.model
        assert row.preprocessing
        assert row.crop
        assert row.preset.startswith("ours with clip.model=clip, dino.model=dino")
        assert str(models) not in repr(row)
    row = of_noise["dino_box"]
    assert (row.pairs, row.pictures, row.subjects, row.seeds) == (9, 18, 3, "0,1")
    assert row.low <= row.value <= row.high
    assert math.isnan(of_noise["clip_fid_box"].low)
    assert "against 6 photographs" in of_noise["clip_fid_box"].note
    # photographs have no background, and masks of their own
    of_real = {row.column for row in rows if row.method == REAL}
    assert not [name for name in of_real if name.startswith(("lpips", "ssim"))]
    assert {"clip_i_mask", "dino_mask", "clip_fid_box"} <= of_real


def test_segmenter_that_comes_later_or_changes_is_used_and_named(corpus, items, tmp_path, models):
    """In one folder: without SAM, with it, and with other weights in its place."""
    place = tmp_path / "sam"
    place.mkdir()
    sets = [f"segmenter.model={place}", f"clip.model={models / 'clip'}", "dino=null", "lpips=null", "ssim.side=64"]

    def scored() -> tuple[Metrics, list]:
        metrics = assemble(load_preset("bcmi", sets))
        return metrics, score(items, metrics, PairReader(corpus), tmp_path / "parts")

    without, first = scored()
    assert len(without.missing) == 1
    assert all(set(one.scores) == {"ssim_zeroed"} for one in first)

    shutil.copytree(models / "sam", place, dirs_exist_ok=True)
    metrics, second = scored()
    assert metrics.missing == []
    assert all(set(one.scores) == {"clip_i_mask", "ssim_zeroed"} for one in second)
    rows = {row.column: row for row in summarise(second, metrics, protocol="murecom")}
    digest = sha256_hex((place / "model.safetensors").read_bytes())[:12]
    assert rows["clip_i_mask"].crop == f"mask; the corpus's of photographs, of composites sam (sha256 {digest})"
    assert "sam" not in rows["ssim_zeroed"].crop

    state = load_file(place / "model.safetensors")
    changed = {name: value.flip(0) if value.dim() == 1 else -value for name, value in state.items()}
    save_file(changed, place / "model.safetensors", metadata={"format": "pt"})
    metrics, third = scored()
    other = sha256_hex((place / "model.safetensors").read_bytes())[:12]
    assert {column.crop for column in metrics.columns if "mask" in column.name} == {
        rows["clip_i_mask"].crop.replace(digest, other)
    }
    assert [one.scores["clip_i_mask"] for one in third] != [one.scores["clip_i_mask"] for one in second]


def test_mean_over_seeds_then_pairs_does_not_depend_on_order(corpus, items, tmp_path):
    metrics = counting()
    scored = score(items, metrics, PairReader(corpus), tmp_path / "parts")
    (row,) = summarise(scored, metrics, protocol="murecom")
    rng = np.random.default_rng(0)
    for _ in range(5):
        shuffled = [scored[index] for index in rng.permutation(len(scored))]
        assert summarise(shuffled, metrics, protocol="murecom") == [row]
    groups: dict[str, list[float]] = {}
    for one in scored:
        groups.setdefault(one.item.group, []).append(one.scores["brightness"])
    assert row.value == pytest.approx(np.mean([np.mean(values) for values in groups.values()]), abs=1e-9)


def test_seed_that_was_painted_twice_as_often_does_not_weigh_more(corpus, items, tmp_path):
    """A pair with five seeds counts as much as a pair with one."""
    lonely = [item for item in items if item.seed == 0 or item.group == items[0].group]
    metrics = counting()
    scored = score(lonely, metrics, PairReader(corpus), tmp_path / "parts")
    (row,) = summarise(scored, metrics, protocol="murecom")
    assert row.pairs == 9
    first = [one.scores["brightness"] for one in scored if one.item.group == items[0].group]
    rest = [one.scores["brightness"] for one in scored if one.item.group != items[0].group]
    assert row.value == pytest.approx((np.mean(first) + sum(rest)) / 9, abs=1e-9)


def test_photograph_is_never_its_own_reference(corpus):
    for item in real_images(corpus, corpus.subjects, task="x"):
        assert item.image not in item.references
        assert {*item.references, item.image} == set(corpus.subjects[item.subject].sample_ids)


def test_interval_counts_subjects_and_not_pictures():
    """Ten copies of every value are no new evidence."""
    few = {"a": [0.1], "b": [0.5], "c": [0.9]}
    many = {name: values * 10 for name, values in few.items()}
    assert bootstrap(few) == pytest.approx(bootstrap(many))
    assert bootstrap({"a": [0.1, 0.9]}) == pytest.approx((math.nan, math.nan), nan_ok=True)
    low, high = bootstrap(few)
    assert low < 0.5 < high
    assert mean([]) != mean([])


def test_interval_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        subjects = {str(n): list(rng.normal(0.5 + 0.1 * rng.normal(), 0.05, 4)) for n in range(20)}
        low, high = bootstrap(subjects, seed=trial, draws=500)
        hits += low <= 0.5 <= high
    assert 0.88 <= hits / 200 <= 0.99
