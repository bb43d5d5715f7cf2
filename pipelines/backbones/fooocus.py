"""SDXL with the Fooocus inpaint patch v2.6 and head: a 4-channel base becomes an exact 9-channel one (METHODS 2.2).

The patch holds, per weight, an unsigned 8-bit tensor with its minimum and maximum; the head is one 3x3 convolution over
[latent mask, masked latent] whose result is added to the output of `conv_in`. Its input order is that of channels 5 to
9 of an inpainting UNet, so that `ConvIn9`, the base's own convolution and the head side by side, is exact.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 the field's name for it
from torch import Tensor, nn

from manifests.errors import NotFoundError, UsageError
from manifests.ids import digest_of
from pipelines.backbones.places import weights_digest
from pipelines.backbones.sdxl import SDXL

__all__ = ["ConvIn9", "apply_patch", "dequantise", "ldm_names", "load_fooocus"]

PATCH, HEAD = "inpaint_v26.fooocus.patch", "fooocus_inpaint_head.pth"


class ConvIn9(nn.Module):
    """`conv_in` of the base on z_t plus the head on [mask, masked latent], replicate-padded: [B,9,h,w] to [B,C,h,w]."""

    def __init__(self, conv_in: nn.Conv2d, head: Tensor) -> None:
        super().__init__()
        self.conv_in = conv_in
        self.head = nn.Parameter(head.to(conv_in.weight), requires_grad=False)

    def forward(self, sample: Tensor) -> Tensor:
        """sample [B,9,h,w] in the order [z_t, mask, masked latent]."""
        known = F.pad(sample[:, 4:], (1, 1, 1, 1), mode="replicate")
        output: Tensor = self.conv_in(sample[:, :4]) + F.conv2d(known, self.head)
        return output


class FooocusSDXL(SDXL):
    """SDXL with patch and head on."""

    def __init__(
        self, folder: Path, patch: Path, model: str, revision: str | None, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__(folder, model, revision, device, dtype)
        if self.channels != 4:
            raise UsageError(f"{model}: the Fooocus patch fits a base of 4 channels, this has 9.", code="E601")
        self._patch = patch
        for name in (PATCH, HEAD):
            if not (patch / name).is_file():
                raise NotFoundError(f"no {name} in {patch.name}.")
        # these exist as pickles only: nothing but tensors is unpickled
        apply_patch(self.unet, torch.load(patch / PATCH, map_location="cpu", weights_only=True))
        head = torch.load(patch / HEAD, map_location="cpu", weights_only=True)["head"]
        expected = (self.unet.conv_in.out_channels, 5, 3, 3)
        if tuple(head.shape) != expected:
            raise UsageError(f"{HEAD}: shape {tuple(head.shape)}, {expected} was expected.", code="E601")
        self.unet.conv_in = ConvIn9(self.unet.conv_in, head.to(device))
        self.unet.register_to_config(in_channels=9)
        self.channels = 9

    def _digest(self) -> str:
        return digest_of([super()._digest(), weights_digest(self._patch, (PATCH, HEAD))])


def load_fooocus(
    folder: Path, patch: Path, model: str, revision: str | None, device: torch.device, dtype: torch.dtype
) -> FooocusSDXL:
    """The SDXL base in `folder` with patch and head of the folder `patch`. Raises E503 and E601."""
    return FooocusSDXL(folder, patch, model, revision, device, dtype)


def dequantise(quantised: Tensor, low: Any, high: Any) -> Tensor:
    """uint8 to float32: 0 is `low`, 255 is `high`, affine between."""
    low, high = (torch.as_tensor(value, dtype=torch.float32) for value in (low, high))
    weight: Tensor = quantised.float() / 255 * (high - low) + low
    return weight


def apply_patch(unet: Any, patch: dict[str, tuple[Tensor, Any, Any]], strength: float = 1.0) -> int:
    """Add the patch to the UNet's weights in place; the number of weights changed. Raises E601 for foreign names."""
    parameters = dict(unet.named_parameters())
    names = {f"diffusion_model.{ldm}": name for name, ldm in ldm_names(unet).items()}
    changed = 0
    for key, (quantised, low, high) in patch.items():
        if not key.endswith(".weight"):  # the release patches no biases
            continue
        weight = parameters.get(names.get(key, ""))
        if weight is None or weight.shape != quantised.shape:
            raise UsageError(f"the patch holds {key}, which this UNet does not have in that shape.", code="E601")
        with torch.no_grad():
            weight.add_(strength * dequantise(quantised, low, high).to(weight))
        changed += 1
    return changed


_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_OUTSIDE = {
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip


def ldm_names(unet: Any) -> dict[str, str]:
    """The original (SGM) name of every parameter of an SDXL UNet, by its diffusers name."""
    layers = unet.config.layers_per_block
    up_attention = [hasattr(block, "attentions") for block in unet.up_blocks]
    return {name: _ldm_name(name, layers, up_attention) for name, _ in unet.named_parameters()}


def _ldm_name(name: str, layers: int, up_attention: list[bool]) -> str:
    for ours, theirs in _OUTSIDE.items():
        if name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    part, *rest = name.split(".")
    if part == "mid_block":
        kind, number, *inner = rest
        where = "middle_block.1" if kind == "attentions" else f"middle_block.{2 * int(number)}"
        return f"{where}.{_inner(kind, inner)}"
    block, kind, layer, *inner = rest
    place = int(block) * (layers + 1) + int(layer)
    if part == "down_blocks":
        if kind == "downsamplers":  # after the block's layers
            return f"input_blocks.{(int(block) + 1) * (layers + 1)}.0.op.{inner[-1]}"
        return f"input_blocks.{1 + place}.{int(kind == 'attentions')}.{_inner(kind, inner)}"
    if kind == "upsamplers":  # beside the block's last layer
        last = int(block) * (layers + 1) + layers
        return f"output_blocks.{last}.{1 + up_attention[int(block)]}.conv.{inner[-1]}"
    return f"output_blocks.{place}.{int(kind == 'attentions')}.{_inner(kind, inner)}"


def _inner(kind: str, inner: list[str]) -> str:
    return ".".join(inner if kind == "attentions" else [_RESNET[inner[0]], *inner[1:]])
