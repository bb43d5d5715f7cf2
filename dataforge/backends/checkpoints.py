"""Weights on this machine: where they lie, what kind of model they are, and a name for their content.

Nothing here loads a model or reaches for the network, so that a build can ask before any work. Folders in the layout
of transformers and diffusers hold JSON and safetensors; `.pth` files are zip archives whose names are read without
unpickling anything.
"""

from __future__ import annotations

import json
import pickletools
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from dataforge.model_config import public_name
from manifests.errors import UsageError

__all__ = ["Needs", "Package", "Weights", "identity", "locate", "parameter_names", "read_pth", "require", "size_gb"]

# a file's digest samples this many pieces of this size: a folder of weights is named in a moment, not hashed in minutes
_PIECES, _PIECE = 16, 64 << 10
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# every layout has one of these in its first folder
_INDICES = ("model_index.json", "config.json", "tokenizer_config.json")
_LEGACY_PTH = bytes.fromhex("80028a0a6cfc9c46f920")
# where people get the formats that exist only as .pth
PTH_HOMES = {
    "sam_vit_b_01ec64.pth": "https://dl.fbaipublicfiles.com/segment_anything",
    "sam_vit_l_0b3195.pth": "https://dl.fbaipublicfiles.com/segment_anything",
    "sam_vit_h_4b8939.pth": "https://dl.fbaipublicfiles.com/segment_anything",
    "groundingdino_swint_ogc.pth": "https://github.com/IDEA-Research/GroundingDINO/releases/download/v0.1.0-alpha",
    "groundingdino_swinb_cogcoor.pth": "https://github.com/IDEA-Research/GroundingDINO/releases/download/v0.1.0-alpha2",
}


@dataclass(frozen=True, slots=True)
class Package:
    """A package a backend imports, and the command that installs it."""

    module: str
    command: str

    @property
    def here(self) -> bool:
        """Whether it can be imported; it is not."""
        return find_spec(self.module) is not None


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights a backend loads. `kinds` are the accepted `model_type`s of a config, or pipeline classes; none is any."""

    model: str
    revision: str | None
    layout: Literal["transformers", "diffusers", "tokenizer", "pth"]
    kinds: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()  # parameter names that a .pth file of this kind has
    variant: str | None = None

    @property
    def command(self) -> str:
        """What a person types to get them."""
        name = Path(self.model).name
        if self.layout == "pth":
            home = PTH_HOMES.get(name)
            return (
                f"`curl -L -o {name} {home}/{name}`, then name the file" if home else "name a .pth file that is there"
            )
        if not _HUB_ID.fullmatch(self.model):
            return "name a folder that is there, or a model of the Hub"
        at = f"@{self.revision}" if self.revision else ""
        variant = f"+{self.variant}" if self.variant else ""
        return f"`dataforge doctor --fetch {self.layout}:{self.model}{at}{variant}`"


@dataclass(frozen=True, slots=True)
class Needs:
    """All that a backend needs before it can be built. `memory_gb` is about what it takes on its device."""

    packages: tuple[Package, ...] = ()
    weights: tuple[Weights, ...] = ()
    device: str = "cpu"
    memory_gb: float | None = None


def require(needs: Needs, who: str) -> None:
    """Raise `UsageError` with the exact command for the first thing missing: E505, or E508 for a wrong model."""
    for package in needs.packages:
        if not package.here:
            raise UsageError(f"{who} needs the package {package.module}: {package.command}.", code="E505")
    for weights in needs.weights:
        check(weights, who)


def check(weights: Weights, who: str) -> Path:
    """Where the weights lie, after a look at what kind they are. Raises as `require`."""
    path = locate(weights.model, weights.revision)
    name = public_name(weights.model)
    if path is None:
        raise UsageError(f"{who}: the weights of {name} are not on this machine: {weights.command}.", code="E505")
    if weights.layout == "pth":
        _check_pth(path, weights, who)
        return path
    if path.is_file():
        raise UsageError(f"{who}: {name} is a file; a folder in the layout of {weights.layout} is loaded.", code="E508")
    index = "model_index.json" if weights.layout == "diffusers" else "config.json"
    if weights.layout == "tokenizer" and not (path / index).is_file():
        index = "tokenizer_config.json"
    facts = _json(path / index)
    if facts is None:
        raise UsageError(f"{who}: {name} has no readable {index}: {weights.command}.", code="E505")
    found = str(facts.get("_class_name" if weights.layout == "diffusers" else "model_type", "nothing known"))
    if weights.kinds and found not in weights.kinds:
        fitting = ", ".join(weights.kinds)
        raise UsageError(f"{who}: {name} is of the kind {found}; {fitting} can be loaded.", code="E508")
    folders = [path]
    if weights.layout == "diffusers":
        folders = [path / part for part, kind in facts.items() if isinstance(kind, list) and kind[:1] != [None]]
        folders = [f for f in folders if "_" not in f.name or not f.name.startswith(("feature_", "image_encoder"))]
        folders = [f for f in folders if not f.name.startswith(("tokenizer", "scheduler"))]
    for folder in folders if weights.layout != "tokenizer" else []:
        missing = _missing_safetensors(folder)
        if missing:
            place = missing if folder is path else f"{folder.name}/{missing}"
            raise UsageError(f"{who}: {name} has no {place}: {weights.command}.", code="E505")
    return path


def locate(model: str, revision: str | None) -> Path | None:
    """The folder or file of a model: as given where it exists, else in the Hub's local cache; None where it is not."""
    path = Path(model).expanduser()
    if path.exists():
        return path.resolve()
    if not _HUB_ID.fullmatch(model):
        return None
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    # by a file of it: to snapshot_download a folder without the formats that nobody asked for is not there
    found = (try_to_load_from_cache(model, name, revision=revision) for name in _INDICES)
    return next((Path(place).parent for place in found if isinstance(place, str)), None)


def identity(model: str, revision: str | None) -> str:
    """`name@revision`: the commit of a model of the Hub; of a folder or file a digest of samples of its bytes."""
    path = locate(model, revision)
    if path is None:
        return public_name(model)
    if path.parent.name == "snapshots":
        return f"{model}@{path.name[:12]}"
    digest = sha256()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        digest.update(f"{'' if file == path else file.relative_to(path).as_posix()}\0{file.stat().st_size}\0".encode())
        digest.update(_samples(file))
    return f"{path.name}@sha256:{digest.hexdigest()[:12]}"


def read_pth(path: Path, who: str) -> dict[str, Any]:
    """A `.pth` file's tensors by name, read with `weights_only=True`. Raises `UsageError` E508 for anything else."""
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file fails in many ways, and none of them is a bug of ours
        raise UsageError(f"{who}: {path.name} is no checkpoint of weights alone.", code="E508") from error
    if not isinstance(state, dict):
        raise UsageError(f"{who}: {path.name} holds no weights by name.", code="E508")
    return state


def size_gb(path: Path) -> float:
    """What a model takes on disk."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e9


def parameter_names(path: Path) -> frozenset[str]:
    """The names in a `.pth` archive, read from its pickle's text without running it; empty for the old format."""
    if not zipfile.is_zipfile(path):
        return frozenset()
    with zipfile.ZipFile(path) as archive:
        place = next((name for name in archive.namelist() if name.endswith("data.pkl")), None)
        if place is None or archive.getinfo(place).file_size > 64 << 20:
            return frozenset()
        return frozenset(value for _, value, _ in pickletools.genops(archive.read(place)) if isinstance(value, str))


def _check_pth(path: Path, weights: Weights, who: str) -> None:
    if not path.is_file():
        raise UsageError(f"{who}: {path.name} is a folder; a .pth file is loaded.", code="E508")
    with path.open("rb") as file:
        start = file.read(10)
    if not zipfile.is_zipfile(path) and start != _LEGACY_PTH:
        raise UsageError(f"{who}: {path.name} is no whole checkpoint: {weights.command}.", code="E508")
    names = parameter_names(path)
    lacking = [name for name in weights.holds if not any(found.endswith(name) for found in names)]
    if names and lacking:
        raise UsageError(f"{who}: {path.name} is of another kind, it has no {lacking[0]}.", code="E508")


def _missing_safetensors(folder: Path) -> str:
    """The first file of weights that is not there; empty where all are."""
    for index in folder.glob("*.safetensors.index.json"):
        shards: Iterable[str] = sorted(set((_json(index) or {}).get("weight_map", {}).values()))
        return next((name for name in shards if not (folder / name).is_file()), "")
    return "" if any(folder.glob("*.safetensors")) else "*.safetensors"


def _json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _samples(path: Path) -> bytes:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _PIECES * _PIECE:
            return file.read()
        pieces = []
        for number in range(_PIECES):
            file.seek((size - _PIECE) * number // (_PIECES - 1))
            pieces.append(file.read(_PIECE))
        return b"".join(pieces)
