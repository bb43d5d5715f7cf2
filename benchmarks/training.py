"""What a training step costs, as ratios of process CPU time: `python -m benchmarks.training [--script PATH]`.

On a random SDXL-shaped base at a fifth of its width, at 256 px, one thread. Both sides of a ratio are taken in turn,
step by step; printed are medians. `--script` is the path of diffusers' `train_dreambooth_lora_sdxl.py`, which whoever
runs this brings along (`make bench SCRIPT=PATH`); without it that line is left out. That a run resumes on the
same bits at 100 of 100 places is `pytest -m slow tests/trainer/test_resume.py -s`.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# the tests' models and corpora, whatever other package called `tests` is installed
tests = types.ModuleType("tests")
tests.__path__ = [str(ROOT / "tests")]
sys.modules["tests"] = tests
os.environ["OMP_NUM_THREADS"] = "1"

import torch  # noqa: E402
from transformers.utils import logging as quiet  # noqa: E402

from manifests.corpus import open_corpus  # noqa: E402
from tests.tiny_models import mid_size  # noqa: E402
from tests.trainer.conftest import write_balls  # noqa: E402
from trainer.job import Job  # noqa: E402

RESOLUTION = 256
SETTINGS: dict[str, Any] = {
    "resolution": RESOLUTION,
    "rank": 4,
    "lora_targets": ["to_k", "to_q", "to_v", "to_out.0"],
    "variants": 4,
    "regular_variants": 4,
    "gradient_accumulation_steps": 1,
    "regular_prob": 0,
    "max_train_steps": 10_000,
    "checkpointing_steps": 100_000,
}
WARM_UP = 2


def cost(work: Callable[[], object]) -> float:
    """CPU seconds of this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def paired(first: Callable[[], object], second: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median cost of each, taken in turn."""
    costs = [(cost(first), cost(second)) for _ in range(WARM_UP + rounds)][WARM_UP:]
    return statistics.median(a for a, _ in costs), statistics.median(b for _, b in costs)


def report(name: str, ours: float, theirs: float, limit: float) -> None:
    print(f"{name}: {ours:.3f} s over {theirs:.3f} s = {ours / theirs:.3f}x (at most {limit:.2f}x)", flush=True)


@contextmanager
def stepper(job: Job, names: list[str]) -> Iterator[Callable[[], None]]:
    """One optimizer step of the loop over these subjects; the base is left clean afterwards."""
    group = [subject for subject in job.subjects if subject.id in names]
    with job.fit(group) as fit:
        loader = fit.loader(10_000)
        yield lambda: fit.one_step(loader)


def encodes(job: Job, rounds: int) -> None:
    """The cached step against the same step with its two VAE encodes."""
    pixels = torch.rand(1, 3, RESOLUTION, RESOLUTION) * 2 - 1
    with stepper(job, ["red-ball"]) as step:

        def with_encodes() -> None:
            job.backbone.encode_image(pixels)
            job.backbone.encode_image(pixels)
            step()

        report("cached 9-channel step over one that encodes", *paired(step, with_encodes, rounds), 0.80)


def bare(job: Job, rounds: int) -> None:
    """The whole step against forward, backward and AdamW of the same UNet and LoRA on tensors that lie ready."""
    from trainer.batches import step_of

    with job.fit(job.subjects[:1]) as fit:
        loader = fit.loader(10_000)
        ready = step_of(next(loader), job.backbone)
        assert ready.masked is not None
        sample = job.backbone.unet_input(ready.latents, ready.mask, ready.masked)
        optimizer = torch.optim.AdamW(fit.parameters.values(), lr=1e-4)

        def bare_step() -> None:
            prediction = job.backbone.predict(sample, ready.timesteps, ready.text, ready.size)
            torch.nn.functional.mse_loss(prediction, ready.noise).backward()
            optimizer.step()
            optimizer.zero_grad()

        ours, theirs = paired(lambda: fit.one_step(loader), bare_step, rounds)
    report("whole step over forward, backward and AdamW", ours, theirs, 1.10)


def together(corpus: Path, base: Path, folder: Path, bank: Path, rounds: int) -> None:
    """Four subjects in one step against one subject with a batch of four."""
    four, large = {**SETTINGS, "subjects_at_once": 4}, {**SETTINGS, "train_batch_size": 4}
    with (
        Job.open(corpus, "dreammix", base, folder / "a", settings=four, bank=bank) as stacked,
        Job.open(corpus, "dreammix", base, folder / "b", settings=large, bank=bank) as plain,
    ):
        for job in (stacked, plain):
            job.prepare(lambda *_: None)
        with stepper(stacked, [s.id for s in stacked.subjects]) as one, stepper(plain, ["red-ball"]) as other:
            report("four subjects over a plain batch of four", *paired(one, other, rounds), 1.12)


def starts(corpus: Path, base: Path, folder: Path, rounds: int) -> None:
    """From the model loaded to the first step done, with a bank that is empty and one that is full."""
    costs: list[list[float]] = [[], []]
    for number in range(rounds):
        for which in (0, 1):
            output = folder / f"start{number}"
            more = {**SETTINGS, "variants": 10}
            with Job.open(corpus, "dreammix", base, output, settings=more, bank=output / "bank") as job:
                _ = job.backbone.base.digest  # part of loading the model

                def begin(job: Job = job) -> None:
                    job.prepare(lambda *_: None)
                    with stepper(job, ["red-ball"]) as step:
                        step()

                costs[which].append(cost(begin))
    report("second start over first", statistics.median(costs[1]), statistics.median(costs[0]), 0.25)


def stock(script: Path, corpus: Path, base: Path, folder: Path, rounds: int) -> None:
    """The cached 4-channel LoRA step against the step of diffusers' script, over the same photographs."""
    from PIL import Image

    pictures = folder / "pictures"
    pictures.mkdir()
    with open_corpus(f"{corpus}#red-ball") as opened:
        for sample in opened.samples(role="src"):
            Image.fromarray(opened.image(sample)).save(pictures / f"{sample.id.rpartition('/')[2]}.png")

    def theirs(steps: int) -> float:
        command = [
            sys.executable, str(script), f"--pretrained_model_name_or_path={base}", f"--instance_data_dir={pictures}",
            "--instance_prompt=a photo of sks ball", f"--output_dir={folder / 'stock'}", f"--resolution={RESOLUTION}",
            "--train_batch_size=1", "--gradient_accumulation_steps=1", "--rank=4", "--learning_rate=1e-4",
            "--lr_scheduler=constant", "--lr_warmup_steps=0", "--mixed_precision=no", f"--max_train_steps={steps}",
            "--checkpointing_steps=100000", "--seed=0", "--dataloader_num_workers=0",
        ]  # fmt: skip
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True, cwd=folder)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    settings = {**SETTINGS, "mask": "box"}
    with Job.open(corpus, "dreammix", base, folder / "ours", settings=settings) as job:
        job.prepare(lambda *_: None)
        steps = max(50, rounds)  # with fewer, the script's start-up outweighs what is measured
        few, many = 2, 2 + steps
        mine, yours = [], []
        with stepper(job, ["red-ball"]) as step:
            step()
            for _ in range(3):
                short = theirs(few)
                mine += [cost(step) for _ in range(rounds)]
                yours.append((theirs(many) - short) / steps)
    report("cached SDXL LoRA step over diffusers' script", statistics.median(mine), statistics.median(yours), 0.82)


def base_of(folder: Path, channels: int) -> Path:
    """The mid-size base with SDXL's VAE at a fifth of its width too (rounded to whole groups): 2 layers a block, middle
    attention, 128, 256, 512 and 512 channels over five.

    A VAE thinner than its UNet would flatter the step that encodes: with widths of 16 to 64 and one layer an encoding
    takes 4.6 GFLOP at 256 px, with these 10.7; SDXL's own takes 4,879 at 1024 px, of which 1/16 for the pixels and 1/25
    for the width are 12.2.
    """
    from diffusers import AutoencoderKL

    mid_size(folder, channels=channels)
    torch.manual_seed(0)
    AutoencoderKL(
        block_out_channels=(24, 48, 104, 104),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=RESOLUTION,
        scaling_factor=0.13025,
    ).save_pretrained(folder / "vae")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--script", type=Path, help="diffusers' train_dreambooth_lora_sdxl.py")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", nargs="*", default=["encodes", "bare", "together", "starts", "stock"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    quiet.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="training-") as name:
        folder = Path(name)
        corpus = write_balls(folder / "corpus", subjects=4)
        nine = base_of(folder / "base9", 9)
        with Job.open(corpus, "dreammix", nine, folder / "out", settings=SETTINGS, bank=folder / "bank") as job:
            job.prepare(lambda *_: None)
            if "encodes" in options.only:
                encodes(job, options.rounds)
            if "bare" in options.only:
                bare(job, options.rounds)
        if "together" in options.only:
            together(corpus, nine, folder, folder / "bank", options.rounds)
        if "starts" in options.only:
            starts(corpus, nine, folder, max(1, options.rounds // 3))
        if "stock" in options.only and options.script:
            stock(options.script.resolve(), corpus, base_of(folder / "base4", 4), folder, options.rounds)


if __name__ == "__main__":
    main()
