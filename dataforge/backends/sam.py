"""SAM from its original `.pth` checkpoints, through the segment-anything package.

Every size is read from the checkpoint's own shapes, so vit_b, vit_l, vit_h and smaller relatives load alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dataforge.backends.checkpoints import Needs, Package, Weights, check, identity, read_pth
from dataforge.backends.devices import place
from dataforge.backends.promptable import BoxMasks, Promptable
from dataforge.model_config import Sam as Settings
from dataforge.protocols import Photo
from manifests.errors import UsageError
from manifests.records import Box

__all__ = ["Sam"]

INSTALL = '`pip install "dataforge[sam]"`'
_HOLDS = ("image_encoder.pos_embed", "mask_decoder.iou_token.weight", "prompt_encoder.no_mask_embed.weight")
_HEADS = 8  # of the mask decoder, in every SAM


class Sam(Promptable):
    """Boxes to masks; a picture is encoded once, however many boxes there are."""

    name = "sam"
    version = "1"

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int = 1,
        choose: str = "single",
        exclude_others: bool = False,
    ) -> None:
        """Loads the checkpoint. Raises `UsageError` E505 where it is missing, E508 for a file of another kind."""
        path = check(_weights(model, revision), self.name)
        self.model = identity(model, revision)
        super().__init__(batch_size=batch_size, choose=choose, exclude_others=exclude_others)
        self._place = place(device, precision)
        from segment_anything import SamPredictor

        self._predictor = SamPredictor(_load(path).to(self._place.device))

    @staticmethod
    def needs(settings: Settings) -> Needs:
        """What has to be there."""
        packages = tuple(Package(name, INSTALL) for name in ("torch", "torchvision", "segment_anything"))
        return Needs(packages, (_weights(settings.model, settings.revision),), settings.device, memory_gb=8)

    def look(self, asked: Sequence[tuple[Photo, list[Box]]]) -> list[BoxMasks]:
        """The masks of each photograph's boxes."""
        return [self._masks(photo, boxes) for photo, boxes in asked]

    def _masks(self, photo: Photo, boxes: Sequence[Box]) -> BoxMasks:
        import torch

        predictor = self._predictor
        height, width = photo.image.shape[:2]
        placed = predictor.transform.apply_boxes(np.asarray(boxes, np.float32), (height, width))
        with self._place.run():
            predictor.set_image(photo.image)
            logits, believed, _ = predictor.predict_torch(
                None,
                None,
                torch.as_tensor(placed, dtype=torch.float32, device=self._place.device),
                multimask_output=self._choose != "single",
                return_logits=True,
            )
        predictor.reset_image()
        return BoxMasks(logits.float().cpu().numpy(), believed.float().cpu().numpy())


def _weights(model: str, revision: str | None) -> Weights:
    return Weights(model, revision, "pth", holds=_HOLDS)


def _load(path: Path) -> Any:
    """A SAM of the checkpoint's shape with its weights."""
    import torch
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
    from segment_anything.modeling import Sam as Network

    state = read_pth(path, "sam")
    try:
        width, patch = (
            state["image_encoder.pos_embed"].shape[-1],
            state["image_encoder.patch_embed.proj.weight"].shape[-1],
        )
        grid = state["image_encoder.pos_embed"].shape[1]
        channels = state["image_encoder.neck.0.weight"].shape[0]
        depth = _count(state, "image_encoder.blocks.")
        reach = {n: (state[f"image_encoder.blocks.{n}.attn.rel_pos_h"].shape[0] + 1) // 2 for n in range(depth)}
        head = state["image_encoder.blocks.0.attn.rel_pos_h"].shape[1]
        windows = [size for size in reach.values() if size != grid]
        encoder = ImageEncoderViT(
            depth=depth,
            embed_dim=width,
            img_size=grid * patch,
            mlp_ratio=state["image_encoder.blocks.0.mlp.lin1.weight"].shape[0] / width,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            num_heads=width // head,
            patch_size=patch,
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=tuple(n for n, size in reach.items() if size == grid),
            window_size=windows[0] if windows else 0,
            out_chans=channels,
        )
        prompts = PromptEncoder(
            embed_dim=channels,
            image_embedding_size=(grid, grid),
            input_image_size=(grid * patch, grid * patch),
            mask_in_chans=state["prompt_encoder.mask_downscaling.3.weight"].shape[0],
        )
        decoder = MaskDecoder(
            num_multimask_outputs=state["mask_decoder.mask_tokens.weight"].shape[0] - 1,
            transformer=TwoWayTransformer(
                depth=_count(state, "mask_decoder.transformer.layers."),
                embedding_dim=channels,
                mlp_dim=state["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0],
                num_heads=_HEADS,
            ),
            transformer_dim=channels,
            iou_head_depth=_count(state, "mask_decoder.iou_prediction_head.layers."),
            iou_head_hidden_dim=state["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0],
        )
        mean, deviation = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
        network = Network(encoder, prompts, decoder, pixel_mean=mean, pixel_std=deviation)
        network.load_state_dict(state)
    except (KeyError, AttributeError, RuntimeError, ValueError, ZeroDivisionError) as error:
        reason = str(error).splitlines()[0][:120]
        raise UsageError(f"sam: {path.name} is no checkpoint of SAM ({reason}).", code="E508") from error
    return network.eval()


def _count(state: Mapping[str, Any], prefix: str) -> int:
    """How many numbered parts there are below a name."""
    return 1 + max(int(name.removeprefix(prefix).partition(".")[0]) for name in state if name.startswith(prefix))
