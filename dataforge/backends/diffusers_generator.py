"""Text to image with diffusers: regular pictures of a class, batched over prompts across subjects.

A record's seed alone decides its picture's noise, drawn on the CPU, so that any picture can be made again alone and on
another device (as near as the device's arithmetic allows).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np

from dataforge.backends.checkpoints import Needs, Package, Weights, check, identity
from dataforge.backends.devices import in_batches, place, quietly
from dataforge.model_config import Diffusers as Settings
from dataforge.protocols import GeneratedImage, GenerationRequest
from manifests.errors import Fault

__all__ = ["Diffusers"]

INSTALL = '`pip install "dataforge[diffusion]"`'
KINDS = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusion3Pipeline", "FluxPipeline")
# part of a model's name -> GB in half precision, whole and with parts that wait on the CPU; others are as SD 1.5
_MEMORY_GB = {"flux": (36, 26), "stable-diffusion-3": (30, 19), "xl": (12, 6)}
# name -> diffusers class and what it is told beyond the checkpoint's own configuration
_SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "dpm++-sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-a": ("EulerAncestralDiscreteScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
}


class Diffusers:
    """SD 1.5, SDXL, SD 3.5 and FLUX checkpoints, through the pipeline their `model_index.json` names."""

    name = "diffusers"
    version = "1"
    own_pixels = False

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int = 4,
        variant: str | None = None,
        size: int = 1024,
        scheduler: str | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        negative_prompt: str | None = None,
        offload: str = "none",
        compile: bool = False,
    ) -> None:
        """Loads the pipeline. Raises `UsageError` E505 where weights are missing, E508 for one of another kind."""
        path = check(_weights(model, revision, variant), self.name)
        self.model = identity(model, revision)
        self._batch_size, self._size = batch_size, size
        import diffusers

        # the transformers of SD 3.5 and FLUX leave float16's range; the older UNets do not
        flow = _flows(path / "model_index.json")
        self._place = place(device, precision, half="bfloat16" if flow else "float16")
        with quietly():
            pipeline = diffusers.DiffusionPipeline.from_pretrained(
                path, torch_dtype=self._place.dtype, variant=variant, use_safetensors=True, local_files_only=True
            )
        if scheduler is not None:
            name, more = _SCHEDULERS[scheduler]
            pipeline.scheduler = getattr(diffusers, name).from_config(pipeline.scheduler.config, **more)
        pipeline.set_progress_bar_config(disable=True)
        if compile:
            part = "unet" if hasattr(pipeline, "unet") else "transformer"
            getattr(pipeline, part).compile()
        if offload == "none" or self._place.device.type == "cpu":  # on the CPU, parts have no other place to wait
            pipeline.to(self._place.device)
        elif offload == "model":
            pipeline.enable_model_cpu_offload(device=self._place.device)
        else:
            pipeline.enable_sequential_cpu_offload(device=self._place.device)
        self._pipeline = pipeline
        wanted = {"num_inference_steps": steps, "guidance_scale": guidance, "negative_prompt": negative_prompt}
        known = inspect.signature(pipeline.__call__).parameters
        self._options = {key: value for key, value in wanted.items() if value is not None and key in known}

    @staticmethod
    def needs(settings: Settings) -> Needs:
        """What has to be there."""
        packages = tuple(Package(name, INSTALL) for name in ("torch", "transformers", "diffusers", "accelerate"))
        weights = _weights(settings.model, settings.revision, settings.variant)
        whole, parted = next((gb for mark, gb in _MEMORY_GB.items() if mark in settings.model.lower()), (5, 3))
        return Needs(packages, (weights,), settings.device, memory_gb=whole if settings.offload == "none" else parted)

    @staticmethod
    def can_show(category: str, word: str) -> bool:
        """Anything can be asked of it."""
        return bool(category and word)

    def generate(self, requests: Sequence[GenerationRequest]) -> list[GeneratedImage | Fault]:
        """One picture per request, uint8 SxSx3 RGB, without a mask."""
        return in_batches(requests, self._batch_size, self._paint, what=self.name)

    def _paint(self, requests: Sequence[GenerationRequest]) -> list[GeneratedImage | Fault]:
        import torch

        size = requests[0].size or self._size
        options: dict[str, Any] = dict(self._options)
        if "negative_prompt" in options:
            options["negative_prompt"] = [options["negative_prompt"]] * len(requests)
        with torch.inference_mode():
            pictures = self._pipeline(
                prompt=[request.prompt.prompt for request in requests],
                generator=[torch.Generator("cpu").manual_seed(request.seed) for request in requests],
                height=size,
                width=size,
                output_type="np",
                **options,
            ).images
        return [_picture(picture) for picture in pictures]


def _picture(values: Any) -> GeneratedImage | Fault:
    """A picture from floats in [0, 1]; a half-precision VAE may overflow to NaN."""
    if not np.isfinite(values).all():
        return Fault("E220", "the picture is not finite; precision: float32 or bfloat16 may help")
    return GeneratedImage(image=np.clip(np.rint(np.asarray(values, np.float32) * 255), 0, 255).astype(np.uint8))


def _flows(index: Any) -> bool:
    return any(name in index.read_text(encoding="utf-8") for name in ("FluxPipeline", "StableDiffusion3Pipeline"))


def _weights(model: str, revision: str | None, variant: str | None) -> Weights:
    return Weights(model, revision, "diffusers", KINDS, variant=variant)
