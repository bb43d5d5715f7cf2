"""What a run leaves for each subject: an adapter folder with record, weights and card (docs: DESIGN 3b)."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests.errors import UsageError
from manifests.fsops import write_atomic
from manifests.records import SubjectAttribute
from manifests.refs import parse_reference
from pipelines.backbones import public_name
from pipelines.backbones.textual_inversion import EMBEDS_NAME
from pipelines.records import AdapterRecord, Word, adapter_id, read_record, write_record
from trainer.card import model_card
from trainer.runlog import read_log
from trainer.stacked import LORA_FILE

if TYPE_CHECKING:
    from trainer.job import Job
    from trainer.loop import Fit

__all__ = ["clear", "make_id", "write_adapter"]

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "accelerate")
WRITTEN = ("README.md", LORA_FILE, EMBEDS_NAME, "reference.safetensors")
STRETCHES = 10


def make_id(job: Job, owner: str) -> str:
    """The adapter's ID, known before it is trained."""
    return adapter_id(
        owner,
        recipe=job.recipe.name,
        settings=_settings(job),
        base=job.backbone.base,
        corpus_digest=_data_digest(job, owner),
        samples=_samples(job, owner),
        seed=job.recipe.settings.seed,
    )


def write_adapter(job: Job, owner: str, index: int, fit: Fit) -> AdapterRecord:
    """Write one subject's folder; `adapter.json` comes last, so a folder without it is not done."""
    folder = job.output / owner
    clear(folder)
    fit.trainable.write(folder, index, fit.weights())
    job.recipe.write_modules(folder, fit.weights())
    if fit.token is not None:
        fit.token.write(folder, index, fit.weights())
    subjects = job.members(owner)
    words = {(w.category, w.word) for subject in subjects for w in _source_words(subject.subject.attributes)}
    nouns = {subject.subject.class_noun for subject in subjects}
    record = AdapterRecord(
        id=make_id(job, owner),
        subject=owner,
        class_noun=nouns.pop() if len(nouns) == 1 else "",
        identifier=job.recipe.settings.word,
        source_words=tuple(Word(*pair) for pair in sorted(words)),
        kind="full" if job.recipe.settings.method == "full" else "lora",
        recipe=job.recipe.name,
        settings=_settings(job),
        # names only: the folder goes to other people (`job` notes where things lie here)
        base=dataclasses.replace(job.backbone.base, model=public_name(job.backbone.base.model)),
        corpus=_public_reference(job.reference),
        corpus_digest=job.corpus.digest,
        sample_ids=_samples(job, owner),
        seed=job.recipe.settings.seed,
        steps=fit.step,
        losses=_mean_losses(fit, owner),
        versions={name: version(name) for name in LIBRARIES},
        inference={**job.recipe.inference(), "resolution": job.bank.resolution},
    )
    card = model_card(record, [subject.subject for subject in subjects])
    write_atomic(folder / "README.md", card.encode())
    return write_record(folder, record)


def clear(folder: Path) -> None:
    """Take what an earlier training left out of a folder: its record first, then what that and recipes write."""
    named = []
    with contextlib.suppress(UsageError):
        named = [file.path for file in read_record(folder).files]
    (folder / "adapter.json").unlink(missing_ok=True)
    for path in {*named, *WRITTEN}:
        (folder / path).unlink(missing_ok=True)
    if (folder / "unet").is_dir():
        shutil.rmtree(folder / "unet")


def _public_reference(text: str) -> str:
    reference = parse_reference(text)
    if reference.is_remote:
        return text
    return str(dataclasses.replace(reference, place=Path(reference.place).resolve().name))


def _settings(job: Job) -> dict[str, Any]:
    # what only watches a run, or moves it over processes, is no part of what it made
    kept = {**job.recipe.settings.fingerprint(), "max_train_steps": job.recipe.settings.max_train_steps}
    return kept | {"resolution": job.bank.resolution}


def _samples(job: Job, owner: str) -> tuple[str, ...]:
    return tuple(sorted({item.sample.id for subject in job.members(owner) for item in subject.items}))


def _data_digest(job: Job, owner: str) -> str:
    from manifests.ids import digest_of

    return digest_of([subject.digest() for subject in job.members(owner)])


def _source_words(attributes: tuple[SubjectAttribute, ...]) -> list[SubjectAttribute]:
    return [attribute for attribute in attributes if attribute.origin == "source"]


def _mean_losses(fit: Fit, owner: str) -> tuple[float, ...]:
    rows = [row["subjects"][owner] for row in read_log(Path(fit.folder) / "log.jsonl")]
    losses = [row["loss"] for row in rows if "skipped" not in row]
    if not losses:
        return ()
    parts = min(STRETCHES, len(losses))
    edges = [len(losses) * part // parts for part in range(parts + 1)]
    return tuple(sum(losses[a:b]) / (b - a) for a, b in pairwise(edges))
