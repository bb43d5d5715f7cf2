"""CLIP as a second gate: pictures, cut-out subjects and prompts as vectors of one space (arXiv 2103.00020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dataforge.backends.checkpoints import Needs, Package, Weights, check, identity
from dataforge.backends.devices import in_batches, place, quietly
from dataforge.model_config import ClipCheck as Settings
from dataforge.protocols import Photo
from manifests.errors import Fault
from manifests.pixels import ImageArray, MaskArray, box_from_mask

__all__ = ["ClipCheck", "on_grey"]

INSTALL = '`pip install "dataforge[vlm]"`'
Vectors = dict[str, tuple[float, ...]]
# six digits: vectors are stored as text, and cosines are looked at to the third
_DIGITS = 6


class ClipCheck:
    """CLIP's two encoders."""

    name = "clip"
    version = "1"

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int = 16,
    ) -> None:
        """Loads the model. Raises `UsageError` E505 where weights are missing, E508 for a model of another kind."""
        path = check(_weights(model, revision), self.name)
        self.model = identity(model, revision)
        self._batch_size = batch_size
        self._place = place(device, precision)
        from transformers import AutoProcessor, CLIPModel

        processor: Any = AutoProcessor
        with quietly():
            self._processor = processor.from_pretrained(path, local_files_only=True)
            clip: Any = CLIPModel.from_pretrained(path, local_files_only=True, use_safetensors=True)
        self._clip: Any = clip.eval().to(self._place.device)

    @staticmethod
    def needs(settings: Settings) -> Needs:
        """What has to be there."""
        packages = tuple(Package(name, INSTALL) for name in ("torch", "torchvision", "transformers"))
        return Needs(packages, (_weights(settings.model, settings.revision),), settings.device, memory_gb=2)

    def embed(
        self, photos: Sequence[Photo], masks: Sequence[MaskArray], prompts: Sequence[str]
    ) -> list[Vectors | Fault]:
        """Unit vectors `picture`, `cutout` and, for a prompt that is not empty, `prompt`."""
        asked = list(zip(photos, masks, prompts, strict=True))
        return in_batches(asked, self._batch_size, self._look, what=self.name)

    def _look(self, asked: Sequence[tuple[Photo, MaskArray, str]]) -> list[Vectors | Fault]:
        from PIL import Image

        pictures = [Image.fromarray(photo.image) for photo, _, _ in asked]
        pictures += [Image.fromarray(on_grey(photo.image, mask)) for photo, mask, _ in asked]
        inputs = self._processor(images=pictures, return_tensors="pt").to(self._place.device)
        texts = self._processor(
            text=[prompt or "-" for _, _, prompt in asked], padding=True, truncation=True, return_tensors="pt"
        ).to(self._place.device)
        with self._place.run():
            seen = _unit(self._clip.get_image_features(**inputs))
            said = _unit(self._clip.get_text_features(**texts))
        answers: list[Vectors | Fault] = []
        for number, (_, _, prompt) in enumerate(asked):
            vectors = {"picture": seen[number], "cutout": seen[len(asked) + number]}
            if prompt:
                vectors["prompt"] = said[number]
            answers.append({name: tuple(np.round(vector, _DIGITS).tolist()) for name, vector in vectors.items()})
        return answers


def on_grey(image: ImageArray, mask: MaskArray) -> ImageArray:
    """The subject alone, cut to its box, before middle grey: uint8 hxwx3 RGB."""
    if not mask.any():
        return image
    x0, y0, x1, y1 = box_from_mask(mask)
    alone = np.where(mask[..., None], image, np.uint8(128))
    return np.ascontiguousarray(alone[y0:y1, x0:x1])


def _unit(features: Any) -> Any:
    """Rows of length one, float32; the library gives a tensor or an output that holds one."""
    vectors = getattr(features, "pooler_output", features).float().cpu().numpy()
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _weights(model: str, revision: str | None) -> Weights:
    return Weights(model, revision, "transformers", ("clip",))
