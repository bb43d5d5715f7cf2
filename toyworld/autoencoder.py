"""An AutoencoderKL whose encoder is set by hand and whose decoder is trained.

The encoder sees blocks of 2x2 pixels, one latent each, and nothing beyond: brightness, red against blue, green against
both, and top against bottom. So the latent of a masked image is known without running the network, and the whole of a
small training budget is left for the denoiser. Weights that do nothing but pass numbers on make the stock class compute
exactly this; see `set_encoder`.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL
from torch.nn import functional as F  # noqa: N812

_LUMA = (0.299, 0.587, 0.114)
# mean and deviation of the four measures over training scenes, pixels in -1..1, and the deviation a latent shall have
_MEAN = (0.256, 0.102, 0.060, 0.0)
_DEVIATION = (0.344, 0.590, 0.353, 0.251)
_TARGET = (1.0, 1.0, 1.0, 0.6)
_CONSTANT, _LIFT = 32.0, 12.0


def patch_transform() -> tuple[torch.Tensor, torch.Tensor]:
    """The encoder as it is meant: weight [4, 3, 2, 2] and bias [4] of a convolution with stride 2."""
    even = torch.full((2, 2), 0.25)
    rows = torch.tensor([[-1.0, -1.0], [1.0, 1.0]]) / 12**0.5
    measures = torch.stack(
        [
            torch.tensor(_LUMA)[:, None, None] * even,
            torch.tensor([1.0, 0.0, -1.0])[:, None, None] * even,
            torch.tensor([-0.5, 1.0, -0.5])[:, None, None] * even,
            rows.expand(3, 2, 2),
        ]
    )
    scale = torch.tensor(_TARGET) / torch.tensor(_DEVIATION)
    return measures * scale[:, None, None, None], -torch.tensor(_MEAN) * scale


def encode(images: torch.Tensor) -> torch.Tensor:
    """Latents [B, 4, H/2, W/2] of images [B, 3, H, W] in -1..1: what the encoder gives, to 1e-2, at no cost."""
    weight, bias = patch_transform()
    return F.conv2d(images, weight.to(images), bias.to(images), stride=2)


def autoencoder() -> Any:
    """The autoencoder with its encoder set and a decoder that knows nothing yet."""
    vae: Any = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=1,
        latent_channels=4,
        sample_size=64,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )
    set_encoder(vae)
    return vae


@torch.no_grad()
def set_encoder(vae: Any) -> None:
    """Write `patch_transform` into the weights of the encoder.

    The residual branches give zero, so a block passes its input on. The one convolution with stride 2 computes the
    transform, each measure twice with either sign. Before the last convolution stand a group norm and a SiLU: 24
    channels of +-32 fix the variance the norm divides by, and its bias lifts the measures to +12, where SiLU is the
    identity; the last convolution takes the 12 off.
    """
    for parameter in vae.encoder.parameters():
        parameter.zero_()
    encoder = vae.encoder
    first, second = encoder.down_blocks
    for channel in range(3):
        encoder.conv_in.weight[channel, channel, 1, 1] = 1
    weight, bias = patch_transform()
    down = first.downsamplers[0].conv  # pads below and to the right: its first 2x2 weights see one block
    down.weight[:4, :3, :2, :2], down.bias[:4] = weight, bias
    down.weight[4:8, :3, :2, :2], down.bias[4:8] = -weight, -bias
    widen = second.resnets[0].conv_shortcut
    widen.weight[:8, :8, 0, 0] = torch.eye(8)
    widen.bias[8:20], widen.bias[20:] = _CONSTANT, -_CONSTANT
    encoder.conv_norm_out.weight[:] = (24 / 32 * _CONSTANT**2 + 8 / 32 * 0.84) ** 0.5  # the measures' own variance
    encoder.conv_norm_out.bias[:] = _LIFT
    encoder.conv_out.weight[:4, :4, 1, 1] = torch.eye(4)
    encoder.conv_out.bias[:4] = -_LIFT
    encoder.conv_out.bias[4:] = -20.0  # log variance: the latent is certain
    for name in ("quant_conv", "post_quant_conv"):
        layer = getattr(vae, name)
        layer.weight.zero_()
        layer.bias.zero_()
        layer.weight[:, :, 0, 0] = torch.eye(layer.weight.shape[0])
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    vae.post_quant_conv.requires_grad_(False)


def decoder_loss(vae: Any, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """What the decoder is trained on: images [B, 3, H, W] in -1..1 from latents with a little noise.

    Absolute and squared difference and, for sharp edges, the difference between neighbouring pixels.
    """
    latents = encode(images)
    amount = 0.04 * torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device)
    noise = torch.randn(latents.shape, generator=generator, device=images.device)
    wrong: torch.Tensor = vae.decoder(latents + amount * noise) - images
    steps = wrong.diff(dim=2).abs().mean() + wrong.diff(dim=3).abs().mean()
    return wrong.abs().mean() + 2 * wrong.square().mean() + 0.3 * steps
