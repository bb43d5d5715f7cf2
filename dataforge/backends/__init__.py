"""One file per implementation of a role; the one a recipe names is imported, and nothing else."""

from __future__ import annotations

import importlib
from typing import Any

from dataforge.config import Section

__all__ = ["backend_class", "load"]

_FILES = {
    ("ground", "embedded"): ("dataforge.backends.embedded_grounder", "EmbeddedGrounder"),
    ("ground", "fake"): ("dataforge.backends.fake", "FakeGrounder"),
    ("segment", "fake"): ("dataforge.backends.fake", "FakeSegmenter"),
    ("describe", "fake"): ("dataforge.backends.fake", "FakeDescriber"),
    ("generate", "fake"): ("dataforge.backends.fake", "FakeGenerator"),
    ("segment", "embedded"): ("dataforge.backends.embedded_segmenter", "EmbeddedSegmenter"),
    ("describe", "embedded"): ("dataforge.backends.embedded_describer", "EmbeddedDescriber"),
    ("generate", "embedded"): ("dataforge.backends.embedded_generator", "EmbeddedGenerator"),
}


def backend_class(role: str, kind: str) -> Any:
    """The class of a backend, to ask what holds before any model is loaded: `scope`, `own_pixels`."""
    module, name = _FILES[role, kind]
    return getattr(importlib.import_module(module), name)


def load(role: str, settings: Section, *, leave_out: frozenset[str] = frozenset()) -> Any:
    """The backend of a role, built from its section of the recipe: `kind` picks the file, the rest are arguments.

    `leave_out` names settings that are the stage's and not the backend's.
    """
    options = settings.model_dump(exclude={"kind", *leave_out})
    return backend_class(role, settings.model_dump()["kind"])(**options)
