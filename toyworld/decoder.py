"""The training of the autoencoder's decoder."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
import typer

from toyworld import autoencoder
from toyworld.batches import draw
from toyworld.settings import Settings

BATCH = 8
_FIRST_SCENE = 10**9  # far from the scenes that the denoiser sees


def train_decoder(folder: Path, settings: Settings) -> None:
    """Train the decoder, from where the folder stands. It sees training scenes only, so no mark of a subject."""
    torch.set_num_threads(1)
    torch.manual_seed(settings.seed)
    device = torch.device(settings.device)
    vae = autoencoder.autoencoder().to(device)
    optimiser = torch.optim.AdamW(vae.decoder.parameters(), betas=(0.9, 0.99), weight_decay=0.0)
    path, step, cpu = folder / "decoder.pt", 0, 0.0
    if path.exists():
        state = torch.load(path, map_location=device, weights_only=True)
        vae.load_state_dict(state["vae"])
        optimiser.load_state_dict(state["optimiser"])
        step, cpu = state["step"], state["cpu_seconds"]
    first = step
    began, base_cpu, losses = time.monotonic(), cpu - time.process_time(), list[float]()
    late = False
    while step < settings.decoder_steps and not late:
        draws = torch.Generator(device).manual_seed(settings.seed * 2**32 + step)
        drawn = draw(settings.seed, _FIRST_SCENE + step * BATCH, BATCH, 48)
        images = torch.from_numpy(drawn.images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * min(1.0, (step + 1) / 50, 1.02 - step / settings.decoder_steps)
        loss = autoencoder.decoder_loss(vae, images, draws)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.decoder.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        step += 1
        losses.append(loss.item())
        seconds = time.monotonic() - began
        late = bool(settings.minutes) and seconds > 60 * settings.minutes
        if step % 200 == 0 or step == settings.decoder_steps or late:
            cpu = base_cpu + time.process_time()
            entry = {"decoder_step": step, "cpu_seconds": round(cpu), "loss": round(sum(losses) / len(losses), 4)}
            left = seconds / (step - first) * (settings.decoder_steps - step) / 60
            typer.echo(json.dumps(entry | {"minutes_left": round(left, 1)}))
            losses.clear()
            state = {"vae": vae.state_dict(), "optimiser": optimiser.state_dict(), "step": step, "cpu_seconds": cpu}
            torch.save(state, path.with_suffix(".partial"))
            path.with_suffix(".partial").replace(path)
