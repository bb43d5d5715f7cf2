"""Grounding DINO and MM Grounding DINO through transformers: the class noun to boxes.

https://arxiv.org/abs/2303.05499; the thresholds' meaning is that of the original `predict`.
"""

from __future__ import annotations

from collections.abc import Sequence

from dataforge.backends.checkpoints import Needs, Package, Weights, check, identity
from dataforge.backends.devices import in_batches, place, quietly
from dataforge.backends.queries import caption_of, pick, token_spans
from dataforge.model_config import GroundingDino as Settings
from dataforge.protocols import Grounding, Photo, Scope
from manifests.errors import Fault

__all__ = ["GroundingDino"]

INSTALL = '`pip install "dataforge[grounding]"`'


class GroundingDino:
    """Boxes for a noun. Pictures in a batch are padded to one size; each may have a noun of its own."""

    name = "grounding-dino"
    version = "1"
    scope: Scope = "sample"

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int = 8,
        box_threshold: float = 0.3,
        text_threshold: float = 0.25,
        queries: Sequence[str] = (),
    ) -> None:
        """Loads the model. Raises `UsageError` E505 where weights are missing, E508 for a model of another kind."""
        path = check(_weights(model, revision), self.name)
        self.model = identity(model, revision)
        self._batch_size = batch_size
        self._box_threshold, self._text_threshold = box_threshold, text_threshold
        self._queries = tuple(queries)
        self._place = place(device, precision)
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

        with quietly():
            self._processor = AutoProcessor.from_pretrained(path, local_files_only=True)
            detector = AutoModelForZeroShotObjectDetection.from_pretrained(
                path, local_files_only=True, use_safetensors=True
            )
        self._detector = detector.eval().to(self._place.device)
        tokenizer = self._processor.tokenizer
        self._stop = tokenizer.convert_tokens_to_ids(".")
        self._special = frozenset(tokenizer.all_special_ids)

    @staticmethod
    def needs(settings: Settings) -> Needs:
        """What has to be there."""
        packages = (Package("torch", INSTALL), Package("torchvision", INSTALL), Package("transformers", INSTALL))
        return Needs(packages, (_weights(settings.model, settings.revision),), settings.device, memory_gb=4)

    def ground(self, photos: Sequence[Photo]) -> list[Grounding | Fault]:
        """The best box of each photograph's class noun; E210 where none exceeds the thresholds."""
        return in_batches(photos, self._batch_size, self._look, what=self.name)

    def _look(self, photos: Sequence[Photo]) -> list[Grounding | Fault]:
        from PIL import Image

        texts = [caption_of(photo.class_noun, self._queries) for photo in photos]
        images = [Image.fromarray(photo.image) for photo in photos]
        inputs = self._processor(images=images, text=texts, padding=True, return_tensors="pt").to(self._place.device)
        with self._place.run():
            outputs = self._detector(**inputs)
        probabilities = outputs.logits.float().sigmoid().cpu().numpy()
        boxes = outputs.pred_boxes.float().cpu().numpy()
        answers: list[Grounding | Fault] = []
        for photo, ids, seen, placed in zip(photos, inputs["input_ids"].tolist(), probabilities, boxes, strict=True):
            answers.append(
                pick(
                    seen,
                    placed,
                    token_spans(ids, self._stop, self._special),
                    size=photo.image.shape[:2],
                    box_threshold=self._box_threshold,
                    text_threshold=self._text_threshold,
                )
            )
        return answers


def _weights(model: str, revision: str | None) -> Weights:
    return Weights(model, revision, "transformers", ("grounding-dino", "mm-grounding-dino"))
