"""Fine-tune an inpainting base on subjects of a corpus, by ID: four recipes over one loop."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer.planning import plan
    from trainer.recipe import Draw, Recipe, Step
    from trainer.recipes import load_recipe
    from trainer.settings import Settings
    from trainer.training import Trained, train

__all__ = ["Draw", "Recipe", "Settings", "Step", "Trained", "load_recipe", "plan", "train"]

_HOME = {
    "Draw": "trainer.recipe",
    "Recipe": "trainer.recipe",
    "Settings": "trainer.settings",
    "Step": "trainer.recipe",
    "Trained": "trainer.training",
    "load_recipe": "trainer.recipes",
    "plan": "trainer.planning",
    "train": "trainer.training",
}


def __getattr__(name: str) -> object:
    # loaded on first use: the command line asks for this package without wanting torch
    if name not in _HOME:
        raise AttributeError(f"module 'trainer' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
