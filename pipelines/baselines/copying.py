"""Copy and blend: no model at all, what everything else has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from manifests.pixels import ImageArray, box_from_mask

if TYPE_CHECKING:
    from pipelines.preparing import Prepared

__all__ = ["copy_and_blend"]


def copy_and_blend(prepared: Prepared) -> ImageArray:
    """The subject's own pixels scaled into the box and blended by Poisson editing (OpenCV): no model at all."""
    assert prepared.reference is not None
    image, mask = prepared.reference.image, prepared.reference.mask
    scene = prepared.scene
    x0, y0, x1, y1 = box_from_mask(prepared.mask)
    a0, b0, a1, b1 = box_from_mask(mask)
    scale = min((x1 - x0) / (a1 - a0), (y1 - y0) / (b1 - b0))
    size = (max(1, round((a1 - a0) * scale)), max(1, round((b1 - b0) * scale)))
    piece = np.asarray(Image.fromarray(image[b0:b1, a0:a1]).resize(size, Image.Resampling.LANCZOS))
    cut = np.asarray(Image.fromarray(mask[b0:b1, a0:a1]).resize(size, Image.Resampling.NEAREST))
    left, top = x0 + (x1 - x0 - size[0]) // 2, y1 - size[1]  # it stands on the box's lower edge
    source, where = scene.copy(), np.zeros(scene.shape[:2], bool)
    rows, columns = slice(top, top + size[1]), slice(left, left + size[0])
    source[rows, columns] = np.where(cut[..., None], piece, source[rows, columns])
    where[rows, columns] = cut & prepared.mask[rows, columns]
    # the solver needs a ring of known pixels on each side
    edge = np.zeros_like(where)
    edge[1:-1, 1:-1] = True
    where &= edge
    if where.sum() < 9:
        return np.where(where[..., None], source, scene)
    c0, d0, c1, d1 = box_from_mask(where)
    middle = ((c0 + c1 - 1) // 2, (d0 + d1 - 1) // 2)
    blended = cv2.seamlessClone(source, scene, where.astype(np.uint8) * 255, middle, cv2.NORMAL_CLONE)
    return np.where(where[..., None], blended, scene)
