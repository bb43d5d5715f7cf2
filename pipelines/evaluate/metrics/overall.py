"""DreamEditBench's overall score: the geometric mean of subject and background similarity, negatives set to 0.001.

The released script takes DINO's background twice and CLIP's never; `overall_released` does the same.
"""

from __future__ import annotations

import math

from pipelines.evaluate.metrics import Column

__all__ = ["TERMS", "columns", "overall"]

TERMS = ("dino_whole", "clip_i_whole", "dino_scene", "clip_i_scene")
RELEASED = ("dino_whole", "clip_i_whole", "dino_scene", "dino_scene")


def columns() -> tuple[Column, ...]:
    """What `overall` adds."""
    return tuple(
        Column(name, "up", "of the scores beside it", f"geometric mean per composite of {', '.join(terms)}", "whole")
        for name, terms in (("overall", TERMS), ("overall_released", RELEASED))
    )


def overall(scores: dict[str, float]) -> dict[str, float]:
    """Both overall scores of one composite; nothing where a term is missing."""
    if not set(TERMS) <= scores.keys():
        return {}
    return {
        name: math.prod(scores[term] if scores[term] > 0 else 0.001 for term in terms) ** 0.25
        for name, terms in (("overall", TERMS), ("overall_released", RELEASED))
    }
