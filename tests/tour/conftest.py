"""What both verbs' tests ask: the verb run as a user runs it, the page's links, and what a second run touched."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def dataforge(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run a verb in a folder."""
    arguments = [sys.executable, "-m", "dataforge", *command.split()]
    return subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=600)


def links_of(page: Path) -> list[str]:
    """What a page shows and leads to; each is found to be there."""
    linked = re.findall(r'(?:src|href)="([^"#]+)"', page.read_text("utf-8"))
    assert [path for path in linked if not (page.parent / path).exists()] == []
    return linked


def times_of(root: Path) -> dict[Path, int]:
    """When each picture, adapter and shard was written."""
    made = [path for path in root.rglob("*") if path.suffix in (".png", ".safetensors", ".tar")]
    return {path: path.stat().st_mtime_ns for path in made}
