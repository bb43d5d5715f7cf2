"""Training objectives as pure functions of tensors (METHODS 2.4, 3.3, 4.5, 5).

Dimension key: B items, C latent channels, H W latent height and width. Every loss returns one number per item, [B]
float32, so that the caller can weigh items (prior preservation, min-SNR) and subjects.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["min_snr", "object_mse", "padded_mse", "region_weight", "weighted_mse"]


def region_weight(mask: Tensor, *, inside: float, outside: float) -> Tensor:
    """w = outside + (inside - outside) * mask, for a latent mask [B,1,H,W] (METHODS 2.4)."""
    return outside + (inside - outside) * mask


def weighted_mse(prediction: Tensor, wanted: Tensor, weight: Tensor, *, squared: bool) -> Tensor:
    """Mean over all latent cells of weight * error^2, or of (weight * error)^2.

    DreamMix's release multiplies prediction and target by the weight, so its effective weights are squared
    (1.5 and 0.6 act as 2.25 and 0.36); `squared=False` is the linear reading (METHODS 2.4, A3).
    """
    error = (prediction.float() - wanted.float()) ** 2
    return (error * (weight**2 if squared else weight)).mean(dim=(1, 2, 3))


def padded_mse(prediction: Tensor, wanted: Tensor, valid: Tensor, *, released: bool) -> Tensor:
    """Squared error over the cells where `valid` [B,1,H,W] is 1; the black padding of an augmentation counts nothing.

    The true mean, or DreamCom's released reduction, which divides by cells and not by channels and is therefore C
    times as large (METHODS 3.3, C7).
    """
    error = (prediction.float() - wanted.float()) ** 2
    # at least one cell is valid: an augmentation that shows only padding is never accepted (trainer.views)
    total = (error * valid).sum(dim=(1, 2, 3)) / valid.sum(dim=(1, 2, 3))
    return total if released else total / error.shape[1]


def object_mse(prediction: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error inside the mask only, by the mask's own size: a small object trains like a large one.

    DreamInpainter's main mode; with a mask of ones it is the plain mean of its regularising mode (METHODS 4.5).
    """
    return padded_mse(prediction, wanted, mask, released=False)


def min_snr(alphas_cumprod: Tensor, timesteps: Tensor, *, gamma: float, prediction_type: str) -> Tensor:
    """Weights [B] that cap easy timesteps (Hang et al. 2023): min(snr, gamma) / snr, over snr + 1 for velocity.

    They multiply whole items, so they compose with any weight map inside an item.
    """
    signal = alphas_cumprod.to(timesteps.device)[timesteps].double()
    snr = signal / (1 - signal)
    capped = snr.clamp(max=gamma)
    if prediction_type == "sample":
        return capped.float()
    return (capped / (snr + 1 if prediction_type == "v_prediction" else snr)).to(torch.float32)
