"""What a run needs before it can begin: accelerate, the base, and the checks that cost nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests.errors import UsageError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from pipelines.backbones import Backbone
    from trainer.recipe import Recipe

__all__ = ["bank_dtype", "check_base", "load_base", "make_accelerator"]


def make_accelerator(recipe: Recipe, folder: Path) -> Accelerator:
    """accelerate, for device, precision, processes and trackers."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    settings = recipe.settings
    # it is one object per process and refuses another precision; an earlier run of this process has ended
    AcceleratorState._reset_state()
    _check_trackers(settings.trackers)
    accelerator = Accelerator(
        mixed_precision=settings.mixed_precision,
        log_with=list(settings.trackers) or None,
        project_dir=folder / "trackers" if settings.trackers else None,
    )
    if settings.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise UsageError("mixed_precision: fp16 needs a GPU; on a CPU set bf16 or no.", code="E502")
    if settings.trackers:
        plain = {key: value for key, value in settings.model_dump().items() if isinstance(value, int | float | str)}
        accelerator.init_trackers("dataforge", config=plain)
    return accelerator


def _check_trackers(names: Sequence[str]) -> None:
    """Accelerate leaves a tracker out, without a word, whose package is not there."""
    from accelerate.tracking import get_available_trackers
    from accelerate.utils import LoggerType

    there = [str(tracker) for tracker in get_available_trackers()]
    for name in names:
        if name not in LoggerType.list():
            raise UsageError(f"trackers: no tracker {name!r}; there are {', '.join(LoggerType.list())}.", code="E502")
        if name not in (*there, "all"):
            raise UsageError(f"trackers: {name} is not installed: `pip install {name}`.", code="E502")


def load_base(place: str | Path, recipe: Recipe, accelerator: Accelerator) -> Backbone:
    """The base in the precision its frozen weights are kept in; a full fine-tune keeps float32."""
    import torch

    from pipelines import backbones

    kinds = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    settings = recipe.settings
    dtype = torch.float32 if settings.method == "full" else kinds[settings.mixed_precision]
    return backbones.load(place, dtype=dtype, device=str(accelerator.device))


def bank_dtype(recipe: Recipe) -> Any:
    """Half precision where training is in it."""
    import torch

    return torch.float32 if recipe.settings.mixed_precision == "no" else torch.float16


def check_base(backbone: Backbone, recipe: Recipe, place: str) -> int:
    """The resolution to train at. Raises `UsageError` E601 for the wrong channels, E502 for other settings."""
    if backbone.channels not in recipe.channels:
        wanted = " or ".join(map(str, recipe.channels))
        raise UsageError(
            f"{place}: its UNet takes {backbone.channels} channels; {recipe.name} trains one of {wanted}.", code="E601"
        )
    settings = recipe.settings
    resolution = settings.resolution or backbone.resolution
    if resolution % backbone.pixel_multiple:
        raise UsageError(
            f"resolution: {resolution} is no multiple of {backbone.pixel_multiple}, which this base needs.", code="E502"
        )
    if (settings.validation_steps is None) != (not settings.validation_prompts):
        raise UsageError("validation_steps and validation_prompts go together; one of them is missing.", code="E502")
    if settings.method != "lora" and settings.subjects_at_once > 1:
        raise UsageError(
            f"subjects_at_once: {settings.subjects_at_once} subjects together train as LoRA, not {settings.method}.",
            code="E502",
        )
    if settings.method == "full" and _has_fooocus(backbone):
        raise UsageError(
            f"method: {recipe.name} trains the whole UNet here, and with the Fooocus patch that is none diffusers can "
            "load: set method to lora or dora, with a learning_rate such as 1e-4, or name an inpainting base.",
            code="E502",
        )
    return resolution


def _has_fooocus(backbone: Backbone) -> bool:
    from pipelines.backbones.fooocus import FooocusSDXL

    return isinstance(backbone, FooocusSDXL)
