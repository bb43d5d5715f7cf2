"""Pixels for stages: a photograph named in a stage's input, read from the part that holds it and decoded."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataforge.protocols import Backend, Photo
from dataforge.store import BlobRef, read_blob
from manifests.pixels import ImageArray, MaskArray, decode_image, decode_mask

__all__ = ["Blobs", "photo_input", "spoke"]

# a subject's photographs come back for each regular picture made from them, and those of the next unit are decoded
# while a model works on this one: a few are always kept, more while they are small
CACHED_IMAGES = 4
CACHED_BYTES = 32 << 20


def photo_input(*, sample_id: str, subject: str, class_noun: str, image: BlobRef, image_format: str) -> dict[str, Any]:
    """How a photograph is named in a stage's input."""
    return {"id": sample_id, "subject": subject, "class_noun": class_noun, "image": image.place, "format": image_format}


class Blobs:
    """Reads and decodes what inputs name, below one work folder."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._images: OrderedDict[str, ImageArray] = OrderedDict()
        self._lock = threading.Lock()

    def photo(self, value: dict[str, Any]) -> Photo:
        """The photograph with its pixels."""
        return Photo(
            id=value["id"],
            subject=value["subject"],
            class_noun=value["class_noun"],
            image=self.image(value["image"], value["format"]),
        )

    def image(self, place: list[Any], image_format: str) -> ImageArray:
        """uint8 HxWx3 RGB; do not write into it, it is shared."""
        ref = BlobRef(*place)
        with self._lock:
            image = self._images.get(ref.sha256)
            if image is not None:
                self._images.move_to_end(ref.sha256)
                return image
        image = decode_image(read_blob(self._work, ref), image_format)
        image.setflags(write=False)
        with self._lock:
            self._images[ref.sha256] = image
            while (
                len(self._images) > CACHED_IMAGES and sum(kept.nbytes for kept in self._images.values()) > CACHED_BYTES
            ):
                self._images.popitem(last=False)
        return image

    def prefetch(self, inputs: Sequence[dict[str, Any]]) -> None:
        """Decode the photographs that inputs name, in order, while none of them pushes out the first."""
        sizes: list[int] = []
        for photo in (photo for value in inputs for photo in value.get("photos", ())):
            # the next one is taken to be as large as the last
            if len(sizes) >= CACHED_IMAGES and sum(sizes) + sizes[-1] > CACHED_BYTES:
                return
            sizes.append(self.image(photo["image"], photo["format"]).nbytes)

    def mask(self, place: list[Any]) -> MaskArray:
        """bool HxW."""
        return decode_mask(read_blob(self._work, BlobRef(*place)))


def spoke(backend: Backend) -> list[str]:
    """Who made a result: name, model, version; it ends in the provenance."""
    return [backend.name, backend.model, backend.version]
