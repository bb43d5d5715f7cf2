"""File names as data: escaped so that any name a disk can hold fits in UTF-8 text, and back."""

from __future__ import annotations

import os
import unicodedata
from urllib.parse import unquote_to_bytes

__all__ = ["escape_name", "unescape_name"]


def escape_name(raw: str) -> str:
    """The name with `%`, control and format characters and invalid bytes percent-escaped; else unchanged.

    The result is valid UTF-8 and shows in a terminal or page without side effects.
    """
    return "".join(
        "".join(f"%{byte:02X}" for byte in os.fsencode(character))
        if character == "%" or unicodedata.category(character)[0] == "C"
        else character
        for character in raw
    )


def unescape_name(escaped: str) -> str:
    """The name as the operating system knows it."""
    return os.fsdecode(unquote_to_bytes(escaped))
