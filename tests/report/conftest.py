"""Tiny corpora, committed by hand: what the report and the card show is under the tests' control."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from manifests.corpus import open_corpus
from manifests.errors import Fault
from manifests.ids import sha256_hex
from manifests.pixels import encode_image, encode_mask, mask_from_box
from manifests.records import (
    Attribute,
    LedgerRow,
    MemberRef,
    Provenance,
    RegularPrompt,
    Role,
    Sample,
    Score,
    Subject,
    SubjectAttribute,
    Word,
)
from manifests.writer import CorpusContent, UnpackedSample, commit_corpus, write_derived

PLAIN = "a plain text"


def _jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _unpacked(
    name: str, pixels: np.ndarray, text: str, *, flags: tuple[str, ...] = (), parents: tuple[str, ...] = ()
) -> UnpackedSample:
    owner, _, rest = name.partition("/")
    said = Provenance(stage="segment", backend=text, model=text, version="1", settings_digest="0" * 16, seed=0)
    role: Role = "reg" if rest.startswith("reg") else "bg" if rest.startswith("bg") else "src"
    image, ending = (_jpeg(pixels), "jpg") if role != "reg" else encode_image(pixels)
    height, width = pixels.shape[:2]
    box = (width // 4, height // 4, width - width // 4, height - height // 8)
    mask = encode_mask(mask_from_box(box, height, width))
    sample = Sample(
        id=name,
        subject=owner,
        role=role,
        split="train",
        class_noun=text,
        width=width,
        height=height,
        box_xyxy=box,
        box_score=0.5,
        other_boxes=((0, 0, 5, 7),),
        mask_area=0.3,
        mask_quality=0.25 if flags else 0.9,
        flags=flags,
        caption=text,
        prompt=text,
        own_pixels=role == "reg",
        attributes=(Attribute(category="colour", word=text, score=0.5, origin="source"),),
        scores=(Score(name=text, value=0.5),),
        image=MemberRef(shard="", offset=0, length=len(image), format=ending, sha256=sha256_hex(image)),
        mask=MemberRef(shard="", offset=0, length=len(mask), format="png", sha256=sha256_hex(mask)),
        source_uri=text,
        source_sha256=sha256_hex(image),
        licence=text,
        parents=parents,
        provenance=(said,),
        rival_outline=(0, 0, width // 2, 0, width // 2, height - 1),
    )
    return UnpackedSample(sample, lambda: image, lambda: mask)


def commit(
    root: Path,
    subjects: Sequence[str] = ("dog",),
    text: str = PLAIN,
    *,
    licence: str = "",
    photographs: int = 2,
    shared: bool = False,
    parquet: bool = False,
) -> Path:
    """Two photographs (one flagged) and two regular pictures a subject, and a scene; every text in it is `text`."""
    rng = np.random.default_rng(0)
    units: list[UnpackedSample] = []
    rows: list[Subject] = []
    scene = "scenes/bg-" + "5" * 12
    for subject in subjects:
        sources = [f"{subject}/src-{number:012x}" for number in range(photographs)]
        owner = "class-thing" if shared else subject
        regular = [f"{owner}/reg-{number:012x}" for number in range(2)]
        for number, name in enumerate(sources):
            pixels = rng.integers(0, 255, (60, 80, 3), np.uint8)
            units.append(_unpacked(name, pixels, text, flags=("low-mask-quality", text) if number == 1 else ()))
        parents = (sources[0], text)
        if not shared or not rows:  # shared pictures are made once
            units += [
                _unpacked(name, rng.integers(0, 255, (64, 64, 3), np.uint8), text, parents=parents) for name in regular
            ]
        words = [
            SubjectAttribute(category="colour", word="red", score=0.8, origin="source", sample_ids=tuple(sources)),
            SubjectAttribute(category="colour", word=text, score=0.5, origin="source", sample_ids=()),
            SubjectAttribute(category=text, word=text, score=1.0, origin="candidate", sample_ids=()),
        ]
        prompt = RegularPrompt(prompt=text, template=text, words=(Word(category="colour", word=text),), seed=0)
        rows.append(
            Subject(
                id=subject,
                name=text,
                class_noun=text,
                class_noun_origin=text,
                status="ok",
                split="train",
                licence=licence or text,
                credit=text,
                consent=text,
                instance_prompt=text,
                attributes=tuple(words),
                regular_prompts=(prompt, replace(prompt, prompt=f"unmade {text}")),
                sample_ids=tuple(sources),
                regular_ids=tuple(regular),
                scene_ids=(scene,),
            )
        )
    units.append(_unpacked(scene, rng.integers(0, 255, (50, 90, 3), np.uint8), text, flags=("default-box",)))
    units.sort(key=lambda unit: unit.sample.id)
    photo = units[0].sample.id.partition("/")[0] + "/src-" + "0" * 12
    refused: dict[str, Any] = {"kind": "photograph", "status": "quarantined"}
    ledger = [
        LedgerRow(path=text, kind="photograph", status="accepted", sample_id=photo, notes=("re-encoded", text)),
        LedgerRow(path=f"copy {text}", kind="photograph", status="alias", sample_id=photo, sentence=text),
        LedgerRow(path=f"bad {text}", **refused, subject=text, code="E111", sentence=text, notes=(text,)),
        LedgerRow(path=f"odd {text}", **refused, subject=subjects[0], code=text, sentence=Fault("E130", text).sentence),
        LedgerRow(path=f"left {text}", kind="other", status="ignored", rule=text),
        LedgerRow(path="", kind="made", status="quarantined", subject=text, sample_id=text, code="E212", sentence=text),
    ]
    content = CorpusContent(
        samples=lambda: iter(units),
        subjects=sorted(rows, key=lambda row: row.id),
        ledger=ledger,
        recipe={"gate": {"flag_below": 0.5}, text: [text]},
        made_with={"dataforge": "0.1.0", text: text},
        shard_bytes=1 << 20,
        parquet=parquet,
    )
    commit_corpus(root, content)
    with open_corpus(root) as corpus:
        write_derived(root, corpus.samples())
    return root


@pytest.fixture
def make_corpus(tmp_path: Path) -> Callable[..., Path]:
    """`commit` into a folder of this test's own; the folder's name is told from all text on the pages."""
    numbers = iter(range(1000))
    return lambda *arguments, **settings: commit(tmp_path / f"folder-not-told-{next(numbers)}", *arguments, **settings)
