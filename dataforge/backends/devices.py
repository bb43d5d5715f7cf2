"""Where a model runs and how it shares the machine: device, precision, batches that shrink, silence while loading."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from manifests.errors import Fault

if TYPE_CHECKING:
    import torch

__all__ = ["Placement", "in_batches", "place", "quietly", "release"]

logger = logging.getLogger(__name__)
ItemT = TypeVar("ItemT")
AnswerT = TypeVar("AnswerT")


class Placement:
    """A device and the number format of the model's arithmetic there."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.dtype = dtype

    @contextlib.contextmanager
    def run(self) -> Iterator[None]:
        """Without gradients, in the number format asked for, weights as they are."""
        import torch

        mixed = self.dtype != torch.float32
        with torch.inference_mode(), torch.autocast(self.device.type, dtype=self.dtype, enabled=mixed):
            yield


def place(device: str, precision: str, *, half: str = "float16") -> Placement:
    """Device and number format. `auto` is a GPU in half precision (`half`) where there is one, else float32 on the CPU.

    With several workers, worker i takes GPU i modulo their number.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda":
            device = f"cuda:{int(os.environ.get('DATAFORGE_WORKER', '0')) % torch.cuda.device_count()}"
    if precision == "auto":
        precision = "float32" if device == "cpu" else half
    return Placement(torch.device(device), getattr(torch, precision))


def in_batches(
    items: Sequence[ItemT], size: int, run: Callable[[Sequence[ItemT]], Sequence[AnswerT]], *, what: str
) -> list[AnswerT | Fault]:
    """The answers of `run` over batches of `size`; a batch that does not fit the memory is halved, down to one.

    The smaller size is kept for what follows and said once. An item that does not fit alone is a fault E222.
    """
    import torch

    answers: list[AnswerT | Fault] = []
    while len(answers) < len(items):
        batch = items[len(answers) : len(answers) + size]
        try:
            answers += run(batch)
            continue
        except torch.OutOfMemoryError:
            pass
        except RuntimeError as error:  # what allocators other than CUDA's say
            if "out of memory" not in str(error).lower() and "can't allocate memory" not in str(error).lower():
                raise
        release()
        if len(batch) == 1:
            answers.append(Fault("E222", f"{what}: one alone does not fit the device's memory"))
            continue
        size = max(1, len(batch) // 2)
        logger.warning("%s: out of memory with %d at once, going on with %d", what, len(batch), size)
    return answers


def release() -> None:
    """Give back the memory of models and pictures that nothing refers to any more."""
    torch = sys.modules.get("torch")
    if torch is not None:  # without it there are no models, whose layers refer to each other
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    # what is free between what is kept, which a process otherwise holds on to; glibc alone needs and has it
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """No bars, advice and warnings of model libraries while something is loaded: what matters is an exception."""
    names = [name for name in ("transformers", "diffusers", "huggingface_hub") if name in sys.modules]
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
        bars: Any = getattr(sys.modules[name], "utils", None)
        if bars is not None and hasattr(bars, "logging") and hasattr(bars.logging, "disable_progress_bar"):
            bars.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
