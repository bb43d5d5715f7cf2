"""From a picture to what a network sees, written down: every step is part of the score's name.

Published CLIP and DINO scores differ by several points with steps nobody wrote down, and image processors change
between library versions; so the steps stand here, in Pillow and numpy, and `describe` prints them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from manifests.pixels import ImageArray

__all__ = ["CLIP_MEAN", "CLIP_STD", "IMAGENET_MEAN", "IMAGENET_STD", "Preprocessing"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop the centre, scale to [0,1], subtract `mean`, divide by `std`; antialiased as Pillow does it.

    `first_to` is the square that the picture is resized to before all else (DreamEdit: 512). `short_side` keeps the
    aspect (as torchvision's `Resize(int)`) and needs `side`; without it the picture becomes `side` x `side` outright.
    """

    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    short_side: int | None = None
    first_to: int | None = None
    resample: str = "bicubic"

    def __call__(self, image: ImageArray) -> npt.NDArray[np.float32]:
        """uint8 HxWx3 to float32 3 x side x side."""
        picture = Image.fromarray(np.ascontiguousarray(image))
        how = _FILTERS[self.resample]
        if self.first_to:
            picture = picture.resize((self.first_to, self.first_to), how)
        if self.short_side is None:
            picture = picture.resize((self.side, self.side), how)
        else:
            width, height = picture.size
            if width <= height:
                size = (self.short_side, int(self.short_side * height / width))
            else:
                size = (int(self.short_side * width / height), self.short_side)
            picture = picture.resize(size, how)
            left, top = round((size[0] - self.side) / 2), round((size[1] - self.side) / 2)
            picture = picture.crop((left, top, left + self.side, top + self.side))
        scaled = np.asarray(picture, np.float32) / np.float32(255)
        values = (scaled - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(values.transpose(2, 0, 1), np.float32)

    def describe(self) -> str:
        """The steps in one line."""
        steps = [f"to {self.first_to}x{self.first_to}"] if self.first_to else []
        if self.short_side is None:
            steps.append(f"to {self.side}x{self.side}")
        else:
            steps.append(f"short side {self.short_side}, centre crop {self.side}")
        name = {CLIP_MEAN: "CLIP", IMAGENET_MEAN: "ImageNet"}.get(self.mean, "own")
        return f"{', '.join(steps)} (Pillow {self.resample}), {name} mean and std"
