"""Build a corpus: photographs of many things in; masks, words, regular pictures and shards out."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataforge.building import BuildResult, build
    from dataforge.config import Recipe, load_recipe

__all__ = ["BuildResult", "Recipe", "__version__", "build", "load_recipe"]
__version__ = "0.1.0"

_HOME = {
    "BuildResult": "dataforge.building",
    "build": "dataforge.building",
    "Recipe": "dataforge.config",
    "load_recipe": "dataforge.config",
}


def __getattr__(name: str) -> object:
    # loaded on first use, so that `dataforge --help` does not wait for pyarrow
    if name not in _HOME:
        raise AttributeError(f"module 'dataforge' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
