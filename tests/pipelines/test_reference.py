"""DreamInpainter's reference: METHODS 4.8 points 1 to 5 and 7 to 9."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from PIL import Image

from manifests.corpus import open_corpus
from manifests.errors import ReportedError
from pipelines import backbones, crop, reference, regional
from pipelines.backbones import TextStates
from pipelines.denoise import Frame
from pipelines.dif import Stages
from pipelines.jobs import Job
from pipelines.painter import load
from pipelines.places import read_reference
from pipelines.run import run
from pipelines.settings import Painting, resolve
from tests.manifests.corpora import small_content, write_corpus
from tests.pipelines.conftest import box_mask, scene, write_reference_lora
from tests.tiny_models import tiny


def features(count: int = 30, width: int = 16, seed: int = 0):
    return torch.randn(2, count, width, generator=torch.Generator().manual_seed(seed))


def test_scores_are_positive_and_sum_to_the_number_of_tokens():
    scores = reference.token_scores(features())
    assert (scores > 0).all()
    assert torch.allclose(scores.sum(1), torch.full((2,), 30.0), rtol=1e-4)


def test_scores_follow_a_permutation_and_ignore_the_length_of_a_token():
    f, order = features(), torch.randperm(30, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(reference.token_scores(f[:, order]), reference.token_scores(f)[:, order], atol=1e-5)
    scaled = f * (0.5 + torch.rand(2, 30, 1))
    assert torch.allclose(reference.token_scores(scaled), reference.token_scores(f), atol=1e-5)
    kept = reference.discriminative_tokens(f, 8)
    shuffled = reference.discriminative_tokens(f[:, order], 8)
    assert {tuple(t.tolist()) for t in kept[0]} == {tuple(t.tolist()) for t in shuffled[0]}


def test_equal_tokens_score_one_and_ties_go_by_position():
    f = torch.ones(1, 12, 4)
    f[..., 1] = torch.arange(12.0)[None] * 0
    assert torch.allclose(reference.token_scores(f), torch.ones(1, 12), atol=1e-5)
    marked = torch.ones(1, 12, 4)
    assert torch.equal(reference.discriminative_tokens(marked, 3), marked[:, :3])


def test_planted_outlier_is_first_and_no_duplicate_is_taken():
    base = torch.randn(16, generator=torch.Generator().manual_seed(0))
    near = base + 0.01 * torch.randn(20, 16, generator=torch.Generator().manual_seed(1))
    outlier = torch.randn(16, generator=torch.Generator().manual_seed(2))
    f = torch.cat([near, outlier[None]])[None]
    assert torch.equal(reference.discriminative_tokens(f, 1)[0, 0], outlier)
    orthogonal = torch.eye(12)
    f = torch.cat([orthogonal[:1].expand(4, -1), orthogonal[1:]])[None]
    chosen = reference.discriminative_tokens(f, 8)[0]
    assert not (chosen == orthogonal[0]).all(dim=1).any()


def test_all_tokens_may_be_kept_more_may_not_and_rows_are_independent():
    f = features()
    assert reference.discriminative_tokens(f, 30).sort(dim=1).values.equal(f.sort(dim=1).values)
    with pytest.raises(ValueError, match="31 tokens asked of 30"):
        reference.discriminative_tokens(f, 31)
    assert reference.discriminative_tokens(f, 5).shape == (2, 5, 16)
    assert torch.equal(reference.discriminative_tokens(f, 5)[:1], reference.discriminative_tokens(f[:1], 5))


@pytest.mark.parametrize("kind", ["sd9", "sdxl4"])
@torch.no_grad()
def test_encoder_pass_is_the_unets_own_down_path(kind):
    backbone = backbones.load(tiny(kind))
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    text = backbone.encode_text(["a dog"])
    size = backbone.size_condition([(64, 64)], [(0, 0)], [(64, 64)])
    seen = []
    hook = backbone.unet.down_blocks[1].register_forward_hook(lambda module, args, output: seen.append(output))
    found = reference.reference_features(backbone, latents, text, size)
    count = len(seen)
    sample = backbone.unet_input(latents, torch.zeros(1, 1, 8, 8), latents)
    backbone.predict(sample, 0, text, size)
    hook.remove()
    down = backbone.unet.down_blocks[1]
    state = seen[-1][1][-2] if down.downsamplers is not None else seen[-1][0]
    assert count == 1  # the very same module objects
    assert torch.equal(found, state.flatten(2).transpose(1, 2))


@pytest.mark.parametrize("inject", ["concat_up", "decoupled_up"])
@torch.no_grad()
def test_up_blocks_see_the_reference_and_the_others_the_text_alone(inject):
    backbone = backbones.load(tiny("sd9"))
    unet = backbone.unet
    sample = torch.randn(2, 9, 8, 8, generator=torch.Generator().manual_seed(0))
    text = backbone.encode_text(["a dog", "a cat"])
    plain = backbone.predict(sample, 500, text)
    injection = reference.ReferenceInjection(backbone, inject)
    injection.install(unet)
    tokens = injection(torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(1)))
    lengths: dict[str, int] = {}

    def count(name):
        return lambda module, args, output: lengths.__setitem__(name, output.shape[1])

    hooks = [
        module.to_k.register_forward_hook(count(name))
        for name, module in unet.named_modules()
        if name.endswith("attn2")
    ]
    found = backbone.predict(sample, 500, text, cross_attention_kwargs={"reference": tokens})
    for hook in hooks:
        hook.remove()
    up = {length for name, length in lengths.items() if name.startswith("up_blocks")}
    rest = {length for name, length in lengths.items() if not name.startswith("up_blocks")}
    assert rest == {77}
    if inject == "concat_up":
        assert up == {77 + 5}
        assert not torch.allclose(found, plain, atol=1e-3)
    else:
        assert torch.allclose(found, plain, atol=1e-5)  # starts at zero
        with pytest.raises(ValueError, match="no reference"):
            backbone.predict(sample, 500, text)
    regional.uninstall(unet)
    assert torch.allclose(backbone.predict(sample, 500, text), plain, atol=1e-6)


@torch.no_grad()
def test_guidance_drops_the_text_and_keeps_the_reference_at_any_weight():  # METHODS 4.8-5
    backbone = backbones.load(tiny("sd9"))
    injection = reference.ReferenceInjection(backbone)
    injection.install(backbone.unet)
    z, tokens = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in ((1, 4, 8, 8), (1, 5, 64)))
    frame = Frame(torch.zeros(1, 3, 64, 64), torch.ones(1, 1, 64, 64), torch.ones(1, 1, 8, 8), z, z, None)
    empty, text, shown = backbone.unconditional(1, ""), backbone.encode_text(["a dog"]), injection(tokens)
    seen: list[torch.Tensor] = []
    predict = backbone.predict

    def watched(*given, **more):
        seen.append(more["cross_attention_kwargs"]["reference"])
        return predict(*given, **more)

    backbone.predict = watched

    def at(weight: float, states: TextStates = text):
        settings = resolve("dreaminpainter", {"guidance_scale": weight})
        return Stages(backbone, settings, empty, [], shown).guided(frame, states)(z, torch.tensor(500), 0)

    def alone(states: TextStates):
        sample = backbone.unet_input(z, frame.latent_mask, z)
        return predict(sample, torch.tensor(500), states, cross_attention_kwargs={"reference": shown})

    assert torch.allclose(at(7.5, empty), at(2.0, empty), atol=1e-4)
    assert torch.allclose(at(0.0), alone(empty), atol=1e-5)
    assert torch.allclose(at(1.0), alone(text), atol=1e-5)
    assert torch.allclose(at(0.5), (alone(empty) + alone(text)) / 2, atol=1e-5)
    assert torch.allclose(at(7.5), alone(empty) + 7.5 * (alone(text) - alone(empty)), atol=1e-4)
    assert not torch.allclose(alone(empty), alone(text), atol=1e-3)
    assert [len(half) for half in seen] == [2, 2, 2, 1, 2, 2]
    assert all(torch.equal(half, shown) for both in seen for half in both.split(1))
    assert not Painting(guidance_scale=0.5).guides()  # stock: at 1 and below the condition alone


def test_an_adapter_paints_from_the_photograph_it_is_shown(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", small_content())
    with open_corpus(corpus) as opened:
        photographs = [f"{corpus}#{sample.id}" for sample in opened.samples(role="src")][:2]
    folder = tmp_path / "adapter"
    write_reference_lora(folder, "sd9")
    Image.fromarray(scene()).save(tmp_path / "scene.png")
    own = {"scene": str(tmp_path / "scene.png"), "adapter": str(folder), "box": (40, 32, 72, 64), "seed": 1}
    rows = run([Job(**own, reference=photograph) for photograph in photographs], tmp_path / "out")
    pictures = [np.asarray(Image.open(tmp_path / "out" / row.image)) for row in rows]
    assert (pictures[0] != pictures[1]).any()
    far = crop.soft_mask(box_mask(), crop.band_px(96, 96)) == 0
    for picture in pictures:  # METHODS 4.8-8
        assert (picture[far] == scene()[far]).all()
        assert (picture[box_mask()] != scene()[box_mask()]).any()

    whole = Job(**own, reference=photographs[0])
    with pytest.raises(
        ReportedError, match=r"E502 .*job 2: this adapter paints from a photograph of the subject: name"
    ):
        run([whole, Job(**own)], tmp_path / "refused")
    assert not (tmp_path / "refused" / "images").exists()
    with pytest.raises(ReportedError, match=r"E502 .*tokens: 17 of 16 at 64 px"):
        run([replace(whole, settings={"reference.tokens": 17})], tmp_path / "refused")
    # nothing of the reference stays on the base
    painter = load(folder)
    photograph = read_reference(photographs[0])
    painter(scene(), (40, 32, 72, 64), reference=photograph)
    assert {type(one) for one in painter.backbone.unet.attn_processors.values()} == {AttnProcessor2_0}
