"""SAM 3 through transformers: a noun to boxes and masks in one look.

As a grounder it gives the best instance of the class noun, with its mask; as a segmenter it is asked for the noun and
the box together, for photographs whose box came from elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dataforge.backends.checkpoints import Needs, Package, Weights, check, identity
from dataforge.backends.devices import in_batches, place, quietly
from dataforge.backends.queries import box_iou
from dataforge.model_config import Sam3Grounder as GrounderSettings
from dataforge.model_config import Sam3Segmenter as SegmenterSettings
from dataforge.protocols import Grounding, Photo, Scope, Segmentation
from manifests.errors import Fault
from manifests.records import Box, Score

__all__ = ["Sam3Grounder", "Sam3Segmenter"]

INSTALL = '`pip install "dataforge[sam]"`'
_SURE = 0.999
_MAX_OTHERS = 16


class _Sam3:
    """The model and what it saw in a batch."""

    name = "sam3"
    version = "1"
    scope: Scope = "sample"

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int = 2,
        mask_threshold: float = 0.5,
    ) -> None:
        """Loads the model. Raises `UsageError` E505 where weights are missing, E508 for a model of another kind."""
        path = check(_weights(model, revision), self.name)
        self.model = identity(model, revision)
        self._batch_size, self._mask_threshold = batch_size, mask_threshold
        self._place = place(device, precision, half="bfloat16")
        from transformers import AutoProcessor, Sam3Model

        processor: Any = AutoProcessor
        with quietly():
            self._processor: Any = processor.from_pretrained(path, local_files_only=True)
            network: Any = Sam3Model.from_pretrained(path, local_files_only=True, use_safetensors=True)
        self._network: Any = network.eval().to(self._place.device)

    @staticmethod
    def needs(settings: GrounderSettings | SegmenterSettings) -> Needs:
        """What has to be there."""
        packages = tuple(Package(name, INSTALL) for name in ("torch", "torchvision", "transformers"))
        return Needs(packages, (_weights(settings.model, settings.revision),), settings.device, memory_gb=8)

    def _instances(
        self, photos: Sequence[Photo], boxes: Sequence[Box] | None, threshold: float
    ) -> list[list[tuple[float, Box, Segmentation]]]:
        """Per photograph what was found, best first: score, box, mask. Instances without a pixel are left out."""
        from PIL import Image

        asked: dict[str, Any] = {"text": [photo.class_noun for photo in photos]}
        if boxes is not None:
            asked["input_boxes"] = [[list(map(float, box))] for box in boxes]
        images = [Image.fromarray(photo.image) for photo in photos]
        inputs = self._processor(images=images, return_tensors="pt", **asked)
        sizes = inputs.pop("original_sizes").tolist()
        with self._place.run():
            outputs = self._network(**inputs.to(self._place.device))
        for name in ("pred_logits", "pred_boxes", "pred_masks", "presence_logits"):
            if outputs[name] is not None:
                outputs[name] = outputs[name].float()
        seen = self._processor.post_process_instance_segmentation(
            outputs, threshold=threshold, mask_threshold=self._mask_threshold, target_sizes=sizes
        )
        return [_sorted(found, photo.image.shape[:2]) for found, photo in zip(seen, photos, strict=True)]


class Sam3Grounder(_Sam3):
    """The class noun to boxes, each with its mask."""

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int = 2,
        box_threshold: float = 0.5,
        mask_threshold: float = 0.5,
    ) -> None:
        """Loads the model. Raises `UsageError` E505 where weights are missing, E508 for a model of another kind."""
        super().__init__(model, revision, device, precision, batch_size, mask_threshold)
        self._box_threshold = box_threshold

    def ground(self, photos: Sequence[Photo]) -> list[Grounding | Fault]:
        """The best instance of each photograph's class noun; E210 where none exceeds the threshold."""
        return in_batches(photos, self._batch_size, self._look, what=self.name)

    def _look(self, photos: Sequence[Photo]) -> list[Grounding | Fault]:
        answers: list[Grounding | Fault] = []
        for found in self._instances(photos, None, self._box_threshold):
            if not found:
                answers.append(Fault("E210", f"no instance exceeds {self._box_threshold}"))
                continue
            score, box, mask = found[0]
            others = tuple(other for _, other, _ in found[1 : 1 + _MAX_OTHERS])
            answers.append(Grounding(box=box, score=min(_SURE, score), other_boxes=others, segmentation=mask))
        return answers


class Sam3Segmenter(_Sam3):
    """The class noun and a box to the mask of the instance that lies there."""

    def segment(self, photos: Sequence[Photo], groundings: Sequence[Grounding]) -> list[Segmentation | Fault]:
        """One mask per photograph: the instance whose box agrees most with the one given, the surer of equals."""
        asked = list(zip(photos, groundings, strict=True))
        return in_batches(asked, self._batch_size, self._look, what=self.name)

    def _look(self, asked: Sequence[tuple[Photo, Grounding]]) -> list[Segmentation | Fault]:
        boxes = [grounding.box for _, grounding in asked]
        answers: list[Segmentation | Fault] = []
        for found, box in zip(self._instances([photo for photo, _ in asked], boxes, 0.0), boxes, strict=True):
            if not found:
                answers.append(Fault("E210", "no instance has a pixel"))
                continue
            answers.append(max(found, key=lambda instance: (box_iou(instance[1], box), instance[0]))[2])
        return answers


def _sorted(found: dict[str, Any], size: tuple[int, int]) -> list[tuple[float, Box, Segmentation]]:
    height, width = size
    instances = []
    for score, corners, pixels in zip(found["scores"], found["boxes"], found["masks"], strict=True):
        mask = pixels.bool().cpu().numpy()
        x0, y0, x1, y1 = (round(float(value)) for value in corners)
        box = max(0, x0), max(0, y0), min(width, x1), min(height, y1)
        if mask.any() and box[0] < box[2] and box[1] < box[3]:
            sure = float(score)
            scores = (Score(name="concept_score", value=sure),)
            instances.append((sure, box, Segmentation(mask=mask, quality=float(np.clip(sure, 0, 1)), scores=scores)))
    return sorted(instances, key=lambda instance: -instance[0])


def _weights(model: str, revision: str | None) -> Weights:
    return Weights(model, revision, "transformers", ("sam3", "sam3_video"))
