"""The stages that compute: each takes a batch of JSON inputs and gives one result or fault for each, in order.

A stage knows no files but the blobs its inputs name, and no model but the backend it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from dataforge.store import Made
from manifests.errors import Fault

__all__ = ["Stage", "build_stage"]


class Stage(Protocol):
    """One step of a build over a batch of inputs."""

    name: str

    def run(self, inputs: Sequence[dict[str, Any]]) -> list[Made | Fault]:
        """One result or fault per input, in order."""
        ...


def build_stage(name: str, settings: dict[str, Any], work: Path, root: Path) -> Stage:
    """The stage of a name with its backend loaded; `settings` is its section of the recipe as JSON values."""
    from dataforge import backends, config
    from dataforge.stages.blobs import Blobs

    blobs = Blobs(work)
    match name:
        case "ingest":
            from dataforge.stages.ingest import IngestPhotographs

            return IngestPhotographs(config.Ingest.model_validate(settings), root)
        case "ingest-mask":
            from dataforge.stages.ingest import IngestMasks

            return IngestMasks(config.Ingest.model_validate(settings), root)
        case "ground":
            from dataforge.stages.ground import Ground

            section = config.Recipe.model_validate({"ground": settings}).ground
            return Ground(
                backends.load("ground", section, leave_out=frozenset({"min_score"})), blobs, min_score=section.min_score
            )
        case "segment":
            from dataforge.stages.segment import Segment

            return Segment(backends.load("segment", config.Recipe.model_validate({"segment": settings}).segment), blobs)
        case "describe":
            from dataforge.stages.describe import Describe

            return Describe(
                backends.load("describe", config.Recipe.model_validate({"describe": settings}).describe), blobs
            )
        case "compose":
            from dataforge.stages.compose import ComposePrompts

            return ComposePrompts(config.Compose.model_validate(settings))
        case "write":
            from dataforge.stages.write import WritePrompts

            return WritePrompts(
                backends.load("describe", config.Recipe.model_validate({"describe": settings}).describe)
            )
        case "recheck":
            from dataforge.stages.recheck import Recheck

            limits = frozenset({"min_agreement", "max_identity"})
            return Recheck(backends.load("recheck", config.ClipCheck.model_validate(settings), leave_out=limits), blobs)
        case "generate":
            from dataforge.stages.generate import Generate

            section_ = config.Generate.model_validate(settings).generator
            return Generate(backends.load("generate", section_), blobs)
    raise AssertionError(f"no stage {name!r}")
