"""Pictures and masks as a person names them, checked: arrays, files, boxes and manifest IDs. No model library here."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from manifests.errors import NotFoundError, UsageError
from manifests.pixels import ImageArray, MaskArray, box_from_mask, mask_from_box
from manifests.records import Box

if TYPE_CHECKING:
    from manifests.corpus import Corpus
    from manifests.records import Sample

__all__ = [
    "Corpora", "Reference", "mask_of", "on_white", "picture_of", "read_mask", "read_picture", "read_reference",
    "read_scene",
]  # fmt: skip

FORMATS = ("PNG", "JPEG", "WEBP")


@dataclass(frozen=True, slots=True)
class Reference:
    """A photograph of the subject: uint8 HxWx3 and its mask, bool HxW."""

    image: ImageArray
    mask: MaskArray


class Corpora:
    """Corpora that are opened once and closed together."""

    def __init__(self) -> None:
        self._open: dict[str, Corpus] = {}

    def sample(self, text: str) -> tuple[Corpus, Sample]:
        """The one sample that `CORPUS#ID` names. Raises `NotFoundError` E503 and `UsageError` E501."""
        from manifests.corpus import open_corpus
        from manifests.ids import is_sample_id
        from manifests.refs import parse_reference

        reference = parse_reference(text)
        if not reference.ids:
            raise NotFoundError(f"no picture {text!r}; a file or CORPUS#scenes/bg-... was expected.")
        if len(reference.ids) != 1 or not is_sample_id(reference.ids[0]):
            raise UsageError(f"{text} names a subject or several samples; the ID of one picture was expected.")
        place = str(replace(reference, ids=()))
        if place not in self._open:
            self._open[place] = open_corpus(replace(reference, ids=()))
        corpus = self._open[place]
        return corpus, corpus.record(reference.ids[0])

    def close(self) -> None:
        """Close them all."""
        for corpus in self._open.values():
            corpus.close()
        self._open.clear()

    def __enter__(self) -> Corpora:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def picture_of(scene: Any) -> ImageArray:
    """An array, PIL image, file or reference as uint8 HxWx3 RGB."""
    if isinstance(scene, np.ndarray):
        if scene.dtype != np.uint8 or scene.ndim != 3 or scene.shape[2] != 3:
            raise UsageError(f"a scene is uint8 HxWx3, not {scene.dtype} {scene.shape}.")
        return scene
    if isinstance(scene, Image.Image):
        return np.asarray(scene.convert("RGB"))
    return read_scene(str(scene))[0]


def mask_of(mask: Any, height: int, width: int) -> MaskArray:
    """A box, array, PIL image or file as bool HxW of the scene's size. Raises `UsageError` E201 and E211."""
    if isinstance(mask, tuple | list):
        return mask_from_box(checked_box(mask, height, width), height, width)
    if isinstance(mask, str | Path):
        mask = read_mask(Path(mask))
    array = np.asarray(mask.convert("L")) >= 128 if isinstance(mask, Image.Image) else np.asarray(mask)
    if array.shape != (height, width):
        found = "x".join(str(side) for side in reversed(array.shape))
        raise UsageError(f"the mask is {found}, the scene {width}x{height}.", code="E201")
    array = array.astype(bool)
    if not array.any():
        raise UsageError("the mask is empty: nothing to paint.", code="E211")
    return array


def checked_box(box: Any, height: int, width: int) -> Box:
    """The box if it lies in the scene. Raises `UsageError` E211."""
    if len(box) != 4 or not all(isinstance(edge, int | np.integer) for edge in box):
        raise UsageError(f"box {box!r}: four whole numbers x0,y0,x1,y1 were expected.", code="E211")
    x0, y0, x1, y1 = (int(edge) for edge in box)
    if x1 <= x0 or y1 <= y0:
        raise UsageError(f"box {x0},{y0},{x1},{y1} is empty: x1 > x0 and y1 > y0 were expected.", code="E211")
    if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        raise UsageError(f"box {x0},{y0},{x1},{y1} leaves the scene of {width}x{height}.", code="E211")
    return x0, y0, x1, y1


def read_scene(text: str, corpora: Corpora | None = None) -> tuple[ImageArray, Box | None]:
    """A picture file, or `CORPUS#scenes/bg-...`: pixels and, from a corpus, the scene's box. Raises E503, E110."""
    if Path(text).is_file():
        return read_picture(Path(text)), None
    with _those_or_new(corpora) as opened:
        corpus, sample = opened.sample(text)
        return corpus.image(sample), sample.box_xyxy


def read_reference(text: str, corpora: Corpora | None = None) -> Reference:
    """The photograph at `CORPUS#subject/src-...` with its mask. Raises E503 and E501."""
    with _those_or_new(corpora) as opened:
        corpus, sample = opened.sample(text)
        return Reference(corpus.image(sample), corpus.mask(sample))


def _those_or_new(corpora: Corpora | None) -> contextlib.AbstractContextManager[Corpora]:
    return contextlib.nullcontext(corpora) if corpora is not None else Corpora()


def on_white(reference: Reference, side: int) -> ImageArray:
    """The subject cut out on white, padded to a square and resized (Lanczos) to that side (METHODS 4.6)."""
    x0, y0, x1, y1 = box_from_mask(reference.mask)
    cut = np.where(reference.mask[..., None], reference.image, np.uint8(255))[y0:y1, x0:x1]
    longest = max(cut.shape[:2])
    square = np.full((longest, longest, 3), 255, np.uint8)
    top, left = (longest - cut.shape[0]) // 2, (longest - cut.shape[1]) // 2
    square[top : top + cut.shape[0], left : left + cut.shape[1]] = cut
    return np.asarray(Image.fromarray(square).resize((side, side), Image.Resampling.LANCZOS))


def read_picture(path: Path) -> ImageArray:
    """A PNG, JPEG or WebP file, upright, as uint8 HxWx3 RGB."""
    from PIL import ImageOps

    try:
        with Image.open(path, formats=FORMATS) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except FileNotFoundError as error:
        raise NotFoundError(f"no picture {path}.") from error
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise UsageError(f"{path} cannot be read as a picture.", code="E110") from error


def read_mask(path: Path) -> MaskArray:
    """A black and white picture file as bool HxW, white = paint here."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return np.asarray(image.convert("L")) >= 128
    except FileNotFoundError as error:
        raise NotFoundError(f"no mask {path}.") from error
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise UsageError(f"{path} cannot be read as a mask.", code="E203") from error
