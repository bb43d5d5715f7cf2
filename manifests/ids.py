"""IDs, slugs and digests: the names everything in a corpus goes by (docs/manifest-format.md, "IDs")."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from typing import Any

from manifests.errors import CorpusError

__all__ = [
    "SCENES",
    "canonical_json",
    "check_id",
    "digest_of",
    "is_id",
    "is_sample_id",
    "sample_id",
    "sha256_hex",
    "slug",
]

_SEGMENT = r"[a-z0-9][a-z0-9_-]{0,63}"
_SAMPLE = re.compile(rf"{_SEGMENT}/(src|reg|bg)-[0-9a-f]{{12}}")
_ANY = re.compile(rf"{_SEGMENT}(/{_SEGMENT})?")
SCENES = "scenes"


def slug(name: str, *, max_length: int = 40) -> str:
    """The slug of a folder name: NFKD to ASCII lowercase, everything else to `-`, at most 40 characters.

    A name of which nothing is left (one in another script) becomes `s-<8 hex digits of its sha256>`; so that no
    subject takes a name the format keeps for itself, `scenes` and `class-...` become `s-scenes` and `s-class-...`.
    """
    ascii_text = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    text = re.sub(r"[^a-z0-9_]+", "-", ascii_text).strip("-_")[:max_length].rstrip("-_")
    if not text:
        return f"s-{sha256_hex(name.encode('utf-8', 'surrogateescape'))[:8]}"
    return f"s-{text}"[:max_length] if text == SCENES or text.startswith("class-") else text


def sample_id(owner: str, role: str, digest: str) -> str:
    """`<owner>/<role>-<first 12 hex digits>`; checked against the grammar."""
    return check_id(f"{owner}/{role}-{digest[:12]}")


def is_sample_id(text: str) -> bool:
    """Whether the text is the ID of a sample."""
    return _SAMPLE.fullmatch(text) is not None


def is_id(text: str) -> bool:
    """Whether the text can be the ID of a sample or of a subject."""
    return _ANY.fullmatch(text) is not None


def check_id(text: str) -> str:
    """The text itself if it is a sample ID; raises `CorpusError` E301 otherwise."""
    if not is_sample_id(text):
        raise CorpusError(f"{text!r} is not `<subject>/(src|reg|bg)-<12 hex digits>`.", code="E301")
    return text


def sha256_hex(data: bytes | memoryview) -> str:
    """Lower-case hex sha256 of the bytes."""
    return hashlib.sha256(data).hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text. NaN and infinity raise ValueError."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_of(value: Any) -> str:
    """sha256 of `canonical_json(value)`: the digest of settings, keys and plans."""
    return sha256_hex(canonical_json(value).encode())
