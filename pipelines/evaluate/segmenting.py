"""The mask of what was painted: SAM (Kirillov et al. 2023, through transformers) prompted with the box."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from manifests.pixels import ImageArray, MaskArray
from manifests.records import Box
from pipelines.evaluate.metrics.devices import device
from pipelines.evaluate.weights import Weights, load_whole

__all__ = ["BoxSegmenter"]


class BoxSegmenter:
    """`mask(image, box)` is the highest-scoring of SAM's three masks, as the DreamCom lab takes it."""

    def __init__(self, weights: Weights) -> None:
        from transformers import SamImageProcessor, SamModel, SamProcessor

        self.weights = weights
        self._model = load_whole(SamModel, weights, metric="segmenter")
        self._model.to(device())
        side = self._model.config.vision_config.image_size
        # not read from the folder: its defaults change with the library, these are SAM's own
        processor: Any = SamProcessor
        self._processor = processor(
            SamImageProcessor(
                size={"longest_edge": side},
                pad_size={"height": side, "width": side},
                mask_size={"longest_edge": side // 4},
                mask_pad_size={"height": side // 4, "width": side // 4},
            )
        )

    @torch.inference_mode()
    def mask(self, image: ImageArray, box: Box) -> MaskArray:
        """bool HxW for uint8 HxWx3 and a half-open box."""
        # a copy: torch warns of pictures that may not be written to
        inputs = self._processor(np.array(image), input_boxes=[[[float(edge) for edge in box]]], return_tensors="pt")
        outputs = self._model(**inputs.to(device(), torch.float32), multimask_output=True)
        masks = self._processor.image_processor.post_process_masks(
            outputs.pred_masks.cpu(), inputs["original_sizes"].cpu(), inputs["reshaped_input_sizes"].cpu()
        )[0][0]
        return np.asarray(masks[int(outputs.iou_scores[0, 0].argmax())].numpy(), bool)
