"""The toy world's base, a stock pipeline whose UNet pools the text itself: recipes train on it and load again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import trainer
from pipelines import backbones
from pipelines.adapters import Shelf, open_adapter
from pipelines.records import read_record
from tests.conftest import REPOSITORY
from trainer.runlog import read_log

BASE = REPOSITORY / "toyworld" / "base"
QUICK = {"resolution": 64, "variants": 2, "regular_variants": 1, "max_train_steps": 3, "checkpointing_steps": 3}
# what a subject is taught with in the tour (attention, feed-forward, convolutions, time and text, the word)
TAUGHT = {
    "rank": 16, "learning_rate": 2e-3, "lr_scheduler": "linear", "train_batch_size": 8,
    "gradient_accumulation_steps": 1, "train_token": True, "token_learning_rate": 5e-3, "name_source_words": 0.5,
    "lora_targets": [
        "to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "time_emb_proj",
        "add_embedding.proj",
    ],
}  # fmt: skip


def prediction(backbone, prompt: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(1, 9, 32, 32, generator=generator)
    with torch.no_grad():
        return backbone.predict(sample, torch.tensor([500]), backbone.encode_text([prompt]))


@pytest.mark.parametrize("recipe", ["dreambooth", "dreamcom", "dreammix", "dreaminpainter"])
def test_every_recipe_trains_on_it_and_loads_again(recipe, balls, tmp_path):
    made = trainer.train(f"{balls}#red-ball", recipe=recipe, base=BASE, output=tmp_path, settings=QUICK)
    (folder,) = made.adapters.values()
    adapter = open_adapter(folder)
    backbone = backbones.load_recorded(adapter.record.base, folder)
    assert adapter.record.base.digest == backbones.load(BASE).base.digest
    plain = prediction(backbone, "a photo of sks ball")
    shelf = Shelf(backbone)
    shelf.use(adapter)
    assert (prediction(backbone, "a photo of sks ball") - plain).abs().max() > 1e-7
    shelf.use(None)
    assert torch.equal(prediction(backbone, "a photo of sks ball"), plain)


def test_half_precision_trains_on_it_from_kept_text_states(balls, tmp_path):
    settings = {**QUICK, "mixed_precision": "bf16"}
    made = trainer.train(f"{balls}#red-ball", recipe="dreammix", base=BASE, output=tmp_path, settings=settings)
    (row,) = read_record(next(iter(made.adapters.values()))).losses[-1:]
    assert 0 < row < 10


def test_the_released_token_layout_needs_more_positions_than_it_has(balls, tmp_path):
    from manifests.errors import UsageError

    with pytest.raises(UsageError, match=r"E601 .*it reads 20 text positions; DreamCom's released layout fills 77"):
        trainer.train(str(balls), recipe="dreamcom:released", base=BASE, output=tmp_path, settings=QUICK)


def test_what_the_tour_teaches_with_is_a_recipe_of_settings_and_stock_diffusers_loads_it(balls, tmp_path):
    from diffusers import StableDiffusionInpaintPipeline

    trainer.train(f"{balls}#red-ball", recipe="dreammix", base=BASE, output=tmp_path, settings=QUICK | TAUGHT)
    folder = tmp_path / "red-ball"
    (log,) = tmp_path.rglob("log.jsonl")
    assert [row["lr"] for row in read_log(log)] == pytest.approx([2e-3, 2e-3 * 2 / 3, 2e-3 / 3])
    record = read_record(folder, full=True)
    assert (record.identifier, record.settings["name_source_words"]) == ("<sks>", 0.5)
    import safetensors.torch

    weights = safetensors.torch.load_file(folder / "pytorch_lora_weights.safetensors")
    assert sum(weight.numel() for weight in weights.values()) > 400_000
    assert "unet.add_embedding.proj.lora_A.weight" in weights

    pipe = StableDiffusionInpaintPipeline.from_pretrained(BASE, local_files_only=True, safety_checker=None)
    pipe.load_lora_weights(folder, weight_name="pytorch_lora_weights.safetensors")
    pipe.load_textual_inversion(folder)
    theirs = backbones.load(BASE)
    theirs.unet = pipe.unet
    ids = pipe.tokenizer(["a photo of <sks> ball"], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        states = backbones.TextStates(pipe.text_encoder(ids)[0])
        generator = torch.Generator().manual_seed(0)
        sample = torch.randn(1, 9, 32, 32, generator=generator)
        wanted = theirs.predict(sample, torch.tensor([500]), states)

    from pipelines.backbones.textual_inversion import put_adapter_word

    ours = backbones.load(BASE)
    Shelf(ours).use(open_adapter(folder))
    put_adapter_word(ours, folder, record.identifier)
    assert (prediction(ours, "a photo of <sks> ball") - wanted).abs().max() == 0


def test_a_condition_no_backbone_can_feed_is_refused(tmp_path):
    import json

    from manifests.errors import UsageError

    copy = Path(shutil.copytree(BASE, tmp_path / "copy"))
    path = copy / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "addition_embed_type": "image"}))
    with pytest.raises(UsageError, match=r"E601 .*wants the condition 'image'; one of None, text, text_time"):
        backbones.load(copy)
