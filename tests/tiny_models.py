"""Real diffusers and transformers classes, tiny, built from configs and loaded from disk as a user's base is.

`tiny("sdxl9")` is the folder of a saved pipeline, built once a session; `mid_size(folder)` has SDXL's shape at a fifth
of its width, for measuring. Weights are random and seeded, so a folder's bytes are the same in every session.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

KINDS = ("sd9", "sd4", "sdxl9", "sdxl4")
# one token each; every other word falls apart into its letters, as `plushie` falls apart in the real vocabulary
WORDS = tuple(
    word
    for line in (
        "a photo of sks the on in with and at is to dog cat teapot vase mug ball car toy clock can bowl sneaker boot",
        "backpack red blue green yellow brown white black grey orange purple pink clay wood wooden glass metal plain",
        "striped shiny matte round square table grass street beach room background class scene small large",
    )
    for word in line.split()
)
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def tokenizer(pad_token: str = "<|endoftext|>") -> CLIPTokenizer:
    """A CLIP tokenizer over bytes, with merges for `WORDS`: the real class, the real pre-tokenizer, 77 positions."""
    letters = _byte_letters()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            if (pair := (pieces[0], pieces[1])) not in merges:
                merges.append(pair)
                tokens.append(pair[0] + pair[1])
            pieces[:2] = [pair[0] + pair[1]]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad_token, model_max_length=77)


def _byte_letters() -> list[str]:
    """GPT-2's printable letter for each of the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + number) for number in range(len(others))]


def text_encoder(tokens: CLIPTokenizer, *, width: int, layers: int = 3, project: bool = False) -> Any:
    """A CLIP text encoder of the given width; with a projection it is SDXL's second one."""
    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        projection_dim=width,
        hidden_act="gelu" if project else "quick_gelu",
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    return CLIPTextModelWithProjection(config) if project else CLIPTextModel(config)


def vae(*, widths: tuple[int, ...] = (8, 8, 16, 16), scaling_factor: float = 0.18215) -> AutoencoderKL:
    """A VAE with factor 8 and 4 latent channels."""
    return AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=scaling_factor,
    )


def sd_unet(channels: int, *, widths: tuple[int, ...] = (32, 64), text_width: int = 32) -> UNet2DConditionModel:
    """An SD 1.5 UNet with fewer and narrower blocks."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        out_channels=4,
        block_out_channels=widths,
        down_block_types=("CrossAttnDownBlock2D",) * len(widths),
        up_block_types=("CrossAttnUpBlock2D",) * len(widths),
        layers_per_block=2,
        norm_num_groups=8,
        attention_head_dim=4,
        cross_attention_dim=text_width,
    )


def sdxl_unet(
    channels: int,
    *,
    widths: tuple[int, ...] = (32, 64),
    heads: tuple[int, ...] = (2, 4),
    depths: tuple[int, ...] = (1, 2),
    text_width: int = 64,
    pooled_width: int = 32,
) -> UNet2DConditionModel:
    """An SDXL UNet with fewer and narrower blocks; as in SDXL, the first has no attention when there are three."""
    plain = len(widths) > 2
    return UNet2DConditionModel(
        sample_size=8 * (1 + 3 * plain),
        in_channels=channels,
        out_channels=4,
        block_out_channels=widths,
        down_block_types=("DownBlock2D" if plain else "CrossAttnDownBlock2D",)
        + ("CrossAttnDownBlock2D",) * (len(widths) - 1),
        up_block_types=("CrossAttnUpBlock2D",) * (len(widths) - 1) + ("UpBlock2D" if plain else "CrossAttnUpBlock2D",),
        layers_per_block=2 if plain else 1,
        norm_num_groups=8,
        attention_head_dim=heads,
        use_linear_projection=True,
        transformer_layers_per_block=depths,
        cross_attention_dim=text_width,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + pooled_width,
    )


def build(kind: str) -> Any:
    """A pipeline of stock classes in memory: `sd` or `sdxl` with 9 channels (inpainting) or 4 (text to image)."""
    family, channels = kind[:-1], int(kind[-1])
    with torch.random.fork_rng():
        torch.manual_seed(KINDS.index(kind))
        first = tokenizer()
        if family == "sd":
            inpaint = channels == 9
            return (StableDiffusionInpaintPipeline if inpaint else StableDiffusionPipeline)(
                vae=vae(),
                text_encoder=text_encoder(first, width=32),
                tokenizer=first,
                unet=sd_unet(channels),
                scheduler=DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
        return _sdxl(channels, sdxl_unet(channels), vae(scaling_factor=0.13025), widths=(32, 32))


def _sdxl(channels: int, unet: UNet2DConditionModel, autoencoder: AutoencoderKL, *, widths: tuple[int, int]) -> Any:
    first, second = tokenizer(), tokenizer(pad_token="!")
    return (StableDiffusionXLInpaintPipeline if channels == 9 else StableDiffusionXLPipeline)(
        vae=autoencoder,
        text_encoder=text_encoder(first, width=widths[0]),
        text_encoder_2=text_encoder(second, width=widths[1], project=True),
        tokenizer=first,
        tokenizer_2=second,
        unet=unet,
        scheduler=EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1),
        add_watermarker=False,
    )


@cache
def session_folder() -> Path:
    """Where models saved for tests lie until the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="tiny-models-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def tiny(kind: str) -> Path:
    """The folder of a tiny saved pipeline of one of `KINDS`, written once a session. Do not write into it."""
    folder = session_folder() / kind
    build(kind).save_pretrained(folder)
    return folder


def mid_size(folder: Path, *, channels: int = 9) -> Path:
    """SDXL's shape at a fifth of its width , 103 million parameters; for benchmarks."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = sdxl_unet(
            channels, widths=(64, 128, 256), heads=(1, 2, 4), depths=(1, 2, 10), text_width=416, pooled_width=256
        )
        pipeline = _sdxl(channels, unet, vae(widths=(16, 32, 64, 64), scaling_factor=0.13025), widths=(160, 256))
    pipeline.save_pretrained(folder)
    return folder
