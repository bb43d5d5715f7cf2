"""FID (Heusel et al. 2017) with torch-fidelity's Inception, the TensorFlow weights of the original.

Small sets bias FID upwards, so the number of pictures stands beside it and it has no interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
import numpy.typing as npt
import torch

from pipelines.evaluate.metrics import Column
from pipelines.evaluate.metrics.devices import device
from pipelines.evaluate.pairs import View, as_seen
from pipelines.evaluate.weights import MissingWeights, Weights

__all__ = ["INCEPTION", "INCEPTION_URL", "Fid", "frechet_distance"]

INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION}"


class Fid:
    """Inception features per picture; `layer` is 64, 192, 768 or 2048 (the usual one)."""

    def __init__(self, weights: Weights, *, crop: str = "box", layer: int = 2048) -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        try:
            # the library unpickles the file as it is: this refuses one that holds more than tensors
            torch.load(weights.path, map_location="cpu", weights_only=True)
            extractor = FeatureExtractorInceptionV3(
                "inception-v3-compat", [str(layer)], feature_extractor_weights_path=str(weights.path)
            )
        except Exception as error:
            raise MissingWeights(f"fid: {weights.path.name} is no state of {INCEPTION}.") from error
        self._model = extractor.to(device())
        self.crop = crop
        model = f"torch-fidelity {version('torch-fidelity')} Inception layer {layer}, {weights}"
        steps = "to 299x299 (TensorFlow 1 bilinear), as the original"
        self.columns: tuple[Column, ...] = (Column(f"fid_{crop}", "down", model, steps, crop),)

    @torch.inference_mode()
    def features(self, views: Sequence[View]) -> npt.NDArray[np.float32]:
        """float32 [n, layer]."""
        rows = []
        for view in views:
            seen = as_seen(view, self.crop)
            assert seen is not None
            pixels = torch.from_numpy(np.ascontiguousarray(seen.transpose(2, 0, 1)))[None].to(device())
            rows.append(self._model(pixels)[0].reshape(-1).float().cpu().numpy())
        return np.stack(rows)


def frechet_distance(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> float:
    """The Frechet distance of two feature sets [n, d] and [m, d], n and m at least 2 (torch-fidelity, float64).

    With fewer pictures than features both sets lie in a space of n + m dimensions; turning it onto the axes changes
    no distance and spares the rest.
    """
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    both = np.concatenate([first, second]).astype(np.float64)
    if both.shape[0] < both.shape[1]:
        _, turned = np.linalg.qr(both.T)
        both = turned.T
    statistics = [fid_features_to_statistics(torch.from_numpy(half)) for half in np.split(both, [len(first)])]
    return float(fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID])
