"""Metrics through the real classes with tiny weights from disk: the exact tests of METHODS 6.4, and what crops mean."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.evaluate.assembling import assemble
from pipelines.evaluate.metrics.background import background
from pipelines.evaluate.metrics.clip import load_clip
from pipelines.evaluate.metrics.fid import Fid, frechet_distance
from pipelines.evaluate.metrics.overall import overall
from pipelines.evaluate.pairs import Pair, View, as_seen
from pipelines.evaluate.preprocessing import CLIP_MEAN, CLIP_STD, Preprocessing
from pipelines.evaluate.presets import load_preset
from pipelines.evaluate.weights import Weights


@pytest.fixture(scope="module")
def metrics(tiny_preset):
    found = assemble(tiny_preset)
    assert found.missing == []
    return found


def scores(metrics, pairs):
    found = [{} for _ in pairs]
    for metric in metrics.of_pairs:
        for known, new in zip(found, metric.score(pairs), strict=True):
            known.update(new)
    return found


def test_identical_pictures_score_as_identical(metrics, make_pair):
    pair = make_pair(composite=1, scene=1, references=(1,), mask=True)
    (found,) = scores(metrics, [pair])
    for name in ("clip_i_box", "clip_i_mask", "dino_box", "dino_mask"):
        assert found[name] == pytest.approx(1, abs=1e-5), name
    for way in ("zeroed", "excluded"):
        assert abs(found[f"lpips_{way}"]) <= 1e-6
        assert found[f"ssim_{way}"] == pytest.approx(1, abs=1e-6)


def test_other_pictures_do_not(metrics, make_pair):
    (found,) = scores(metrics, [make_pair(composite=1, scene=5, references=(2, 3))])
    assert found["clip_i_box"] < 0.9999
    assert found["dino_box"] < 0.9999
    assert found["lpips_zeroed"] > 1e-4
    assert found["ssim_zeroed"] < 0.9
    assert found["ssim_excluded"] < found["ssim_zeroed"]


def test_nothing_inside_the_box_reaches_a_background_score(metrics, make_pair):
    """Bit-equal, also where the picture is resized and the box's edge falls between pixels."""
    pair = make_pair(composite=1, scene=5)
    box = (13, 7, 41, 33)
    pair = dataclasses.replace(pair, composite=dataclasses.replace(pair.composite, box=box))
    x0, y0, x1, y1 = box
    rng = np.random.default_rng(9)
    seen = []
    for _ in range(4):
        composite, scene = pair.composite.image.copy(), pair.scene.copy()
        composite[y0:y1, x0:x1] = rng.integers(0, 256, (y1 - y0, x1 - x0, 3))
        scene[y0:y1, x0:x1] = rng.integers(0, 256, (y1 - y0, x1 - x0, 3))
        changed = dataclasses.replace(pair, composite=dataclasses.replace(pair.composite, image=composite), scene=scene)
        (found,) = scores(metrics, [changed])
        seen.append({name: value for name, value in found.items() if name.startswith(("lpips", "ssim"))})
    assert all(one == seen[0] for one in seen)
    assert len(seen[0]) == 4
    # and what lies one pixel outside does
    composite = pair.composite.image.copy()
    composite[y0 - 1, x0:x1] ^= 255
    changed = dataclasses.replace(pair, composite=dataclasses.replace(pair.composite, image=composite))
    (found,) = scores(metrics, [changed])
    assert found["ssim_zeroed"] != seen[0]["ssim_zeroed"]
    assert found["lpips_zeroed"] != seen[0]["lpips_zeroed"]


def test_excluded_background_has_no_pixel_that_the_box_touched(make_pair):
    pair = make_pair(composite=1, scene=5)
    for side in (31, 64, 100):
        one = background(pair, side)
        composite = pair.composite.image.copy()
        composite[8:32, 16:40] = 255
        assert (one.composite[0].numpy() == background(pair, side).composite[0].numpy()).all()
        plain = np.asarray(Image.fromarray(composite).resize((side, side), Image.Resampling.BILINEAR), np.float32) / 255
        # zeros and 255 in the box give the same pixels wherever the box is said not to reach
        assert np.array_equal(plain.transpose(2, 0, 1)[:, one.outside()], one.composite[0].numpy()[:, one.outside()])


def test_lpips_is_the_librarys_own(metrics, make_pair):
    lpips = next(metric for metric in metrics.of_pairs if metric.columns[0].name.startswith("lpips"))
    pair = make_pair(composite=1, scene=5)
    seen = background(pair, 64)
    first, second = seen.composite * 2 - 1, seen.scene * 2 - 1
    with torch.inference_mode():
        expected = float(lpips.model(first, second))
        lpips.model.spatial = True
        whole = lpips.model(first, second)[0, 0]
        lpips.model.spatial = False
    (found,) = lpips.score([pair])
    assert found["lpips_zeroed"] == pytest.approx(expected, rel=1e-6)
    assert found["lpips_excluded"] == pytest.approx(float(whole[torch.from_numpy(seen.outside())].mean()), rel=1e-5)


def test_ssim_is_what_torchmetrics_says(metrics, make_pair):
    """The lab's scripts use torchmetrics; both follow Wang et al. 2004."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    ssim = next(metric for metric in metrics.of_pairs if metric.columns[0].name.startswith("ssim"))
    pair = make_pair(composite=1, scene=5)
    seen = background(pair, 64)
    expected = structural_similarity_index_measure(seen.composite.double(), seen.scene.double(), data_range=1.0)
    assert ssim.score([pair])[0]["ssim_zeroed"] == pytest.approx(float(expected), abs=1e-6)


def test_clip_equals_the_whole_model(models):
    """What `transformers.CLIPModel` itself calls image and text embeddings, and their cosine."""
    from transformers import CLIPModel, CLIPTokenizer

    clip = load_clip(Weights("clip", "", models / "clip" / "model.safetensors"))
    model = CLIPModel.from_pretrained(models / "clip").eval()
    tokens = CLIPTokenizer.from_pretrained(models / "clip")(["a red mug", "a dog"], padding=True, return_tensors="pt")
    pixels = np.stack([clip.preprocessing()(np.full((40, 60, 3), value, np.uint8)) for value in (40, 200)])
    with torch.inference_mode():
        whole = model(pixel_values=torch.from_numpy(pixels), **tokens)
    images, texts = clip.images(list(pixels)), clip.texts(["a red mug", "a dog"])
    for own, expected in ((images, whole.image_embeds), (texts, whole.text_embeds)):
        assert np.allclose(own / np.linalg.norm(own, axis=1, keepdims=True), expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (300, 301), (33, 250)])
def test_preprocessing_is_torchvisions_on_pillow_pictures(size):
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

    image = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    steps = Compose([Resize(36, InterpolationMode.BICUBIC), CenterCrop(32), ToTensor(), Normalize(CLIP_MEAN, CLIP_STD)])
    own = Preprocessing(32, CLIP_MEAN, CLIP_STD, short_side=36)(image)
    assert np.allclose(own, steps(Image.fromarray(image)).numpy(), atol=1e-6)


def test_mask_crop_zeroes_all_but_the_subject_and_needs_a_mask(make_pair):
    view = make_pair(mask=True).composite
    cut = as_seen(view, "mask")
    x0, y0, x1, y1 = view.box
    assert cut.shape == (y1 - y0, x1 - x0, 3)
    assert not cut[~view.mask[y0:y1, x0:x1]].any()
    assert np.array_equal(cut[view.mask[y0:y1, x0:x1]], view.image[view.mask])
    assert as_seen(make_pair().composite, "mask") is None


def test_foreground_scores_see_nothing_outside_the_box(metrics, make_pair):
    pair = make_pair()
    image = pair.composite.image.copy()
    image[:8] ^= 255
    changed = dataclasses.replace(pair, composite=View("other", image, pair.box))
    one, other = scores(metrics, [pair])[0], scores(metrics, [changed])[0]
    assert one["clip_i_box"] == other["clip_i_box"]
    assert one["dino_box"] == other["dino_box"]
    assert one["clip_t_box"] == other["clip_t_box"]


def test_references_are_kept_and_change_nothing(tiny_preset, make_pair):
    """A metric that has seen the references before gives what a fresh one gives, to the last bit."""
    pairs = [make_pair(composite=number) for number in range(1, 4)]
    fresh = [scores(assemble(tiny_preset), [pair])[0] for pair in pairs]
    metrics = assemble(tiny_preset)
    again = [scores(metrics, [pair])[0] for pair in (*pairs, *pairs)][3:]
    assert [one["dino_box"] for one in again] == pytest.approx([one["dino_box"] for one in fresh], abs=1e-6)


def test_a_set_is_at_no_distance_from_itself():
    rng = np.random.default_rng(0)
    for count, width in ((50, 8), (6, 40), (5, 2048)):
        features = rng.normal(size=(count, width)).astype(np.float32)
        assert abs(frechet_distance(features, features)) <= 1e-3
        assert abs(frechet_distance(features, features[::-1])) <= 1e-3


def test_frechet_distance_of_known_gaussians():
    """Means d apart and standard deviations a, b: d^2 + (a - b)^2 per dimension (Heusel et al. 2017, eq. 6)."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(4000, 3))
    base = (base - base.mean(axis=0)) / base.std(axis=0, ddof=1)
    whitened = base @ np.linalg.inv(np.linalg.cholesky(np.cov(base, rowvar=False))).T
    first, second = whitened * 2, whitened * 3 + np.array([1.0, 0, 2.0])
    assert frechet_distance(first.astype(np.float32), second.astype(np.float32)) == pytest.approx(5 + 3, rel=1e-5)


def test_frechet_distance_turned_onto_its_axes_is_the_same():
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(7, 30)), rng.normal(size=(9, 30)) + 0.5
    plain = fid_statistics_to_metric(
        *(fid_features_to_statistics(torch.from_numpy(half)) for half in (first, second)), verbose=False
    )[KEY_METRIC_FID]
    assert frechet_distance(first, second) == pytest.approx(plain, rel=1e-4)


def test_fid_through_inception_from_a_file(inception, make_pair):
    metric = Fid(Weights("inception.pth", "", inception), layer=64)
    views = [make_pair(composite=seed).composite for seed in range(4)]
    features = metric.features(views)
    assert features.shape == (4, 64)
    assert abs(frechet_distance(features, metric.features(views))) <= 1e-3
    others = metric.features([make_pair(composite=seed).composite for seed in range(10, 14)])
    assert frechet_distance(features, others) > 1e-3


def test_overall_is_the_geometric_mean_with_negatives_set():
    scores = {"dino_whole": 0.5, "clip_i_whole": -0.2, "dino_scene": 0.8, "clip_i_scene": 0.9}
    found = overall(scores)
    assert found["overall"] == pytest.approx((0.5 * 0.001 * 0.8 * 0.9) ** 0.25)
    assert found["overall_released"] == pytest.approx((0.5 * 0.001 * 0.8 * 0.8) ** 0.25)
    del scores["dino_scene"]
    assert overall(scores) == {}


def test_dreamedit_compares_whole_pictures_with_references_and_scene(models, make_pair):
    preset = load_preset("dreamedit", [f"clip.model={models / 'clip'}", f"dino.model={models / 'dino'}"])
    metrics = assemble(preset)
    (found,) = scores(metrics, [make_pair(composite=1, scene=1, references=(1, 1))])
    assert {column.name for column in metrics.columns} == {*found, "overall", "overall_released"}
    assert all(value == pytest.approx(1, abs=1e-5) for value in found.values())
    assert all("512x512" in column.preprocessing for column in metrics.columns if "overall" not in column.name)


def test_bcmi_scales_by_a_hundred_and_needs_masks(models, make_pair):
    places = [f"clip.model={models / 'clip'}", f"dino.model={models / 'dino'}", "lpips=null", "segmenter=null"]
    metrics = assemble(load_preset("bcmi", places))
    same, without = scores(metrics, [make_pair(1, 1, (1,), mask=True), make_pair(1, 1, (1,))])
    assert same["clip_i_mask"] == pytest.approx(100, abs=1e-3)
    assert same["dino_mask"] == pytest.approx(100, abs=1e-3)
    assert set(without) == {"ssim_zeroed"}


def test_a_photograph_has_no_background_and_no_scene(metrics, make_pair):
    (found,) = scores(metrics, [make_pair(scene=None)])
    assert not [name for name in found if name.startswith(("lpips", "ssim"))]


def test_box_that_is_the_whole_frame_leaves_no_background(metrics, make_pair):
    pair = make_pair(composite=1, scene=5)
    whole = dataclasses.replace(pair, composite=dataclasses.replace(pair.composite, box=(0, 0, 64, 48)))
    (found,) = scores(metrics, [whole])
    assert "ssim_excluded" not in found
    assert "lpips_excluded" not in found
    assert found["ssim_zeroed"] == pytest.approx(1, abs=1e-6)
    assert not any(math.isnan(value) for value in found.values())


def test_segmenter_gives_the_mask_that_cut_out_scores_need(models, make_pair):
    from pipelines.evaluate.segmenting import BoxSegmenter

    segmenter = BoxSegmenter(Weights("sam", "", models / "sam" / "model.safetensors"))
    pair: Pair = make_pair()
    mask = segmenter.mask(pair.composite.image, pair.box)
    assert mask.shape == pair.composite.image.shape[:2]
    assert mask.dtype == bool
    assert np.array_equal(mask, segmenter.mask(pair.composite.image, pair.box))
