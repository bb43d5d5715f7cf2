"""The shards of a corpus in a folder, read by position."""

from __future__ import annotations

import os
from pathlib import Path

from manifests.errors import IntegrityError
from manifests.fsops import open_below
from manifests.header import Header, read_header

__all__ = ["LocalShards"]


class LocalShards:
    """Bytes of the shards that a header names. Threads and forked processes can share it: no position is kept."""

    def __init__(self, root: Path, header: Header, digest: str) -> None:
        self._root = root
        self._digest = digest
        self._sizes = {entry.path: entry.size for entry in header.shards}
        self._descriptors: dict[str, int] = {}

    def read(self, shard: str, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`; fewer where the file ends before.

        Raises `IntegrityError` E303 for a shard that corpus.json does not name, E401 for a place outside it, E403 where
        it cannot be opened, E406 where the corpus was built anew.
        """
        descriptor = self._descriptors.get(shard)
        if descriptor is None:
            descriptor = self._open(shard)
        # asked before reading: memory is taken for what is there, not for what a foreign manifest claims
        if not 0 <= offset <= offset + length <= self._sizes[shard]:
            raise IntegrityError(f"{shard} at byte {offset}: the bytes are not those the manifest names.", code="E401")
        return os.pread(descriptor, length, offset)

    def _open(self, shard: str) -> int:
        if shard not in self._sizes:
            raise IntegrityError(f"{shard} is not named by corpus.json.", code="E303")
        try:
            descriptor = open_below(self._root, shard)
        except OSError as error:
            rebuilt = read_header(self._root).digest != self._digest
            raise IntegrityError(f"{shard} cannot be opened.", code="E406" if rebuilt else "E403") from error
        kept = self._descriptors.setdefault(shard, descriptor)
        if kept != descriptor:  # another thread was faster
            os.close(descriptor)
        return kept

    def close(self) -> None:
        """Close the files."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])
