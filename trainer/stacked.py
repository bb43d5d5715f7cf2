"""LoRA for several subjects at once over one frozen UNet: the subjects' matrices are stacked and applied by `bmm`.

Dimension key: S subjects, R rank, I O features or channels of a layer, k k its kernel. A batch is subject-major: its
first B/S items belong to the first subject. Nothing is shared between the slices, so S subjects trained together are S
subjects trained apart; one subject is the case S = 1. Files are peft's layout, which `load_lora_weights` of diffusers
reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from manifests.errors import UsageError
from manifests.fsops import write_atomic
from trainer.keyed import generator

__all__ = ["LORA_FILE", "StackedLora", "clip_per_subject", "lora_targets", "write_lora"]

LORA_FILE = "pytorch_lora_weights.safetensors"


def lora_targets(unet: nn.Module, targets: Sequence[str]) -> dict[str, nn.Linear | nn.Conv2d]:
    """Linear layers and convolutions whose name is, or ends in a dot and, one of `targets`, by name.

    Raises `UsageError` E502 for a target that no layer has, and for one that is neither.
    """
    found: dict[str, nn.Linear | nn.Conv2d] = {}
    for target in targets:
        matches = {name: layer for name, layer in unet.named_modules() if f".{name}".endswith(f".{target}")}
        if not matches:
            raise UsageError(f"lora_targets: the UNet has no layer {target!r}.", code="E502")
        for name, layer in matches.items():
            if not isinstance(layer, nn.Linear | nn.Conv2d):
                kind = type(layer).__name__
                raise UsageError(f"lora_targets: {name} is {kind}, no linear layer or convolution.", code="E502")
            found[name] = layer
    return found


class StackedLora(nn.Module):
    """Down [S,I,R] and up [S,R,O] of every target layer, added to that layer's output by a forward hook.

    Of a convolution, down [S,R,I,k,k] has its kernel, stride and padding, and up [S,O,R,1,1] a kernel of one. The down
    matrices start as N(0, 1/R^2) keyed by (seed, subject, layer), the up matrices at zero: the same start for a subject
    whatever company it trains in, and an output that is bit-equal to the base's (METHODS 2.10-16).
    """

    def __init__(
        self,
        unet: nn.Module,
        subjects: Sequence[str],
        *,
        rank: int,
        alpha: float,
        targets: Sequence[str],
        seed: int,
    ) -> None:
        super().__init__()
        layers = lora_targets(unet, targets)
        self.subjects, self.layers = tuple(subjects), tuple(layers)
        self.rank, self.alpha, self.targets = rank, alpha, tuple(targets)
        self.only: int | None = None
        self.down, self.up = nn.ParameterList(), nn.ParameterList()
        for name, layer in layers.items():
            down, up = _shapes(layer, rank)
            started = [torch.randn(down, generator=generator(seed, subject, name)) / rank for subject in subjects]
            device = layer.weight.device
            self.down.append(nn.Parameter(torch.stack(started).to(device)))
            self.up.append(nn.Parameter(torch.zeros(len(subjects), *up, device=device)))
        self._hooks = [
            layer.register_forward_hook(self._hook(index) if isinstance(layer, nn.Linear) else self._conv_hook(index))
            for index, layer in enumerate(layers.values())
        ]

    def _conv_hook(self, index: int) -> Any:
        count, scale = len(self.subjects), self.alpha / self.rank
        down, up = self.down[index], self.up[index]

        def add(layer: nn.Conv2d, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            kept: dict[str, Any] = {
                "stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation
            }  # fmt: skip
            rows = range(count) if self.only is None else [self.only]
            added = [
                nn.functional.conv2d(nn.functional.conv2d(part, down[row], **kept), up[row]) * scale
                for row, part in zip(rows, arguments[0].to(down.dtype).chunk(len(rows)), strict=True)
            ]
            return output + torch.cat(added).to(output.dtype)

        return add

    def _hook(self, index: int) -> Any:
        count, scale = len(self.subjects), self.alpha / self.rank
        down, up = self.down[index], self.up[index]

        def add(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if count == 1 or self.only is not None:
                # in the order of peft's own layer, so that what was trained is what a loader computes
                row = self.only or 0
                low = nn.functional.linear(arguments[0].to(down.dtype), down[row].T.contiguous())
                return output + (nn.functional.linear(low, up[row].T.contiguous()) * scale).to(output.dtype)
            rows = arguments[0].reshape(count, -1, arguments[0].shape[-1])
            low = torch.bmm(rows.to(down.dtype), down)
            added = torch.baddbmm(output.reshape(count, -1, output.shape[-1]).to(low.dtype), low, up, alpha=scale)
            return added.view(output.shape).to(output.dtype)

        return add

    @contextmanager
    def alone(self, index: int) -> Iterator[None]:
        """One subject's adapter for the whole batch, for the length of the block."""
        self.only = index
        try:
            yield
        finally:
            self.only = None

    def remove(self) -> None:
        """Take the hooks off the UNet."""
        for hook in self._hooks:
            hook.remove()

    def layer_weights(self, index: int, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One subject's weights in peft's layout: `<layer>.lora_A.weight` [R,I] and `<layer>.lora_B.weight` [O,R], of
        convolutions as they are.

        `values` are this module's parameters by name, or averages of them.
        """
        weights = {}
        for number, layer in enumerate(self.layers):
            for name, part in (("lora_A", "down"), ("lora_B", "up")):
                value = values[f"{part}.{number}"][index].detach()
                weights[f"{layer}.{name}.weight"] = (value.T if value.dim() == 2 else value).contiguous().cpu()
        return weights


def _shapes(layer: nn.Linear | nn.Conv2d, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of one subject's down and up."""
    if isinstance(layer, nn.Linear):
        return (layer.in_features, rank), (rank, layer.out_features)
    return (rank, layer.in_channels, *layer.kernel_size), (layer.out_channels, rank, 1, 1)


def clip_per_subject(parameters: Sequence[nn.Parameter], subjects: int, max_norm: float | None) -> Tensor:
    """Scale each subject's gradients to a norm of at most `max_norm`; returns the norms before, [S] float32.

    The norm of a subject is over its own slices of all parameters, as if it trained alone; a single subject owns
    parameters of any shape.
    """
    limit = float("inf") if max_norm is None else max_norm
    if subjects == 1:
        norm: Tensor = nn.utils.clip_grad_norm_(parameters, limit)
        return norm.float().reshape(1)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    squares = [gradient.flatten(1).float().square().sum(dim=1) for gradient in gradients]
    norms = torch.stack(squares).sum(dim=0).sqrt()
    scale = (limit / (norms + 1e-6)).clamp(max=1)
    for gradient in gradients:
        gradient.mul_(scale.view(-1, *[1] * (gradient.dim() - 1)).to(gradient.dtype))
    return norms


def write_lora(folder: Path, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> Path:
    """Write UNet LoRA weights where diffusers looks for them, whole or not at all.

    `config` is peft's `LoraConfig.to_dict()`. It goes into the file's metadata: without it a loader takes alpha for the
    rank and a run with another alpha paints something else.
    """
    from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY

    stated = {f"unet.{key}": sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    # one key only: safetensors writes several in an order that changes from run to run
    metadata = {LORA_ADAPTER_METADATA_KEY: json.dumps(stated, sort_keys=True)}
    content = safetensors.torch.save({f"unet.{name}": tensor for name, tensor in weights.items()}, metadata)
    write_atomic(folder / LORA_FILE, content)
    return folder / LORA_FILE
