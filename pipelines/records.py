"""What an adapter folder says of itself (`adapter.json`): what was trained, on which base, from which samples.

folder/
  adapter.json                          the record below, written last; `files` names the rest by sha256
  pytorch_lora_weights.safetensors      a LoRA as diffusers' `load_lora_weights` reads it, or
  unet/                                 a whole UNet as diffusers' `from_pretrained` reads it
  reference.safetensors                 what DreamInpainter learns beside the UNet
  README.md                             the model card
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from manifests.errors import NotFoundError, UsageError
from manifests.ids import digest_of

__all__ = ["AdapterFile", "AdapterRecord", "Base", "Word", "adapter_id", "read_record", "write_record"]

RECORD_NAME = "adapter.json"
SCHEMA_VERSION = 1
Kind = Literal["lora", "full"]


@dataclass(frozen=True, slots=True)
class Base:
    """Which base: where it came from, what it is, and the sha256 of its weights."""

    model: str
    revision: str | None
    family: str
    channels: int
    digest: str


@dataclass(frozen=True, slots=True)
class Word:
    """A word of the subject's dictionary: category and word."""

    category: str
    word: str


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """A file of the adapter folder, by content."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterRecord:
    """Everything that made an adapter, and what painting with it needs to know."""

    id: str  # <subject>/lora-<12 hex digits>, see `adapter_id`
    subject: str  # slug
    class_noun: str
    identifier: str  # the word that stands for the subject, `sks`
    source_words: tuple[Word, ...]  # what the subject has: what an edit of that category removes
    kind: Kind  # lora (DoRA included) or full: a whole UNet
    recipe: str
    settings: dict[str, Any]  # resolved
    base: Base
    corpus: str  # reference
    corpus_digest: str
    sample_ids: tuple[str, ...]  # seen in training
    seed: int
    steps: int
    losses: tuple[float, ...]  # means over equal stretches of the run, first to last
    versions: dict[str, str]  # of libraries
    inference: dict[str, Any] = field(
        default_factory=dict
    )  # see `pipelines.painter.Painting`: what this recipe paints with
    files: tuple[AdapterFile, ...] = ()
    schema_version: int = SCHEMA_VERSION

    @property
    def digest(self) -> str:
        """sha256 of the record, files included: which very weights these are."""
        return digest_of(dataclasses.asdict(self))


def adapter_id(
    subject: str, *, recipe: str, settings: dict[str, Any], base: Base, corpus_digest: str, samples: tuple[str, ...],
    seed: int,
) -> str:  # fmt: skip
    """`<subject>/lora-<12 hex>`: the same recipe, base, data and seed give the same ID."""
    made_by = [recipe, settings, base.digest, base.revision, corpus_digest, sorted(samples), seed]
    return f"{subject}/lora-{digest_of(made_by)[:12]}"


@cache
def _adapter() -> Any:
    from pydantic import ConfigDict, TypeAdapter, with_config

    return TypeAdapter(with_config(ConfigDict(extra="forbid"))(AdapterRecord))


def write_record(folder: Path, record: AdapterRecord) -> AdapterRecord:
    """Name every file in the folder by content and write `adapter.json`, whole, last; the record as written."""
    from manifests.fsops import sha256_of_file, write_atomic

    paths = sorted(
        path for path in folder.rglob("*")
        if path.is_file() and path.name != RECORD_NAME and not any(part.startswith(".") for part in path.parts[-2:])
    )  # fmt: skip
    files = tuple(AdapterFile(path.relative_to(folder).as_posix(), *sha256_of_file(path)) for path in paths)
    record = dataclasses.replace(record, files=files)
    text = json.dumps(dataclasses.asdict(record), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(folder / RECORD_NAME, f"{text}\n".encode())
    return record


def read_record(folder: Path, *, full: bool = False) -> AdapterRecord:
    """The record of an adapter folder, its files checked by size, or with `full` by sha256.

    Raises `NotFoundError` E503 where there is none, `UsageError` E603 where it cannot be read or files differ.
    """
    from pydantic import ValidationError

    from manifests.fsops import sha256_of_file

    path = folder / RECORD_NAME
    if not path.is_file():
        raise NotFoundError(f"{folder} holds no {RECORD_NAME}, so it is no adapter.")
    try:
        value = json.loads(path.read_bytes())
        version = value.get("schema_version") if isinstance(value, dict) else None
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise UsageError(f"{path}: schema version {version}, {SCHEMA_VERSION} is known.", code="E405")
        record: AdapterRecord = _adapter().validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}.", code="E603") from error
    except ValueError as error:
        raise UsageError(f"{path}: not JSON ({error}).", code="E603") from error
    for file in record.files:
        parts = PurePosixPath(file.path)
        if parts.is_absolute() or ".." in parts.parts:
            raise UsageError(f"{path} names {file.path}, which is outside its folder.", code="E307")
        place = folder / parts
        if (
            not place.is_file()
            or place.stat().st_size != file.size
            or (full and sha256_of_file(place)[1] != file.sha256)
        ):
            raise UsageError(f"{place} is missing or not the file that {RECORD_NAME} names.", code="E603")
    return record
