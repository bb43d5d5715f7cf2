"""SAM and SAM 2 through transformers: boxes to masks, one look at a picture for all its boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dataforge.backends.checkpoints import Needs, Package, Weights, check, identity
from dataforge.backends.devices import place, quietly
from dataforge.backends.promptable import BoxMasks, Promptable
from dataforge.model_config import Sam2 as Sam2Settings
from dataforge.model_config import SamHf as SamSettings
from dataforge.protocols import Photo
from manifests.records import Box

__all__ = ["Sam2", "SamHf"]

INSTALL = '`pip install "dataforge[sam]"`'


class SamHf(Promptable):
    """SAM (arXiv 2304.02643)."""

    name = "sam-hf"
    version = "1"
    kinds: tuple[str, ...] = ("sam",)

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int = 4,
        choose: str = "single",
        exclude_others: bool = False,
    ) -> None:
        """Loads the model. Raises `UsageError` E505 where weights are missing, E508 for a model of another kind."""
        path = check(Weights(model, revision, "transformers", self.kinds), self.name)
        self.model = identity(model, revision)
        super().__init__(batch_size=batch_size, choose=choose, exclude_others=exclude_others)
        self._place = place(device, precision)
        from transformers import AutoModelForMaskGeneration, AutoProcessor

        with quietly():
            self._processor = AutoProcessor.from_pretrained(path, local_files_only=True)
            network = AutoModelForMaskGeneration.from_pretrained(path, local_files_only=True, use_safetensors=True)
        self._network = network.eval().to(self._place.device)

    @classmethod
    def needs(cls, settings: SamSettings | Sam2Settings) -> Needs:
        """What has to be there."""
        packages = (Package("torch", INSTALL), Package("torchvision", INSTALL), Package("transformers", INSTALL))
        weights = Weights(settings.model, settings.revision, "transformers", cls.kinds)
        return Needs(packages, (weights,), settings.device, memory_gb=8)

    def look(self, asked: Sequence[tuple[Photo, list[Box]]]) -> list[BoxMasks]:
        """The masks of each photograph's boxes; its pixels are encoded once, however many boxes there are."""
        from PIL import Image

        most = max(len(boxes) for _, boxes in asked)
        # pictures of a batch have to have as many boxes each: the first one is asked again, and not looked at
        padded = [[list(map(float, box)) for box in (boxes + boxes[:1] * most)[:most]] for _, boxes in asked]
        images = [Image.fromarray(photo.image) for photo, _ in asked]
        inputs: Any = self._processor(images=images, input_boxes=padded, return_tensors="pt")
        sizes = {"original_sizes": inputs.pop("original_sizes")}
        if "reshaped_input_sizes" in inputs:
            sizes["reshaped_input_sizes"] = inputs.pop("reshaped_input_sizes")
        inputs = {name: value.float().to(self._place.device) for name, value in inputs.items()}
        with self._place.run():
            outputs = self._network(**inputs, multimask_output=self._choose != "single")
        low = [masks.float().cpu() for masks in outputs.pred_masks]
        full = self._processor.post_process_masks(low, binarize=False, **sizes)
        believed = outputs.iou_scores.float().cpu().numpy()
        return [
            BoxMasks(logits.numpy()[: len(boxes)].astype(np.float32), scores[: len(boxes)])
            for (_, boxes), logits, scores in zip(asked, full, believed, strict=True)
        ]


class Sam2(SamHf):
    """SAM 2 (arXiv 2408.00714), checkpoints for video too: they hold the model for pictures."""

    name = "sam2"
    kinds = ("sam2", "sam2_video")
