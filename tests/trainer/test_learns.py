"""Training learns: on real photographs the loss in the mask falls, and where there is nothing to learn it does not."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from manifests.ids import sha256_hex
from manifests.pixels import encode_mask
from manifests.records import MemberRef
from tests.manifests import corpora
from tests.trainer.conftest import drawn
from trainer.batches import Batches
from trainer.losses import object_mse

ITEMS, STEPS = 4, 160


def write_photographs(root: Path, data: Path, name: str, noun: str) -> Path:
    """A corpus of one subject's photographs as they are."""
    found = []
    for path in sorted((data / "dreambench" / "subjects" / name).glob("*.jpg")):
        with Image.open(data / "dreambench" / "masks" / name / f"{path.stem}.png") as image:
            mask = np.asarray(image.convert("L")) >= 128
        picture, shape = path.read_bytes(), encode_mask(mask)
        template = drawn(name, "src", 1, "red")
        sample = dataclasses.replace(
            template.sample,
            id=f"{name}/src-{sha256_hex(picture)[:12]}",
            class_noun=noun,
            width=mask.shape[1],
            height=mask.shape[0],
            prompt="a photo of {identifier} " + noun,
            image=MemberRef(shard="", offset=0, length=len(picture), format="jpg", sha256=sha256_hex(picture)),
            mask=MemberRef(shard="", offset=0, length=len(shape), format="png", sha256=sha256_hex(shape)),
        )
        found.append(corpora.Made(sample, picture, shape))
    row = corpora.subject(name, found, class_noun=noun, attributes=())
    ledger = sorted(map(corpora.ledger_row, found), key=lambda line: line.path)
    return corpora.write_corpus(root, corpora.content(found, [row], ledger))


class Fixed(Batches):
    """The same few micro-steps over and over: fixed pictures, noise and timesteps."""

    def __getitem__(self, micro_step: int) -> dict[str, torch.Tensor]:
        return super().__getitem__(micro_step % ITEMS)


class Shuffled(Fixed):
    """As `Fixed`, but what is asked for is the noise of somewhere else, elsewhere at each step."""

    def __getitem__(self, micro_step: int) -> dict[str, torch.Tensor]:
        batch = super().__getitem__(micro_step)
        order = torch.randperm(batch["noise"].numel(), generator=torch.Generator().manual_seed(micro_step))
        return {**batch, "elsewhere": batch["noise"].flatten()[order].view_as(batch["noise"])}


def fall(job, kind: type[Fixed]) -> float:
    """Mean loss in the mask of the last passes over that of the first, as training minimises it."""
    recipe, group = job.recipe, job.subjects
    losses = []

    def loss(step):
        wanted = step.extras.get("elsewhere", step.target())
        error = object_mse(step.predict(step.noisy()), wanted, step.mask)
        losses.append(float(error.detach().mean()))
        return error

    with job.fit(group) as fit:
        fit.batches = kind(job.bank, recipe, group, 1000)
        fit.recipe = dataclasses.replace(recipe)
        type(recipe).loss, original = (lambda self, step: loss(step)), type(recipe).loss
        try:
            loader = fit.loader(STEPS)
            for _ in range(STEPS):
                fit.one_step(loader)
        finally:
            type(recipe).loss = original
    return float(np.mean(losses[-2 * ITEMS :]) / np.mean(losses[: 2 * ITEMS]))


def test_loss_in_the_mask_falls_on_real_photographs_and_not_on_shuffled_targets(open_job, test_data, tmp_path):
    corpus = write_photographs(tmp_path / "corpus", test_data, "teapot", "teapot")
    began = time.process_time()
    ratios = {}
    for kind in (Fixed, Shuffled):
        job = open_job("dreammix", corpus=str(corpus), method="full", learning_rate=1e-3, regular_prob=0)
        ratios[kind] = fall(job, kind)
    print(f"loss left: {ratios[Fixed]:.3f}, shuffled {ratios[Shuffled]:.3f}; {time.process_time() - began:.1f} CPU s")
    assert ratios[Fixed] <= 0.6
    assert ratios[Shuffled] > 0.75
    assert time.process_time() - began < 120
