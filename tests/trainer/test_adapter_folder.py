"""What an adapter folder says and hides: which base at which commit, no place of this machine, nothing left over."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

import trainer
from manifests.errors import NotFoundError, UsageError
from pipelines import backbones
from pipelines.adapters import Shelf, open_adapter
from pipelines.records import read_record, write_record
from tests.tiny_models import tiny
from tests.trainer.conftest import QUICK
from tests.trainer.test_toy_base import BASE as TOY
from trainer.card import model_card

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ONE = {**QUICK, "max_train_steps": 1}


def leaks(folder: Path, *places: Path) -> list[str]:
    """Files of a folder in which a place of this machine stands."""
    return [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and any(str(place).encode() in path.read_bytes() for place in places)
    ]


def test_no_local_path_is_in_an_adapter_folder(balls, tmp_path):
    base = Path(shutil.copytree(tiny("sd9"), tmp_path / "models" / "my-base"))
    trainer.train(f"{balls}#red-ball", recipe="dreammix", base=base, output=tmp_path / "out", settings=ONE)
    folder = tmp_path / "out" / "red-ball"
    record = read_record(folder)
    assert (record.base.model, record.corpus) == ("my-base", f"{balls.name}#red-ball")
    places = (tmp_path, balls, balls.parent, Path.home())
    assert leaks(folder, *places) == []
    # the search is not blind
    breach = dataclasses.replace(record, base=dataclasses.replace(record.base, model=str(base)))
    write_record(folder, breach)
    (folder / "README.md").write_text(model_card(dataclasses.replace(record, corpus=str(balls)), []))
    assert sorted(leaks(folder, *places)) == ["README.md", "adapter.json"]


@pytest.mark.parametrize(
    ("place", "public"),
    [
        ("hf://user/name", "hf://user/name"),
        ("user/name+fooocus=/models/fooocus", "user/name+fooocus=fooocus"),
        ("/models/sdxl+fooocus=hf://user/patch@main", "sdxl+fooocus=hf://user/patch@main"),
        ("../models/sdxl/", "sdxl"),
    ],
)
def test_of_a_folder_others_read_the_name_only(place, public):
    assert backbones.public_name(place) == public


def test_painting_finds_the_base_the_training_output_remembers(balls, tmp_path):
    trainer.train(f"{balls}#red-ball", recipe="dreammix", base=tiny("sd9"), output=tmp_path / "out", settings=ONE)
    folder = tmp_path / "out" / "red-ball"
    record = read_record(folder)
    assert backbones.load_recorded(record.base, folder).base.digest == record.base.digest
    assert backbones.remembered(folder, record.corpus_digest) == str(balls)
    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere" / "red-ball"))
    with pytest.raises(NotFoundError, match=r"E503 .*red-ball was trained on the folder 'sd9', which is not known"):
        backbones.load_recorded(record.base, moved)


def test_an_adapter_of_another_base_is_refused(balls, tmp_path):
    trainer.train(f"{balls}#red-ball", recipe="dreammix", base=tiny("sd9"), output=tmp_path, settings=ONE)
    with pytest.raises(UsageError, match=r"E603 .*red-ball/lora-[0-9a-f]{12} was trained on sd9"):
        Shelf(backbones.load(TOY)).use(open_adapter(tmp_path / "red-ball"))


def test_a_unet_with_a_tensor_missing_is_refused(balls, tmp_path):
    import safetensors.torch

    trainer.train(f"{balls}#red-ball", recipe="dreammix", base=tiny("sd9"), output=tmp_path,
                  settings={**ONE, "method": "full"})  # fmt: skip
    folder = tmp_path / "red-ball"
    record = read_record(folder)
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    del tensors["conv_in.weight"]
    safetensors.torch.save_file(tensors, path, {"format": "pt"})
    write_record(folder, record)
    with pytest.raises(UsageError, match=r"E603 .*unet does not hold every weight of a UNet"):
        Shelf(backbones.load(tiny("sd9"))).use(open_adapter(folder))


@pytest.fixture
def on_the_hub(tmp_path, monkeypatch) -> Path:
    """The tiny base as the Hub's client keeps it, and no Hub to ask."""
    from huggingface_hub import constants

    home = tmp_path / "hub"
    repo = home / "models--user--base"
    shutil.copytree(tiny("sd9"), repo / "snapshots" / COMMIT)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return home


@pytest.mark.parametrize("place", ["hf://user/base", "user/base", f"hf://user/base@{COMMIT}"])
def test_of_a_base_on_the_hub_the_commit_is_recorded(place, on_the_hub):
    base = backbones.load(place).base
    assert base.revision == COMMIT
    assert base.model == place.partition("@")[0]
    assert base.digest == backbones.load(tiny("sd9")).base.digest


def test_the_commit_reaches_record_run_folder_and_card(on_the_hub, balls, tmp_path):
    trainer.train(f"{balls}#red-ball", recipe="dreammix", base="hf://user/base", output=tmp_path / "out", settings=ONE)
    folder = tmp_path / "out" / "red-ball"
    record = read_record(folder)
    assert (record.base.model, record.base.revision) == ("hf://user/base", COMMIT)
    (run,) = (tmp_path / "out" / ".work" / "runs").glob("*/run.json")
    assert json.loads(run.read_text())["base"] == dataclasses.asdict(record.base)
    card = (folder / "README.md").read_text()
    assert f"base `hf://user/base` at `{COMMIT}`" in card
    assert "base_model: user/base" in card
    assert backbones.load_recorded(record.base, folder).base.revision == COMMIT
    assert leaks(folder, tmp_path) == []


def test_a_lora_in_the_place_of_a_full_fine_tune_leaves_no_unet_behind(balls, tmp_path):
    folder = tmp_path / "red-ball"
    for method in ("full", "lora"):
        trainer.train(f"{balls}#red-ball", recipe="dreammix", base=tiny("sd9"), output=tmp_path,
                      settings={**ONE, "method": method})  # fmt: skip
        there = {path.name for path in folder.iterdir()}
        assert ("unet" in there, "pytorch_lora_weights.safetensors" in there) == (method == "full", method == "lora")
        shutil.rmtree(tmp_path / ".work")
    assert {file.path for file in read_record(folder, full=True).files} == {
        "README.md", "pytorch_lora_weights.safetensors",
    }  # fmt: skip


def test_a_group_killed_between_two_adapters_is_taken_up_whole_and_trains_nothing_again(open_job, balls, tmp_path):
    job = open_job("dreammix", subjects_at_once=2)
    job.run(lambda *_: None)
    output = job.output
    wanted = {path: path.read_bytes() for path in output.glob("*-ball/*")}
    runs = sorted(path.name for path in (output / ".work" / "runs").iterdir())
    (output / "blue-ball" / "adapter.json").unlink()  # killed before its record was written, after red-ball's
    untouched = (output / "red-ball" / "adapter.json").stat().st_mtime_ns

    from trainer.job import Job

    with Job.open(balls, "dreammix", tiny("sd9"), output, settings={**QUICK, "subjects_at_once": 2}) as again:
        assert [[s.id for s in group] for group in again.groups(["blue-ball"])] == [["blue-ball", "red-ball"]]
        passes = []
        again.backbone.unet.register_forward_pre_hook(lambda *_: passes.append(1))
        seen: list[tuple[str, int, int]] = []
        again.run(lambda *call: seen.append(call))
        assert passes == []
        assert [(done, total) for stage, done, total in seen if stage == "train"] == [(3, 6), (6, 6)]
    assert {path: path.read_bytes() for path in output.glob("*-ball/*")} == wanted
    assert sorted(path.name for path in (output / ".work" / "runs").iterdir()) == runs
    assert (output / "red-ball" / "adapter.json").stat().st_mtime_ns == untouched
    # fewer at once than then (the memory was too small): they are taken apart
    with Job.open(balls, "dreammix", tiny("sd9"), output, settings=QUICK) as smaller:
        assert [[s.id for s in g] for g in smaller.groups(["blue-ball", "red-ball"])] == [["blue-ball"], ["red-ball"]]
