"""DreamInpainter's reference (arXiv 2312.03771): features of the UNet's own encoder, and which of its tokens to keep.

B batch, N tokens (h * w of the second down block), D its channels, K tokens kept, S the text width.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812 the field's name for it
from torch import Tensor, nn

from pipelines.backbones import Backbone, TextStates
from pipelines.regional import Unmasked, finish_heads, project_heads

__all__ = [
    "Inject", "ReferenceInjection", "discriminative_tokens", "encoder_features", "reference_features", "token_scores",
]  # fmt: skip

Inject = Literal["concat_up", "decoupled_up"]
# t = 0 and the second block: what the paper found best (Eq. 2)
REFERENCE_TIMESTEP, REFERENCE_BLOCK = 0, 1
NUM_TOKENS = 24


def encoder_features(
    backbone: Backbone, sample: Tensor, timestep: int, text: TextStates, size: Tensor | None = None, *, block: int = 1
) -> Tensor:
    """The UNet's down path only, up to a block, before its downsampler: [B,N,D]. The same weights, no copies.

    sample is what `unet_input` gives. About 0.31 of a forward of the UNet; gradients flow.
    """
    unet = backbone.unet
    timesteps = torch.full((len(sample),), timestep, device=sample.device, dtype=torch.long)
    embedding = unet.time_embedding(unet.get_time_embed(sample=sample, timestep=timesteps))
    added = {"text_embeds": text.pooled, "time_ids": size} if text.pooled is not None else None
    extra = unet.get_aug_embed(emb=embedding, encoder_hidden_states=text.tokens, added_cond_kwargs=added)
    embedding = embedding if extra is None else embedding + extra
    context = unet.process_encoder_hidden_states(encoder_hidden_states=text.tokens, added_cond_kwargs=added)
    hidden = unet.conv_in(sample)
    for number, down in enumerate(unet.down_blocks[: block + 1]):
        if getattr(down, "has_cross_attention", False):
            hidden, states = down(hidden_states=hidden, temb=embedding, encoder_hidden_states=context)
        else:
            hidden, states = down(hidden_states=hidden, temb=embedding)
        if number == block and down.downsamplers is not None:
            hidden = states[-2]  # the last state is the downsampler's
    features: Tensor = hidden.flatten(2).transpose(1, 2)
    return features


def reference_features(backbone: Backbone, latents: Tensor, text: TextStates, size: Tensor | None = None) -> Tensor:
    """f(x_r) of Eq. 2 [B,N,D]: clean latents [B,4,h,w] of the reference on white, t = 0, second down block.

    A 9-channel base is given an empty mask and the reference again as masked picture.
    """
    mask = torch.zeros_like(latents[:, :1])
    sample = backbone.unet_input(latents, mask, latents)
    return encoder_features(backbone, sample, REFERENCE_TIMESTEP, text, size, block=REFERENCE_BLOCK)


def token_scores(features: Tensor) -> Tensor:
    """How much others attend to each token (Eq. 3 and 4): [B,N,D] to [B,N], summing to N. A unique token scores low."""
    unit = F.normalize(features.float(), dim=-1)
    return (unit @ unit.transpose(1, 2)).softmax(dim=-1).sum(dim=1)


def discriminative_tokens(features: Tensor, count: int = NUM_TOKENS) -> Tensor:
    """The `count` tokens [B,K,D] with the lowest scores, lowest first, ties by position; no gradient in the choice.

    Raises ValueError where there are fewer tokens than that.
    """
    if count > features.shape[1]:
        raise ValueError(f"{count} tokens asked of {features.shape[1]}")
    chosen = token_scores(features.detach()).sort(dim=1, stable=True).indices[:, :count]
    return features.gather(1, chosen[..., None].expand(-1, -1, features.shape[-1]))


class ReferenceInjection(nn.Module):
    """Hands reference tokens to the cross-attention of the up blocks only; down and mid see the text alone.

    `concat_up` appends the projected tokens to the text; `decoupled_up` gives them keys and values of their own, whose
    output is added and starts at zero (METHODS 4.4: the paper does not say which). Its parameters are what is trained
    and saved beside the UNet. The tokens travel as `cross_attention_kwargs={"reference": tokens}`, after `install`.
    """

    def __init__(self, backbone: Backbone, inject: Inject = "concat_up") -> None:
        super().__init__()
        config = backbone.unet.config
        width = config.block_out_channels[REFERENCE_BLOCK]
        self.inject: Inject = inject
        self.project = nn.Sequential(
            nn.Linear(width, config.cross_attention_dim), nn.LayerNorm(config.cross_attention_dim)
        )
        self.keys = nn.ModuleDict()
        self.values = nn.ModuleDict()
        if inject == "decoupled_up":
            for name, attention in _up_cross_attentions(backbone.unet):
                inner = attention.to_k.out_features
                self.keys[name] = nn.Linear(config.cross_attention_dim, inner, bias=False)
                values = nn.Linear(config.cross_attention_dim, inner, bias=False)
                nn.init.zeros_(values.weight)
                self.values[name] = values
        self.to(backbone.device)

    def forward(self, tokens: Tensor) -> Tensor:
        """Selected tokens [B,K,D] to the text's width [B,K,S]."""
        projected: Tensor = self.project(tokens)
        return projected

    def install(self, unet: Any) -> None:
        """Put the processors on; `regional.uninstall` takes them off."""
        up = {f"{name.replace('-', '.')}.processor" for name, _ in _up_cross_attentions(unet)}
        unet.set_attn_processor(
            {name: _WithReference(self, name) if name in up else _WithoutReference() for name in unet.attn_processors}
        )


def _up_cross_attentions(unet: Any) -> list[tuple[str, Any]]:
    # a ModuleDict's keys hold no dots
    return [
        (name.replace(".", "-"), module)
        for name, module in unet.named_modules()
        if name.startswith("up_blocks") and name.endswith("attn2")
    ]


class _WithoutReference(Unmasked):
    def __call__(  # type: ignore[override]
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        reference: Tensor | None = None,
    ) -> Tensor:
        del reference
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)


class _WithReference(Unmasked):
    def __init__(self, injection: ReferenceInjection, name: str) -> None:
        self.injection, self.key = injection, name.removesuffix(".processor").replace(".", "-")

    def __call__(  # type: ignore[override]
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        reference: Tensor | None = None,
    ) -> Tensor:
        if reference is None or encoder_hidden_states is None:
            raise ValueError('no reference: pass cross_attention_kwargs={"reference": tokens}')
        if self.injection.inject == "concat_up":
            text = torch.cat([encoder_hidden_states, reference.to(encoder_hidden_states.dtype)], dim=1)
            return super().__call__(attn, hidden_states, text, attention_mask, temb)
        query, key, value = project_heads(attn, hidden_states, encoder_hidden_states, attention_mask)
        own_key, own_value = (
            layers[self.key](reference).unflatten(-1, (attn.heads, -1)).transpose(1, 2).to(query.dtype)
            for layers in (self.injection.keys, self.injection.values)
        )
        heads = F.scaled_dot_product_attention(query, key, value)
        return finish_heads(attn, heads + F.scaled_dot_product_attention(query, own_key, own_value))
