"""TAS: METHODS 2.10 points 1 to 4, and what an edit does to a prompt."""

from __future__ import annotations

import pytest
import torch

from manifests.corpus import open_corpus
from manifests.errors import ReportedError
from pipelines.prompts import project_away, substitute
from pipelines.records import Word
from pipelines.settings import TAS
from pipelines.words import edited_prompt, removed_words, words_of_edit
from tests.trainer.conftest import write_balls
from trainer.data import select
from trainer.recipes import load_recipe

PREFIX = "a photo of a sks"


def vectors(count: int, width: int = 64, seed: int = 0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("method", ["qr", "sequential"])
def test_projection_is_orthogonal_idempotent_and_blind_to_scale(method):
    e, r = vectors(20), vectors(1, seed=1)
    out = project_away(e, r, method)
    assert ((out @ r[0]).abs() <= 1e-5 * e.norm(dim=1) * r.norm()).all()
    assert torch.allclose(project_away(out, r, method), out, rtol=1e-6, atol=1e-6)
    assert torch.allclose(project_away(e, -3.7 * r, method), out, atol=1e-5)
    energy = (out**2).sum(1) + (e @ r[0]) ** 2 / (r**2).sum()
    assert torch.allclose((e**2).sum(1), energy, rtol=1e-5)
    assert (project_away(2.5 * r, r, method).norm() <= 1e-6 * (2.5 * r).norm() + 1e-6).all()
    assert torch.equal(project_away(e, torch.zeros(1, 64), method), e)


def test_qr_is_orthogonal_to_every_word_in_any_order_and_sequential_to_the_last_only():
    e, shared = vectors(5), vectors(1, seed=1)
    r = shared + 0.5 * vectors(3, seed=2)  # correlated, as words of one thing are
    out = project_away(e, r)
    scale = e.norm(dim=1, keepdim=True) * r.norm(dim=1)
    assert ((out @ r.T).abs() / scale <= 1e-5).all()
    assert torch.allclose(project_away(e, r[[2, 0, 1]]), out, atol=1e-5)
    one_by_one = (project_away(e, r, "sequential") @ r.T).abs() / scale
    assert (one_by_one[:, 2] <= 1e-5).all()
    assert (one_by_one[:, 0] > 1e-3).any()


@pytest.mark.parametrize("kind", ["sd9", "sdxl9"])
def test_start_end_and_padding_are_bit_equal_and_nothing_is_changed_in_place(backbone_of, kind):
    backbone, prompt = backbone_of(kind), "a photo of a sks teapot on grass"
    plain = backbone.encode_text([prompt])
    before = plain.tokens.clone()
    out = substitute(backbone, prompt, ["clay", "red"], prefix=PREFIX)
    words = len(backbone.token_spans(prompt))
    assert torch.equal(out.tokens[0, 0], plain.tokens[0, 0])
    assert torch.equal(out.tokens[0, words + 1 :], plain.tokens[0, words + 1 :])
    assert not torch.isclose(out.tokens[0, 1 : words + 1], plain.tokens[0, 1 : words + 1]).all(dim=1).any()
    assert torch.equal(plain.tokens, before)
    if plain.pooled is not None:
        assert not torch.equal(out.pooled, plain.pooled)
    kept = substitute(backbone, prompt, ["clay"], prefix=PREFIX, tas=TAS(alpha=1))
    assert torch.equal(kept.tokens, plain.tokens)


def test_every_piece_of_a_word_of_several_tokens_is_removed_and_processed(backbone_of):
    backbone = backbone_of("sdxl9")
    prompt, words = "a sks plushie", ["checkered"]
    text = f"{PREFIX} checkered"
    pieces = [n for n, (first, _) in enumerate(backbone.token_spans(text), start=1) if first >= len(PREFIX) + 1]
    assert len(pieces) > 1
    assert len(backbone.token_spans(prompt)) > 3
    out = substitute(backbone, prompt, words, prefix=PREFIX)
    removed = backbone.encode_text([text]).tokens[0, pieces]
    changed = out.tokens[0, 1 : len(backbone.token_spans(prompt)) + 1]
    cosine = torch.nn.functional.normalize(changed, dim=1) @ torch.nn.functional.normalize(removed, dim=1).T
    assert cosine.abs().max() <= 1e-5


def test_per_encoder_space_is_orthogonal_in_each_encoder(backbone_of):
    backbone = backbone_of("sdxl9")
    out = substitute(backbone, "a sks teapot", ["clay"], prefix=PREFIX, tas=TAS(space="per_encoder"))
    removed = backbone.encode_text([f"{PREFIX} clay"]).tokens[0, 6]
    for part in (slice(0, 32), slice(32, 64)):
        assert (out.tokens[0, 1:4, part] @ removed[part]).abs().max() <= 1e-4


def test_identifier_positions_change_the_identifier_alone(backbone_of):
    backbone = backbone_of("sd9")
    prompt = "a photo of a sks teapot"
    out = substitute(backbone, prompt, ["clay"], prefix=PREFIX, identifier="sks", tas=TAS(positions="identifier"))
    same = (out.tokens == backbone.encode_text([prompt]).tokens).all(dim=2)[0]
    assert (~same).nonzero().flatten().tolist() == [5]


def test_no_words_and_words_of_the_prompt_itself_leave_it_as_it_is(backbone_of):
    backbone, prompt = backbone_of("sd9"), "a red sks teapot"
    for words in ([], [""], ["red"]):
        assert torch.equal(
            substitute(backbone, prompt, words, prefix=PREFIX).tokens, backbone.encode_text([prompt]).tokens
        )
    assert removed_words(["red", "clay", "", "clay"], prompt) == ("clay",)


def test_edit_puts_the_new_word_before_the_identifier_and_that_before_the_noun_where_it_lacks():
    def made(prompt, **edit):
        return edited_prompt(prompt, edit, identifier="sks", class_noun="teapot")

    assert made("a photo of {identifier} teapot") == "a photo of sks teapot"
    assert made("a photo of a sks teapot", colour="blue") == "a photo of a blue sks teapot"
    assert made("a teapot on grass", colour="blue", material="wood") == "a blue wood sks teapot on grass"
    assert made("a teapot on grass") == "a sks teapot on grass"
    assert made("a blue sks teapot", colour="blue") == "a blue sks teapot"
    assert made("a sks thing", colour="blue") == "a blue sks thing"
    assert made("a photo of a {identifier} teapot", colour="orange") == "a photo of an orange sks teapot"
    assert made("An {identifier} teapot", colour="blue") == "A blue sks teapot"
    assert made("a photo of {identifier} teapot", colour="orange") == "a photo of orange sks teapot"
    assert edited_prompt("a teapot", {"colour": "blue"}, identifier="", class_noun="") == "a teapot, blue"


def test_an_edited_prompt_is_the_one_the_picture_of_that_word_was_trained_under(tmp_path):
    settings = load_recipe("dreammix", ["name_source_words=0.5"]).settings
    with open_corpus(write_balls(tmp_path / "corpus")) as corpus:
        subjects, _ = select(corpus, settings)
    for data in subjects:
        noun = data.subject.class_noun
        for item in data.own:  # "a photo of a green ball", with the identifier put in
            (colour,) = (word.word for word in item.sample.attributes if word.category == "colour")
            bare = item.sample.prompt.replace(f"{colour} ", "")
            assert edited_prompt(bare, {"colour": colour}, identifier="sks", class_noun=noun) == item.prompts[0]
        for item in data.photographs:  # "a photo of red sks ball"
            plain, named = item.prompts
            colour = named.removeprefix("a photo of ").partition(" ")[0]
            asked = data.subject.instance_prompt
            assert edited_prompt(asked, {}, identifier="sks", class_noun=noun) == plain
            assert edited_prompt(asked, {"colour": colour}, identifier="sks", class_noun=noun) == named


def test_words_of_an_edit_are_the_subjects_own_of_that_category():
    own = [Word("colour", "red"), Word("colour", "dark red"), Word("material", "clay")]
    assert words_of_edit(own, {"colour": "blue"}, "teapot") == ("red", "dark red")
    with pytest.raises(ReportedError, match="E604 no-words: teapot has no words for 'shape'; it has words for: colour"):
        words_of_edit(own, {"shape": "round"}, "teapot")


def test_prompt_longer_than_the_encoder_reads_is_refused(backbone_of):
    with pytest.raises(ReportedError, match=r"E602 prompt-too-long: .* has 76 tokens; at most 75 are read"):
        backbone_of("sd9").encode_text([" ".join(["dog"] * 76)])
    assert backbone_of("sd9").encode_text([" ".join(["dog"] * 75)]).tokens.shape == (1, 77, 32)
