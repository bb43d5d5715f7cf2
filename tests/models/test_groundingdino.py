"""One checkpoint of Grounding DINO through both of its backends: the original package and transformers agree.

The names are translated here as transformers' own conversion script does for the published files, with the names that
its Swin has today.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dataforge.backends.devices import quietly
from dataforge.backends.grounding_dino import GroundingDino
from dataforge.backends.groundingdino_py import GroundingDinoPy, load_network
from dataforge.protocols import Grounding, Photo
from tests.models.tiny import bert_config, bert_tokenizer, tiny

SWIN = "model.backbone.conv_encoder.model.swin"
# applied in order, each to what the one before made of a name
RENAMED = [
    (r"^backbone\.0\.patch_embed\.proj\.", f"{SWIN}.embeddings.patch_embeddings.projection."),
    (r"^backbone\.0\.patch_embed\.norm\.", f"{SWIN}.embeddings.norm."),
    (r"^backbone\.0\.norm1\.", "model.backbone.conv_encoder.model.hidden_states_norms.stage2."),
    (r"^backbone\.0\.norm2\.", "model.backbone.conv_encoder.model.hidden_states_norms.stage3."),
    (r"^backbone\.0\.norm3\.", "model.backbone.conv_encoder.model.hidden_states_norms.stage4."),
    (r"^backbone\.0\.layers\.", f"{SWIN}.encoder.layers."),
    (r"(swin\..*)\.norm1\.", r"\1.layernorm_before."),
    (r"(swin\..*)\.norm2\.", r"\1.layernorm_after."),
    (r"(swin\..*)\.attn\.relative", r"\1.attention.relative_position_bias.relative"),
    (r"(swin\..*)\.attn\.proj\.", r"\1.attention.o_proj."),
    (r"(swin\..*)\.attn\.qkv\.", r"\1.attention.<q_proj k_proj v_proj>."),
    (r"^transformer\.encoder\.layers\.(\d+)\.", r"model.encoder.layers.\1.deformable_layer."),
    (r"^transformer\.encoder\.text_layers\.(\d+)\.", r"model.encoder.layers.\1.text_enhancer_layer."),
    (r"^transformer\.encoder\.fusion_layers\.(\d+)\.", r"model.encoder.layers.\1.fusion_layer."),
    (r"deformable_layer\.norm1\.", "deformable_layer.self_attn_layer_norm."),
    (r"deformable_layer\.norm2\.", "deformable_layer.final_layer_norm."),
    (r"text_enhancer_layer\.norm1\.", "text_enhancer_layer.layer_norm_before."),
    (r"text_enhancer_layer\.norm2\.", "text_enhancer_layer.layer_norm_after."),
    (r"\.linear([12])\.", r".fc\1."),
    (r"fusion_layer\.gamma_v$", "fusion_layer.vision_param"),
    (r"fusion_layer\.gamma_l$", "fusion_layer.text_param"),
    (r"fusion_layer\.layer_norm_v\.", "fusion_layer.layer_norm_vision."),
    (r"fusion_layer\.layer_norm_l\.", "fusion_layer.layer_norm_text."),
    (r"(fusion_layer\.attn\..*)v_proj", r"\1vision_proj"),
    (r"(fusion_layer\.attn\..*)l_proj", r"\1text_proj"),
    (r"^transformer\.decoder\.layers\.(\d+)\.cross_attn\.", r"model.decoder.layers.\1.encoder_attn."),
    (r"^transformer\.decoder\.layers\.(\d+)\.ca_text\.", r"model.decoder.layers.\1.encoder_attn_text."),
    (r"^transformer\.decoder\.layers\.(\d+)\.catext_norm\.", r"model.decoder.layers.\1.encoder_attn_text_layer_norm."),
    (r"^transformer\.decoder\.layers\.(\d+)\.norm1\.", r"model.decoder.layers.\1.encoder_attn_layer_norm."),
    (r"^transformer\.decoder\.layers\.(\d+)\.norm2\.", r"model.decoder.layers.\1.self_attn_layer_norm."),
    (r"^transformer\.decoder\.layers\.(\d+)\.norm3\.", r"model.decoder.layers.\1.final_layer_norm."),
    (r"^transformer\.decoder\.norm\.", "model.decoder.layer_norm."),
    (r"^transformer\.decoder\.ref_point_head\.", "model.decoder.reference_points_head."),
    (r"^transformer\.tgt_embed\.", "model.query_position_embeddings."),
    (r"^transformer\.enc_out_bbox_embed\.", "model.encoder_output_bbox_embed."),
    (r"^transformer\.", "model."),
    (r"^bert\.", "model.text_backbone."),
    (r"^feat_map\.", "model.text_projection."),
    (r"^input_proj\.", "model.input_proj_vision."),
    (r"\.in_proj_", ".<query key value>."),
]
# a table that is computed, and BERT's pooler, which no detector asks
NOT_THERE = re.compile(r"relative_position_index$|\.pooler\.")


def renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A checkpoint of the original under transformers' names; what holds queries, keys and values is cut in three."""
    found = {}
    for name, value in state.items():
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        three = re.search(r"<(.+)>", name)
        if three is None:
            found[name] = value
        else:
            found |= {
                name.replace(three[0], part): piece
                for part, piece in zip(three[1].split(), value.chunk(3), strict=True)
            }
    return {name: value for name, value in found.items() if NOT_THERE.search(name) is None}


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Path:
    """The tiny original checkpoint as a folder of transformers."""
    from transformers import (
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    original = load_network(tiny("groundingdino-py"), tiny("bert"))
    backbone = SwinConfig(
        image_size=224,
        embed_dim=96,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        window_size=7,
        out_indices=[2, 3, 4],
    )
    config = GroundingDinoConfig(
        backbone_config=backbone, text_config=bert_config(), num_queries=20, encoder_layers=1, decoder_layers=2,
        encoder_ffn_dim=64, decoder_ffn_dim=64,
    )  # fmt: skip
    place = tmp_path_factory.mktemp("converted")
    with quietly():
        network = GroundingDinoForObjectDetection(config)
        result = network.load_state_dict(renamed(original.state_dict()), strict=False)
        # transformers' Swin has a last norm that no detector reads
        assert sorted(result.missing_keys) == [f"{SWIN}.layernorm.bias", f"{SWIN}.layernorm.weight"]
        assert result.unexpected_keys == []
        network.save_pretrained(place)
        images = GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 106})
        GroundingDinoProcessor(images, bert_tokenizer()).save_pretrained(place)
    return place


def photographs() -> list[Photo]:
    """Sides that neither backend resizes, so that both see the same pixels; of two shapes, so that one is padded."""
    rng = np.random.default_rng(0)
    shapes = ((64, 96), (64, 64), (80, 64))
    return [
        Photo(
            id=f"mug/src-{number}", subject="mug", class_noun="mug", image=rng.integers(0, 256, (*shape, 3), np.uint8)
        )
        for number, shape in enumerate(shapes)
    ]


def test_the_original_and_its_conversion_see_the_same_within_rounding(converted):
    """Probabilities within 1e-4 and boxes within 1e-5 of the picture; measured 3e-6 and 1e-7."""
    from groundingdino.util.misc import nested_tensor_from_tensor_list

    new = GroundingDino(str(converted))
    old = load_network(tiny("groundingdino-py"), tiny("bert"))
    text = "mug. red spoon. can."
    words = new._processor.tokenizer(text, return_tensors="pt")
    pixels = torch.randn(3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), quietly():
        expected = old(nested_tensor_from_tensor_list([pixels]), captions=[text])
        found = new._detector(pixel_values=pixels[None], pixel_mask=torch.ones(1, 64, 96, dtype=torch.long), **words)
    differences: dict[str, Any] = {
        "probabilities": found.logits.sigmoid() - expected["pred_logits"].sigmoid(),
        "boxes": found.pred_boxes - expected["pred_boxes"],
    }
    print({name: float(value.abs().max()) for name, value in differences.items()})
    assert float(differences["probabilities"].abs().max()) <= 1e-4
    assert float(differences["boxes"].abs().max()) <= 1e-5
    # a network that says the same of everything would agree too
    assert float(expected["pred_boxes"].std(dim=1).min()) > 1e-3
    assert float(expected["pred_logits"][..., 1:8].sigmoid().std()) > 0.05


@pytest.mark.parametrize("batch_size", [1, 3])
def test_both_backends_find_the_same_boxes(converted, batch_size):
    options: dict[str, Any] = {"box_threshold": 0.0, "text_threshold": 0.0, "queries": ("red spoon", "can")}
    options["batch_size"] = batch_size
    new = GroundingDino(str(converted), **options)
    old = GroundingDinoPy(str(tiny("groundingdino-py")), text_encoder=str(tiny("bert")), short_side=64, **options)
    asked = photographs()
    for one, other in zip(new.ground(asked), old.ground(asked), strict=True):
        assert isinstance(one, Grounding)
        assert isinstance(other, Grounding)
        assert (one.box, one.other_boxes) == (other.box, other.other_boxes)
        assert one.score == pytest.approx(other.score, abs=1e-4)
