"""Train the base model from nothing, in chunks, on a CPU or a GPU.

    python -m toyworld.train RUN --samples 300000 --workers 2

writes its state to the folder RUN every few minutes and takes up from there when run again; killed at any moment it
loses those minutes. When all samples are seen, `RUN/base` holds the pipeline. `--only decoder`, `--only denoiser` and
`--only export` run one part.

One worker is reproducible: every draw is a function of (seed, step). More workers share the weights without locks
(Hogwild), each with its own optimiser, and are not. `--samples` may differ from run to run: the learning rate and the
size of the canvas follow the share of it that has been seen.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import torch

from toyworld import autoencoder, model
from toyworld.decoder import train_decoder
from toyworld.denoiser import Denoiser
from toyworld.run import train_denoiser
from toyworld.settings import Settings


def export(folder: Path, out: Path) -> None:
    """Write the pipeline of a run, UNet and autoencoder in 16 bits: the running mean of its weights."""
    state = torch.load(folder / "denoiser.pt", map_location="cpu", weights_only=True)
    denoiser = Denoiser(state["norm_groups"])
    denoiser.load_state_dict(state["mean"])
    vae = autoencoder.autoencoder()
    vae.load_state_dict(torch.load(folder / "decoder.pt", map_location="cpu", weights_only=True)["vae"])
    painter = model.pipeline(vae, denoiser.text, denoiser.unet)
    # transformers would load 16 bits as 16 bits, and the text encoder is small: so all of it loads in 32 bits unasked
    denoiser.unet.half()
    vae.half()
    painter.save_pretrained(out)


def main() -> None:
    """Train and export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--only", choices=["decoder", "denoiser", "export"])
    parser.add_argument("--out", type=Path, help="where the pipeline is written (default: RUN/base)")
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = vars(parser.parse_args())
    folder, only, out = options.pop("run"), options.pop("only"), options.pop("out")
    settings = Settings(**options)
    folder.mkdir(parents=True, exist_ok=True)
    if only in (None, "decoder"):
        train_decoder(folder, settings)
    if only in (None, "denoiser"):
        train_denoiser(folder, settings)
    if only in (None, "export"):
        export(folder, out or folder / "base")


if __name__ == "__main__":
    main()
