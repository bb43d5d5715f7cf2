"""A metric whose weights are not there says which file and how to get it, and is left out; nothing stands in for it."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.evaluate.assembling import assemble
from pipelines.evaluate.presets import load_preset


@pytest.fixture(autouse=True)
def _empty_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def test_each_missing_metric_has_a_sentence_with_file_and_command_and_no_column():
    metrics = assemble(load_preset("ours"))
    assert {column.name for column in metrics.columns} == {"ssim_zeroed", "ssim_excluded"}
    clip, dino, lpips, fid = metrics.missing
    assert "model.safetensors of openai/clip-vit-base-patch32" in clip
    assert "`hf download openai/clip-vit-base-patch32`" in clip
    assert "--set clip.model=DIR" in clip
    assert "`hf download facebook/dino-vits16`" in dino
    assert "vgg16-397923af.pth" in lpips
    assert "curl -L -o vgg16-397923af.pth https://download.pytorch.org/models/vgg16-397923af.pth" in lpips
    assert "weights-inception-2015-12-05-6726825d.pth" in fid
    assert all("\n" not in sentence and sentence.startswith("E505 ") for sentence in metrics.missing)


def test_folder_without_weights_names_the_file(tmp_path, models):
    (tmp_path / "half").mkdir()
    shutil.copy(models / "clip" / "config.json", tmp_path / "half")
    sets = [f"clip.model={tmp_path / 'half'}", "dino=null", "lpips=null", "fid=null"]
    (sentence,) = assemble(load_preset("ours", sets)).missing
    assert "half/model.safetensors is not there" in sentence


def test_file_that_lacks_a_layer_is_refused_and_not_filled_with_random_numbers(tmp_path, models):
    shutil.copytree(models / "dino", tmp_path / "dino")
    state = load_file(tmp_path / "dino" / "model.safetensors")
    del state["layernorm.weight"]
    save_file(state, tmp_path / "dino" / "model.safetensors", metadata={"format": "pt"})
    sets = [f"dino.model={tmp_path / 'dino'}", "clip=null", "lpips=null", "fid=null"]
    metrics = assemble(load_preset("ours", sets))
    assert "has no weights for layernorm.weight, which would be random numbers" in metrics.missing[0]
    assert not [column for column in metrics.columns if column.name.startswith("dino")]


def test_backbone_of_another_network_is_refused(tmp_path, models):
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "wrong.pth")
    sets = [f"lpips.weights={tmp_path / 'wrong.pth'}", "lpips.net=squeeze", "clip=null", "dino=null", "fid=null"]
    (sentence,) = assemble(load_preset("ours", sets)).missing
    assert "wrong.pth is no state of torchvision's squeezenet1_1" in sentence


def test_pickle_that_runs_code_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"x": Trap()}, tmp_path / "trap.pth")
    for setting in ("lpips", "fid"):
        others = [f"{name}=null" for name in ("clip", "dino", "lpips", "fid", "ssim") if name != setting]
        metrics = assemble(load_preset("ours", [f"{setting}.weights={tmp_path / 'trap.pth'}", *others]))
        assert len(metrics.missing) == 1
        assert metrics.columns == ()
    assert not (tmp_path / "ran").exists()


def test_model_column_names_the_weights_by_content(models, sets):
    import hashlib

    metrics = assemble(load_preset("ours", sets))
    digest = hashlib.sha256((models / "dino" / "model.safetensors").read_bytes()).hexdigest()[:12]
    column = next(column for column in metrics.columns if column.name == "dino_box")
    assert column.model == f"dino (sha256 {digest}) CLS"
    assert "short side 36, centre crop 32" in column.preprocessing
    assert str(models) not in repr(metrics.columns)
