"""Adapters on one base: opened by reference, checked against the base, loaded once and switched in milliseconds."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from manifests.errors import UsageError
from pipelines.backbones import Backbone
from pipelines.backbones.textual_inversion import EMBEDS_NAME, put_adapter_word
from pipelines.records import AdapterRecord, read_record

__all__ = ["Adapter", "Shelf", "open_adapter", "stock_pipeline"]

LORA_NAME, REFERENCE_NAME = "pytorch_lora_weights.safetensors", "reference.safetensors"


@dataclass(frozen=True)
class Adapter:
    """An adapter folder and its record."""

    folder: Path
    record: AdapterRecord

    @cached_property
    def touches_text(self) -> bool:
        """Whether prompts read differently with it: it holds a trained word, or a LoRA of the text encoders."""
        if (self.folder / EMBEDS_NAME).is_file():
            return True
        return self.record.kind == "lora" and any(name.startswith("text_encoder") for name in self.lora_names())

    def lora_names(self) -> list[str]:
        """The tensors of its LoRA. Raises `UsageError` E603 where it has none."""
        from safetensors import safe_open

        if not (self.folder / LORA_NAME).is_file():
            raise UsageError(f"{self.folder} holds no {LORA_NAME}.", code="E603")
        with safe_open(self.folder / LORA_NAME, framework="pt") as file:
            return list(file.keys())


def open_adapter(ref: str | Path) -> Adapter:
    """The adapter at a folder or `hf://user/name[@revision]`; weights are not loaded yet. Raises E503 and E603."""
    text = str(ref)
    if Path(text).is_dir() or "://" not in text:
        return Adapter(Path(text), read_record(Path(text)))
    from manifests.refs import parse_reference
    from pipelines.backbones.places import folder_of

    reference = parse_reference(text)
    folder = folder_of(reference.place, reference.revision)
    return Adapter(folder, read_record(folder))


def stock_pipeline(backbone: Backbone) -> Any:
    """diffusers' own inpainting pipeline around the backbone's modules: nothing is copied."""
    import diffusers

    scheduler = backbone.make_scheduler()
    stock: Any = diffusers
    if backbone.family == "sd":
        return stock.StableDiffusionInpaintPipeline(
            vae=backbone.vae,
            text_encoder=backbone.text_encoders[0],
            tokenizer=backbone.tokenizers[0],
            unet=backbone.unet,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    return stock.StableDiffusionXLInpaintPipeline(
        vae=backbone.vae,
        text_encoder=backbone.text_encoders[0],
        text_encoder_2=backbone.text_encoders[1],
        tokenizer=backbone.tokenizers[0],
        tokenizer_2=backbone.tokenizers[1],
        unet=backbone.unet,
        scheduler=scheduler,
        add_watermarker=False,
    )


class Shelf:
    """The adapters in memory; the least recently used one goes when there are more than `capacity`."""

    def __init__(self, backbone: Backbone, capacity: int = 16) -> None:
        self.backbone, self.capacity = backbone, capacity
        self.current: Adapter | None = None
        self._plain = backbone.unet
        self._pipeline = stock_pipeline(backbone)
        self._names: OrderedDict[str, str] = OrderedDict()  # digest of a LoRA's record -> its name in peft
        self._whole: OrderedDict[str, Any] = OrderedDict()  # digest -> a whole UNet
        self._off = False  # whether the LoRA layers are off

    def use(self, adapter: Adapter | None) -> None:
        """Paint with this adapter, or with the base alone. Raises `UsageError` E603 for one of another base."""
        if adapter is not None:
            self._check_base(adapter)
        word = adapter.record.identifier if adapter is not None else ""
        put_adapter_word(self.backbone, adapter.folder if adapter is not None else None, word)
        if adapter is None or adapter.record.kind == "full":
            if self._names and not self._off:
                self._pipeline.disable_lora()
                self._off = True
            self.backbone.unet = self._plain if adapter is None else self._whole_unet(adapter)
        else:
            self.backbone.unet = self._plain
            name = self._lora(adapter)
            if self._off:  # it walks over every layer, as setting adapters does
                self._pipeline.enable_lora()
                self._off = False
            self._pipeline.set_adapters([name])
        self.current = adapter

    def _check_base(self, adapter: Adapter) -> None:
        trained, here = adapter.record.base, self.backbone.base
        if (trained.digest, trained.channels) != (here.digest, here.channels):
            raise UsageError(
                f"{adapter.record.id} was trained on {trained.model} ({trained.family}, {trained.channels} channels, "
                f"{trained.digest[:12]}), this is {here.model} ({here.family}, {here.channels} channels, "
                f"{here.digest[:12]}).",
                code="E603",
            )

    def _lora(self, adapter: Adapter) -> str:
        key = adapter.record.digest
        if key not in self._names:
            while len(self._names) >= self.capacity:
                self._pipeline.delete_adapters([self._names.popitem(last=False)[1]])
            name = f"{adapter.record.id.replace('/', '_')}_{key[:8]}"
            in_text = any(layer.startswith("text_encoder") for layer in adapter.lora_names())
            try:
                # diffusers' pipeline loader also looks for text encoder layers, and warns where there are none
                target, options = (self._pipeline, {}) if in_text else (self._plain, {"prefix": "unet"})
                load = target.load_lora_weights if in_text else target.load_lora_adapter
                with warnings.catch_warnings():  # several adapters on one model are what a shelf is for
                    warnings.filterwarnings("ignore", "Already found a `peft_config`")
                    load(adapter.folder, weight_name=LORA_NAME, adapter_name=name, local_files_only=True, **options)
            except (RuntimeError, ValueError) as error:
                reason = str(error).splitlines()[0]
                raise UsageError(
                    f"{adapter.folder / LORA_NAME} does not fit the base: {reason}.", code="E603"
                ) from error
            if name not in getattr(self._plain, "peft_config", {}):
                raise UsageError(f"{adapter.folder / LORA_NAME} holds no layers of a UNet.", code="E603")
            for parameter in self._plain.parameters():
                parameter.requires_grad_(False)
            self._names[key] = name
        self._names.move_to_end(key)
        return self._names[key]

    def _whole_unet(self, adapter: Adapter) -> Any:
        key = adapter.record.digest
        if key not in self._whole:
            from diffusers import UNet2DConditionModel

            from pipelines.backbones.latent import load_part

            while len(self._whole) >= 2:  # a whole UNet each: two are in memory beside the base
                self._whole.popitem(last=False)
            try:
                unet = load_part(UNet2DConditionModel, adapter.folder, "unet", self.backbone.dtype)
                self._whole[key] = unet.to(self.backbone.device)
            except (NotImplementedError, ValueError) as error:  # a tensor is missing, or of another shape
                place = adapter.folder / "unet"
                raise UsageError(f"{place} does not hold every weight of a UNet.", code="E603") from error
        self._whole.move_to_end(key)
        return self._whole[key]
