"""Generate: prompts to regular pictures, with the mask where it follows from the making."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from dataforge.ingest.colour import perceptual_hash
from dataforge.protocols import GeneratedImage, GenerationRequest, Generator
from dataforge.stages.blobs import Blobs, spoke
from dataforge.store import Made
from manifests.errors import Fault
from manifests.pixels import box_from_mask, encode_image, encode_mask
from manifests.records import RegularPrompt
from manifests.schema import decode

__all__ = ["Generate", "prompt_from_input"]


def prompt_from_input(value: dict[str, Any]) -> RegularPrompt:
    """A `RegularPrompt` from its JSON form."""
    return decode(RegularPrompt, value, where="prompt")


class Generate:
    """One input is one picture to make."""

    name = "generate"

    def __init__(self, generator: Generator, blobs: Blobs) -> None:
        self._generator = generator
        self._blobs = blobs

    def prefetch(self, inputs: Sequence[dict[str, Any]]) -> None:
        """Decode what the next unit will ask for."""
        self._blobs.prefetch(inputs)

    def run(self, inputs: Sequence[dict[str, Any]]) -> list[Made | Fault]:
        """Input: prompt, class_noun, seed, size, photos, masks, scenes.

        Value: format, width, height, area, box, parents, scores, perceptual_hash; blobs `image` and, where it follows
        from the making, `mask`.
        """
        answers = self._generator.generate([self._request(value) for value in inputs])
        return [answer if isinstance(answer, Fault) else self._made(answer) for answer in answers]

    def _request(self, value: dict[str, Any]) -> GenerationRequest:
        return GenerationRequest(
            prompt=prompt_from_input(value["prompt"]),
            class_noun=value["class_noun"],
            seed=value["seed"],
            size=value["size"],
            sources=tuple(self._blobs.photo(photo) for photo in value["photos"]),
            masks=tuple(self._blobs.mask(mask) for mask in value["masks"]),
            scenes=tuple(self._blobs.image(image, image_format) for image, image_format in value["scenes"]),
        )

    def _made(self, picture: GeneratedImage) -> Made | Fault:
        data, image_format = encode_image(picture.image)
        blobs = {"image": data}
        area = box = None
        if picture.mask is not None:
            if not picture.mask.any():
                return Fault("E212", "the made picture shows nothing of the subject")
            blobs["mask"] = encode_mask(picture.mask)
            area, box = float(picture.mask.mean()), list(box_from_mask(picture.mask))
        height, width = picture.image.shape[:2]
        facts = {
            "format": image_format,
            "width": width,
            "height": height,
            "area": area,
            "box": box,
            "parents": list(picture.parents),
            "scores": {score.name: float(score.value) for score in picture.scores},
            "perceptual_hash": f"{perceptual_hash(Image.fromarray(picture.image)):016x}",
            "by": spoke(self._generator),
        }
        return Made(facts, blobs)
