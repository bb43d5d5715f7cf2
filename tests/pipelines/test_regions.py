"""Several subjects in one scene: what of it is what painting one alone gives, and what is not."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipelines import crop, dif
from pipelines.jobs import Job, Region
from pipelines.regions import Region as Painted
from pipelines.regions import nearest_region, paint_regions
from pipelines.run import run
from pipelines.settings import resolve
from tests.pipelines.conftest import scene, write_lora

KIND = "sd9"
LEFT, RIGHT = (8, 30, 32, 60), (56, 30, 84, 66)


def mask_at(box):
    mask = np.zeros((96, 96), bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("regions")
    for number, name in enumerate(("teapot", "vase")):
        write_lora(folder / name, KIND, subject=name, seed=number, sample_ids=(f"{name}/src-{number:012x}",))
    Image.fromarray(scene()).save(folder / "scene.png")
    return folder


def job(place, **fields) -> Job:
    own = {"scene": str(place / "scene.png"), "adapter": str(place / "teapot"), "box": LEFT, "seed": 3}
    return Job(**(own | {"settings": {"num_inference_steps": 2, "lambda_gch": 0.0}} | fields))


def picture(output, row):
    return np.asarray(Image.open(output / row.image))


def test_without_a_global_stage_each_region_is_what_it_is_alone(place, tmp_path):
    other = Region(adapter=str(place / "vase"), box=RIGHT, prompt="a photo of blue {identifier} teapot")
    both, first, second = run(
        [
            job(place, also=(other,)),
            job(place),
            job(place, adapter=other.adapter, box=RIGHT, prompt=other.prompt, seed=4),
        ],
        tmp_path,
    )
    found = picture(tmp_path, both)
    for row, box in ((first, LEFT), (second, RIGHT)):
        inside = mask_at(box)
        assert (found[inside] == picture(tmp_path, row)[inside]).all()
        assert (found[inside] != scene()[inside]).any()
    bands = np.maximum(crop.soft_mask(mask_at(LEFT), 3), crop.soft_mask(mask_at(RIGHT), 3))
    assert (found[bands == 0] == scene()[bands == 0]).all()
    assert both.also[0].adapter.startswith("vase/lora-")
    assert both.sample_ids == (*first.sample_ids, *second.sample_ids)
    kept = {row["job"]: row for row in pq.read_table(tmp_path / "results.parquet").to_pylist()}[both.job]
    assert kept["also"][0]["prompt"] == "a photo of blue sks teapot"
    assert kept["also"][0]["box_xyxy"] == list(RIGHT)


def test_in_turn_paints_each_into_the_result_of_the_last(place, tmp_path):
    other = Region(adapter=str(place / "vase"), box=(20, 40, 50, 70))  # it overlaps
    (both, first) = run([job(place, also=(other,), in_turn=True), job(place)], tmp_path)
    Image.fromarray(picture(tmp_path, first)).save(tmp_path / "first.png")
    (second,) = run(
        [job(place, scene=str(tmp_path / "first.png"), adapter=other.adapter, box=other.box, seed=4)], tmp_path / "two"
    )
    assert (picture(tmp_path, both) == picture(tmp_path / "two", second)).all()


def texts_of(backbone, prompt):
    text = backbone.encode_text([prompt])
    return dif.StageTexts(text, text, backbone.unconditional(1))


@pytest.mark.parametrize("lambda_gch", [0.5, 1.0])
def test_two_regions_of_one_adapter_and_prompt_are_one_mask_in_the_global_stage(backbone_of, lambda_gch):
    backbone, masks = backbone_of(KIND), [mask_at(LEFT), mask_at(RIGHT)]
    settings = resolve("paper", {"num_inference_steps": 2, "lambda_gch": lambda_gch})
    texts = texts_of(backbone, "a teapot")
    found = paint_regions(backbone, scene(), [Painted(mask, texts, 0, lambda: None) for mask in masks], settings)
    whole = dif.paint(backbone, [scene()], [masks[0] | masks[1]], texts, [0], settings)[0]
    outside = np.maximum(*(crop.soft_mask(mask, 3) for mask in masks)) == 0
    assert (found.image[outside] == scene()[outside]).all()
    # a local stage has crops of its own; without one the two runs are the same to the bit
    assert torch.equal(found.latents, whole.latents) == (lambda_gch == 1.0)


def test_each_cell_takes_the_prediction_of_the_nearest_region(backbone_of):
    backbone, masks = backbone_of(KIND), [mask_at(LEFT), mask_at(RIGHT)]
    owner = nearest_region(masks, (12, 12))[0, 0]
    assert (owner[4:8, :5] == 0).all()
    assert (owner[4:8, 6:] == 1).all()
    settings = resolve("plain", {"num_inference_steps": 1})
    one, other = (texts_of(backbone, prompt) for prompt in ("a teapot", "a blue vase"))
    order: list[int] = []
    regions = [Painted(mask, texts, 0, lambda n=n: order.append(n)) for n, (mask, texts) in
               enumerate(zip(masks, (one, other), strict=True))]  # fmt: skip
    mixed = paint_regions(backbone, scene(), regions, settings).latents
    union = masks[0] | masks[1]
    size = mixed.shape[1:]
    owner = nearest_region(masks, tuple(size))[0]
    for number, texts in enumerate((one, other)):
        alone = dif.paint(backbone, [scene()], [union], texts, [0], settings)[0].latents
        here = (owner == number).expand_as(mixed)
        assert torch.equal(mixed[here], alone[here])  # after one step; later ones see each other
        assert not torch.equal(mixed, alone)
    assert order == [0, 1]
