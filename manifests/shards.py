"""Shards: plain USTAR files whose bytes depend on nothing but their members (POSIX.1-1988, ustar interchange format).

Written here rather than with `tarfile` or `webdataset` because the manifest needs the offset of every member and
the same members must give the same bytes on any machine: mtime, uid and gid are 0, mode is 0644.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple, Protocol

from manifests.errors import CorpusError, IntegrityError
from manifests.fsops import write_atomic
from manifests.records import MemberRef

__all__ = [
    "Member",
    "MemberName",
    "ShardBytes",
    "ShardSample",
    "check_member",
    "check_member_name",
    "mapped",
    "read_member",
    "scan_members",
    "shard_digest",
    "write_shard",
]

BLOCK = 512
# a closed list: a member with any other ending is refused on both sides
ENDINGS = ("jpg", "webp", "png", "mask.png", "json")
_MEMBER = re.compile(
    r"([a-z0-9][a-z0-9_-]{0,63}/[a-z0-9][a-z0-9_-]{0,63})\.(" + "|".join(re.escape(e) for e in ENDINGS) + ")"
)


class MemberData(Protocol):
    """Bytes that are fetched when the shard is written, so that a shard is never in memory whole.

    Whoever fetches them checks them against their sha256: hashing all once more here would cost as much as writing.
    """

    def __call__(self) -> bytes: ...


class ShardBytes(Protocol):
    """Where the bytes of a corpus's shards come from: a folder, or a place far away. Safe to share between threads."""

    def read(self, shard: str, offset: int, length: int) -> bytes:
        """Bytes of a shard that corpus.json names; they may be fewer, and nobody has checked them."""
        ...

    def close(self) -> None:
        """Give back what is held open."""
        ...


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a sample: ending without the dot, size and digest known beforehand, bytes on demand."""

    ending: str
    length: int
    sha256: str
    data: MemberData


@dataclass(frozen=True, slots=True)
class ShardSample:
    """All files of one sample; the key is the sample's ID."""

    key: str
    members: Sequence[Member]


class MemberName(NamedTuple):
    """A member as found in a shard."""

    name: str
    offset: int
    length: int


def check_member_name(name: str) -> None:
    """Raises `CorpusError` E304 for a name outside the grammar, `<owner>/<name>.<ending>`."""
    if _MEMBER.fullmatch(name) is None:
        raise CorpusError(f"member {name!r}.", code="E304")


# what all headers share: mode, uid, gid | mtime | type, no link, magic, no owners, device numbers, no prefix
_BEFORE_LENGTH = b"0000644\0" + b"0000000\0" * 2
_AFTER_LENGTH = b"00000000000\0"
_TAIL = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2 + bytes(167)
# the checksum is taken with spaces in its own place
_SUM_OF_ALL = sum(_BEFORE_LENGTH) + sum(_AFTER_LENGTH) + sum(_TAIL) + 8 * ord(" ")


def _header(name: str, length: int) -> bytes:
    """The header of a member whose name was checked."""
    encoded = name.encode()
    if len(encoded) > 100:
        raise CorpusError(f"member name {name!r} is longer than 100 bytes.", code="E301")
    size = b"%011o\0" % length
    checksum = b"%06o\0 " % (_SUM_OF_ALL + sum(encoded) + sum(size))
    return b"".join((encoded.ljust(100, b"\0"), _BEFORE_LENGTH, size, _AFTER_LENGTH, checksum, _TAIL))


_PADDING = [bytes(count) for count in range(BLOCK)]


def shard_digest(samples: Iterable[ShardSample]) -> str:
    """sha256 over names, lengths and digests of the members in order.

    The shard's bytes follow from it, so a shard of that name need not be written or read again.
    """
    digest = hashlib.sha256()
    for sample in samples:
        for member in sample.members:
            digest.update(f"{sample.key}.{member.ending} {member.length} {member.sha256}\n".encode())
    return digest.hexdigest()


def shard_size(samples: Iterable[ShardSample]) -> int:
    """Size in bytes of the shard these samples make, known before it is written."""
    payload = sum(BLOCK + -(-member.length // BLOCK) * BLOCK for sample in samples for member in sample.members)
    return payload + 2 * BLOCK


def member_offsets(samples: Iterable[ShardSample]) -> dict[tuple[str, str], int]:
    """Offset of each member's data, by (key, ending)."""
    offsets: dict[tuple[str, str], int] = {}
    position = 0
    for sample in samples:
        for member in sample.members:
            if (sample.key, member.ending) in offsets:
                raise IntegrityError(f"{sample.key}.{member.ending} would stand twice in a shard.", code="E303")
            offsets[sample.key, member.ending] = position + BLOCK
            position += BLOCK + -(-member.length // BLOCK) * BLOCK
    return offsets


def write_shard(path: Path, samples: Sequence[ShardSample]) -> str:
    """Write one shard whole; returns its sha256.

    Raises `IntegrityError` E401 where a member is not as long as was promised.
    """
    digest = hashlib.sha256()

    def write(file: IO[bytes]) -> None:
        def put(data: bytes) -> None:
            digest.update(data)
            file.write(data)

        for sample in samples:
            parts: list[bytes] = []
            for member in sample.members:
                data = member.data()
                if len(data) != member.length:
                    raise IntegrityError(f"{sample.key}.{member.ending} changed before it was packed.", code="E401")
                name = f"{sample.key}.{member.ending}"
                check_member_name(name)
                parts += (
                    _header(name, member.length),
                    data,
                    _PADDING[-member.length % BLOCK],
                )
            put(b"".join(parts))  # one write a sample: small ones cost more than the copy
        put(bytes(2 * BLOCK))

    member_offsets(samples)
    write_atomic(path, write)
    return digest.hexdigest()


def read_member(descriptor: int, ref: MemberRef) -> bytes:
    """The bytes of one member by position (thread-safe), checked against their sha256.

    Raises `IntegrityError` E401 naming shard and offset.
    """
    # asked before reading: memory is taken for what is there, not for what a foreign manifest claims
    there = ref.offset >= 0 and 0 <= ref.length <= os.fstat(descriptor).st_size - ref.offset
    data = os.pread(descriptor, ref.length, ref.offset) if there else b""
    return check_member(data, ref)


def check_member(data: bytes, ref: MemberRef) -> bytes:
    """The bytes themselves, if they are those the reference names; `IntegrityError` E401 otherwise."""
    if len(data) != ref.length or hashlib.sha256(data).hexdigest() != ref.sha256:
        raise IntegrityError(
            f"{ref.shard} at byte {ref.offset}: the bytes are not those the manifest names.", code="E401"
        )
    return data


def mapped(file: IO[bytes]) -> memoryview:
    """A file's bytes without reading them: for going through all of it."""
    empty = os.fstat(file.fileno()).st_size == 0
    return memoryview(b"" if empty else mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))


def scan_members(data: memoryview) -> list[MemberName]:
    """Names and positions of all members of a shard's bytes, header checksums verified; for `validate` only.

    Raises `CorpusError` E304 for a member outside the grammar and `IntegrityError` E401 for a broken header.
    """
    members: list[MemberName] = []
    size = len(data)
    position = 0
    while position < size:
        header = bytes(data[position : position + BLOCK])
        if len(header) < BLOCK:
            raise IntegrityError(f"header at byte {position} is cut.", code="E401")
        if not any(header):
            # a zeroed hole looks like the end: the end mark is two zero blocks and nothing after them
            if size - position != 2 * BLOCK or any(data[position + BLOCK :]):
                raise IntegrityError(f"end mark at byte {position} before the end.", code="E401")
            return members
        name = header[:100].rstrip(b"\0").decode("ascii", "replace")
        try:
            length = int(header[124:136].rstrip(b"\0 "), 8)
        except ValueError:
            length = -1
        if length < 0 or position + BLOCK + length > size:
            raise IntegrityError(f"header at byte {position} is damaged.", code="E401")
        check_member_name(name)
        if header != _header(name, length):
            raise IntegrityError(f"header at byte {position} is damaged.", code="E401")
        members.append(MemberName(name, position + BLOCK, length))
        position += BLOCK + -(-length // BLOCK) * BLOCK
    raise IntegrityError("the shard has no end mark.", code="E401")
