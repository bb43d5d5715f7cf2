"""DreamCom's masked attention (arXiv 2309.15508, sections 4.2 and 4.3), exact and without an N x N tensor.

The paper multiplies attention *probabilities* with a mask and does not renormalise. As the mask depends on the query's
region only (cross-attention) or on whether query and key share a region (self-attention), the product is exactly

    cross: r * sdpa(q, k, v)            self: r * sdpa(q, k, v * r) + (1 - r) * sdpa(q, k, v * (1 - r))

with r [B,1,N,1] in {0,1}, 1 inside the region. A query needs one of the two terms only, so that the queries of each
region are gathered and attend once: together the work of one plain attention. `pre_softmax` masks before the softmax
instead: each region's queries attend over that region's keys alone, which is less. The regions travel through
`cross_attention_kwargs`, not on the processors, so that gradient checkpointing, compilation and LoRA layers see nothing
unusual.

B batch, N tokens of a layer (h * w), T text positions.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 the field's name for it
from torch import Tensor

from manifests.errors import UsageError
from pipelines.backbones.layouts import RELEASED_TOKENS
from pipelines.settings import MaskRules

__all__ = [
    "Level", "MaskRules", "RegionalCross", "RegionalSelf", "Unmasked", "assert_installed", "finish_heads", "install",
    "masked", "masked_layers", "project_heads", "regions_of", "uninstall",
]  # fmt: skip

# decoder layers the paper leaves free, and those the release masks, counted from the end
PAPER_FREE, RELEASED_MASKED = 6, 5


class Level(NamedTuple):
    """The region at one attention resolution: weight [B,1,N,1] of 0 and 1; token numbers in and out of it, per row.

    Rows that are all alike have one entry for the batch.
    """

    weight: Tensor
    inside: tuple[Tensor, ...]
    outside: tuple[Tensor, ...]


def regions_of(
    mask: Tensor,
    latent_hw: tuple[int, int],
    levels: int,
    rules: MaskRules | None = None,
    dtype: torch.dtype | None = None,
) -> dict[int, Level]:
    """The regions of pixel masks [B,1,H,W] at every resolution of a UNet with `levels` blocks, by number of tokens.

    Pass as `cross_attention_kwargs={"regions": ...}`; under guidance, repeat the mask for both halves first.
    """
    rules = rules or MaskRules()
    binary = (mask >= 0.5).to(dtype or torch.float32)
    result: dict[int, Level] = {}
    height, width = latent_hw
    for _ in range(levels):
        if rules.downsample == "max":
            small = F.adaptive_max_pool2d(binary, (height, width))
        else:
            small = F.interpolate(binary, size=(height, width), mode="nearest")
        weight = small.reshape(len(mask), 1, height * width, 1)
        rows = weight.reshape(len(mask), -1)
        rows = rows[:1] if bool((rows == rows[:1]).all()) else rows  # alike: one gather for the batch
        inside = tuple(torch.nonzero(row).flatten() for row in rows)
        outside = tuple(torch.nonzero(1 - row).flatten() for row in rows)
        result[height * width] = Level(weight, inside, outside)
        height, width = (height + 1) // 2, (width + 1) // 2
    return result


class Unmasked:
    """Plain attention that knows, and does not need, the regions."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        regions: dict[int, Level] | None = None,
    ) -> Tensor:
        """hidden_states [B,N,C] to [B,N,C]."""
        del temb
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = project_heads(attn, hidden_states, context, attention_mask)
        return finish_heads(attn, self.attend(query, key, value, regions))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, regions: dict[int, Level] | None) -> Tensor:
        """[B,heads,N,d] from query [B,heads,N,d], key and value [B,heads,T,d]."""
        del regions
        return F.scaled_dot_product_attention(query, key, value)


class RegionalCross(Unmasked):
    """Cross-attention whose background queries receive nothing: before `to_out` they are 0."""

    def __init__(self, tokens: Literal["paper", "released"] = "paper") -> None:
        self.tokens = tokens

    def attend(self, query: Tensor, key: Tensor, value: Tensor, regions: dict[int, Level] | None) -> Tensor:
        """r * sdpa; with `released` only the values of text positions 1 to 38 count."""
        if self.tokens == "released":
            position = torch.arange(value.shape[2], device=value.device)
            counts = (position >= RELEASED_TOKENS.start) & (position < RELEASED_TOKENS.stop)
            value = value * counts.to(value.dtype)[:, None]
        return _level(query, regions).weight.to(query.dtype) * F.scaled_dot_product_attention(query, key, value)


class RegionalSelf(Unmasked):
    """Self-attention within regions: inside attends to inside, outside to outside."""

    def __init__(self, kind: Literal["post_softmax", "pre_softmax"] = "post_softmax") -> None:
        self.kind = kind

    def attend(self, query: Tensor, key: Tensor, value: Tensor, regions: dict[int, Level] | None) -> Tensor:
        """What this module's first lines say, each region's queries by themselves."""
        level = _level(query, regions)
        output = torch.empty_like(query)
        alike = len(level.inside) == 1
        for row, parts in enumerate(zip(level.inside, level.outside, strict=True)):
            rows = slice(None) if alike else slice(row, row + 1)
            inside = level.weight[rows].to(value.dtype)
            for tokens, own in zip(parts, (inside, 1 - inside), strict=True):
                if len(tokens) == 0:
                    continue
                if self.kind == "pre_softmax":
                    seen = key[rows].index_select(2, tokens), value[rows].index_select(2, tokens)
                else:
                    seen = key[rows], value[rows] * own
                asked = query[rows].index_select(2, tokens)
                output[rows, :, tokens] = F.scaled_dot_product_attention(asked, *seen)
        return output


def _level(query: Tensor, regions: dict[int, Level] | None) -> Level:
    if regions is None:
        raise ValueError('masked attention without regions: pass cross_attention_kwargs={"regions": regions_of(...)}')
    return regions[query.shape[2]]


def project_heads(attn: Any, hidden: Tensor, context: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Query of hidden [B,N,C], key and value of context [B,T,S], each [B,heads,N or T,d]."""
    if mask is not None or attn.group_norm is not None or attn.norm_q is not None or attn.norm_k is not None:
        raise ValueError("masked attention fits the plain attention layers of SD 1.5 and SDXL only")
    query, key, value = (
        tensor.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        for tensor in (attn.to_q(hidden), attn.to_k(context), attn.to_v(context))
    )
    return query, key, value


def finish_heads(attn: Any, heads: Tensor) -> Tensor:
    """[B,heads,N,d] through `to_out` to [B,N,C]."""
    output: Tensor = attn.to_out[1](attn.to_out[0](heads.transpose(1, 2).flatten(2))) / attn.rescale_output_factor
    return output


def _decoder_order(name: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", name))


def masked_layers(names: Iterable[str], rules: MaskRules) -> frozenset[str]:
    """Which of a UNet's processor names (`...attn1.processor` self, `...attn2.processor` cross) the rules mask."""
    names = list(names)
    inner = [name for name in names if name.endswith("attn1.processor")]
    decoder = sorted((name for name in inner if name.startswith("up_blocks")), key=_decoder_order)
    masked: set[str] = set()
    if rules.cross != "none":
        masked.update(name for name in names if name.endswith("attn2.processor"))
    if rules.self_layers == "all":
        masked.update(inner)
    elif rules.self_layers == "paper":
        masked.update(set(inner) - set(decoder[-PAPER_FREE:]))
    elif rules.self_layers == "released":
        masked.update(decoder[-RELEASED_MASKED:])
    return frozenset(masked)


def _processor(name: str, masked: frozenset[str], rules: MaskRules) -> Unmasked:
    if name not in masked:
        return Unmasked()
    if name.endswith("attn1.processor"):
        return RegionalSelf(rules.kind)
    return RegionalCross("released" if rules.cross == "released" else "paper")


def install(unet: Any, rules: MaskRules) -> None:
    """Put the rules' processors on every attention layer of the UNet."""
    masked = masked_layers(unet.attn_processors, rules)
    unet.set_attn_processor({name: _processor(name, masked, rules) for name in unet.attn_processors})


def uninstall(unet: Any) -> None:
    """Back to diffusers' own processors."""
    from diffusers.models.attention_processor import AttnProcessor2_0

    stock: Any = AttnProcessor2_0
    unet.set_attn_processor({name: stock() for name in unet.attn_processors})


@contextlib.contextmanager
def masked(unet: Any, rules: MaskRules | None) -> Iterator[None]:
    """The rules' processors on the UNet, seen to be there, and off again; without rules nothing is touched."""
    if rules is None:
        yield
        return
    install(unet, rules)
    try:
        assert_installed(unet, rules)
        yield
    finally:
        uninstall(unet)


def assert_installed(unet: Any, rules: MaskRules) -> None:
    """Every layer carries the processor the rules ask for; what replaces processors says nothing of it.

    `fuse_qkv_projections`, `load_ip_adapter` and others put their own in place, and a run goes on unmasked. Called at
    the start of every masked run. Raises `UsageError` E605 that names the first layer.
    """
    masked = masked_layers(unet.attn_processors, rules)
    for name, found in unet.attn_processors.items():
        wanted = _processor(name, masked, rules)
        if type(found) is not type(wanted) or vars(found) != vars(wanted):
            raise UsageError(
                f"{name} carries {type(found).__name__}, masked attention needs {type(wanted).__name__}.", code="E605"
            )
