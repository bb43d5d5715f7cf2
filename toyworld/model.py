"""The parts of the base model and the pipeline made of them, stock classes of diffusers and transformers all.

Those of diffusers are annotated `Any`: it has no types to speak of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from toyworld.tokenizer import MAX_LENGTH, tokenizer, vocabulary

BASE = Path(__file__).with_name("base")
"""The base model that ships."""

TEXT_WIDTH = 96


def text_encoder() -> CLIPTextModel:
    """Two layers of 96. Embeddings start fifteen times larger than usual: there is no time to grow them."""
    ids, _ = vocabulary()
    end = ids["<|endoftext|>"]
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(ids),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_LENGTH,
            projection_dim=TEXT_WIDTH,
            bos_token_id=ids["<|startoftext|>"],
            eos_token_id=end,
            pad_token_id=end,
        )
    )
    embeddings: Any = encoder.get_input_embeddings()
    torch.nn.init.normal_(embeddings.weight, std=0.3)
    return encoder


def unet(norm_groups: int = 4) -> Any:
    """Nine channels in (noisy latent, mask, masked image), attention at a quarter of the latent's side only.

    The pooled text is added to the time embedding (`addition_embed_type="text"`), as in SDXL but inside the stock
    Stable Diffusion pipeline. `norm_groups` is small because the blocks are narrow: two channels a group come near to
    instance norm, which forgets how bright and of what colour a plain wall is.
    """
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=9,
        out_channels=4,
        block_out_channels=(32, 64, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=norm_groups,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        use_linear_projection=True,
    )


def scheduler() -> Any:
    """The noise levels of Stable Diffusion, velocity prediction, steps counted from the noisiest."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def pipeline(vae: Any, text: CLIPTextModel, denoiser: Any) -> Any:
    """Put the parts together."""
    painter: Any = StableDiffusionInpaintPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer(),
        unet=denoiser,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    painter.set_progress_bar_config(disable=True)
    return painter


def load(folder: Path = BASE) -> Any:
    """The pipeline from a folder, with no progress bar of its own."""
    kind: Any = StableDiffusionInpaintPipeline
    painter = kind.from_pretrained(folder, local_files_only=True)
    painter.set_progress_bar_config(disable=True)
    return painter
