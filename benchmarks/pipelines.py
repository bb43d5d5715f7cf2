"""What painting costs, as ratios: process CPU time, one thread, pairs interleaved, medians.

    python benchmarks/pipelines.py [flops attention loop dif switch jobs killed]

`flops` counts at real sizes without weights; `loop`, `dif`, `switch` and `jobs` run the mid-size model (SDXL's shape at
a fifth of its width), `killed` a tiny one.
"""

# ruff: noqa: E402 the imports need the paths and the thread count set before them
from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[0] = str(ROOT)  # not this folder: it has a file of the package's name
sys.modules["tests"] = types.ModuleType("tests")  # some installed package may have that name too
sys.modules["tests"].__path__ = [str(ROOT / "tests")]

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image

from pipelines import backbones, dif, regional
from pipelines.settings import MaskRules, resolve
from tests.tiny_models import mid_size, tiny

torch.set_num_threads(1)
PAIRS = int(os.environ.get("PAIRS", "3"))


def cpu(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def compare(title: str, limit: str, first: Callable[[], Any], second: Callable[[], Any], pairs: int = PAIRS) -> None:
    """Median of the pairwise ratios second / first, after one warm-up each."""
    first(), second()
    times = [(cpu(first), cpu(second)) for _ in range(pairs)]
    ratio = statistics.median(b / a for a, b in times)
    seconds = [statistics.median(side) for side in zip(*times, strict=True)]
    print(f"{title}: {ratio:.3f}x ({seconds[0]:.3f} s, {seconds[1]:.3f} s; {pairs} pairs)  goal {limit}", flush=True)


def _flops_of(side: int, config: dict[str, Any]) -> tuple[int, int, int]:
    """A guided step of the UNet, an encode and a decode of the VAE, for a square picture; nothing is computed."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from torch.utils.flop_counter import FlopCounterMode

    def count(work: Callable[[], Any]) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            work()
        return counter.get_total_flops()

    with torch.device("meta"):
        unet = UNet2DConditionModel(in_channels=9, **config)
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2,
        )  # fmt: skip
        latent, picture = torch.empty(2, 9, side // 8, side // 8), torch.empty(1, 3, side, side)
        text = torch.empty(2, 77, config["cross_attention_dim"])
        added = {"text_embeds": torch.empty(2, 1280), "time_ids": torch.empty(2, 6)}
        return (
            count(lambda: unet(latent, torch.empty(2), text, added_cond_kwargs=added)),
            count(lambda: vae.encode(picture)),
            count(lambda: vae.decode(torch.empty(1, 4, side // 8, side // 8))),
        )


def flops() -> None:
    """DIF against plain inpainting at 50 steps under guidance, by counted multiply-adds of UNet and VAE."""
    sdxl = {
        "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20),
        "transformer_layers_per_block": (1, 2, 10), "use_linear_projection": True,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }  # fmt: skip
    for name, side, config in (("SD 1.5 512", 512, {"cross_attention_dim": 768}), ("SDXL 1024", 1024, sdxl)):
        step, encode, decode = _flops_of(side, config)
        plain = 50 * step + encode + decode  # the masked picture in, the result out
        both = plain + encode + decode + encode  # the hand-over: decode, the composite, the other masked picture
        goal = "1.05x" if "XL" in name else "1.07x"
        print(f"flops, DIF / plain, {name}, 50 steps: {both / plain:.4f}x  goal {goal}", flush=True)


def attention() -> None:
    """Masked self-attention at 4096 tokens, 25 % in the region, batch 2, SDXL's and SD 1.5's heads."""
    for heads, width in ((10, 64), (8, 40)):
        query, key, value = (torch.randn(2, heads, 4096, width) for _ in range(3))
        mask = torch.zeros(2, 1, 64, 64)
        mask[..., 16:48, 16:48] = 1
        same = mask.reshape(2, 1, -1, 1) == mask.reshape(2, 1, 1, -1)

        def explicit(query: Any = query, key: Any = key, value: Any = value, same: Any = same) -> Any:
            probabilities = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(dim=-1)
            return (probabilities * same) @ value

        def ours(kind: Any, qkv: Any = (query, key, value), mask: Any = mask) -> Callable[[], Any]:
            levels = regional.regions_of(mask, (64, 64), 1, MaskRules(kind=kind))
            return lambda: regional.RegionalSelf(kind).attend(*qkv, levels)

        def plain(query: Any = query, key: Any = key, value: Any = value) -> Any:
            return F.scaled_dot_product_attention(query, key, value)

        where = f"{heads}x{width}"
        assert torch.allclose(ours("post_softmax")(), explicit(), atol=1e-5)
        compare(f"attention {where}, explicit probabilities / exact", ">= 2x", ours("post_softmax"), explicit, 5)
        compare(f"attention {where}, split regions / plain", "<= 0.85x", plain, ours("pre_softmax"), 5)


def _place() -> tuple[Path, np.ndarray, np.ndarray]:
    folder = mid_size(Path(tempfile.mkdtemp(prefix="mid-size-")) / "base")
    picture = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
    mask = np.zeros((256, 256), bool)
    mask[64:160, 96:192] = True
    return folder, picture, mask


def _painting(steps: int, lambda_gch: float) -> tuple[Any, Callable[[], Any], Callable[[], Any]]:
    """The base, a DIF run of ours, and the stock pipeline, on the same scene."""
    from pipelines.adapters import stock_pipeline

    folder, picture, mask = _place()
    backbone = backbones.load(folder)
    changes = {"num_inference_steps": steps, "guidance_scale": 5.0, "resolution": 256}
    text = backbone.encode_text(["a photo of sks teapot"])
    texts = dif.StageTexts(text, text, backbone.unconditional(1))
    pipe = stock_pipeline(backbone)
    pipe.set_progress_bar_config(disable=True)

    def ours(share: float = lambda_gch) -> Any:
        return dif.paint(backbone, [picture], [mask], texts, [0], resolve("paper", {**changes, "lambda_gch": share}))

    def stock() -> Any:
        return pipe(
            "a photo of sks teapot", image=Image.fromarray(picture), mask_image=Image.fromarray(mask), height=256,
            width=256, num_inference_steps=steps, guidance_scale=5.0, strength=1.0,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip

    return backbone, ours, stock


def loop() -> None:
    """Our loop over all steps against the stock pipeline, 10 steps, text encoding on their side only."""
    _, ours, stock = _painting(10, 1.0)
    compare("own loop / stock pipeline, mid-size, 10 steps", "<= 1.03x", stock, ours)


def dif_cost() -> None:
    """DIF against plain inpainting, both in our loop."""
    steps = int(os.environ.get("DIF_STEPS", "50"))
    _, ours, _ = _painting(steps, 0.7)
    compare(f"DIF / plain, mid-size, {steps} steps", "<= 1.05x", lambda: ours(1.0), lambda: ours(0.7))


def switch() -> None:
    """From one loaded adapter to another, as a painter does it: all attention layers of the mid-size model."""
    from pipelines.adapters import Shelf, open_adapter
    from tests.pipelines.conftest import write_lora

    base, _, _ = _place()
    shelf = Shelf(backbones.load(base))
    pair = []
    for number in range(2):
        write_lora(base.parent / f"a{number}", "sdxl9", subject=f"thing{number}", seed=number, base=base)
        pair.append(open_adapter(base.parent / f"a{number}"))
        shelf.use(pair[-1])
    times = [cpu(lambda adapter=adapter: shelf.use(adapter)) for adapter in pair * 10]
    print(f"adapter switch: {1000 * statistics.median(times):.1f} ms  goal < 50 ms", flush=True)


def jobs() -> None:
    """100 jobs over 4 adapters in one run: the whole run's CPU time over that of its denoising.

    On the mid-size model with 4 steps, some 2 CPU seconds a picture; what is left over is the loading of one base and
    four adapters and some 10 ms a job.
    """
    from pipelines import painter
    from pipelines.jobs import Job
    from pipelines.run import run
    from tests.pipelines.conftest import write_lora

    folder = Path(tempfile.mkdtemp(prefix="jobs-"))
    base, picture, _ = _place()
    for number in range(4):
        write_lora(folder / f"a{number}", "sdxl9", subject=f"thing{number}", seed=number, base=base)
    Image.fromarray(picture).save(folder / "scene.png")
    spent = 0.0
    own = painter.paint

    def timed(*args: Any, **options: Any) -> Any:
        nonlocal spent
        start = time.process_time()
        try:
            return own(*args, **options)
        finally:
            spent += time.process_time() - start

    painter.paint = timed
    todo = [
        Job(
            scene=str(folder / "scene.png"), adapter=str(folder / f"a{number % 4}"), box=(96, 64, 192, 160),
            seed=number, settings={"num_inference_steps": 4, "resolution": 256},
        )
        for number in range(100)
    ]  # fmt: skip
    total = cpu(lambda: run(todo, folder / "out", batch_size=4))
    seconds = f"({total:.1f} s, {spent:.1f} s)"
    print(f"100 jobs over 4 adapters: {total / spent:.3f}x of their denoising {seconds}  goal <= 1.05x", flush=True)


def killed() -> None:
    """A run of 12 jobs killed by SIGKILL after its third result, and continued: which pictures were painted twice."""
    import signal
    import subprocess

    from tests.pipelines.conftest import write_lora

    folder = Path(tempfile.mkdtemp(prefix="killed-"))
    write_lora(folder / "adapter", "sd9")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)).save(folder / "scene.png")
    todo = "".join(f"- {{scene: scene.png, box: [32, 32, 64, 64], seed: {number}}}\n" for number in range(12))
    (folder / "jobs.yaml").write_text(todo)
    command = [
        sys.executable, "-m", "dataforge", "inpaint", "adapter", "--jobs", "jobs.yaml", "-o", "out",
        "--batch-size", "1", "--base", str(tiny("sd9")), "--device", "cpu",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while first.poll() is None and len(list(folder.glob("out/parts/*.json"))) < 3:
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("out/parts/*.json")}
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    twice = sum(path.stat().st_mtime_ns != mtime for path, mtime in kept.items())
    total = len(list(folder.glob("out/parts/*.json")))
    print(
        f"killed after {len(kept)} of 12 jobs, continued: {total} done, {twice} painted twice  goal 12, 0", flush=True
    )


MEASURES = {"flops": flops, "attention": attention, "loop": loop, "dif": dif_cost, "switch": switch, "jobs": jobs,
    "killed": killed,
}  # fmt: skip

if __name__ == "__main__":
    for name in sys.argv[1:] or MEASURES:
        MEASURES[name]()
