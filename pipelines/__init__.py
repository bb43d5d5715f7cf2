"""Diffusion over a corpus: frozen bases, painting a subject into a scene, and evaluation. Knows `manifests` only."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.painter import Painter, load

__all__ = ["Painter", "load"]


def __getattr__(name: str) -> object:
    # loaded on first use, so that the command line does not wait for torch
    if name not in __all__:
        raise AttributeError(f"module 'pipelines' has no attribute {name!r}")
    from pipelines import painter

    return getattr(painter, name)
