"""Grounding DINO from its original `.pth` checkpoints, through the groundingdino-py package.

The package was written for transformers 4; what breaks on 5 is mended here at its edge, and the checkpoints' own names
stay as they are. Its layers' numbers and sizes are read from the checkpoint, so no configuration file is run.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from dataforge.backends.checkpoints import Needs, Package, Weights, check, identity, read_pth
from dataforge.backends.devices import in_batches, place, quietly
from dataforge.backends.queries import caption_of, pick, token_spans
from dataforge.model_config import GroundingDinoPy as Settings
from dataforge.protocols import Grounding, Photo, Scope
from manifests.errors import Fault, UsageError

__all__ = ["GroundingDinoPy", "arguments_of", "build_network", "load_network"]

INSTALL = '`pip install "dataforge[groundingdino-py]"`, then `pip install --no-deps groundingdino-py==0.4.0`'
_HOLDS = ("transformer.tgt_embed.weight", "bert.embeddings.word_embeddings.weight", "feat_map.weight")
_LONG_SIDE = 1333 / 800  # of the short one, as the original resizes
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
# width of the first stage -> the package's name of the backbone
_BACKBONES = {96: "swin_T_224_1k", 128: "swin_B_384_22k", 192: "swin_L_384_22k"}
# names that old checkpoints carry and the network has no more, or never had
_LEFT_OVER = ("position_ids", "label_enc.weight")


class GroundingDinoPy:
    """Boxes for a noun, as the original `predict` finds them."""

    name = "groundingdino-py"
    version = "1"
    scope: Scope = "sample"

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int = 1,
        text_encoder: str = "google-bert/bert-base-uncased",
        box_threshold: float = 0.3,
        text_threshold: float = 0.25,
        queries: Sequence[str] = (),
        short_side: int = 800,
    ) -> None:
        """Loads the checkpoint. Raises `UsageError` E505 where it is missing, E508 for a file of another kind."""
        checkpoint, text = _weights(model, revision, text_encoder)
        path, text_path = check(checkpoint, self.name), check(text, self.name)
        self.model = f"{identity(model, revision)} {identity(text_encoder, None)}"
        self._batch_size, self._short_side = batch_size, short_side
        self._box_threshold, self._text_threshold = box_threshold, text_threshold
        self._queries = tuple(queries)
        self._place = place(device, precision)
        with quietly():
            self._network = load_network(path, text_path).to(self._place.device)
        tokenizer = self._network.tokenizer
        self._stop = tokenizer.convert_tokens_to_ids(".")
        self._special = frozenset(tokenizer.all_special_ids)

    @staticmethod
    def needs(settings: Settings) -> Needs:
        """What has to be there."""
        modules = ("torch", "torchvision", "transformers", "timm", "groundingdino")
        packages = tuple(Package(module, INSTALL) for module in modules)
        weights = _weights(settings.model, settings.revision, settings.text_encoder)
        return Needs(packages, weights, settings.device, memory_gb=4)

    def ground(self, photos: Sequence[Photo]) -> list[Grounding | Fault]:
        """The best box of each photograph's class noun; E210 where none exceeds the thresholds."""
        return in_batches(photos, self._batch_size, self._look, what=self.name)

    def _look(self, photos: Sequence[Photo]) -> list[Grounding | Fault]:
        from groundingdino.util.misc import nested_tensor_from_tensor_list

        texts = [caption_of(photo.class_noun, self._queries) for photo in photos]
        images = [_normal(photo.image, self._short_side).to(self._place.device) for photo in photos]
        with self._place.run(), quietly():
            outputs = self._network(nested_tensor_from_tensor_list(images), captions=texts)
        probabilities = outputs["pred_logits"].float().sigmoid().cpu().numpy()
        boxes = outputs["pred_boxes"].float().cpu().numpy()
        return [
            pick(
                seen,
                placed,
                token_spans(self._network.tokenizer(text)["input_ids"], self._stop, self._special),
                size=photo.image.shape[:2],
                box_threshold=self._box_threshold,
                text_threshold=self._text_threshold,
            )
            for photo, text, seen, placed in zip(photos, texts, probabilities, boxes, strict=True)
        ]


def load_network(checkpoint: Path, text_encoder: Path) -> Any:
    """The original network with a checkpoint's weights, in evaluation mode.

    `text_encoder` is a folder with BERT's configuration and tokenizer; its weights come from the checkpoint.
    """
    state = read_pth(checkpoint, "groundingdino-py")
    state = state.get("model", state)
    state = {name.removeprefix("module."): value for name, value in state.items()}
    try:
        arguments = arguments_of(state, str(text_encoder))
    except (KeyError, ValueError, AttributeError) as error:
        raise UsageError(f"groundingdino-py: {checkpoint.name} has no {error}.", code="E508") from error
    network = build_network(arguments)
    try:
        result = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()[:120]
        raise UsageError(f"groundingdino-py: {checkpoint.name} does not fit: {reason}.", code="E508") from error
    foreign = [name for name in result.unexpected_keys if not name.endswith(_LEFT_OVER)]
    if result.missing_keys or foreign:
        names = [*result.missing_keys, *foreign]
        raise UsageError(f"groundingdino-py: {checkpoint.name} does not fit, see {names[0]}.", code="E508")
    return network.eval()


def build_network(arguments: SimpleNamespace) -> Any:
    """The network with random weights."""
    with quietly(), contextlib.redirect_stdout(io.StringIO()):  # it prints what it loads
        return _package()(arguments)


def _package() -> Any:
    """The package's `build_model`, with what breaks on transformers 5 put right."""
    # what draws and what runs configuration files is left out, and with it matplotlib, pycocotools, addict and yapf
    for name, used in (("visualizer", "COCOVisualizer"), ("slconfig", "SLConfig")):
        left_out = ModuleType(f"groundingdino.util.{name}")
        setattr(left_out, used, None)
        sys.modules.setdefault(left_out.__name__, left_out)
    import torch
    from groundingdino.models import build_model
    from groundingdino.models.GroundingDINO import bertwarper
    from groundingdino.models.GroundingDINO import groundingdino as network
    from groundingdino.util import get_tokenlizer
    from transformers import AutoConfig, BertModel

    class BertModelWarper(torch.nn.Module):
        """BERT under the names of the checkpoint, given the mask that keeps the queries of a text apart.

        The original called parts of BERT that transformers 5 no longer has; the model itself takes a 4-D mask now.
        """

        def __init__(self, bert_model: Any) -> None:
            super().__init__()
            self.config = bert_model.config
            self.embeddings, self.encoder = bert_model.embeddings, bert_model.encoder
            self.pooler = bert_model.pooler
            object.__setattr__(self, "_bert", bert_model)  # no child: its parameters have their names already

        def forward(
            self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None, position_ids: Any = None, **_: Any
        ) -> Any:
            if attention_mask.dim() == 3:
                seen = attention_mask[:, None].bool()
                kind = self.embeddings.word_embeddings.weight.dtype
                attention_mask = torch.zeros(seen.shape, dtype=kind, device=seen.device)
                attention_mask = attention_mask.masked_fill(~seen, torch.finfo(kind).min)
            bert: Any = self._bert
            return bert(
                input_ids=input_ids,
                attention_mask=attention_mask,
                token_type_ids=token_type_ids,
                position_ids=position_ids,
            )

    def untrained(folder: str) -> Any:
        return BertModel(AutoConfig.from_pretrained(folder, local_files_only=True))

    bertwarper.BertModelWarper = network.BertModelWarper = BertModelWarper
    # the checkpoint holds BERT's weights too
    get_tokenlizer.get_pretrained_language_model = untrained
    return build_model


def arguments_of(state: Mapping[str, Any], text_encoder: str) -> SimpleNamespace:
    """What the package's configuration files say, with every size read from the weights."""
    levels = state["transformer.level_embed"].shape[0]
    width = state["backbone.0.patch_embed.proj.weight"].shape[0]
    if width not in _BACKBONES:
        raise ValueError(f"known backbone, its width is {width}")
    return SimpleNamespace(
        modelname="groundingdino",
        backbone=_BACKBONES[width],
        position_embedding="sine",
        pe_temperatureH=20,
        pe_temperatureW=20,
        return_interm_indices=list(range(5 - levels, 4)),
        backbone_freeze_keywords=None,
        dilation=False,
        enc_layers=_count(state, "transformer.encoder.layers."),
        dec_layers=_count(state, "transformer.decoder.layers."),
        pre_norm=False,
        dim_feedforward=state["transformer.encoder.layers.0.linear1.weight"].shape[0],
        hidden_dim=state["feat_map.weight"].shape[0],
        dropout=0.0,
        nheads=8,
        num_queries=state["transformer.tgt_embed.weight"].shape[0],
        query_dim=4,
        num_patterns=0,
        num_feature_levels=levels,
        enc_n_points=4,
        dec_n_points=4,
        two_stage_type="standard",
        two_stage_bbox_embed_share=False,
        two_stage_class_embed_share=False,
        transformer_activation="relu",
        dec_pred_bbox_embed_share=True,
        dn_box_noise_scale=1.0,
        dn_label_noise_ratio=0.5,
        embed_init_tgt=True,
        dn_labelbook_size=2000,
        max_text_len=256,
        text_encoder_type=text_encoder,
        use_text_enhancer=True,
        use_fusion_layer=True,
        use_checkpoint=False,
        use_transformer_ckpt=False,
        use_text_cross_attention=True,
        text_dropout=0.0,
        fusion_dropout=0.0,
        fusion_droppath=0.1,
        sub_sentence_present=True,
    )


def _count(state: Mapping[str, Any], prefix: str) -> int:
    return 1 + max(int(name.removeprefix(prefix).partition(".")[0]) for name in state if name.startswith(prefix))


def _normal(image: Any, short_side: int) -> Any:
    """uint8 HxWx3 to float32 3xhxw as the network was trained on: short side, limited long side, ImageNet's colours."""
    import torch
    from PIL import Image

    height, width = image.shape[:2]
    scale = min(short_side / min(height, width), short_side * _LONG_SIDE / max(height, width))
    size = max(32, round(width * scale)), max(32, round(height * scale))
    resized = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
    values = (np.asarray(resized, np.float32) / 255 - _MEAN) / _DEVIATION
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))


def _weights(model: str, revision: str | None, text_encoder: str) -> tuple[Weights, Weights]:
    return Weights(model, revision, "pth", holds=_HOLDS), Weights(text_encoder, None, "tokenizer", ("bert",))
