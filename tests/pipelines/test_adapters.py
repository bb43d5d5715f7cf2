"""Adapters on one base: whatever was on before, an adapter paints as it does on a base that saw no other."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from manifests.errors import UsageError
from pipelines import backbones
from pipelines.adapters import LORA_NAME, Shelf, open_adapter
from pipelines.records import write_record
from tests.pipelines.conftest import write_lora
from tests.tiny_models import tiny


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    for number, name in enumerate(("first", "second")):
        write_lora(folder / name, "sd9", subject=name, seed=number)
    record = write_lora(folder / "whole", "sd9", subject="whole")
    (folder / "whole" / LORA_NAME).unlink()
    unet = backbones.load(tiny("sd9")).unet
    with torch.no_grad():
        unet.conv_out.bias.add_(1)
    unet.save_pretrained(folder / "whole" / "unet")
    write_record(folder / "whole", dataclasses.replace(record, kind="full", files=()))
    return {name: open_adapter(folder / name) for name in ("first", "second", "whole")} | {"none": None}


@torch.no_grad()
def prediction(backbone):
    sample = torch.randn(1, 9, 8, 8, generator=torch.Generator().manual_seed(0))
    return backbone.predict(sample, 500, backbone.encode_text(["a teapot"]))


@pytest.mark.parametrize("capacity", [1, 16])
def test_an_adapter_is_the_same_whatever_was_on_before(adapters, capacity):
    alone = {}
    for name, adapter in adapters.items():
        backbone = backbones.load(tiny("sd9"))
        Shelf(backbone).use(adapter)
        alone[name] = prediction(backbone)
    assert len({value.sum().item() for value in alone.values()}) == len(adapters)
    backbone = backbones.load(tiny("sd9"))
    shelf = Shelf(backbone, capacity)
    order = ("none", "first", "none", "second", "first", "whole", "second", "none", "none", "whole", "first", "second")
    for name in order:
        shelf.use(adapters[name])
        assert torch.equal(prediction(backbone), alone[name]), name


def test_a_folder_without_weights_is_refused(adapters, tmp_path):
    record = dataclasses.replace(adapters["whole"].record, kind="lora", files=())
    write_record(tmp_path, record)
    with pytest.raises(UsageError, match=rf"E603 .*holds no {LORA_NAME}"):
        Shelf(backbones.load(tiny("sd9"))).use(open_adapter(tmp_path))
