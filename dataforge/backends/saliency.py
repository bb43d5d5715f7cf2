"""What in a picture is not its background: boundary connectivity of regions (no weights).

Regions are watershed basins grown from a grid of seeds. A region belongs to the background when the area that is
geodesically close to it in colour leans on the border of the picture (Zhu, Liang, Wei, Sun, "Saliency Optimization
from Robust Background Detection", CVPR 2014, equations 1-9).
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["Regions", "regions_of", "saliency_of"]

FloatMap = npt.NDArray[np.float32]
IntMap = npt.NDArray[np.int32]


class Regions:
    """An oversegmentation: `labels` int32 HxW in 0..count-1; per region mean Lab, place, size, border length."""

    def __init__(self, labels: IntMap, lab: FloatMap) -> None:
        height, width = labels.shape
        flat = labels.ravel()
        self.labels = labels
        self.count = int(flat.max()) + 1
        self.size = np.maximum(np.bincount(flat, minlength=self.count), 1).astype(np.float64)
        self.colour = np.stack([self.mean(lab[..., channel]) for channel in range(3)], axis=1)
        rows, columns = np.mgrid[0:height, 0:width]
        longest = max(height, width)
        self.place = np.stack([self.mean(rows) / longest, self.mean(columns) / longest], axis=1)
        edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
        self.border = np.bincount(edge, minlength=self.count).astype(np.float64)
        across = np.concatenate(
            [
                np.stack([labels[:, :-1].ravel(), labels[:, 1:].ravel()], axis=1),
                np.stack([labels[:-1].ravel(), labels[1:].ravel()], axis=1),
            ]
        )
        across = across[across[:, 0] != across[:, 1]]
        self.adjacent = np.zeros((self.count, self.count), bool)
        self.adjacent[across[:, 0], across[:, 1]] = True
        self.adjacent |= self.adjacent.T

    def mean(self, values: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
        """The mean of an HxW map in each region."""
        return np.bincount(self.labels.ravel(), values.ravel().astype(np.float64), minlength=self.count) / self.size


def regions_of(lab: FloatMap, step: int) -> Regions:
    """Watershed basins of a float32 HxWx3 CIELAB picture around seeds `step` pixels apart."""
    height, width = lab.shape[:2]
    smooth = cv2.GaussianBlur(lab, (0, 0), 1.0)
    padded = cv2.copyMakeBorder(smooth, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    slope = np.abs(padded[2:, 1:-1] - padded[:-2, 1:-1]).sum(axis=2)
    slope += np.abs(padded[1:-1, 2:] - padded[1:-1, :-2]).sum(axis=2)
    markers = np.zeros((height, width), np.int32)
    label = 0
    for top in range(0, height, step):
        for left in range(0, width, step):
            # seed in the flattest spot near the middle of the cell, so that seeds do not sit on edges
            rows = slice(top + step // 4, min(top + step - step // 4, height))
            columns = slice(left + step // 4, min(left + step - step // 4, width))
            cell = slope[rows, columns]
            if cell.size:
                label += 1
                row, column = divmod(int(cell.argmin()), cell.shape[1])
                markers[rows.start + row, columns.start + column] = label
    if not label:
        return Regions(np.zeros((height, width), np.int32), lab)
    cv2.watershed(np.clip(smooth * [2.55, 1, 1] + [0, 128, 128], 0, 255).astype(np.uint8), markers)
    labels = markers.astype(np.float32)
    for _ in range(8):
        gaps = labels <= 0
        if not gaps.any():
            break
        labels[gaps] = cv2.dilate(labels, np.ones((3, 3), np.uint8))[gaps]
    _, dense = np.unique(np.maximum(labels, 1).astype(np.int32), return_inverse=True)
    return Regions(dense.reshape(height, width).astype(np.int32), lab)


def saliency_of(lab: FloatMap, step: int = 8) -> FloatMap:
    """How much each part of a float32 HxWx3 CIELAB picture stands out: float32 HxW in [0, 1]."""
    regions = regions_of(lab, step)
    colour = regions.colour
    distance = np.sqrt(((colour[:, None] - colour[None]) ** 2).sum(axis=2))
    on_border = regions.border > 0
    linked = regions.adjacent | (on_border[:, None] & on_border[None])
    # steps below the mean nearest-neighbour step are texture, not a boundary (section 3.2 of the paper)
    nearest = np.where(regions.adjacent, distance, np.inf).min(axis=1)
    noise = float(np.mean(nearest[np.isfinite(nearest)])) if np.isfinite(nearest).any() else 0.0
    geodesic = np.where(linked, np.maximum(distance - noise, 0.0), np.inf)
    np.fill_diagonal(geodesic, 0.0)
    for middle in range(regions.count):
        np.minimum(geodesic, geodesic[:, middle, None] + geodesic[middle], out=geodesic)
    near = np.exp(-(geodesic**2) / (2 * 7.0**2))
    area = (near * (regions.size / regions.size.mean())).sum(axis=1)
    share = regions.border / max(1.0, regions.border[on_border].mean() if on_border.any() else 1.0)
    connectivity = (near * share).sum(axis=1) / np.sqrt(area)
    background = 1 - np.exp(-(connectivity**2) / 2)
    apart = np.sqrt(((regions.place[:, None] - regions.place[None]) ** 2).sum(axis=2))
    contrast = (distance * np.exp(-(apart**2) / (2 * 0.4**2)) * background * regions.size).sum(axis=1)
    contrast = _stretch(contrast)
    # smooth labels over alike neighbours: the quadratic energy of equation 9
    alike = np.where(linked, np.exp(-(distance**2) / (2 * 7.0**2)) + 0.1, 0.0)
    np.fill_diagonal(alike, 0.0)
    system = np.diag(alike.sum(axis=1) + 5 * background + contrast) - alike
    solved = np.asarray(np.linalg.solve(system + 1e-6 * np.eye(regions.count), contrast), np.float64)
    return _stretch(solved)[regions.labels].astype(np.float32)


def _stretch(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-9:
        return np.zeros_like(values)
    return (values - low) / (high - low)
