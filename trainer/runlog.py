"""The loss of every optimizer step as JSON lines; cut back to the step a run goes on from, so no step stands twice."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from manifests.fsops import write_atomic

__all__ = ["RunLog", "read_log"]


class RunLog:
    """Appends one line a step: step, lr, and per subject loss, gradient norm and whether the step was skipped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    def write(
        self,
        step: int,
        lr: float,
        subjects: Sequence[str],
        losses: Sequence[float],
        norms: Sequence[float],
        skipped: Sequence[int],
    ) -> None:
        """Append a step. Numbers are written so that they read back to the same bits; NaN as `NaN`."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
        rows = {
            subject: {"loss": loss, "norm": norm} | ({"skipped": True} if index in skipped else {})
            for index, (subject, loss, norm) in enumerate(zip(subjects, losses, norms, strict=True))
        }
        self._file.write(json.dumps({"step": step, "lr": lr, "subjects": rows}) + "\n")
        self._file.flush()

    def cut(self, step: int) -> None:
        """Forget what comes after a step, and a last line that a kill has torn."""
        self.close()
        if self.path.exists():
            kept = [json.dumps(row) + "\n" for row in read_log(self.path) if row["step"] <= step]
            write_atomic(self.path, "".join(kept).encode())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """The steps of a log, up to a line that cannot be read."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                yield json.loads(line)
            except ValueError:
                return
