"""What a training run is asked for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run is asked for."""

    samples: int = 620_000
    decoder_steps: int = 6_000
    workers: int = 1
    device: str = "cpu"
    seed: int = 0
    norm_groups: int = 4
    learning_rate: float = 1.2e-3
    save_every: float = 180.0  # seconds
    report_every: int = 200  # steps of the first worker
    minutes: float = 0.0  # stop each part after so many; 0: when done
