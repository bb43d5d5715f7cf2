"""Paint-by-Example (arXiv 2211.13227), thin: diffusers keeps its pipeline as it last was, and will drop it one day.

`base` is a folder in the published layout. Its parts are loaded one by one, because `from_pretrained` no longer takes
that layout's `model_index.json`. The example is the subject cut out on white; there is no text.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from manifests.errors import UsageError
from manifests.pixels import ImageArray
from pipelines import crop
from pipelines.dif import put_back
from pipelines.places import on_white

if TYPE_CHECKING:
    from pipelines.preparing import Prepared

__all__ = ["PaintByExample"]

# of the paper's command; the job's own settings win
STEPS, GUIDANCE = 50, 5.0


class PaintByExample:
    """Paints prepared jobs; the model of the last job's base is kept."""

    def __init__(self, device: str = "auto") -> None:
        self.device = device
        self._here = ""
        self._pipe: Any = None

    def __call__(self, prepared: Prepared) -> ImageArray:
        """The whole frame painted and put back. Raises `UsageError` E601, `NotFoundError` E503."""
        assert prepared.reference is not None
        pipe = self._pipeline(str(prepared.job.base))
        asked, box = prepared.job.settings, crop.whole(prepared.mask)
        factor = pipe.vae_scale_factor
        multiple = factor * 2 ** (len(pipe.unet.config.block_out_channels) - 1)
        resolution = prepared.settings.resolution or pipe.unet.config.sample_size * factor
        size = crop.working_size(box[3], box[2], resolution, multiple)
        side = pipe.image_encoder.config.image_size
        (painted,) = pipe(
            example_image=Image.fromarray(on_white(prepared.reference, side)),
            image=Image.fromarray(crop.cut(prepared.scene, box, size)),
            mask_image=Image.fromarray(crop.cut_mask(prepared.mask, box, size)),
            num_inference_steps=asked.get("num_inference_steps", STEPS),
            guidance_scale=asked.get("guidance_scale", GUIDANCE),
            generator=torch.Generator("cpu").manual_seed(prepared.seed),
        ).images
        return put_back(prepared.scene, np.asarray(painted), prepared.mask, box, prepared.settings)

    def _pipeline(self, place: str) -> Any:
        if self._pipe is None or place != self._here:
            self._pipe = None
            self._pipe, self._here = _load(place, self.device), place
        return self._pipe


def _load(place: str, device: str) -> Any:
    import diffusers
    from transformers import CLIPImageProcessor

    from pipelines.backbones.latent import load_part
    from pipelines.backbones.places import folder_of, split_revision, where_to_run

    stock: Any = diffusers
    folder = folder_of(*split_revision(place))
    if not (folder / "image_encoder" / "config.json").is_file():
        raise UsageError(f"{place}: no image_encoder/, so it is no Paint-by-Example model.", code="E601")
    kind = stock.PaintByExamplePipeline
    encoder = sys.modules[kind.__module__].PaintByExampleImageEncoder  # its module moved between releases
    where, dtype = where_to_run(device, None)
    pipe = kind(
        vae=load_part(stock.AutoencoderKL, folder, "vae", dtype),
        image_encoder=load_part(encoder, folder, "image_encoder", dtype),
        unet=load_part(stock.UNet2DConditionModel, folder, "unet", dtype),
        scheduler=stock.DDIMScheduler.from_pretrained(folder, subfolder="scheduler", local_files_only=True),
        safety_checker=None,
        feature_extractor=CLIPImageProcessor.from_pretrained(
            folder, subfolder="feature_extractor", local_files_only=True
        ),
        requires_safety_checker=False,
    ).to(where)
    pipe.set_progress_bar_config(disable=True)
    return pipe
