"""Pixels for stages: a photograph named in a stage's input, read from the part that holds it and decoded."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

from dataforge.protocols import Backend, Photo
from dataforge.store import BlobRef, read_blob
from manifests.pixels import ImageArray, MaskArray, decode_image, decode_mask

__all__ = ["Blobs", "photo_input", "spoke"]

# a subject's photographs come back for each regular picture made from them; a few decoded ones pay for themselves
CACHED_IMAGES = 4


def photo_input(*, sample_id: str, subject: str, class_noun: str, image: BlobRef, image_format: str) -> dict[str, Any]:
    """How a photograph is named in a stage's input."""
    return {"id": sample_id, "subject": subject, "class_noun": class_noun, "image": image.place, "format": image_format}


class Blobs:
    """Reads and decodes what inputs name, below one work folder."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._images: OrderedDict[str, ImageArray] = OrderedDict()

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
        image = self._images.get(ref.sha256)
        if image is None:
            image = decode_image(read_blob(self._work, ref), image_format)
            image.setflags(write=False)
            self._images[ref.sha256] = image
            if len(self._images) > CACHED_IMAGES:
                self._images.popitem(last=False)
        return image

    def mask(self, place: list[Any]) -> MaskArray:
        """bool HxW."""
        return decode_mask(read_blob(self._work, BlobRef(*place)))


def spoke(backend: Backend) -> list[str]:
    """Who made a result: name, model, version; it ends in the provenance."""
    return [backend.name, backend.model, backend.version]
