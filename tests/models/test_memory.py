"""How models share the machine: one look a picture, batches that shrink, one model at a time, work that overlaps."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch

from dataforge import units
from dataforge.backends.devices import in_batches, place
from dataforge.backends.promptable import BoxMasks, choose_mask
from dataforge.backends.sam import Sam
from dataforge.backends.sam_hf import Sam2, SamHf
from dataforge.building import build
from dataforge.config import Recipe
from dataforge.executor import LocalExecutor, Resources
from dataforge.protocols import Grounding, Photo, Segmentation
from dataforge.worker import _Notes
from manifests.errors import Fault
from tests.conftest import draw_subjects
from tests.models.tiny import tiny


def photo(size: int = 256) -> Photo:
    image = np.random.default_rng(0).integers(0, 255, (size, size, 3)).astype(np.uint8)
    return Photo(id="mug/src-0", subject="mug", class_noun="mug", image=image)


BOXES = [(10, 10, 120, 200), (100, 20, 250, 140), (5, 100, 90, 240), (60, 60, 200, 200)]


@pytest.mark.parametrize(
    ("backend", "kind", "encoder"),
    [
        (Sam, "sam", lambda model: model._predictor.model.image_encoder),
        (SamHf, "sam-hf", lambda model: model._network.vision_encoder),
        (Sam2, "sam2", lambda model: model._network.vision_encoder),
    ],
)
@pytest.mark.parametrize("others", [0, 1, 3])
def test_a_picture_is_encoded_once_however_many_boxes_it_has(backend, kind, encoder, others):
    model = backend(str(tiny(kind)), exclude_others=True)
    looks: list[int] = []
    encoder(model).register_forward_hook(lambda *_: looks.append(1))
    model.segment([photo()], [Grounding(box=BOXES[0], score=0.5, other_boxes=tuple(BOXES[1 : 1 + others]))])
    assert len(looks) == 1


def test_four_boxes_cost_hardly_more_than_one():
    """With an encoder that outweighs the decoder, as SAM's do by far more than this one's."""
    model = Sam(str(tiny("sam-wide")), exclude_others=True)
    seconds: dict[int, list[float]] = {1: [], 4: []}
    for count in (4, 1) * 6:
        start = time.process_time()
        model.look([(photo(), BOXES[:count])])
        seconds[count].append(time.process_time() - start)
    ratio = median(seconds[4][1:]) / median(seconds[1][1:])
    print(f"4 boxes cost {ratio:.2f} x of one")
    assert ratio <= 1.3


def masks(*areas: int, iou: list[float]) -> BoxMasks:
    logits = np.full((1, len(areas), 8, 8), -9.0, np.float32)
    for number, area in enumerate(areas):
        logits[0, number].flat[:area] = 9.0
    return BoxMasks(logits, np.array([iou], np.float32))


def test_which_of_three_masks_is_taken_is_a_setting_and_the_second_is_the_rival():
    three = masks(4, 40, 12, iou=[0.3, 0.5, 0.9])
    for choose, area, rival in (("best", 12, 40), ("single", 12, 40), ("largest", 40, 12)):
        chosen = choose_mask(three, choose)
        assert isinstance(chosen, Segmentation)
        assert chosen.mask.sum() == area
        assert chosen.rival is not None
        assert chosen.rival.sum() == rival


def test_quality_is_predicted_iou_times_stability_and_doubts_are_named():
    logits = np.full((1, 1, 10, 10), -9.0, np.float32)
    logits[0, 0, :5] = 9.0  # 50 pixels that are sure
    logits[0, 0, 5] = 0.5  # 10 that are in by a hair
    chosen = choose_mask(BoxMasks(logits, np.array([[0.7]], np.float32)), "single")
    assert isinstance(chosen, Segmentation)
    assert chosen.mask.sum() == 60
    assert chosen.quality == pytest.approx(0.7 * 50 / 60)
    assert chosen.flags == ("unsure-model",)


def test_what_belongs_rather_to_another_box_is_left_out():
    logits = np.full((2, 1, 4, 4), -9.0, np.float32)
    logits[0, 0, :, :3] = 1.0
    logits[1, 0, :, 2:] = 5.0
    chosen = choose_mask(BoxMasks(logits, np.ones((2, 1), np.float32)), "single")
    assert isinstance(chosen, Segmentation)
    assert chosen.mask.tolist() == [[True, True, False, False]] * 4


def test_masks_that_are_not_finite_or_empty_are_faults():
    assert isinstance(choose_mask(masks(0, iou=[0.9]), "single"), Fault)
    broken = masks(4, iou=[0.9])
    broken.logits[0, 0, 0, 0] = np.nan
    assert isinstance(choose_mask(broken, "single"), Fault)


@pytest.mark.parametrize("fits", [8, 5, 3, 2, 1])
def test_a_batch_that_does_not_fit_is_halved_down_to_one_and_says_so(fits, caplog):
    sizes: list[int] = []

    def run(batch: Any) -> list[int]:
        sizes.append(len(batch))
        if len(batch) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [item * 10 for item in batch]

    with caplog.at_level(logging.WARNING):
        assert in_batches(range(20), 8, run, what="painter") == [item * 10 for item in range(20)]
    halvings = [size for size in sizes if size > fits]
    assert len(caplog.messages) == len(halvings)
    assert all("out of memory" in message for message in caplog.messages)
    # the size that fits is kept: no batch after the first that fitted fails
    assert len(halvings) <= 3


def test_an_item_that_does_not_fit_alone_is_a_fault_and_its_neighbours_are_not():
    def run(batch: Any) -> list[int]:
        if 3 in batch:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return list(batch)

    answers = in_batches(range(6), 4, run, what="painter")
    assert [answer for answer in answers if not isinstance(answer, Fault)] == [0, 1, 2, 4, 5]
    assert isinstance(answers[3], Fault)
    assert answers[3].code == "E222"


def test_another_failure_is_no_lack_of_memory():
    def run(batch: Any) -> list[int]:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        in_batches(range(2), 2, run, what="painter")


def test_device_auto_is_the_cpu_in_float32_where_there_is_no_gpu():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    found = place("auto", "auto")
    assert (found.device.type, found.dtype) == ("cpu", torch.float32)
    assert place("cpu", "bfloat16").dtype == torch.bfloat16


def test_half_precision_gives_nearly_the_same_masks():
    full, half = (SamHf(str(tiny("sam-hf")), precision=precision) for precision in ("float32", "bfloat16"))
    asked = [(photo(), BOXES[:1])]
    assert np.abs(full.look(asked)[0].logits - half.look(asked)[0].logits).max() < 0.05


def test_what_a_backend_warns_of_is_kept_for_the_answer():
    notes = _Notes()
    logger = logging.getLogger("dataforge")
    logger.addHandler(notes)
    try:
        logging.getLogger("dataforge.backends.devices").warning("%s: out of memory", "painter")
    finally:
        logger.removeHandler(notes)
    assert notes.take() == ["painter: out of memory"]
    assert notes.take() == []


def test_a_stage_is_let_go_of_before_the_next_is_built(tmp_path, monkeypatch):
    settings = {"kind": "sam-hf", "model": str(tiny("sam-hf"))}
    fn = units.UnitFunction(stage="segment", settings=settings, work=str(tmp_path), root=str(tmp_path))
    units._load(fn)
    import weakref

    network = weakref.ref(units._stage[1]._segmenter._network)
    seen: list[bool] = []
    monkeypatch.setattr(units, "build_stage", lambda *_: seen.append(network() is None) or object())
    units._load(units.UnitFunction(stage="compose", settings={}, work=str(tmp_path), root=str(tmp_path)))
    assert seen == [True]
    units.forget_stage()


FAKE: dict[str, Any] = {
    "segment": {"kind": "fake"},
    "describe": {"kind": "fake"},
    "generate": {"generator": {"kind": "fake"}, "images_per_prompt": 0},
}


def seconds_to_ground(photographs: Path, output: Path, delay_s: float, **more: Any) -> float:
    """Wall time from the first grounded photograph to the last, one photograph a unit."""
    ground = {"kind": "fake", "delay_s": delay_s, "batch_size": 1, **more}
    times: dict[int, float] = {}  # by photographs done: the end of a stage says the last number again

    def watch(stage: str, done: int, total: int) -> None:
        if stage == "ground" and done:
            times.setdefault(done, time.monotonic())

    result = build(photographs, output, Recipe.model_validate(FAKE | {"ground": ground}), workers=1, on_progress=watch)
    assert result.counts["photographs"] == len(times)
    return times[len(times)] - times[1]


@pytest.mark.slow
def test_the_next_picture_is_read_and_the_last_result_written_while_a_model_works(tmp_path):
    """500 photographs, one at a time, a model that takes 50 ms: at most 1.15 times the model's own time."""
    photographs = draw_subjects(tmp_path / "photographs", subjects=10, photographs=50, size=256)
    took = seconds_to_ground(photographs, tmp_path / "corpus", 0.05, workers=1)
    print(f"{took / (499 * 0.05):.3f} times the model's own time")
    assert took <= 1.15 * 499 * 0.05


def test_units_ahead_lose_nothing_when_a_worker_dies_and_blame_no_neighbour(tmp_path):
    """A worker that holds two units and dies gives the second one back; only a unit that was alone is blamed."""
    work = tmp_path / "work"
    work.mkdir()
    executor = LocalExecutor(1)
    fn = units.UnitFunction(
        stage="compose", settings=Recipe().compose.model_dump(mode="json"), work=str(work), root=str(tmp_path)
    )
    task = {"class_noun": "mug", "words": [], "showable": None}
    all_units = [{"serial": n, "tasks": [{"key": f"{n:04}", "input": task}], "alone": False} for n in range(12)]
    results = []
    try:
        for result in executor.map_units(fn, all_units, Resources(model=True, max_workers=1, ahead=1)):
            results.append(result)
            if len(results) == 3:
                (worker,) = executor._workers
                assert len(worker.held) >= 1
                worker._process.kill()
    finally:
        executor.close()
    assert sorted(result.unit["serial"] for result in results) == list(range(12))
    died = [result for result in results if result.part is None]
    assert len(died) <= 1
    assert all(not result.alone for result in died)
