"""RELIABILITY F12 and F14: what is saved is finite and whole, and the last good one always loads."""

from __future__ import annotations

import logging
import os

import pytest
import torch

from manifests import fsops
from manifests.errors import IntegrityError
from tests.manifests import corpora
from trainer import checkpoints


def tensors(step: int) -> dict[str, dict[str, torch.Tensor]]:
    return {
        "weights": {"down.0": torch.full((2, 3), float(step)), "up.0": torch.arange(4.0) + step},
        "optimizer": {"step.down.0": torch.tensor(float(step)), "exp_avg.down.0": torch.ones(2, 3) / (step + 1)},
    }


def save(folder, step: int, keep: int = 2):
    return checkpoints.save(folder, step, tensors(step), {"fingerprint": {"seed": 0}}, keep=keep)


def test_a_checkpoint_reads_back_to_the_same_bits(tmp_path):
    save(tmp_path, 250)
    found = checkpoints.load_latest(tmp_path)
    assert found is not None
    assert (found.step, found.state["fingerprint"]) == (250, {"seed": 0})
    for group, members in tensors(250).items():
        assert found.tensors[group].keys() == members.keys()
        assert all(torch.equal(found.tensors[group][name], value) for name, value in members.items())
    assert checkpoints.load_latest(tmp_path / "none") is None


def test_the_newest_are_kept_and_the_rest_goes(tmp_path):
    for step in (1, 2, 3, 10, 11):
        save(tmp_path, step, keep=3)
    assert [path.name for path in checkpoints.checkpoints(tmp_path)] == ["000003", "000010", "000011"]
    assert {path.name for path in tmp_path.iterdir()} == {"000003", "000010", "000011"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("group", ["weights", "optimizer"])
def test_f12_what_is_not_finite_is_never_saved(tmp_path, group, value):
    save(tmp_path, 1)
    bad = tensors(2)
    next(iter(bad[group].values())).view(-1)[0] = value
    with pytest.raises(IntegrityError, match=r"E613 not-finite: step 2: .* is not finite and is not saved"):
        checkpoints.save(tmp_path, 2, bad, {}, keep=2)
    assert [path.name for path in tmp_path.iterdir()] == ["000001"]


def passing(folder, log) -> None:
    """Save steps 1 to 4 in a child, so that the crash points passed are known."""
    for step in range(1, 5):
        save(folder, step)


def in_child(folder, at: int, log: str | None = None) -> int:
    child = os.fork()
    if child == 0:
        fsops.set_crashpoint(at, log)
        passing(folder, log)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_f14_killed_at_every_point_of_saving_the_last_good_one_loads(tmp_path):
    assert in_child(tmp_path / "all", 0, str(tmp_path / "log")) == 0
    points = len((tmp_path / "log").read_text().splitlines())
    assert points == 4 * 3 * 4 + 2  # three files a checkpoint, four points a file; two old ones removed
    for at in range(1, points + 1):
        folder = tmp_path / str(at)
        assert in_child(folder, at) == -9
        found = checkpoints.load_latest(folder)
        if found is None:
            assert at <= 12  # nothing was committed yet
            continue
        assert all(torch.equal(found.tensors["weights"][n], v) for n, v in tensors(found.step)["weights"].items())
        assert found.step >= (at - 2) // 13
        save(folder, 9)  # and the run goes on
        assert checkpoints.load_latest(folder).step == 9


@pytest.mark.parametrize("file", ["weights.safetensors", "optimizer.safetensors", "state.json"])
def test_f14_a_damaged_checkpoint_is_passed_over_loudly(tmp_path, file, caplog):
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    path = newest / file
    if file == "state.json":
        path.write_bytes(path.read_bytes()[:-30])
    else:
        corpora.flip(path, path.stat().st_size - 3)
    with caplog.at_level(logging.WARNING):
        found = checkpoints.load_latest(tmp_path)
    assert found is not None
    assert found.step == 1
    assert "checkpoint 000002" in caplog.text
    assert "Going back to the checkpoint before it" in caplog.text
    save(tmp_path, 2)
    assert checkpoints.load_latest(tmp_path).step == 2


def test_a_damaged_later_checkpoint_does_not_outlive_the_run_that_passed_it_over(tmp_path):
    for step in (4, 6):
        save(tmp_path, step)
    (tmp_path / "000006" / "weights.safetensors").unlink()
    save(tmp_path, 5)
    assert [path.name for path in checkpoints.checkpoints(tmp_path)] == ["000004", "000005"]


def test_when_none_can_be_read_that_is_said(tmp_path):
    for step in (1, 2):
        corpora.flip(save(tmp_path, step) / "weights.safetensors", 90)
    with pytest.raises(IntegrityError, match=r"E615 checkpoints-damaged: none of the checkpoints 000001, 000002"):
        checkpoints.load_latest(tmp_path)


def test_an_old_checkpoint_goes_only_after_the_new_one_was_read_back(tmp_path, monkeypatch):
    for step in (1, 2):
        save(tmp_path, step)
    read = checkpoints.read

    def damaged(path):
        corpora.flip(path / "weights.safetensors", 90)
        return read(path)

    monkeypatch.setattr(checkpoints, "read", damaged)
    with pytest.raises(IntegrityError, match="E401"):
        save(tmp_path, 3)
    assert {path.name for path in checkpoints.checkpoints(tmp_path)} >= {"000001", "000002"}
