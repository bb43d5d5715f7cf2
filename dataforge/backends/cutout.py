"""Cutting a subject out of its photograph so that no rim of the old background comes along."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from manifests.pixels import ImageArray, MaskArray, box_from_mask

__all__ = ["Cutout", "cut_out"]

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Cutout:
    """A subject without background: `image` uint8 HxWx3 RGB, `alpha` float32 HxW in 0..1.

    `cut` names the sides (left, top, right, bottom) at which the photograph's edge cut the subject off.
    """

    image: ImageArray
    alpha: FloatArray
    cut: frozenset[str]


def cut_out(image: ImageArray, mask: MaskArray, *, side: int, max_enlargement: float = 1.7) -> Cutout:
    """The subject of `image` (uint8 HxWx3 RGB) under `mask` (bool HxW, not empty), its longer side near `side` pixels.

    The rim of a mask mixes subject and background (Porter and Duff's alpha, 1984). Its colours are replaced by colours
    spread outward from inside the subject, a normalised convolution after Knutsson and Westin (1993), and the alpha is
    drawn in by about half a pixel and feathered.
    """
    height, width = mask.shape
    x0, y0, x1, y1 = box_from_mask(mask)
    touching = {"left": x0 <= 1, "top": y0 <= 1, "right": x1 >= width - 1, "bottom": y1 >= height - 1}
    cut = frozenset(name for name, touches in touching.items() if touches)
    scale = min(side / max(x1 - x0, y1 - y0), max_enlargement)
    size = (max(8, round((x1 - x0) * scale)), max(8, round((y1 - y0) * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    colours = cv2.resize(image[y0:y1, x0:x1], size, interpolation=method)
    soft = cv2.resize(
        mask[y0:y1, x0:x1].astype(np.float32),
        size,
        interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR,
    )
    # a cut side goes on beyond the crop, so that feathering does not fade it; a free side ends in nothing
    pad = 6
    colours = cv2.copyMakeBorder(colours, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    padded = np.zeros(colours.shape[:2], np.float32)
    padded[pad:-pad, pad:-pad] = soft
    for name, cut_here in touching.items():
        if cut_here:
            _continue(padded, name, pad)
    alpha = cv2.GaussianBlur(padded, (0, 0), 1.1 * max(1.0, scale))
    alpha = np.clip((alpha - 0.56) / 0.5 + 0.5, 0, 1)
    inner = (cv2.erode((padded > 0.5).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0).astype(np.float32)
    if inner.sum() > 30:
        colours = _spread(colours, inner)
    top, bottom = (
        (0 if "top" not in cut else pad),
        (colours.shape[0] if "bottom" not in cut else colours.shape[0] - pad),
    )
    left, right = (
        (0 if "left" not in cut else pad),
        (colours.shape[1] if "right" not in cut else colours.shape[1] - pad),
    )
    return Cutout(
        np.ascontiguousarray(colours[top:bottom, left:right]),
        np.ascontiguousarray(alpha[top:bottom, left:right], np.float32),
        cut,
    )


def _continue(soft: FloatArray, side: str, pad: int) -> None:
    if side == "left":
        soft[:, :pad] = soft[:, pad : pad + 1]
    elif side == "right":
        soft[:, -pad:] = soft[:, -pad - 1 : -pad]
    elif side == "top":
        soft[:pad] = soft[pad : pad + 1]
    else:
        soft[-pad:] = soft[-pad - 1 : -pad]


def _spread(colours: ImageArray, inner: FloatArray) -> ImageArray:
    """Colours inside kept, colours outside made from the nearest ones inside."""
    known = colours.astype(np.float32) * inner[..., None]
    filled = known.copy()
    weight = inner.copy()
    for sigma in (1.5, 5.0, 16.0):
        spread = cv2.GaussianBlur(known, (0, 0), sigma)
        mass = cv2.GaussianBlur(inner, (0, 0), sigma)
        new = (weight < 0.5) & (mass > 0.02)
        filled[new] = spread[new] / mass[new][:, None]
        weight[new] = 1
    rest = weight < 0.5
    filled[rest] = known.sum((0, 1)) / inner.sum()
    return np.asarray(np.clip(filled + 0.5, 0, 255), np.uint8)
