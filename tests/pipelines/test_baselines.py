"""Baselines with tiny models, loaded from disk as a user loads them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, PaintByExamplePipeline
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from manifests.corpus import open_corpus
from manifests.errors import ReportedError
from pipelines import backbones, crop
from pipelines.baselines import dreamedit
from pipelines.denoise import to_images, to_pixels
from pipelines.jobs import Job
from pipelines.run import run
from pipelines.settings import resolve
from tests.manifests.corpora import small_content, write_corpus
from tests.pipelines.conftest import box_mask, scene, write_lora
from tests.tiny_models import sd_unet, tiny, vae

FEW = {"num_inference_steps": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("baselines")
    write_corpus(folder / "corpus", small_content())
    Image.fromarray(scene()).save(folder / "scene.png")
    write_lora(folder / "adapter", "sd9")
    return folder


@pytest.fixture(scope="module")
def photographs(place):
    with open_corpus(place / "corpus") as corpus:
        return [f"{place / 'corpus'}#{sample.id}" for sample in corpus.samples(role="src")]


def vision(width: int) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=5, num_attention_heads=4, image_size=32, patch_size=16,
        projection_dim=width,
    )  # fmt: skip


def write_ip_adapter(folder, kind: str):
    """The published layout: one file of projections, and the image encoder beside it."""
    unet = backbones.load(tiny(kind)).unet
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPVisionModelWithProjection(vision(24)).save_pretrained(folder / "image_encoder")
        width = unet.config.cross_attention_dim
        tensors = {"image_proj.proj.weight": torch.randn(4 * width, 24), "image_proj.proj.bias": torch.randn(4 * width)}
        tensors |= {"image_proj.norm.weight": torch.ones(width), "image_proj.norm.bias": torch.zeros(width)}
        for number, name in enumerate(n for n in unet.attn_processors if n.endswith("attn2.processor")):
            inner = unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
            for part in ("to_k_ip", "to_v_ip"):
                tensors[f"ip_adapter.{2 * number + 1}.{part}.weight"] = torch.randn(inner, width)
    save_file(tensors, folder / "ip-adapter_tiny.safetensors")
    return folder


def job(place, photographs, **fields) -> Job:
    own = {"scene": str(place / "scene.png"), "box": (40, 32, 72, 64), "reference": photographs[0], "seed": 1}
    return Job(**(own | {"prompt": "a photo of a teapot", "settings": FEW} | fields))


def check(output, rows):
    """Painted inside, the scene's own bytes far from the box, and not the same for two references."""
    pictures = [np.asarray(Image.open(output / row.image)) for row in rows]
    far = crop.soft_mask(box_mask(), 3) == 0
    for picture in pictures:
        assert (picture[far] == scene()[far]).all()
        assert (picture[box_mask()] != scene()[box_mask()]).any()
    assert (pictures[0] != pictures[1]).any()


@pytest.mark.parametrize("kind", ["sd9", "sdxl4"])
def test_ip_adapter_paints_from_the_reference(place, photographs, tmp_path, kind):
    base = f"{tiny(kind)}+ip-adapter={write_ip_adapter(tmp_path / 'weights', kind)}"
    jobs = [job(place, photographs, method="ip-adapter", base=base, reference=one) for one in photographs[:2]]
    check(tmp_path, run(jobs, tmp_path))


def test_ip_adapter_says_what_is_missing(place, photographs, tmp_path):
    weights = write_ip_adapter(tmp_path / "weights", "sd9")
    (weights / "second.safetensors").write_bytes(b"")
    for base, sentence in (
        (str(tiny("sd9")), r"E502 .*method 'ip-adapter' takes PLACE\+ip-adapter=WEIGHTS"),
        (f"{tiny('sd9')}+ip-adapter={weights}", "E502 .*one .safetensors file was expected, found ip-adapter_tiny"),
        (f"{tiny('sd9')}+ip-adapter={place / 'scene.png'}", "E503 .*no image_encoder/ beside scene.png"),
    ):
        with pytest.raises(ReportedError, match=sentence):
            run([job(place, photographs, method="ip-adapter", base=base)], tmp_path / "out")


def write_paint_by_example(folder):
    """The parts of the published layout; a `model_index.json` is not looked at."""
    kind = PaintByExamplePipeline
    encoder = __import__(kind.__module__, fromlist=["x"]).PaintByExampleImageEncoder
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder(vision(24), proj_size=24).save_pretrained(folder / "image_encoder")
        sd_unet(9, text_width=24).save_pretrained(folder / "unet")
        vae().save_pretrained(folder / "vae")
    DDIMScheduler().save_pretrained(folder / "scheduler")
    CLIPImageProcessor(size=32, crop_size=32).save_pretrained(folder / "feature_extractor")
    return folder


def test_paint_by_example_paints_from_the_reference(place, photographs, tmp_path):
    base = str(write_paint_by_example(tmp_path / "model"))
    jobs = [job(place, photographs, method="paint-by-example", base=base, reference=one) for one in photographs[:2]]
    check(tmp_path, run(jobs, tmp_path))
    with pytest.raises(ReportedError, match=r"E601 .*no image_encoder/, so it is no Paint-by-Example model"):
        run([job(place, photographs, method="paint-by-example", base=str(tiny("sd9")))], tmp_path / "out")


def test_dreamedit_paints_in_rounds_and_keeps_the_scene(place, photographs, tmp_path):
    prompt = "a photo of {identifier} teapot"
    jobs = [
        job(place, photographs, method="dreamedit", adapter=str(place / "adapter"), prompt=prompt, seed=n)
        for n in (1, 2)
    ]
    rows = run(jobs, tmp_path)
    check(tmp_path, rows)
    assert rows[0].id.startswith("teapot/lora-")


@torch.no_grad()
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_dreamedit_inversion_walks_back_the_way_it_came(share):
    backbone, mask, picture = backbones.load(tiny("sd9")), box_mask(64, 64), scene(0, 64, 64)
    # a prediction that does not depend on the latents is inverted without error
    backbone.unet.conv_out.weight.zero_()
    backbone.unet.conv_out.bias.fill_(0.3)
    text = backbone.encode_text(["a teapot"])
    settings = resolve("plain", {"num_inference_steps": 10})
    once = dreamedit.edit_once(backbone, picture, mask, text, text, share, 0, settings)
    latents = backbone.encode_image(to_pixels([picture], backbone.device)).mode()
    (there,) = to_images(backbone.decode(latents))
    assert np.abs(once.astype(int) - there).max() <= 1


def test_object_mask_stays_within_the_box_and_is_never_empty():
    picture = np.full((64, 64, 3), 200, np.uint8)
    picture[20:40, 20:40] = (180, 20, 20)
    where = np.zeros((64, 64), bool)
    where[10:50, 10:50] = True
    found = dreamedit.object_mask(picture, where)
    assert found[20:40, 20:40].all()
    assert not found[~where].any()
    assert found.sum() < where.sum()
    everything = np.ones((64, 64), bool)
    assert dreamedit.object_mask(picture, everything).all()
    assert dreamedit.object_mask(np.full_like(picture, 7), where).any()
