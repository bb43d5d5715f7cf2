"""How good a corpus is, against what is known to be true: `dataforge evaluate corpus`.

masks     IoU against given masks, and whether `mask_quality` says what it will be
words     colour words against accepted ones, regular pictures against their prompts
variety   how different the regular pictures of a subject are
leaks     the same picture in two subjects or two splits
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

__all__ = ["Measure"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """One number about a corpus."""

    name: str
    value: Annotated[float, "NaN where there is nothing to count"]
    low: Annotated[float, "95 % interval over subjects; NaN where there is none"]
    high: float
    count: Annotated[int, "what was counted"]
    what: Annotated[str, "what was counted and how"]
