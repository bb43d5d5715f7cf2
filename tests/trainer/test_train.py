"""`train` from end to end on tiny bases: what it leaves, what it refuses, what it says, from Python and the shell."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

import pipelines
import trainer
from manifests.corpus import open_corpus
from manifests.errors import EnvironmentFault, IntegrityError, UsageError
from pipelines import backbones
from pipelines.backbones.fooocus import FooocusSDXL
from pipelines.places import Reference
from pipelines.records import read_record
from tests.conftest import REPOSITORY
from tests.tiny_models import tiny
from tests.trainer.conftest import QUICK, drawn, place_of, speck, write_balls, write_red_ball
from trainer.bank import Bank
from trainer.checkpoints import load_latest
from trainer.cli import app
from trainer.loop import lr_factor
from trainer.planning import plan
from trainer.recipes import load_recipe
from trainer.runlog import read_log

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())


def losses(output: Path, subject: str) -> list[float]:
    (log,) = [path for path in output.rglob("log.jsonl") if any(subject in row["subjects"] for row in read_log(path))]
    return [row["subjects"][subject]["loss"] for row in read_log(log)]


def train(corpus: Path | str, output: Path, recipe: str = "dreammix", kind: str = "sd9", **more):
    settings = {**QUICK, **({"tokens": 4} if recipe == "dreaminpainter" else {}), **more}
    return trainer.train(str(corpus), recipe=recipe, base=place_of(kind), output=output, settings=settings)


# golden runs


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_losses_of_ten_steps(name, balls, tmp_path):
    """When a change to an objective is meant, put what this prints into golden.json."""
    recipe, kind = name.split(" on ")
    corpus = balls if recipe == "dreaminpainter" else f"{balls}#red-ball"
    train(corpus, tmp_path, recipe, kind, max_train_steps=10, checkpointing_steps=100, learning_rate=1e-3)
    found = losses(tmp_path, "joint" if recipe == "dreaminpainter" else "red-ball")
    print(name, [round(loss, 5) for loss in found])
    assert found == pytest.approx(GOLDEN[name], rel=2e-3)


# what it leaves


@pytest.fixture(scope="module")
def trained(balls, tmp_path_factory):
    output = tmp_path_factory.mktemp("trained")
    seen: list[tuple[str, int, int]] = []
    result = trainer.train(
        str(balls),
        recipe="dreammix",
        base=tiny("sd9"),
        output=output,
        settings={**QUICK, "subjects_at_once": 2},
        on_progress=lambda *call: seen.append(call),
    )
    return result, output, seen


def test_one_adapter_folder_per_subject_with_its_record(trained, balls):
    result, output, _ = trained
    assert result.adapters == {name: output / name for name in ("blue-ball", "red-ball")}
    assert result.left_out == ()
    record = read_record(output / "red-ball", full=True)
    assert re.fullmatch(r"red-ball/lora-[0-9a-f]{12}", record.id)
    assert (record.recipe, record.identifier, record.class_noun, record.kind) == ("dreammix", "sks", "ball", "lora")
    assert (record.steps, len(record.losses), record.seed) == (3, 3, 0)
    assert len(record.sample_ids) == 5
    assert record.base.digest == backbones.load(tiny("sd9")).base.digest
    assert record.settings["object_weight"] == 1.5
    assert record.inference == {"preset": "paper", "resolution": 64}
    assert {file.path for file in record.files} == {"README.md", "pytorch_lora_weights.safetensors"}


def test_progress_counts_steps_of_all_subjects_once(trained):
    steps = [(done, total) for stage, done, total in trained[2] if stage == "train"]
    assert steps[0] == (0, 6)
    assert steps[-1] == (6, 6)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)


def test_the_card_is_ready_for_the_hub(trained):
    from huggingface_hub import ModelCard

    text = (trained[1] / "red-ball" / "README.md").read_text()
    card = ModelCard(text)
    assert card.data.library_name == "diffusers"
    assert card.data.license_name == "cc-by-4.0"
    assert card.data.instance_prompt == "a photo of sks ball"
    assert "lora" in card.data.tags
    assert "CC-BY-4.0" in text
    assert str(tiny("sd9").parent) not in text  # no path of the machine it was made on


def test_the_card_links_corpus_and_base_on_the_hub(trained):
    import dataclasses

    from trainer.card import model_card

    record = read_record(trained[1] / "red-ball")
    base = dataclasses.replace(record.base, model="hf://someone/inpainting")
    record = dataclasses.replace(record, base=base, corpus="hf://datasets/someone/mugs@1234#red-ball")
    front = yaml.safe_load(model_card(record, []).split("---\n")[1])
    assert front["datasets"] == ["someone/mugs"]
    assert (front["base_model"], front["base_model_relation"]) == ("someone/inpainting", "adapter")


def test_run_again_trains_nothing_and_a_new_subject_trains_alone(tmp_path):
    small = write_balls(tmp_path / "c1", subjects=1)
    first = train(small, tmp_path / "out")
    weights = tmp_path / "out" / "red-ball" / "pytorch_lora_weights.safetensors"
    written = weights.stat().st_mtime_ns
    assert train(small, tmp_path / "out") == first
    grown = write_balls(tmp_path / "c2", subjects=2)
    assert list(train(grown, tmp_path / "out").adapters) == ["blue-ball", "red-ball"]
    assert weights.stat().st_mtime_ns == written


def test_another_setting_is_refused_while_a_run_is_unfinished(balls, tmp_path, monkeypatch):
    from trainer import loop

    stop_at = 2
    one_step = loop.Fit.one_step

    def stopping(self, loader):
        if self.step == stop_at:
            raise KeyboardInterrupt
        one_step(self, loader)

    monkeypatch.setattr(loop.Fit, "one_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(f"{balls}#red-ball", tmp_path)
    monkeypatch.undo()
    with pytest.raises(UsageError, match=r"E614 other-run: red-ball-.* was begun otherwise: learning_rate 0.0001 -> 0"):
        train(f"{balls}#red-ball", tmp_path, learning_rate=0.5)
    # what was trained for longer is not the shorter run's result
    with pytest.raises(UsageError, match=r"E614 other-run: red-ball-.* is at step 2, past max_train_steps 1"):
        train(f"{balls}#red-ball", tmp_path, max_train_steps=1)
    with pytest.raises(UsageError, match=r"data of red-ball '[0-9a-f]{16}' -> '[0-9a-f]{16}'"):
        trainer.train(f"{balls}#red-ball", recipe="dreammix", base=tiny("sd9"), output=tmp_path,
                      references=1, settings=QUICK)  # fmt: skip
    assert train(f"{balls}#red-ball", tmp_path, checkpointing_steps=1).adapters


# subjects together


def test_four_subjects_together_are_four_runs_apart_after_six_adamw_steps(tmp_path):
    corpus = write_balls(tmp_path / "corpus", subjects=4, photographs=1)
    more = {"max_train_steps": 6, "gradient_accumulation_steps": 2, "learning_rate": 1e-3, "checkpointing_steps": 6}
    train(corpus, tmp_path / "together", kind="sdxl9", subjects_at_once=4, **more)
    train(corpus, tmp_path / "apart", kind="sdxl9", subjects_at_once=1, **more)
    for name in ("blue-ball", "green-ball", "red-ball", "yellow-ball"):
        together, apart = (_lora(tmp_path / place / name) for place in ("together", "apart"))
        assert together.keys() == apart.keys()
        assert max((together[k] - apart[k]).abs().max() for k in apart) <= 1e-3
        assert max(value.abs().max() for key, value in apart.items() if "lora_B" in key) > 3e-3
        torch.testing.assert_close(losses(tmp_path / "together", name), losses(tmp_path / "apart", name), rtol=1e-3,
                                   atol=1e-3)  # fmt: skip


def _lora(folder: Path):
    import safetensors.torch

    return safetensors.torch.load_file(folder / "pytorch_lora_weights.safetensors")


def poison(job, at: set[int], rows: slice) -> None:
    """From now on the UNet's output is NaN in these rows of these forward passes."""
    calls = 0

    def spoil(_, __, output):
        nonlocal calls
        calls += 1
        if calls in at:
            output = output.clone()
            output[rows] = float("nan")
        return output

    job.backbone.unet.conv_out.register_forward_hook(spoil)


def test_f12_a_step_that_is_not_finite_is_skipped_for_its_own_subject_only(open_job, caplog):
    whole, spoiled = open_job("dreammix", subjects_at_once=2), open_job("dreammix", subjects_at_once=2)
    poison(spoiled, {2}, slice(0, 1))
    with caplog.at_level(logging.WARNING):
        for job in (whole, spoiled):
            job.run(lambda *_: None)
    assert "step 2: blue-ball: loss or gradient is not finite; its step is skipped." in caplog.text
    assert "red-ball: loss" not in caplog.text
    ended = [_lora(job.output / "red-ball") for job in (whole, spoiled)]
    assert all(torch.equal(ended[0][key], ended[1][key]) for key in ended[0])
    other = [_lora(job.output / "blue-ball") for job in (whole, spoiled)]
    assert any(not torch.equal(other[0][key], other[1][key]) for key in other[0])
    (run,) = (spoiled.output / ".work" / "runs").iterdir()
    assert load_latest(run / "checkpoints").state["skipped"] == {"blue-ball": 1}
    rows = list(read_log(run / "log.jsonl"))
    assert [row["subjects"]["blue-ball"].get("skipped", False) for row in rows] == [False, True, False]
    assert math.isnan(rows[1]["subjects"]["blue-ball"]["loss"])


def test_f12_ten_in_a_row_stop_the_run_and_name_the_last_good_checkpoint(open_job):
    job = open_job("dreammix", corpus=None, max_train_steps=40, checkpointing_steps=2)
    job.subjects = job.subjects[:1]
    poison(job, set(range(4, 100)), slice(None))
    with pytest.raises(IntegrityError, match=r"E613 not-finite: blue-ball: 10 steps in a row without a finite loss, "
                       r"the last at step 13; the last good checkpoint is 000012") as caught:  # fmt: skip
        job.run(lambda *_: None)
    assert caught.value.exit_code == 4
    (run,) = (job.output / ".work" / "runs").iterdir()
    kept = load_latest(run / "checkpoints")
    assert all(torch.isfinite(value).all() for group in kept.tensors.values() for value in group.values())
    assert not (job.output / "blue-ball" / "adapter.json").exists()


def test_f12_a_rate_that_blows_the_weights_up_saves_nothing_that_is_not_finite(balls, tmp_path):
    with pytest.raises(IntegrityError, match="E613"):
        train(f"{balls}#red-ball", tmp_path, learning_rate=1e30, max_train_steps=40, adam_weight_decay=0.0)
    for path in tmp_path.rglob("weights.safetensors"):
        import safetensors.torch

        assert all(torch.isfinite(value).all() for value in safetensors.torch.load_file(path).values())


def test_f11_out_of_memory_names_the_setting_to_change(open_job):
    job = open_job("dreammix", subjects_at_once=2, train_batch_size=2)

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    job.backbone.unet.register_forward_pre_hook(full)
    with pytest.raises(EnvironmentFault, match=r"E616 .*out of memory at step 1") as caught:
        job.run(lambda *_: None)
    assert "Set subjects_at_once below 2; then: train_batch_size below 2" in str(caught.value)
    assert "gradient_checkpointing: true" in str(caught.value)
    assert caught.value.exit_code == 5


# what it refuses


@pytest.mark.parametrize(
    ("recipe", "kind", "more", "sentence"),
    [
        ("dreamcom", "sd4", {}, r"E601 .*its UNet takes 4 channels; dreamcom trains one of 9\."),
        ("dreammix", "sd9", {"resolution": 40}, r"E502 .*resolution: 40 is no multiple of 16"),
        ("dreammix", "sd9", {"method": "full", "subjects_at_once": 2}, r"E502 .*2 subjects together train as LoRA"),
        ("dreammix", "sd9", {"lora_targets": ["to_z"]}, r"E502 .*the UNet has no layer 'to_z'"),
        (
            "dreammix",
            "sd9",
            {"trackers": ["nonsense"]},
            r"E502 .*trackers: no tracker 'nonsense'; there are .*tensorboard",
        ),
        (
            "dreammix",
            "sd9",
            {"trackers": ["dvclive"]},
            r"E502 .*trackers: dvclive is not installed: `pip install dvclive`",
        ),
        ("dreammix", "sd9", {"validation_steps": 2}, r"E502 .*validation_steps and validation_prompts go together"),
    ],
)
def test_what_does_not_fit_is_said_before_training(recipe, kind, more, sentence, balls, tmp_path):
    with pytest.raises(UsageError, match=sentence):
        train(balls, tmp_path, recipe, kind, **more)


@pytest.mark.parametrize(
    ("recipe", "more"), [("dreammix", {"method": "full"}), ("dreaminpainter", {}), ("dreamcom:released", {})]
)
def test_a_whole_unet_with_the_fooocus_patch_is_refused_before_anything_is_computed(recipe, more, balls, tmp_path):
    sentence = (
        rf"E502 .*method: {recipe.partition(':')[0]} trains the whole UNet .*Fooocus .*set method to lora or dora"
    )
    with pytest.raises(UsageError, match=sentence):
        train(balls, tmp_path, recipe, "sdxl4+fooocus", **more)
    assert not list(tmp_path.rglob("*.safetensors"))


# options


def test_the_average_is_what_the_adapter_is_written_from(open_job):
    job = open_job("dreammix", ema_decay=0.5, learning_rate=1e-2)
    job.subjects = job.subjects[1:]
    average, history = None, []
    with job.fit(job.subjects) as fit:
        start = {name: value.detach().clone() for name, value in fit.parameters.items()}
        loader = fit.loader(3)
        for _ in range(3):
            fit.one_step(loader)
            history.append({name: value.detach().clone() for name, value in fit.parameters.items()})
        for name in start:
            average = start[name]
            for step in history:
                average = 0.5 * average + 0.5 * step[name]
            torch.testing.assert_close(fit.weights()[name], average)
        assert not torch.equal(fit.weights()["up.0"], fit.parameters["up.0"])


@pytest.mark.parametrize("name", ["constant", "constant_with_warmup", "linear", "cosine"])
def test_learning_rate_is_a_function_of_the_step(name):
    factor = lr_factor(
        load_recipe("dreammix", [f"lr_scheduler={name}", "lr_warmup_steps=4", "max_train_steps=20"]).settings
    )
    assert factor(12) == factor(12) > 0
    assert factor(1) == (1 if name == "constant" else 0.25)
    assert (factor(19) < 0.2) == (name in ("linear", "cosine"))


def test_accumulating_is_a_larger_batch(open_job):
    """Two micro-steps of one item give the gradient of the mean of both."""
    jobs = [open_job("dreammix", gradient_accumulation_steps=count, max_grad_norm=None) for count in (2, 1)]
    rows = []
    for job in jobs:
        job.subjects = job.subjects[:1]
        with job.fit(job.subjects) as fit:
            fit._update = lambda bad, fit=fit: rows.append({n: p.grad.clone() for n, p in fit.parameters.items()})
            loader = fit.loader(2)
            for _ in range(2 if job is jobs[1] else 1):
                fit.one_step(loader)
                fit.optimizer.zero_grad()
    accumulated, first, second = rows
    for name in accumulated:
        torch.testing.assert_close(accumulated[name], (first[name] + second[name]) / 2)


def test_checkpointing_activations_changes_no_loss(balls, tmp_path):
    for name, flag in (("plain", False), ("checkpointed", True)):
        train(f"{balls}#red-ball", tmp_path / name, gradient_checkpointing=flag)
    assert losses(tmp_path / "plain", "red-ball") == losses(tmp_path / "checkpointed", "red-ball")


@pytest.mark.parametrize("method", ["dora", "full"])
def test_dora_and_full_train_subject_after_subject_from_the_same_base(method, balls, tmp_path):
    more = {"method": method, "learning_rate": 1e-3}
    train(balls, tmp_path / "both", **more)
    train(f"{balls}#red-ball", tmp_path / "alone", **more)
    both, alone = (losses(tmp_path / place, "red-ball") for place in ("both", "alone"))
    assert both == alone
    record = read_record(tmp_path / "both" / "red-ball")
    assert record.kind == ("full" if method == "full" else "lora")
    if method == "full":
        from diffusers import UNet2DConditionModel

        unet = UNet2DConditionModel.from_pretrained(tmp_path / "both" / "red-ball", subfolder="unet")
        base = backbones.load(tiny("sd9")).unet
        assert any(not torch.equal(a, b) for a, b in zip(unet.parameters(), base.parameters(), strict=True))


@pytest.mark.skipif(torch.cuda.is_available(), reason="half precision is for GPUs")
def test_float16_on_a_cpu_is_refused(balls, tmp_path):
    with pytest.raises(UsageError, match=r"E502 .*mixed_precision: fp16 needs a GPU; on a CPU set bf16 or no"):
        train(balls, tmp_path, mixed_precision="fp16")


def test_bfloat16_trains_float32_adapters(balls, tmp_path):
    train(f"{balls}#red-ball", tmp_path, mixed_precision="bf16")
    weights = _lora(tmp_path / "red-ball")
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert all(torch.isfinite(value).all() for value in weights.values())


@pytest.mark.parametrize("recipe", ["dreammix", "dreamcom"])
def test_validation_pictures_come_on_schedule_and_change_nothing(recipe, balls, tmp_path):
    more = {"subjects_at_once": 2, "max_train_steps": 3}
    shown = {"validation_steps": 2, "validation_inference": 2, "validation_prompts": ["a photo of {identifier} ball"]}
    train(balls, tmp_path / "plain", recipe, **more)
    train(balls, tmp_path / "shown", recipe, **more, **shown)
    pictures = sorted(path.name for path in (tmp_path / "shown").rglob("validation/*.png"))
    assert pictures == ["000002-blue-ball-0.png", "000002-red-ball-0.png"]
    first, second = (next((tmp_path / "shown").rglob(f"validation/*{name}*.png")) for name in ("blue", "red"))
    assert first.read_bytes() != second.read_bytes()
    for name in ("blue-ball", "red-ball"):
        assert losses(tmp_path / "plain", name) == losses(tmp_path / "shown", name)


def test_tensorboard_gets_the_losses(balls, tmp_path):
    train(f"{balls}#red-ball", tmp_path, trackers=["tensorboard"])
    assert list((tmp_path / ".work" / "trackers").rglob("events.out.tfevents.*"))


@pytest.mark.parametrize(("recipe", "more"), [("dreaminpainter", {}), ("dreammix", {"train_token": True})])
def test_a_whole_unet_holds_its_own_weights_and_none_of_what_was_trained_beside_it(recipe, more, balls, tmp_path):
    import safetensors.torch

    made = train(f"{balls}#red-ball", tmp_path, recipe, method="full", **more)
    (folder,) = made.adapters.values()
    written = safetensors.torch.load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert written.keys() == backbones.load(tiny("sd9")).unet.state_dict().keys()


@pytest.mark.parametrize("recipe", ["dreammix", "dreamcom", "dreaminpainter"])
def test_a_base_with_the_fooocus_patch_trains_loads_again_and_paints(recipe, balls, tmp_path):
    made = train(f"{balls}#red-ball", tmp_path, recipe, "sdxl4+fooocus", method="lora", learning_rate=0.05)
    (folder,) = made.adapters.values()
    painter = pipelines.load(folder)
    assert isinstance(painter.backbone, FooocusSDXL)
    assert painter.adapter.record.base.digest == painter.backbone.base.digest
    with open_corpus(balls) as corpus:
        photograph = next(corpus.samples(role="src"))
        picture, mask = corpus.image(photograph), corpus.mask(photograph)
    reference = Reference(picture, mask) if recipe == "dreaminpainter" else None
    painted = painter(picture, mask, num_inference_steps=1, reference=reference)
    painter.use(None)
    plain = painter(picture, mask, "a photo of sks ball", num_inference_steps=1, preset="plain", resolution=64)
    assert (painted.image != picture).any()
    assert (painted.image != plain.image).any()


def test_dreaminpainter_leaves_one_adapter_over_all_subjects(balls, tmp_path):
    result = train(balls, tmp_path, "dreaminpainter")
    assert list(result.adapters) == ["joint"]
    record = read_record(tmp_path / "joint", full=True)
    assert {file.path for file in record.files} >= {"reference.safetensors", "unet/diffusion_pytorch_model.safetensors"}
    import safetensors.torch

    from pipelines.reference import ReferenceInjection

    injection = ReferenceInjection(backbones.load(tiny("sd9")), "concat_up")
    injection.load_state_dict(safetensors.torch.load_file(tmp_path / "joint" / "reference.safetensors"))
    assert len({name.partition("/")[0] for name in record.sample_ids}) == 3


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["dreammix", "dreamcom"])
def test_a_compiled_unet_has_the_same_losses_and_no_graph_break(recipe, balls, tmp_path, monkeypatch):
    from torch._dynamo.utils import counters

    own = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda unet: own(unet, backend="eager", fullgraph=True))
    counters.clear()
    train(balls, tmp_path / "plain", recipe, learning_rate=1e-2)
    assert not counters["stats"]
    train(balls, tmp_path / "compiled", recipe, learning_rate=1e-2, compile=True)
    assert counters["stats"]["calls_captured"] > 100
    for name in ("blue-ball", "red-ball"):
        assert losses(tmp_path / "plain", name) == losses(tmp_path / "compiled", name)


@pytest.mark.slow
def test_two_processes_train_one_adapter_and_log_each_step_once(balls, tmp_path):
    more = {"max_train_steps": 2, "gradient_accumulation_steps": 2}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "dataforge"]
    base = ["--base", str(tiny("sd9")), "--recipe", "dreammix", *options(**more), "--json"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [*launch, "train", f"{balls}#red-ball", *base, "-o", str(tmp_path / "two")],
        capture_output=True, check=True, cwd=REPOSITORY, env=environment,
    )  # fmt: skip
    assert list(json.loads(done.stdout)["adapters"]) == ["red-ball"]
    (log,) = (tmp_path / "two").rglob("log.jsonl")
    assert [row["step"] for row in read_log(log)] == [1, 2]
    train(f"{balls}#red-ball", tmp_path / "one", **more)
    two, one = (_lora(tmp_path / place / "red-ball") for place in ("two", "one"))
    assert two.keys() == one.keys()
    assert any(not torch.equal(two[key], one[key]) for key in one)  # the other process drew pictures of its own


# the command line


def run(*arguments: str):
    return CliRunner().invoke(app, [*arguments], catch_exceptions=False)


def options(**more) -> list[str]:
    return [part for key, value in {**QUICK, **more}.items() for part in ("--set", f"{key}={value}")]


def test_the_verb_trains_and_prints_where(balls, tmp_path):
    base = ["--base", str(tiny("sd9")), "-o", str(tmp_path), "--recipe", "dreammix", *options()]
    done = run(f"{balls}#red-ball", *base, "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["adapters"] == {"red-ball": str(tmp_path / "red-ball")}


def test_plan_measures_and_writes_nothing(balls, tmp_path):
    base = ["--base", str(tiny("sd9")), "-o", str(tmp_path / "out"), "--recipe", "dreammix"]
    done = run(str(balls), *base, *options(max_train_steps=1000, subjects_at_once=2), "--plan", "--json")
    assert done.exit_code == 0
    plan = json.loads(done.stdout)
    assert (plan["subjects"], plan["pictures"], plan["groups"], plan["steps"]) == (2, 8, 1, 1000)
    assert plan["seconds"] > 1000 * plan["seconds_per_step"] > 0
    assert plan["peak_memory"] > 2**20
    assert plan["bank_bytes"] > 0
    train(balls, tmp_path / "real", subjects_at_once=2)
    adapters = sum(path.stat().st_size for path in (tmp_path / "real").glob("*/*.safetensors"))
    assert plan["adapter_bytes"] == pytest.approx(adapters, rel=0.2)
    checkpoints = sum(path.stat().st_size for path in (tmp_path / "real" / ".work" / "runs").rglob("*.safetensors"))
    assert plan["checkpoint_bytes"] == pytest.approx(checkpoints, rel=0.2)
    assert not (tmp_path / "out").exists()


def planned(corpus: Path | str, bank: Path, recipe: str = "dreammix", **more):
    settings = {**QUICK, **({"tokens": 4} if recipe == "dreaminpainter" else {}), **more}
    return plan(corpus, recipe=recipe, base=tiny("sd9"), bank=bank, settings=settings)


def on_disk(bank: Path) -> int:
    return sum(path.stat().st_size for path in bank.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("recipe", "more"), [("dreammix", {}), ("dreaminpainter", {}), ("dreaminpainter", {"features": "frozen"})]
)
def test_plan_states_what_the_bank_will_take_and_nothing_once_it_is_filled(recipe, more, balls, open_job, tmp_path):
    stated = planned(balls, tmp_path / "plans", recipe, **more)
    more |= {"tokens": 4} if recipe == "dreaminpainter" else {}
    open_job(recipe, bank=tmp_path / "bank", **more)
    assert stated.bank_bytes == pytest.approx(on_disk(tmp_path / "bank"), rel=0.1)
    filled = planned(balls, tmp_path / "bank", recipe, **more)
    assert (filled.bank_bytes, filled.seconds_for_bank) == (0, 0)
    assert filled.seconds_per_step > 0


def test_plan_of_a_bank_filled_for_the_first_group_measures_the_others(balls, open_job, tmp_path, monkeypatch):
    bank = tmp_path / "bank"
    before = on_disk(open_job("dreammix", corpus=f"{balls}#blue-ball", bank=bank).bank.folder)
    encoded = Bank._views
    monkeypatch.setattr(Bank, "_views", lambda *args: time.sleep(0.2) or encoded(*args))
    stated = planned(balls, bank)
    left = 3  # photographs and regular picture of own pixels of the red ball; the rest is shared
    assert left * 0.2 <= stated.seconds_for_bank < 8 * 0.2
    assert stated.bank_bytes == pytest.approx(on_disk(bank) - before, rel=0.1)


def test_plan_leaves_out_pictures_whose_object_vanishes(tmp_path):
    corpus = write_red_ball(tmp_path / "corpus", drawn("red-ball", "src", 1, "red"), speck(2048))
    stated = planned(corpus, tmp_path / "bank")
    assert stated.seconds_per_step > 0
    assert "E612" in stated.warnings[1]


def test_commands_and_settings_of_the_page_work(balls, tmp_path, monkeypatch):
    page = (REPOSITORY / "docs" / "how-to" / "train.md").read_text()
    blocks = re.findall(r"(?:^    .+\n)+", page, re.MULTILINE)
    commands = [
        line.split("  ")[0] for line in "".join(blocks).replace("    ", "\n").splitlines() if "dataforge train" in line
    ]
    assert len(commands) == 3
    (settings,) = [block for block in blocks if "preset:" in block]
    (tmp_path / "mine.yaml").write_text(settings.replace("    ", ""))
    assert load_recipe(str(tmp_path / "mine.yaml")).settings.rank == 16
    monkeypatch.chdir(tmp_path)
    Path("corpus").symlink_to(balls)
    for command in commands:
        words = command.replace("blue_mug", "blue-ball").replace("PLACE", str(tiny("sd9"))).split()
        assert words[:2] == ["dataforge", "train"]
        assert run(*words[2:], *options()).exit_code == 0
    assert {path.name for path in Path("adapters").iterdir()} >= {"blue-ball", "red-ball"}
