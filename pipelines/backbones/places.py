"""Where a base lies, where it runs, and the digest of its weights."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import torch

from manifests.errors import EnvironmentFault, NotFoundError, UsageError

__all__ = [
    "commit_of", "folder_of", "public_name", "remember", "remembered", "split_revision", "weights_digest",
    "where_to_run",
]  # fmt: skip

_HUB_NAME = re.compile(r"(hf://)?([\w.-]+/[\w.-]+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")
FOOOCUS_MARK = "+fooocus="
# beside the adapters of a training output, and no part of any of them
MEMORY = Path(".work", "places.json")
# what is needed to run, never pickles
_PATTERNS = ("*.json", "*.txt", "*/*.safetensors", "*.pth", "*.patch")


def folder_of(place: str, revision: str | None) -> Path:
    """The local folder of a base: the folder itself, or its snapshot from the Hub. Raises E503 and E505."""
    if Path(place).is_dir():
        return Path(place)
    name = _HUB_NAME.fullmatch(place)
    if not name:
        raise NotFoundError(f"no model folder {place!r}; a folder or hf://user/name was expected.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name[2], revision=revision, allow_patterns=list(_PATTERNS)))
    except RepositoryNotFoundError as error:
        raise NotFoundError(f"no model {name[2]!r} on the Hub, or no right to read it.") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        command = f"hf download {name[2]}" + (f" --revision {revision}" if revision else "")
        raise EnvironmentFault(f"{name[2]} cannot be fetched: `{command}`.", code="E505") from error


def split_revision(place: str) -> tuple[str, str | None]:
    """`hf://user/name@revision` in its two parts; a folder may hold `@` in its name."""
    name, _, revision = place.partition("@")
    return (name, revision or None) if _HUB_NAME.fullmatch(name) and not Path(place).is_dir() else (place, None)


def commit_of(folder: Path) -> str | None:
    """The commit of a snapshot in the Hub's cache; None for any other folder."""
    return folder.name if folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name) else None


def public_name(place: str) -> str:
    """A place as others may read it: a name on the Hub as it is, of a folder its own name only."""
    return FOOOCUS_MARK.join(_public_name(part) for part in place.split(FOOOCUS_MARK))


def _public_name(place: str) -> str:
    name, _ = split_revision(place)
    return place if _HUB_NAME.fullmatch(name) and not Path(place).exists() else Path(place).resolve().name


def remember(output: Path, places: dict[str, str]) -> None:
    """Note in a training output where bases and corpora of those digests lie on this machine."""
    from manifests.fsops import write_atomic

    found = _memory(output) | places
    write_atomic(output / MEMORY, json.dumps(found, indent=1).encode())


def remembered(adapter: Path, digest: str) -> str | None:
    """Where the base or corpus of that digest lay when the adapter was trained; None where nobody noted it."""
    return _memory(adapter.parent).get(digest)


def _memory(output: Path) -> dict[str, str]:
    try:
        return dict(json.loads((output / MEMORY).read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}


def where_to_run(device: str, dtype: torch.dtype | None) -> tuple[torch.device, torch.dtype]:
    """The device (`auto`: a CUDA GPU if there is one) and the dtype. Raises E501 for a device that is not there."""
    chosen = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if chosen.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"device {device!r}: no CUDA GPU is visible; `auto` or `cpu` was expected.")
    if dtype is None and chosen != "cpu":
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.device(chosen), dtype or torch.float32


def weights_digest(folder: Path, parts: tuple[str, ...]) -> str:
    """sha256 over the names and contents of the weight and config files in those parts of a base.

    A file in the Hub's cache is a link to a blob that is named by its sha256, which is taken as it stands.
    """
    total = hashlib.sha256()
    for part in parts:
        place = folder / part
        files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
        for path in files:
            if path.suffix in (".safetensors", ".json", ".txt", ".pth", ".patch"):
                total.update(f"{part}/{path.name} {_file_sha256(path)}\n".encode())
    return total.hexdigest()


def _file_sha256(path: Path) -> str:
    blob = path.resolve()
    if blob.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", blob.name):
        return blob.name
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
