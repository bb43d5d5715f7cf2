"""Ingest: files as found to upright, sRGB, 8-bit pictures without metadata, or to a fault.

Runs in workers with tight limits, because the bytes come from anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataforge.config import Ingest
from dataforge.deadline import item_deadline
from dataforge.ingest.names import unescape_name
from dataforge.ingest.policy import normalise_mask, normalise_photograph, read_file
from dataforge.store import Made
from manifests.errors import Fault
from manifests.ids import sha256_hex
from manifests.pixels import box_from_mask, decode_mask

__all__ = ["IngestMasks", "IngestPhotographs"]


def _read(root: Path, value: dict[str, Any], settings: Ingest) -> bytes | Fault:
    """The bytes of the very file that was found: the same size and time as when the folder was listed."""
    relative = unescape_name(value["path"])
    data = read_file(root, relative, settings.limits)
    if isinstance(data, bytes):
        status = (root / relative).lstat()
        if (status.st_size, status.st_mtime_ns) != (value["size"], value["mtime_ns"]):
            return Fault("E104", "size or time differ from when the folder was listed")
    return data


class IngestPhotographs:
    """Photographs and scenes."""

    name = "ingest"

    def __init__(self, settings: Ingest, root: Path) -> None:
        self._settings = settings
        self._root = root

    def run(self, inputs: Sequence[dict[str, Any]]) -> list[Made | Fault]:
        """Input: path, size, mtime_ns. Value: sha256, format, width, height, notes, perceptual_hash; blob `image`."""
        return [self._one(value) for value in inputs]

    def _one(self, value: dict[str, Any]) -> Made | Fault:
        data = _read(self._root, value, self._settings)
        if isinstance(data, Fault):
            return data
        with item_deadline(self._settings.limits.decode_cpu_s):
            photograph = normalise_photograph(data, self._settings)
        if isinstance(photograph, Fault):
            return photograph
        facts = {
            "sha256": photograph.sha256,
            "format": photograph.format,
            "width": photograph.width,
            "height": photograph.height,
            "notes": list(photograph.notes),
            "perceptual_hash": f"{photograph.perceptual_hash:016x}",
        }
        return Made(facts, {"image": photograph.data})


class IngestMasks:
    """Masks that a person gave."""

    name = "ingest-mask"

    def __init__(self, settings: Ingest, root: Path) -> None:
        self._settings = settings
        self._root = root

    def run(self, inputs: Sequence[dict[str, Any]]) -> list[Made | Fault]:
        """Input: path, size, mtime_ns, width, height (of the upright photograph).

        Value: sha256, area, box; blob `mask`.
        """
        return [self._one(value) for value in inputs]

    def _one(self, value: dict[str, Any]) -> Made | Fault:
        data = _read(self._root, value, self._settings)
        if isinstance(data, Fault):
            return data
        with item_deadline(self._settings.limits.decode_cpu_s):
            mask = normalise_mask(data, width=value["width"], height=value["height"], limits=self._settings.limits)
        if isinstance(mask, Fault):
            return mask
        pixels = decode_mask(mask)
        return Made(
            {"sha256": sha256_hex(data), "area": float(pixels.mean()), "box": list(box_from_mask(pixels))},
            {"mask": mask},
        )
