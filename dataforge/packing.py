"""From pictures and subjects to the rows and bytes of a corpus, with every file and every picture accounted for."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib.metadata import version
from typing import Any

from dataforge import __version__
from dataforge.config import Recipe
from dataforge.flow import Flow
from dataforge.ingest.sources import Inputs, PhotographSource
from dataforge.samples import Picture, WorkingSubject
from dataforge.stages.compose import instance_prompt
from dataforge.store import BlobRef, Outcome, Store
from manifests.errors import Fault
from manifests.ids import sha256_hex
from manifests.records import LedgerRow, MemberRef, Sample, Score, Subject
from manifests.writer import CorpusContent, UnpackedSample

__all__ = ["corpus_content"]

# what decides pixels and bytes; their versions are in the header
LIBRARIES = ("numpy", "opencv-python-headless", "pillow", "pyarrow")


def corpus_content(inputs: Inputs, flow: Flow, recipe: Recipe, store: Store) -> CorpusContent:
    """All that the corpus is made of. Raises AssertionError where a file or picture is not accounted for."""
    subjects = {subject.slug: subject for subject in flow.subjects}
    kept = sorted((picture for picture in flow.pictures if picture.alive), key=lambda picture: picture.id)
    ledger = _ledger(inputs, flow)
    _check_accounts(inputs, flow, kept, ledger)
    scene_ids: dict[str, list[str]] = {}
    for picture in kept:
        if picture.role == "bg":
            scene_ids.setdefault(picture.class_noun, []).append(picture.id)
    first_paths = {photo.id: photo for photo in flow.photographs if photo.alive}

    # one answer may be of all photographs of a subject, and those come one after another
    answer = lru_cache(maxsize=1)(store.outcome)

    def samples() -> Iterator[UnpackedSample]:
        for picture in kept:
            measured = _measured(picture, answer)
            yield _unpacked(picture, measured, subjects.get(picture.owner), first_paths, store)

    kept_ids = {picture.id for picture in kept}
    rows = [_subject_row(subject, recipe, scene_ids, kept_ids) for subject in flow.subjects]
    return CorpusContent(
        samples=samples,
        subjects=sorted(rows, key=lambda row: row.id),
        ledger=ledger,
        recipe=recipe.public(),
        made_with={
            "dataforge": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
        },
        shard_bytes=recipe.pack.shard_bytes,
        parquet=recipe.pack.parquet,
    )


def _unpacked(
    picture: Picture,
    measured: dict[str, Any],
    subject: WorkingSubject | None,
    photographs: dict[str, Picture],
    store: Store,
) -> UnpackedSample:
    image = picture.image_ref()
    mask: BlobRef | None = picture.mask
    made = picture.made_mask
    if picture.role == "reg":
        parent = photographs.get(picture.parents[0]) if picture.parents else None
        uri = _path(parent) if parent is not None else ""
    else:
        uri = _path(picture)
    mask_ref = (
        MemberRef(shard="", offset=0, length=mask.length, format="png", sha256=mask.sha256)
        if mask is not None
        else MemberRef(shard="", offset=0, length=len(made), format="png", sha256=sha256_hex(made))
    )
    scores = measured.get("scores", {}) | picture.scores
    sample = Sample(
        id=picture.id,
        subject=picture.owner,
        role=picture.role,
        split=subject.split if subject is not None else "train",
        class_noun=picture.class_noun,
        width=picture.width,
        height=picture.height,
        box_xyxy=picture.the_box(),
        box_score=picture.box_score,
        other_boxes=picture.other_boxes,
        mask_area=picture.mask_area,
        mask_quality=picture.mask_quality,
        flags=tuple(sorted(set(picture.flags))),
        caption=picture.caption,
        prompt=picture.prompt,
        own_pixels=picture.own_pixels,
        attributes=picture.attributes,
        scores=tuple(Score(name=sys.intern(name), value=value) for name, value in sorted(scores.items())),
        image=MemberRef(shard="", offset=0, length=image.length, format=picture.format, sha256=image.sha256),
        mask=mask_ref,
        source_uri=uri,
        source_sha256=picture.source_sha256,
        licence=subject.source.licence if subject is not None else "",
        parents=picture.parents,
        provenance=picture.provenance,
        rival_outline=tuple(measured.get("rival", ())),
    )
    return UnpackedSample(sample, lambda: store.read(image), lambda: made if mask is None else store.read(mask))


def _measured(picture: Picture, answer: Callable[[str, str], Outcome | None]) -> dict[str, Any]:
    """What the segmenter measured of a mask of its own; nothing for other masks."""
    if picture.measured is None:
        return {}
    stage, key, number = picture.measured
    outcome = answer(stage, key)
    assert outcome is not None, f"{stage} of {picture.id}"
    item: dict[str, Any] = outcome.value["items"][number]
    return dict(item.get("segmentation", item))


def _subject_row(subject: WorkingSubject, recipe: Recipe, scene_ids: dict[str, list[str]], kept: set[str]) -> Subject:
    source = subject.source
    photographs = tuple(photo.id for photo in subject.kept())
    return Subject(
        id=subject.slug,
        name=source.name,
        class_noun=source.class_noun,
        class_noun_origin=source.class_noun_origin,
        status="ok" if len(photographs) >= recipe.min_images else "insufficient",
        split=subject.split,
        licence=source.licence,
        credit=source.credit,
        consent=source.consent,
        instance_prompt=instance_prompt(recipe.compose, source.class_noun),
        attributes=subject.words,
        regular_prompts=subject.prompts,
        sample_ids=photographs,
        regular_ids=tuple(sorted(name for name in subject.regular_ids if name in kept)),
        scene_ids=tuple(scene_ids.get(source.class_noun, ())),
    )


def _path(picture: Picture) -> str:
    assert picture.source is not None
    return picture.source.file.path


def _ledger(inputs: Inputs, flow: Flow) -> list[LedgerRow]:
    """One row per file found, then one per picture made and not kept."""
    rows = list(inputs.settled)
    masks: dict[str, LedgerRow] = {}
    for picture in [*flow.photographs, *flow.scenes]:
        assert picture.source is not None
        file = picture.source.file
        subject = "" if picture.role == "bg" else picture.owner
        common: dict[str, Any] = {
            "path": file.path,
            "kind": "scene" if picture.role == "bg" else "photograph",
            "subject": subject,
            "notes": picture.notes,
            "size": file.size,
            "sha256": picture.source_sha256,
        }
        if picture.fault:
            rows.append(
                LedgerRow(
                    **common,
                    status="quarantined",
                    sample_id=picture.id,
                    code=picture.fault.code,
                    sentence=picture.fault.sentence,
                )
            )
        elif picture.alias_of:
            rows.append(
                LedgerRow(
                    **common, status="alias", sample_id=picture.alias_of, sentence="the same bytes as the sample named"
                )
            )
        else:
            rows.append(LedgerRow(**common, status="accepted", sample_id=picture.id))
        if isinstance(picture.source, PhotographSource) and picture.source.mask is not None:
            row = _mask_row(picture, picture.source, flow.mask_faults.get(picture.source.mask.path))
            if row.path not in masks or row.status == "accepted":
                masks[row.path] = row
    rows += masks.values()
    made = [_made_row(picture, picture.fault) for picture in flow.regular if picture.fault]
    return [*sorted(rows, key=lambda row: row.path), *sorted(made, key=lambda row: row.sample_id)]


def _mask_row(picture: Picture, source: PhotographSource, fault: Fault | None) -> LedgerRow:
    assert source.mask is not None
    common: dict[str, Any] = {
        "path": source.mask.path,
        "kind": "mask",
        "subject": picture.owner,
        "size": source.mask.size,
    }
    if fault:
        return LedgerRow(**common, status="quarantined", code=fault.code, sentence=fault.sentence, sample_id=picture.id)
    used = any(step.stage == "segment" and step.backend == source.mask_by for step in picture.provenance)
    if picture.alive and used:
        return LedgerRow(**common, status="accepted", sample_id=picture.id)
    return LedgerRow(
        **common, status="ignored", rule="given-masks-not-used" if picture.alive else "photograph-not-kept"
    )


def _made_row(picture: Picture, fault: Fault) -> LedgerRow:
    return LedgerRow(
        path="",
        kind="made",
        status="quarantined",
        subject=picture.owner,
        sample_id=picture.id,
        code=fault.code,
        sentence=fault.sentence,
    )


def _check_accounts(inputs: Inputs, flow: Flow, kept: list[Picture], ledger: list[LedgerRow]) -> None:
    paths = [row.path for row in ledger if row.path]
    if len(paths) != len(set(paths)) or len(paths) != inputs.files_found:
        raise AssertionError(f"{inputs.files_found} files found, {len(paths)} ledger rows, {len(set(paths))} different")
    accepted = sorted(
        row.sample_id for row in ledger if row.status == "accepted" and row.kind in ("photograph", "scene")
    )
    if accepted != sorted(picture.id for picture in kept if picture.role != "reg"):
        raise AssertionError("accepted files and samples disagree")
    rejected = sum(row.kind == "made" for row in ledger)
    if len(flow.regular) != rejected + sum(picture.role == "reg" for picture in kept):
        raise AssertionError("made pictures and samples disagree")
