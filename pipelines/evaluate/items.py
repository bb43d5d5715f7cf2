"""One picture to score, by name: what is compared with what, before any pixel is read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image

from manifests.corpus import Corpus
from manifests.errors import CorpusError, UsageError
from manifests.ids import sha256_hex
from manifests.pixels import ImageArray
from manifests.records import Box
from pipelines.evaluate.pairs import Pair, View

__all__ = ["REAL", "Item", "PairReader", "real_images", "without_identifier"]

REAL = "real image"


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A composite, or a photograph standing where a composite would (`REAL`).

    `group` is the pair a protocol counts: composites that differ in their seed only share it.
    """

    id: str
    method: str
    task: str
    group: str
    subject: str
    seed: int
    prompt: str  # without the identifier
    box: Box
    references: tuple[str, ...]  # sample IDs
    image: str  # path of the picture, or the sample ID of a photograph
    sha256: str  # of the picture's bytes
    scene: str = ""  # sample ID or path; empty for none


def without_identifier(prompt: str, identifier: str = "") -> str:
    """The prompt as an encoder that knows no identifier should read it: the placeholder or word taken out."""
    for word in ("{identifier}", identifier):
        if word:
            prompt = " ".join(part for part in prompt.split() if part != word)
    return prompt


def real_images(corpus: Corpus, subjects: Iterable[str], *, task: str) -> list[Item]:
    """The subjects' own photographs as items: each is compared with all others of its subject."""
    items = []
    for name in sorted(set(subjects)):
        subject = corpus.subjects[name]
        for sample_id in sorted(subject.sample_ids):
            sample = corpus.record(sample_id)
            items.append(
                Item(
                    id=f"real/{task}/{sample_id}",
                    method=REAL,
                    task=task,
                    group=sample_id,
                    subject=name,
                    seed=0,
                    prompt=without_identifier(subject.instance_prompt),
                    box=sample.box_xyxy,
                    references=tuple(other for other in sorted(subject.sample_ids) if other != sample_id),
                    image=sample_id,
                    sha256=sample.image.sha256,
                )
            )
    return items


class PairReader:
    """Reads items: composites from files, photographs and scenes from the corpus. Safe to share between threads."""

    def __init__(self, corpus: Corpus, *, keep: int = 64) -> None:
        self._corpus, self._lock = corpus, Lock()
        self._view = lru_cache(maxsize=keep)(self._read_view)
        self._scene = lru_cache(maxsize=keep)(self._read_scene)

    def __call__(self, item: Item) -> Pair:
        """The item's pixels. Raises `UsageError` E503 or `CorpusError` E401 for a picture that is gone or changed."""
        if item.method == REAL:
            composite = self._view(item.image)
        else:
            composite = View(item.id, read_picture(Path(item.image), item.sha256), item.box)
        scene = self._scene(item.scene) if item.scene else None
        if scene is not None and scene.shape != composite.image.shape:
            raise CorpusError(
                f"{item.id}: the composite is {composite.image.shape[1]}x{composite.image.shape[0]}, its scene "
                f"{scene.shape[1]}x{scene.shape[0]}; they were expected to be alike.",
                code="E308",
            )
        return Pair(composite, scene, tuple(self._view(name) for name in item.references), item.prompt)

    def _read_view(self, sample_id: str) -> View:
        with self._lock:
            sample = self._corpus.record(sample_id)
        return View(sample_id, self._corpus.image(sample), sample.box_xyxy, self._corpus.mask(sample))

    def _read_scene(self, name: str) -> ImageArray:
        if name in self._corpus:
            with self._lock:
                sample = self._corpus.record(name)
            return self._corpus.image(sample)
        return read_picture(Path(name), "")


def read_picture(path: Path, sha256: str) -> ImageArray:
    """uint8 HxWx3 of a file whose bytes have this sha256 (empty: any)."""
    import io

    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read.", code="E503") from error
    if sha256 and sha256_hex(content) != sha256:
        raise CorpusError(f"{path.name} is not the picture that was painted.", code="E401")
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("RGB"))
