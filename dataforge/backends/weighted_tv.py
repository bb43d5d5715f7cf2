"""The best smooth outline for given evidence: a two-label cut in its convex form.

min over u in [0, 1] of  sum weight * |grad u|  -  sum evidence * u,  whose thresholded solution is the global optimum
of the binary problem (Chan, Esedoglu, Nikolova, SIAM J. Appl. Math. 2006), solved with the primal-dual steps of
Chambolle and Pock (J. Math. Imaging Vis. 2011). Unlike `cv2.grabCut` it takes any evidence per pixel.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["edge_weight", "weighted_cut"]

FloatMap = npt.NDArray[np.float32]


def edge_weight(lab: FloatMap, floor: float = 0.05, softness: float = 0.5) -> FloatMap:
    """What an outline costs at each pixel of a float32 HxWx3 CIELAB picture: 1 in flat places, `floor` on edges."""
    smooth = cv2.GaussianBlur(lab, (0, 0), 0.5)
    slope = np.zeros(lab.shape[:2], np.float32)
    slope[:, :-1] += ((smooth[:, 1:] - smooth[:, :-1]) ** 2).sum(axis=2)
    slope[:-1] += ((smooth[1:] - smooth[:-1]) ** 2).sum(axis=2)
    usual = float(slope.mean(dtype=np.float64))
    return np.asarray(floor + (1 - floor) * np.exp(-slope / (2 * softness * usual + 1e-6)), np.float32)


def weighted_cut(evidence: FloatMap, weight: FloatMap, start: FloatMap, steps: int) -> FloatMap:
    """u, float32 HxW in [0, 1]; `evidence` > 0 speaks for the subject. `start` is a first guess of u."""
    # tau * sigma * 8 < 1, the squared norm of the discrete gradient
    tau = sigma = np.float32(0.35)
    u = start.astype(np.float32).copy()
    ahead = u.copy()
    p = np.zeros_like(u)
    q = np.zeros_like(u)
    change = np.empty_like(u)
    scale = np.empty_like(u)
    gain = tau * evidence
    per_weight = (1 / (weight * weight)).astype(np.float32)
    for _ in range(steps):
        p[:, :-1] += sigma * (ahead[:, 1:] - ahead[:, :-1])
        q[:-1] += sigma * (ahead[1:] - ahead[:-1])
        np.multiply(p, p, out=scale)
        scale += q * q
        scale *= per_weight
        np.maximum(scale, np.float32(1), out=scale)
        np.sqrt(scale, out=scale)
        p /= scale
        q /= scale
        np.add(p, q, out=change)
        change[:, 1:] -= p[:, :-1]
        change[1:] -= q[:-1]
        change *= tau
        change += gain
        change += u
        np.clip(change, 0, 1, out=change)
        np.multiply(change, 2, out=ahead)
        ahead -= u
        u, change = change, u
    return u
