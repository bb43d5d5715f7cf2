"""One picture and mask to decode into a batch: small enough to send, complete enough to be done anywhere."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from manifests.decoding import Window, decode_image_into, packed_mask, show_mask
from manifests.errors import IntegrityError
from manifests.pixels import ImageArray, MaskArray
from manifests.records import MemberRef
from manifests.shards import ShardBytes, check_member

__all__ = ["DecodeJob", "JobDecoder"]

# members of a sample lie side by side, with a header and padding between: one read gets both
_ADJACENT_BYTES = 4096
# masks of some 50,000 pictures of 512 px
KEPT_MASK_BYTES = 128 << 20


class DecodeJob(NamedTuple):
    """What to read, where, and which part to show. Plain values, so that it travels as a JSON list."""

    id: str
    shard: str
    image_offset: int
    image_length: int
    image_format: str
    image_sha256: str
    mask_offset: int
    mask_length: int
    mask_sha256: str
    height: int
    width: int
    left: float
    top: float
    right: float
    bottom: float
    verify: bool


class JobDecoder:
    """Decodes jobs of one corpus; threads can share it.

    Masks that were decoded once are kept as LZ4-compressed bits, by their sha256: from the second epoch on they cost a
    third.
    """

    def __init__(self, shards: ShardBytes) -> None:
        self._shards = shards
        self._masks: dict[str, bytes] = {}
        self._kept_bytes = 0

    def decode(self, job: DecodeJob, image_out: ImageArray, mask_out: MaskArray) -> None:
        """Read, check and decode into uint8 HxWx3 and bool HxW.

        Raises `IntegrityError` E401 naming the sample, where its bytes are not what the manifest says or cannot be
        decoded.
        """
        size, window = (job.height, job.width), Window(job.left, job.top, job.right, job.bottom)
        kept = None if job.verify else self._masks.get(job.mask_sha256)
        image, mask = self._members(job, with_mask=kept is None)
        if job.verify:
            check_member(image, _ref(job, job.image_offset, job.image_length, job.image_format, job.image_sha256))
            check_member(mask, _ref(job, job.mask_offset, job.mask_length, "png", job.mask_sha256))
        try:
            decode_image_into(image, job.image_format, size, window, image_out)
            row_bytes = -(-job.width // 8)
            if kept is None:
                packed = packed_mask(mask, size)
                self._keep(job.mask_sha256, packed)
            else:
                bits = pa.decompress(kept, job.height * row_bytes, codec="lz4_raw")
                packed = np.frombuffer(bits, np.uint8).reshape(job.height, row_bytes)
            show_mask(packed, size, window, mask_out)
        except Exception as error:  # decoders raise anything on foreign bytes
            raise IntegrityError(f"{job.id}: cannot be decoded: {error}.") from error

    def _members(self, job: DecodeJob, *, with_mask: bool) -> tuple[bytes, bytes]:
        read = self._shards.read
        if not with_mask:
            return read(job.shard, job.image_offset, job.image_length), b""
        gap = job.mask_offset - job.image_offset - job.image_length
        if not 0 <= gap <= _ADJACENT_BYTES:
            return (
                read(job.shard, job.image_offset, job.image_length),
                read(job.shard, job.mask_offset, job.mask_length),
            )
        both = read(job.shard, job.image_offset, job.image_length + gap + job.mask_length)
        return both[: job.image_length], both[job.image_length + gap :]

    def _keep(self, sha256: str, packed: ImageArray) -> None:
        if self._kept_bytes < KEPT_MASK_BYTES and sha256 not in self._masks:
            data: bytes = pa.compress(np.ascontiguousarray(packed).data, codec="lz4_raw", asbytes=True)
            self._masks[sha256] = data
            self._kept_bytes += len(data)


def _ref(job: DecodeJob, offset: int, length: int, image_format: str, sha256: str) -> MemberRef:
    return MemberRef(shard=job.shard, offset=offset, length=length, format=image_format, sha256=sha256)
