"""Where metric models run."""

from __future__ import annotations

import torch

__all__ = ["device"]


def device() -> torch.device:
    """A CUDA GPU if there is one, else the CPU. Weights and activations are float32 on both."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
