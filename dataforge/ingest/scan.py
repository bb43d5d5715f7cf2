"""Find files: every entry below what was given, with a verdict for those that cannot be photographs."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from dataforge.ingest.names import escape_name
from manifests.errors import EnvironmentFault, NotFoundError

__all__ = ["FoundFile", "ignored_rule", "match_glob", "scan"]

# a closed list: what file managers, notebooks and version control leave behind
IGNORED_FOLDERS = {"__MACOSX": "macos-archive", ".ipynb_checkpoints": "notebook-checkpoint"}
IGNORED_NAMES = {"Thumbs.db": "file-manager", "desktop.ini": "file-manager", ".DS_Store": "file-manager"}
# endings that are no picture; anything else is opened and judged by its content
OTHER_ENDINGS = frozenset(
    [
        ".avi",
        ".bib",
        ".csv",
        ".doc",
        ".docx",
        ".gz",
        ".htm",
        ".html",
        ".ini",
        ".ipynb",
        ".json",
        ".jsonl",
        ".log",
        ".md",
        ".mov",
        ".mp3",
        ".mp4",
        ".npy",
        ".npz",
        ".pdf",
        ".py",
        ".rst",
        ".sh",
        ".tar",
        ".toml",
        ".txt",
        ".wav",
        ".xml",
        ".yaml",
        ".yml",
        ".zip",
    ]
)


@dataclass(frozen=True, slots=True)
class FoundFile:
    """An entry as found: `path` relative to what was given, escaped; `regular` is False for links, pipes, devices."""

    path: str
    size: int
    mtime_ns: int
    regular: bool

    @property
    def stem(self) -> str:
        """File name without its last ending."""
        return PurePosixPath(self.path).stem

    @property
    def name(self) -> str:
        """File name."""
        return PurePosixPath(self.path).name

    @property
    def folder(self) -> str:
        """Folder part of the path, `` for the top."""
        parent = PurePosixPath(self.path).parent.as_posix()
        return "" if parent == "." else parent


def scan(root: Path, below: str = "") -> list[FoundFile]:
    """Every file below a folder, sorted by path; links are listed and never followed.

    Raises `NotFoundError` E503 where the folder is not there, `EnvironmentFault` where it cannot be listed.
    """
    found: list[FoundFile] = []
    pending = [root / below if below else root]
    prefix = len(os.fspath(root)) + 1
    while pending:
        folder = pending.pop()
        try:
            entries = list(os.scandir(folder))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFoundError(f"{folder} is no folder.") from error
        except OSError as error:
            raise EnvironmentFault(f"{folder} cannot be listed: {error.strerror}.", code="E512") from error
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                pending.append(Path(entry.path))
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # gone since the folder was listed
                continue
            path = escape_name(entry.path[prefix:])
            found.append(FoundFile(path, status.st_size, status.st_mtime_ns, stat.S_ISREG(status.st_mode)))
    return sorted(found, key=lambda file: file.path)


def ignored_rule(file: FoundFile) -> str | None:
    """The rule of the closed list by which a file is no photograph, or None."""
    path = PurePosixPath(file.path)
    for folder in path.parts[:-1]:
        if folder in IGNORED_FOLDERS:
            return IGNORED_FOLDERS[folder]
        if folder.startswith("."):
            return "hidden-folder"
    if path.name in IGNORED_NAMES:
        return IGNORED_NAMES[path.name]
    if path.name.startswith("._"):
        return "apple-double"
    if path.name.startswith("."):
        return "hidden"
    if path.suffix.lower() in OTHER_ENDINGS:
        return f"not-a-picture {path.suffix.lower()}"
    return None


def match_glob(pattern: str, path: str) -> bool:
    """Whether a path matches a glob: `*`, `?` and `[...]` within one part, `**` for any number of folders."""
    return _match(pattern.split("/"), path.split("/"))


def _match(pattern: list[str], parts: list[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_match(pattern[1:], parts[skip:]) for skip in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _match(pattern[1:], parts[1:])
