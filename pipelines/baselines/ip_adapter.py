"""IP-Adapter (arXiv 2308.06721): diffusers' stock inpainting pipeline with an image prompt beside the text.

`base: PLACE+ip-adapter=WEIGHTS`, where WEIGHTS is a `.safetensors` file with `image_encoder/` beside it, or the folder
of both, as h94/IP-Adapter is laid out. The image prompt is the subject cut out on white.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from manifests.errors import NotFoundError, UsageError
from manifests.pixels import ImageArray
from pipelines import crop
from pipelines.adapters import stock_pipeline
from pipelines.backbones import Backbone, load
from pipelines.dif import put_back
from pipelines.places import on_white

if TYPE_CHECKING:
    from pipelines.preparing import Prepared

__all__ = ["MARK", "IPAdapter"]

MARK = "+ip-adapter="
ENCODER = "image_encoder"


class IPAdapter:
    """Paints prepared jobs; the model of the last job's base is kept."""

    def __init__(self, device: str = "auto") -> None:
        self.device = device
        self._here = ""
        self._loaded: tuple[Backbone, Any] | None = None

    def __call__(self, prepared: Prepared) -> ImageArray:
        """The whole frame painted and put back. Raises `UsageError` E502, `NotFoundError` E503."""
        assert prepared.reference is not None
        backbone, pipe = self._pipeline(str(prepared.job.base))
        settings, box = prepared.settings, crop.whole(prepared.mask)
        resolution = settings.resolution or backbone.resolution
        height, width = crop.working_size(box[3], box[2], resolution, backbone.pixel_multiple)
        (painted,) = pipe(
            prompt=prepared.prompt,
            negative_prompt=settings.negative_prompt,
            image=Image.fromarray(crop.cut(prepared.scene, box, (height, width))),
            mask_image=Image.fromarray(crop.cut_mask(prepared.mask, box, (height, width))),
            ip_adapter_image=Image.fromarray(on_white(prepared.reference, backbone.resolution)),
            height=height,
            width=width,
            strength=1.0,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(prepared.seed),
        ).images
        return put_back(prepared.scene, np.asarray(painted), prepared.mask, box, settings)

    def _pipeline(self, place: str) -> tuple[Backbone, Any]:
        if self._loaded is None or place != self._here:
            self._loaded = None
            base, mark, weights = place.partition(MARK)
            if not mark:
                raise UsageError(f"base {base!r}: method 'ip-adapter' takes PLACE{MARK}WEIGHTS.", code="E502")
            file = _weights_file(weights)
            backbone = load(base, device=self.device)
            pipe = stock_pipeline(backbone)
            pipe.set_progress_bar_config(disable=True)
            pipe.load_ip_adapter(
                str(file.parent), subfolder="", weight_name=file.name, image_encoder_folder=ENCODER,
                local_files_only=True,
            )  # fmt: skip
            self._here, self._loaded = place, (backbone, pipe)
        return self._loaded


def _weights_file(weights: str) -> Path:
    from pipelines.backbones.places import folder_of

    path = Path(weights)
    if not path.is_file():
        found = sorted(folder_of(weights, None).glob("*.safetensors"))
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "none"
            raise UsageError(f"{weights}: one .safetensors file was expected, found {names}; name it.", code="E502")
        path = found[0]
    if not (path.parent / ENCODER / "config.json").is_file():
        raise NotFoundError(f"no {ENCODER}/ beside {path.name}.")
    return path
