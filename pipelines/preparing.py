"""From a job to what is painted: pictures read, words checked, and the key that says what makes the result.

The key is of contents: pixels of scene, mask and reference, prompts, digests of adapters, settings and seed. A scene or
an adapter changed in its place is another job; the same ones elsewhere are the same. A base without adapter and an
outside program are known by name only.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from manifests.errors import ReportedError, UsageError
from manifests.ids import digest_of, sha256_hex
from manifests.pixels import ImageArray, MaskArray
from manifests.records import Box
from manifests.refs import parse_reference
from pipelines.jobs import Job, Region
from pipelines.places import Corpora, Reference, mask_of, read_mask, read_reference, read_scene
from pipelines.records import AdapterRecord, read_record
from pipelines.settings import Painting, resolve_for
from pipelines.words import prompt_as_read, words_to_remove

__all__ = ["Part", "Prepared", "Reader", "prepare"]

SCENES_KEPT = 32


@dataclass(frozen=True, slots=True)
class Part:
    """One region of a job: its mask (bool HxW) and the record of its adapter."""

    region: Region
    mask: MaskArray
    record: AdapterRecord | None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job whose pictures are read and whose words are checked: what a baseline or an outside program is given."""

    job: Job
    scene: ImageArray
    parts: tuple[Part, ...]
    reference: Reference | None
    seed: int
    settings: Painting
    key: str  # 12 hex digits of everything above

    @property
    def mask(self) -> MaskArray:
        """Of the job's own region, bool HxW."""
        return self.parts[0].mask

    @property
    def record(self) -> AdapterRecord | None:
        """Of the job's own adapter."""
        return self.parts[0].record

    @property
    def prompt(self) -> str:
        """The job's prompt, placeholders filled in."""
        return prompt_as_read(self.job.prompt, self.job.edit, self.record)


class Reader:
    """Reads what jobs name; corpora and records are opened once, and the last scenes are kept."""

    def __init__(self) -> None:
        self._corpora = Corpora()
        self._records: dict[str, AdapterRecord] = {}
        self._scenes: OrderedDict[str, tuple[ImageArray, Box | None]] = OrderedDict()
        self._photograph: tuple[str, ImageArray | None] = ("", None)  # jobs of one adapter come together

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._corpora.close()

    def prepare(self, job: Job, *, where: str = "job") -> Prepared:
        """Read and check a job. Raises E201, E211, E501, E502, E503, E603 and E604; no model is loaded."""
        scene, own_box = self._scene(job.scene)
        parts = []
        for number, region in enumerate(job.regions):
            box = region.box or (own_box if number == 0 and region.mask is None else None)
            mask = _mask(region, box, scene, where if number == 0 else f"{where}, region {number + 1}")
            parts.append(Part(region, mask, None if region.adapter is None else self.record(region.adapter)))
        if not job.in_turn:
            _check_disjoint(parts, where)
        inference = parts[0].record.inference if parts[0].record else None
        settings = resolve_for(inference, job.preset, job.settings, where=where)
        if job.method == "adapter" and settings.reference is not None and job.reference is None:
            raise UsageError(
                f"{where}: this adapter paints from a photograph of the subject: name one as reference.", code="E502"
            )
        for part in parts:
            region = part.region
            prompt = prompt_as_read(region.prompt, region.edit, part.record)
            if region.local_prompt is not None:
                prompt_as_read(region.local_prompt, region.edit, part.record)
            if settings.removes_in():
                words_to_remove(prompt, region.edit, region.remove, part.record)
        reference = None if job.reference is None else read_reference(job.reference, self._corpora)
        made_by = _made_by(job, scene, parts, reference, settings)
        seed = int(made_by[:8], 16) if job.seed is None else job.seed
        return Prepared(job, scene, tuple(parts), reference, seed, settings, made_by[:12])

    def record(self, adapter: str) -> AdapterRecord:
        """What an adapter folder or `hf://user/name` says of itself. Raises E503 and E603."""
        if adapter not in self._records:
            if "://" in adapter:
                from pipelines.adapters import open_adapter

                self._records[adapter] = open_adapter(adapter).record
            else:
                self._records[adapter] = read_record(Path(adapter))
        return self._records[adapter]

    def photograph(self, record: AdapterRecord, corpus: str) -> ImageArray | None:
        """The first photograph an adapter was trained on; None where its corpus does not open on this machine."""
        if self._photograph[0] != record.digest:
            self._photograph = record.digest, self._first_photograph(record, corpus)
        return self._photograph[1]

    def _first_photograph(self, record: AdapterRecord, corpus: str) -> ImageArray | None:
        photographs = [name for name in record.sample_ids if "/src-" in name]
        try:
            reference = parse_reference(corpus)
            if reference.is_remote or not photographs:  # nothing is fetched for the page alone
                return None
            opened, sample = self._corpora.sample(str(dataclasses.replace(reference, ids=(photographs[0],))))
            return opened.image(sample)
        except (ReportedError, OSError):
            return None

    def _scene(self, text: str) -> tuple[ImageArray, Box | None]:
        if text not in self._scenes:
            self._scenes[text] = read_scene(text, self._corpora)
            if len(self._scenes) > SCENES_KEPT:
                self._scenes.popitem(last=False)
        self._scenes.move_to_end(text)
        return self._scenes[text]


def prepare(job: Job) -> Prepared:
    """Read and check one job, as `Reader.prepare`."""
    with Reader() as reader:
        return reader.prepare(job)


def _mask(region: Region, box: Box | None, scene: ImageArray, where: str) -> MaskArray:
    height, width = scene.shape[:2]
    if region.mask is not None:
        return mask_of(read_mask(Path(region.mask)), height, width)
    if box is None:
        raise UsageError(f"{where}: the scene has no box of its own: give a box or a mask.", code="E502")
    return mask_of(box, height, width)


def _check_disjoint(parts: list[Part], where: str) -> None:
    for (first, one), (second, other) in combinations(enumerate(parts, start=1), 2):
        shared = int((one.mask & other.mask).sum())
        if shared:
            raise UsageError(
                f"{where}: regions {first} and {second} share {shared} pixels; regions painted in one run lie apart "
                "(in_turn: true paints them one after the other).",
                code="E211",
            )


def _made_by(job: Job, scene: ImageArray, parts: list[Part], reference: Reference | None, settings: Painting) -> str:
    return digest_of(
        {
            "method": job.method,
            "scene": _digest(scene),
            "regions": [
                [
                    _digest(part.mask), part.region.prompt, part.region.local_prompt, part.region.edit,
                    part.region.remove, part.record.digest if part.record else "",
                ]
                for part in parts
            ],
            "in_turn": job.in_turn,
            "reference": [_digest(reference.image), _digest(reference.mask)] if reference else [],
            # an adapter's record names its base by digest
            "base": "" if parts[0].record and job.method == "adapter" else job.base or "",
            "settings": dataclasses.asdict(settings),
            # a baseline has defaults of its own for what a job does not set
            "asked": {} if job.method == "adapter" else job.settings,
            "seed": job.seed,
        }
    )  # fmt: skip


def _digest(pixels: ImageArray | MaskArray) -> str:
    return sha256_hex(str(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes())
