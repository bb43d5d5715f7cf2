"""Real model classes, tiny, with random seeded weights and tokenizers made offline, saved as a user's folder is.

`tiny("grounding-dino")` is a folder, `tiny("sam")` a `.pth` file; each is written once a session. Do not write into
them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from tests.tiny_models import session_folder

WORDS = ("can", "teapot", "vase", "disc", "mug", "spoon", "red", "blue", "a", "photo", "of", "the")


@cache
def tiny(kind: str) -> Path:
    """Where the saved model of a kind lies."""
    from dataforge.backends.devices import quietly

    place = session_folder() / f"tiny-{kind}{'.pth' if kind in ('sam', 'sam-wide', 'groundingdino-py') else ''}"
    with torch.random.fork_rng(), quietly():
        torch.manual_seed(0)
        MAKERS[kind](place)
    return place


def bert_tokenizer() -> Any:
    """Letters and `WORDS`; what separates queries has BERT's own numbers, which Grounding DINO looks for."""
    from transformers import BertTokenizer

    letters = [chr(number) for number in range(97, 123)]
    fixed = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ",": 1010, ".": 1012, "?": 1029}
    free = (number for number in range(1030) if number not in fixed.values())
    return BertTokenizer(vocab=fixed | dict(zip([*letters, *(f"##{x}" for x in letters), *WORDS], free, strict=False)))


def bert_config() -> dict[str, Any]:
    return {
        "model_type": "bert",
        "vocab_size": 1030,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 128,
    }


def _grounding_dino(place: Path, *, mm: bool = False) -> None:
    from transformers import (
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        MMGroundingDinoConfig,
        MMGroundingDinoForObjectDetection,
        SwinConfig,
    )

    tokenizer = bert_tokenizer()
    backbone = SwinConfig(
        image_size=64,
        patch_size=4,
        window_size=4,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        out_indices=[2, 3, 4],
    )
    config = (MMGroundingDinoConfig if mm else GroundingDinoConfig)(
        backbone_config=backbone,
        text_config=bert_config(),
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=8,
        num_feature_levels=4,
    )
    (MMGroundingDinoForObjectDetection if mm else GroundingDinoForObjectDetection)(config).save_pretrained(place)
    images = GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    GroundingDinoProcessor(images, tokenizer).save_pretrained(place)


def _sam_hf(place: Path) -> None:
    from transformers import (
        SamConfig,
        SamImageProcessor,
        SamMaskDecoderConfig,
        SamModel,
        SamProcessor,
        SamPromptEncoderConfig,
        SamVisionConfig,
    )

    config = SamConfig(
        vision_config=SamVisionConfig(
            hidden_size=16,
            output_channels=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=64,
            patch_size=8,
            global_attn_indexes=[1],
            window_size=4,
            mlp_dim=32,
            num_pos_feats=8,
        ),
        prompt_encoder_config=SamPromptEncoderConfig(
            hidden_size=16, image_size=64, patch_size=8, mask_input_channels=4, image_embedding_size=8
        ),
        mask_decoder_config=SamMaskDecoderConfig(
            hidden_size=16, mlp_dim=32, num_hidden_layers=2, num_attention_heads=2, iou_head_hidden_dim=16
        ),
    )
    SamModel(config).save_pretrained(place)
    images = SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
    SamProcessor(images).save_pretrained(place)


def _sam(place: Path, *, wide: bool = False) -> None:
    from functools import partial

    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    encoder = ImageEncoderViT(
        depth=4 if wide else 2,
        embed_dim=384 if wide else 64,
        img_size=256,
        mlp_ratio=4,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        num_heads=2,
        global_attn_indexes=(1,),
        window_size=14,
        out_chans=32,
        use_rel_pos=True,
    )
    prompts = PromptEncoder(embed_dim=32, image_embedding_size=(16, 16), input_image_size=(256, 256), mask_in_chans=16)
    decoder = MaskDecoder(
        transformer_dim=32, transformer=TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=64, num_heads=8)
    )
    torch.save(Sam(encoder, prompts, decoder).state_dict(), place)


def _vlm(place: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2VLImageProcessor,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    letters = Tokenizer(models.BPE())
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
    special.append("<|video_pad|>")
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    letters.train_from_iterator(["a photo of a red vase on the table"], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=letters, eos_token="<|im_end|>", pad_token="<|endoftext|>", additional_special_tokens=special
    )
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "video_pad")}
    starts = {name: tokenizer.convert_tokens_to_ids(f"<|vision_{name}|>") for name in ("start", "end")}
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 32,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [1],
        },
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=starts["start"],
        vision_end_token_id=starts["end"],
    )
    model = Qwen3VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(place)
    images = Qwen2VLImageProcessor(
        patch_size=16, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 1024, "longest_edge": 4096}
    )
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for c in m.content %}{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
        "{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    video = Qwen3VLVideoProcessor(patch_size=16, merge_size=2, temporal_patch_size=2)
    Qwen3VLProcessor(
        image_processor=images, tokenizer=tokenizer, video_processor=video, chat_template=template
    ).save_pretrained(place)


def _clip(place: Path) -> None:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    from tests.tiny_models import tokenizer

    words = tokenizer()
    text = {"vocab_size": len(words), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(place)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, words).save_pretrained(place)


def _sam2(place: Path) -> None:
    from transformers import (
        Sam2Config,
        Sam2HieraDetConfig,
        Sam2ImageProcessor,
        Sam2MaskDecoderConfig,
        Sam2Model,
        Sam2Processor,
        Sam2PromptEncoderConfig,
        Sam2VisionConfig,
    )

    hiera = Sam2HieraDetConfig(
        hidden_size=8,
        num_attention_heads=1,
        image_size=[128, 128],
        blocks_per_stage=[1, 2, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[4, 2, 4, 2],
        window_positional_embedding_background_size=[4, 4],
        global_attention_blocks=[4],
    )
    vision = Sam2VisionConfig(
        backbone_config=hiera,
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        fpn_hidden_size=32,
    )
    config = Sam2Config(
        vision_config=vision,
        prompt_encoder_config=Sam2PromptEncoderConfig(hidden_size=32, image_size=128, mask_input_channels=4),
        mask_decoder_config=Sam2MaskDecoderConfig(
            hidden_size=32, mlp_dim=32, num_hidden_layers=2, num_attention_heads=2, iou_head_hidden_dim=16
        ),
    )
    Sam2Model(config).save_pretrained(place)
    Sam2Processor(Sam2ImageProcessor(size={"height": 128, "width": 128})).save_pretrained(place)


def _sam3(place: Path) -> None:
    from transformers import Sam3Config, Sam3ImageProcessor, Sam3Model, Sam3Processor

    from tests.tiny_models import tokenizer

    words = tokenizer()
    part = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
    backbone = {"model_type": "sam3_vit_model", **part, "num_hidden_layers": 2, "image_size": 112, "patch_size": 14}
    backbone |= {"window_size": 4, "global_attn_indexes": [1], "pretrain_image_size": 56}
    text = {"model_type": "clip_text_model", "vocab_size": len(words), "hidden_size": 16, "intermediate_size": 32}
    text |= {"num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32, "projection_dim": 32}
    text |= {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
    config = Sam3Config(
        vision_config={
            "backbone_config": backbone,
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        text_config=text,
        geometry_encoder_config={**part, "num_layers": 1},
        detr_encoder_config={**part, "num_layers": 1},
        detr_decoder_config={**part, "num_layers": 2, "num_queries": 6},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2},
    )
    Sam3Model(config).save_pretrained(place)
    images = Sam3ImageProcessor(size={"height": 112, "width": 112}, mask_size={"height": 32, "width": 32})
    Sam3Processor(images, words).save_pretrained(place)


def _bert(place: Path) -> None:
    """A configuration and a tokenizer; the weights are the checkpoint's."""
    from transformers import BertConfig

    words = bert_tokenizer()
    words.save_pretrained(place)
    BertConfig(**bert_config()).save_pretrained(place)


def _groundingdino_py(place: Path) -> None:
    from dataforge.backends import groundingdino_py as backend

    shapes = {
        "transformer.level_embed": torch.empty(4, 256),
        "backbone.0.patch_embed.proj.weight": torch.empty(96, 3, 4, 4),
        "transformer.encoder.layers.0.linear1.weight": torch.empty(64, 256),
        "transformer.decoder.layers.1.linear1.weight": torch.empty(64, 256),
        "feat_map.weight": torch.empty(256, 16),
        "transformer.tgt_embed.weight": torch.empty(20, 256),
    }
    network = backend.build_network(backend.arguments_of(shapes, str(tiny("bert"))))
    with torch.no_grad():  # what starts at zero would say the same of every box
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    # as the published files: below one key, from a wrapped model, with a buffer that BERT has no more
    state["module.bert.embeddings.position_ids"] = torch.arange(128)[None]
    torch.save({"model": state}, place)


def _sd3(place: Path) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    from tests.tiny_models import text_encoder, tokenizer, vae

    words = tokenizer()
    t5, pieces = _t5(width=64)
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=64,
        pooled_projection_dim=64,
    )
    StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae_with_shift(vae()),
        text_encoder=text_encoder(words, width=32, project=True),
        tokenizer=words,
        text_encoder_2=text_encoder(words, width=32, project=True),
        tokenizer_2=tokenizer(),
        text_encoder_3=t5,
        tokenizer_3=pieces,
    ).save_pretrained(place)


def _t5(width: int) -> tuple[Any, Any]:
    """A T5 encoder and a tokenizer over letters."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    letters = [chr(number) for number in range(97, 123)]
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *letters]
    tokens = T5Tokenizer(vocab=[(piece, -float(number)) for number, piece in enumerate(pieces)], extra_ids=0)
    config = T5Config(vocab_size=len(tokens), d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return T5EncoderModel(config), tokens


def _flux(place: Path) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    from tests.tiny_models import text_encoder, tokenizer, vae

    words = tokenizer()
    t5, pieces = _t5(width=32)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    FluxPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae_with_shift(vae()),
        text_encoder=text_encoder(words, width=32),
        tokenizer=words,
        text_encoder_2=t5,
        tokenizer_2=pieces,
    ).save_pretrained(place)


def vae_with_shift(autoencoder: Any) -> Any:
    """The latents of SD 3 and FLUX are shifted too."""
    autoencoder.register_to_config(shift_factor=0.06)
    return autoencoder


MAKERS: dict[str, Callable[[Path], None]] = {
    "grounding-dino": _grounding_dino,
    "mm-grounding-dino": lambda place: _grounding_dino(place, mm=True),
    "sam-hf": _sam_hf,
    "sam": _sam,
    "sam-wide": lambda place: _sam(place, wide=True),
    "sam2": _sam2,
    "sam3": _sam3,
    "bert": _bert,
    "groundingdino-py": _groundingdino_py,
    "vlm": _vlm,
    "sd3": _sd3,
    "flux": _flux,
    "clip": _clip,
}
