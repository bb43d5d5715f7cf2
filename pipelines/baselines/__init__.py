"""What the method is compared with, under the same job schema: callables from a prepared job to uint8 HxWx3.

Plain inpainting with the base is `method: adapter` without an adapter; DreamBooth-LoRA without DIF is an adapter with
`preset: plain`. Programs with environments of their own come in as one more callable (`run(..., methods=...)`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from manifests.pixels import ImageArray

if TYPE_CHECKING:
    from pipelines.preparing import Prepared

__all__ = ["BASELINES", "Baseline", "load_baselines"]


@dataclass(frozen=True, slots=True)
class Baseline:
    """A baseline: what makes it for a device, and which fields of a job it cannot do without."""

    make: Callable[[str], Callable[[Prepared], ImageArray]]
    needs: tuple[str, ...]


def _copy_and_blend(device: str) -> Callable[[Prepared], ImageArray]:
    del device
    from pipelines.baselines.copying import copy_and_blend

    return copy_and_blend


def _ip_adapter(device: str) -> Callable[[Prepared], ImageArray]:
    from pipelines.baselines.ip_adapter import IPAdapter

    return IPAdapter(device)


def _paint_by_example(device: str) -> Callable[[Prepared], ImageArray]:
    from pipelines.baselines.paint_by_example import PaintByExample

    return PaintByExample(device)


def _dreamedit(device: str) -> Callable[[Prepared], ImageArray]:
    from pipelines.baselines.dreamedit import DreamEdit

    return DreamEdit(device)


BASELINES: dict[str, Baseline] = {
    "copy-and-blend": Baseline(_copy_and_blend, ("reference",)),
    "dreamedit": Baseline(_dreamedit, ("adapter",)),
    "ip-adapter": Baseline(_ip_adapter, ("base", "reference")),
    "paint-by-example": Baseline(_paint_by_example, ("base", "reference")),
}


def load_baselines(device: str = "auto") -> dict[str, Callable[[Prepared], ImageArray]]:
    """Every baseline by name; what one needs is imported and loaded when its first job is painted."""

    def later(baseline: Baseline) -> Callable[[Prepared], ImageArray]:
        made: list[Callable[[Prepared], ImageArray]] = []

        def paint(prepared: Prepared) -> ImageArray:
            if not made:
                made.append(baseline.make(device))
            return made[0](prepared)

        return paint

    return {name: later(baseline) for name, baseline in BASELINES.items()}
