"""`train`: from a corpus and a base to adapters.

output/
  <subject>/     adapter.json, weights, README.md: an adapter folder, ready to paint with or to publish
  .work/         bank/ (what was computed once), runs/<group>/ (checkpoints, log.jsonl), lock
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests.fsops import output_lock
from trainer.bank import Progress
from trainer.job import WORK, Job, Trained

if TYPE_CHECKING:
    from trainer.recipe import Recipe

__all__ = ["Trained", "speaks_for_all", "train"]


def speaks_for_all() -> bool:
    """Whether this is the one process, of several under `accelerate launch`, that holds the lock and prints."""
    return os.environ.get("RANK", "0") == "0"


def train(
    corpus: str | Path,
    *,
    recipe: str | Recipe,
    base: str | Path,
    output: str | Path,
    references: int | None = None,
    settings: Mapping[str, Any] | None = None,
    bank: str | Path | None = None,
    on_progress: Progress = lambda *_: None,
) -> Trained:
    """Fine-tune `base` on subjects of a corpus; the same call again goes on where the last one stopped.

    `corpus` is PLACE[#ID,...]; `recipe` a name, `name:preset`, YAML file or `Recipe`; `settings` override its fields;
    `references` keeps the first photographs of each subject; `bank` is a folder shared with other runs. Under
    `accelerate launch` the batch is spread over processes. Raises `UsageError` (E502, E503, E601, E611, E614),
    `IntegrityError` (E613, E615), `EnvironmentFault` (E510, E616), `OutputLocked`.
    """
    output = Path(output)
    with (
        output_lock(output / WORK / "lock") if speaks_for_all() else contextlib.nullcontext(),
        Job.open(corpus, recipe, base, output, references, settings, bank) as job,
    ):
        return job.run(on_progress)
