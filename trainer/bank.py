"""What never changes during training, computed once: VAE moments of pictures and masked pictures, text states.

Every entry is a safetensors file named by what made it: base, view settings, sample ID and the sha256 of its bytes. So
runs and subjects share a bank, a second start computes nothing, and a changed picture gets a new name. Variant k of a
sample is drawn by (view_seed, sample ID, k), which is what lets masked inputs be cached at all.

Dimension key: K variants, U different crops among them, h w latent cells, T text positions, D P widths.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from manifests.errors import Fault
from manifests.fsops import write_atomic
from manifests.ids import digest_of
from trainer.data import each_once
from trainer.keyed import rng
from trainer.views import View

if TYPE_CHECKING:
    from manifests.corpus import Corpus
    from manifests.pixels import MaskArray
    from pipelines.backbones import Backbone
    from trainer.data import Item, SubjectData
    from trainer.recipe import Recipe

__all__ = ["Bank", "Progress", "moments_of", "pixels_of"]

logger = logging.getLogger(__name__)
Progress = Callable[[str, int, int], None]
Tensors = dict[str, Tensor]


class Bank:
    """A folder of entries, for one recipe on one base.

    `dtype` is what moments and states are kept in. Reading needs neither the base nor the corpus, so loader workers
    take a bank along cheaply.
    """

    def __init__(self, folder: Path, recipe: Recipe, backbone: Backbone, resolution: int, dtype: torch.dtype) -> None:
        self.folder, self.resolution, self.dtype = folder, resolution, dtype
        base = backbone.base.digest
        # what the encoders computed in: a value rounded there stays rounded however it is kept
        computed = f"{backbone.dtype} {backbone.vae.dtype}"
        self._view_key = {
            "base": base,
            "computed": computed,
            "dtype": str(dtype),
            "masked": backbone.channels == 9,
            "recipe": recipe.name,
            "version": recipe.views_version,
            "view": recipe.view_settings(),
            "resolution": resolution,
            "view_seed": recipe.settings.view_seed,
        }
        self._text_key = {"base": base, "computed": computed, "dtype": str(dtype), "layout": recipe.text_layout()}
        self._extras_key = recipe.extras_key
        self._counts = {"src": recipe.settings.variants, "reg": recipe.settings.regular_variants}

    # names

    def view_path(self, item: Item) -> Path:
        """Where the views of a picture lie."""
        sample = item.sample
        key = {**self._view_key, "id": sample.id, "image": sample.image.sha256, "mask": sample.mask.sha256}
        digest = digest_of({**key, "variants": self._counts[sample.role], "extras": self._extras_key(item)})
        return self.folder / "views" / f"{digest[:32]}.safetensors"

    def text_path(self, prompt: str) -> Path:
        """Where the states of a prompt lie."""
        return self.folder / "text" / f"{digest_of({**self._text_key, 'prompt': prompt})[:32]}.safetensors"

    # writing

    def prepare(
        self,
        corpus: Corpus,
        subjects: Sequence[SubjectData],
        recipe: Recipe,
        backbone: Backbone,
        on_progress: Progress = lambda *_: None,
    ) -> dict[str, Fault]:
        """Compute what is missing. Returns why pictures cannot be trained on, by sample ID: their object vanishes.

        `on_progress` is called before each picture and once they are all done.
        """
        faults: dict[str, Fault] = {}
        missing, prompts = self.missing(subjects, recipe, _is_whole)
        for number, item in enumerate(missing):
            on_progress("views", number, len(missing))
            entry = self._views(corpus, item, recipe, backbone)
            if isinstance(entry, Fault):
                faults[item.sample.id] = entry
            else:
                _write(self.view_path(item), entry)
        on_progress("views", len(missing), len(missing))
        for prompt in prompts:
            states = recipe.text(backbone, [prompt])
            parts = {"tokens": states.tokens} | ({} if states.pooled is None else {"pooled": states.pooled})
            _write(self.text_path(prompt), {name: part.to(self.dtype).cpu() for name, part in parts.items()})
        return faults

    def missing(
        self, subjects: Sequence[SubjectData], recipe: Recipe, there: Callable[[Path], bool] = Path.exists
    ) -> tuple[list[Item], list[str]]:
        """The pictures and prompts of these subjects that have no entry, each once."""
        return (
            [item for item in each_once(subjects) if not there(self.view_path(item))],
            [prompt for prompt in self._prompts(subjects, recipe) if not there(self.text_path(prompt))],
        )

    def _views(self, corpus: Corpus, item: Item, recipe: Recipe, backbone: Backbone) -> Tensors | Fault:
        sample = item.sample
        image, mask = corpus.image(sample), corpus.mask(sample)
        if not mask.any():
            return Fault("E612", f"{sample.id}: its mask is empty")
        crops: dict[bytes, int] = {}
        rows: list[Tensors] = []
        pictures: list[Tensors] = []
        for variant in range(self._counts[sample.role]):
            key = rng(recipe.settings.view_seed, "view", sample.id, variant)
            view = recipe.view(image, mask, self.resolution, key)
            if not view.object.any() or not (paint := recipe.mask(view, key)).any():
                size = f"{mask.shape[1]} x {mask.shape[0]}"
                detail = f"{sample.id}: its object of {int(mask.sum())} px in {size} is gone at {self.resolution} px"
                return Fault("E612", detail)
            digest = hashlib.sha256(view.image.tobytes()).digest()
            if digest not in crops:  # a square picture gives one crop however many masks there are
                crops[digest] = len(pictures)
                pictures.append(self._moments(backbone, pixels_of(view.image), "image"))
            rows.append({**self._row(backbone, recipe, view, paint), "crop": torch.tensor(crops[digest])})
        once = recipe.extras(backbone, item, image, mask, self.resolution)
        return (
            {f"view.{name}": tensor for name, tensor in _stack(rows).items()}
            | {f"crop.{name}": tensor for name, tensor in _stack(pictures).items()}
            | {f"once.{name}": tensor.to(self.dtype).cpu() for name, tensor in once.items()}
        )

    def _row(self, backbone: Backbone, recipe: Recipe, view: View, paint: MaskArray) -> Tensors:
        mask = torch.from_numpy(paint.astype(np.float32))[None, None]
        row = {
            "mask": backbone.latent_mask(mask)[0].to(torch.uint8).cpu(),
            "size": torch.tensor([*view.original_size, *view.crop_top_left, self.resolution, self.resolution]),
        }
        if backbone.channels == 9:
            row |= self._moments(backbone, backbone.masked_image(pixels_of(view.image), mask), "masked")
        if view.valid is not None:
            padding = torch.from_numpy((~view.valid).astype(np.float32))[None, None]
            row["valid"] = 1 - backbone.latent_mask(padding)[0].to(torch.uint8).cpu()
        if (rule := recipe.region_rule()) is not None:
            row["region"] = backbone.latent_mask(mask, rule)[0].to(torch.uint8).cpu()
        return row

    def _moments(self, backbone: Backbone, pixels: Tensor, name: str) -> Tensors:
        return {key: value.to(self.dtype).cpu() for key, value in moments_of(backbone, pixels, name).items()}

    # reading

    def view(self, item: Item, variant: int) -> Tensors:
        """One view, float32: `image_mean`, `image_std` and (9 channels) `masked_mean`, `masked_std` [4,h,w], scaled;
        `mask`, with some recipes `valid` and `region` [1,h,w] of 0 and 1; `size` [6]; what the recipe added."""
        entry = _open(self.view_path(item))
        crop = int(entry.get_slice("view.crop")[variant])
        row = {}
        for key in entry.keys():  # noqa: SIM118 a safetensors handle is no mapping
            kind, _, name = key.partition(".")
            # a slice is read, not the whole tensor
            if kind == "once":
                row[name] = entry.get_tensor(key).float()
            elif name != "crop":
                row[name] = entry.get_slice(key)[variant if kind == "view" else crop].float()
        return row

    def text(self, prompt: str) -> Tensors:
        """States of a prompt: tokens [T,D], pooled [P] where the base has one; float32."""
        entry = _open(self.text_path(prompt))
        return {name: entry.get_tensor(name)[0].float() for name in entry.keys()}  # noqa: SIM118

    def without_text(self, subjects: Sequence[SubjectData], recipe: Recipe) -> list[str]:
        """A sentence for each picture with views whose region has no cell: of a step on them the text is no part."""
        if recipe.region_rule() != "nearest":  # `max` keeps a cell of every mask
            return []
        sentences = []
        for item in each_once(subjects):
            regions = _open(self.view_path(item)).get_tensor("view.region").flatten(1)
            if empty := int((regions == 0).all(dim=1).sum()):
                sentences.append(
                    f"{item.sample.id}: in {empty} of {len(regions)} views at {self.resolution} px its box lies "
                    "between the pixels that nearest looks at, and they train without text; set region_downsample: max."
                )
        return sentences

    def bytes_each(self, subjects: Sequence[SubjectData], recipe: Recipe) -> tuple[float, float]:
        """What a view and a prompt of these subjects take on disk: means over the entries that are there."""
        pictures = [item for item in each_once(subjects) if self.view_path(item).exists()]
        views = sum(self._counts[item.sample.role] for item in pictures)
        texts = [path for path in map(self.text_path, self._prompts(subjects, recipe)) if path.exists()]
        return (
            sum(self.view_path(item).stat().st_size for item in pictures) / max(1, views),
            sum(path.stat().st_size for path in texts) / max(1, len(texts)),
        )

    @staticmethod
    def _prompts(subjects: Sequence[SubjectData], recipe: Recipe) -> list[str]:
        if recipe.settings.train_token:
            return []  # their states change with every step
        return sorted({prompt for subject in subjects for prompt in recipe.prompts(subject)})


def moments_of(backbone: Backbone, pixels: Tensor, name: str) -> Tensors:
    """`<name>_mean` and `<name>_std` [4,h,w] of pixels [1,3,H,W], times the base's scale."""
    moments = backbone.encode_image(pixels)
    return {f"{name}_mean": moments.mean[0] * moments.scale, f"{name}_std": moments.std[0] * moments.scale}


def pixels_of(image: np.ndarray[Any, Any]) -> Tensor:
    """uint8 HxWx3 to float32 [1,3,H,W] in [-1, 1]."""
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def _stack(rows: Sequence[Mapping[str, Tensor]]) -> Tensors:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _content_digest(entry: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(entry, key=lambda pair: pair[0]):
        digest.update(name.encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def _write(path: Path, entry: Tensors) -> None:
    entry = {name: tensor.contiguous() for name, tensor in entry.items()}
    write_atomic(path, safetensors.torch.save(entry, {"sha256": _content_digest(entry.items())}))


def _is_whole(path: Path) -> bool:
    """Whether an entry is there with the bytes it was written with; safetensors itself notices no flipped bit."""
    if not path.exists():
        return False
    try:
        with safetensors.safe_open(path, "pt") as entry:
            stated = (entry.metadata() or {}).get("sha256")
            whole = stated == _content_digest((name, entry.get_tensor(name)) for name in entry.keys())  # noqa: SIM118
    except (safetensors.SafetensorError, OSError):
        whole = False
    if not whole:
        logger.warning("bank entry %s is damaged and is computed again", path.name)
    return whole


@lru_cache(maxsize=256)
def _open(path: Path) -> Any:
    # mapped, not read: a variant costs its own bytes
    return safetensors.safe_open(path, "pt").__enter__()  # type: ignore[no-untyped-call]
