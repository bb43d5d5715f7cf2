"""Frozen bases behind one small interface: what trainer and pipelines ask of SD 1.5, SDXL and SDXL with Fooocus.

    backbone = backbones.load(place, revision=None, dtype=None, device="auto")    # -> Backbone, weights frozen

`place` is a folder in diffusers' layout, `hf://user/name[@revision]` or `user/name`; with `+fooocus=FOLDER` after it
the Fooocus inpaint patch and head of that folder are put on (METHODS: SDXL with 9 channels, exact). dtype None is
float32 on a CPU, bfloat16 on a GPU that has it, else float16.

Names: B batch, H W pixels, h w latent cells (H / 8), T text positions (77), D text width, P pooled width, N steps.

    backbone.base              Base(model, revision, family, channels, digest): for cards, caches and checks; the
                               revision is the commit that was read, None for a folder
    backbone.family            "sd" | "sdxl"            backbone.channels       4 | 9
    backbone.unet, .vae        stock diffusers modules  backbone.text_encoders, .tokenizers    tuples of one or two
    backbone.device, .dtype    where and in what the UNet computes
    backbone.pixel_multiple    sides of a frame are multiples of this (64 for SD 1.5, 32 for SDXL)
    backbone.resolution        the side it was trained at (512, 1024)
    backbone.vae_factor        8
    backbone.alphas_cumprod    [1000] float32           backbone.prediction_type    "epsilon" | "v_prediction"
    backbone.make_scheduler(name=None, **changes)       a fresh diffusers scheduler; None is the base's own

    encode_image(pixels [B,3,H,W] in [-1,1]) -> Moments     .sample(generator=None) | .mode() -> [B,4,h,w] scaled
    decode(latents [B,4,h,w] scaled) -> [B,3,H,W] float32, not clamped
    masked_image(pixels [B,3,H,W], mask [B,1,H,W]) -> [B,3,H,W]     0 (mid grey) where mask >= 0.5
    latent_mask(mask [B,1,H,W], rule="max" | "nearest") -> [B,1,h,w] of 0 and 1; max: 1 iff any pixel of the cell is 1
    encode_text(prompts: Sequence[str]) -> TextStates(tokens [B,T,D], pooled [B,P] | None); E602 for a long prompt;
        without a graph, unless the word of a trained embedding is on (`textual_inversion`) and that has a gradient
    unconditional(batch, negative_prompt=None) -> TextStates            what guidance starts from
    token_ids(prompts) -> LongTensor [B,T] of the first tokenizer
    token_spans(prompt) -> ((first, last), ...): characters of the prompt behind token position 1, 2, ...
    size_condition(original_hw [B,2], crop_top_left [B,2], target_hw [B,2]) -> [B,6] | None (SD)
    unet_input(noisy [B,4,h,w], mask [B,1,h,w], masked_latent [B,4,h,w]) -> [B,9,h,w] in that order, or noisy itself
    predict(sample [B,9|4,h,w], timesteps, text: TextStates, size=None, *, cross_attention_kwargs=None) -> [B,4,h,w]
    add_noise(clean, noise, timesteps [B] long) -> z_t      target(clean, noise, timesteps) -> what predict should give

A DiT base later is one more file that answers the same calls; its `unet_input` packs what it needs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.backbones.interface import Backbone, Base, Moments, TextStates
from pipelines.backbones.places import (
    FOOOCUS_MARK,
    folder_of,
    public_name,
    remember,
    remembered,
    split_revision,
    where_to_run,
)

if TYPE_CHECKING:
    import torch

__all__ = [
    "FOOOCUS_MARK", "Backbone", "Base", "Moments", "TextStates", "load", "load_recorded", "public_name", "remember",
    "remembered",
]  # fmt: skip

# what UNets want beside z_t, t and the text states: nothing; the states pooled by the UNet itself; SDXL's pooled
# vector and sizes. A base with another one (`addition_embed_type`) is refused
CONDITIONS = (None, "text", "text_time")


def load(
    place: str | Path, revision: str | None = None, dtype: torch.dtype | None = None, device: str = "auto"
) -> Backbone:
    """The base at `place` (see above), frozen, in evaluation mode.

    Raises `NotFoundError` E503 where nothing is, `UsageError` E601 for something that is no base for inpainting.
    """
    model, mark, fooocus = str(place).partition(FOOOCUS_MARK)
    model, named = split_revision(model)
    revision = named or revision
    folder = folder_of(model, revision)
    config = _unet_config(folder, model)
    run_on = where_to_run(device, dtype)
    if config.get("addition_embed_type") == "text_time":
        from pipelines.backbones.sdxl import SDXL

        if mark:
            from pipelines.backbones.fooocus import load_fooocus

            patch = folder_of(*split_revision(fooocus))
            return load_fooocus(folder, patch, f"{model}{mark}{fooocus}", revision, *run_on)
        return SDXL(folder, model, revision, *run_on)
    if mark:
        raise _unsuitable(model, "the Fooocus patch fits SDXL only")
    from pipelines.backbones.sd import StableDiffusion

    return StableDiffusion(folder, model, revision, *run_on)


def load_recorded(base: Base, adapter: Path, dtype: torch.dtype | None = None, device: str = "auto") -> Backbone:
    """The base that an adapter's record names, for the adapter in that folder.

    From the Hub at its recorded commit; of a folder a record holds the name only, so it is looked for where the
    training output says it lay. Raises `NotFoundError` E503 where nobody knows.
    """
    from manifests.errors import NotFoundError

    place = remembered(adapter, base.digest) or base.model
    on_hub = "/" in place and public_name(place) == place
    if on_hub or Path(place.partition(FOOOCUS_MARK)[0]).is_dir():
        return load(place, base.revision, dtype, device)
    raise NotFoundError(f"{adapter.name} was trained on the folder {base.model!r}, which is not known here: name it.")


def _unet_config(folder: Path, model: str) -> dict[str, Any]:
    path = folder / "unet" / "config.json"
    if not path.is_file():
        raise _unsuitable(model, "it has no unet/config.json, so it is no UNet base in diffusers' layout")
    config: dict[str, Any] = json.loads(path.read_text())
    channels = config.get("in_channels")
    if channels not in (4, 9):
        raise _unsuitable(
            model, f"its UNet takes {channels} channels; 9 (inpainting) or 4 (text to image) were expected"
        )
    if config.get("addition_embed_type") not in CONDITIONS:
        known = ", ".join(str(kind) for kind in CONDITIONS)
        raise _unsuitable(
            model, f"its UNet wants the condition {config['addition_embed_type']!r}; one of {known} was expected"
        )
    return config


def _unsuitable(model: str, why: str) -> Exception:
    from manifests.errors import UsageError

    return UsageError(f"{model}: {why}.", code="E601")
