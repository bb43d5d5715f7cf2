"""References: `PLACE[@revision][#ID[,ID...]]`, the one way data is named on the command line and in Python."""

from __future__ import annotations

from dataclasses import dataclass

from manifests.errors import UsageError
from manifests.ids import is_id

__all__ = ["Reference", "parse_reference"]


@dataclass(frozen=True, slots=True)
class Reference:
    """A place, optionally a revision of it, and the IDs asked for; no IDs means everything."""

    place: str
    revision: str | None
    ids: tuple[str, ...]

    @property
    def is_remote(self) -> bool:
        """Whether the place is a URL such as `hf://` or `s3://`."""
        return "://" in self.place

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        ids = "#" + ",".join(self.ids) if self.ids else ""
        return f"{self.place}{revision}{ids}"


def parse_reference(text: str) -> Reference:
    """Parse a reference. A folder may hold `@` and `#` in its name: `#` counts only before IDs, `@` only in URLs.

    Raises `UsageError` E501 for an empty place, or for IDs after `#` that break the grammar of a URL reference.
    """
    place, mark, tail = text.rpartition("#")
    ids: tuple[str, ...] = ()
    if mark and tail and all(is_id(part) for part in tail.split(",")):
        ids = tuple(tail.split(","))
    elif mark and ("://" in text or "," in tail):
        raise UsageError(f"{tail!r} after # is no list of IDs.")
    else:
        place = text
    revision = None
    if "://" in place:
        place, _, after = place.partition("@")
        revision = after or None
    if not place:
        raise UsageError(f"{text!r} names no place.")
    return Reference(place, revision, ids)
