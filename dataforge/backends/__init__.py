"""One file per implementation of a role; the one a recipe names is imported, and nothing else."""

from __future__ import annotations

import importlib
from typing import Any

from dataforge.backends.checkpoints import Needs, identity
from dataforge.section import Section

__all__ = ["KINDS", "backend_class", "load", "model_identity", "needs_of"]

_FILES = {
    ("ground", "embedded"): ("dataforge.backends.embedded_grounder", "EmbeddedGrounder"),
    ("ground", "fake"): ("dataforge.backends.fake", "FakeGrounder"),
    ("ground", "grounding-dino"): ("dataforge.backends.grounding_dino", "GroundingDino"),
    ("ground", "groundingdino-py"): ("dataforge.backends.groundingdino_py", "GroundingDinoPy"),
    ("ground", "sam3"): ("dataforge.backends.sam3", "Sam3Grounder"),
    ("segment", "embedded"): ("dataforge.backends.embedded_segmenter", "EmbeddedSegmenter"),
    ("segment", "fake"): ("dataforge.backends.fake", "FakeSegmenter"),
    ("segment", "sam"): ("dataforge.backends.sam", "Sam"),
    ("segment", "sam-hf"): ("dataforge.backends.sam_hf", "SamHf"),
    ("segment", "sam2"): ("dataforge.backends.sam_hf", "Sam2"),
    ("segment", "sam3"): ("dataforge.backends.sam3", "Sam3Segmenter"),
    ("describe", "embedded"): ("dataforge.backends.embedded_describer", "EmbeddedDescriber"),
    ("describe", "fake"): ("dataforge.backends.fake", "FakeDescriber"),
    ("describe", "vlm"): ("dataforge.backends.vlm", "Vlm"),
    ("describe", "vlm-server"): ("dataforge.backends.vlm_server", "VlmServer"),
    ("generate", "embedded"): ("dataforge.backends.embedded_generator", "EmbeddedGenerator"),
    ("generate", "fake"): ("dataforge.backends.fake", "FakeGenerator"),
    ("generate", "diffusers"): ("dataforge.backends.diffusers_generator", "Diffusers"),
    ("recheck", "clip"): ("dataforge.backends.clip_check", "ClipCheck"),
}
# role and kind of every implementation
KINDS = tuple(_FILES)


def backend_class(role: str, kind: str) -> Any:
    """The class of a backend, to ask what holds before any model is loaded: `scope`, `own_pixels`."""
    module, name = _FILES[role, kind]
    return getattr(importlib.import_module(module), name)


def load(role: str, settings: Section, *, leave_out: frozenset[str] = frozenset()) -> Any:
    """The backend of a role, built from its section of the recipe: `kind` picks the file, the rest are arguments.

    `leave_out` names settings that are the stage's and not the backend's.
    """
    options = settings.model_dump(exclude={"kind", "workers", *leave_out})
    return backend_class(role, settings.model_dump()["kind"])(**options)


def needs_of(role: str, settings: Section) -> Needs:
    """What has to be on this machine before the backend can be built; nothing for the embedded ones."""
    asked = getattr(backend_class(role, settings.model_dump()["kind"]), "needs", None)
    return Needs() if asked is None else asked(settings)


def model_identity(settings: Section) -> str:
    """What its weights are called, a part of its results' key; empty for a backend without weights of its own."""
    weights = [
        identity(getattr(settings, name), getattr(settings, "revision", None) if name == "model" else None)
        for name in ("model", "text_encoder")
        if hasattr(settings, "device") and hasattr(settings, name)
    ]
    return " ".join(weights)
