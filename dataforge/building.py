"""Build a corpus: this file is the whole story, top to bottom."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dataforge import __version__
from dataforge.backends import model_identity
from dataforge.config import Recipe
from dataforge.doctor import require_ready
from dataforge.executor import Executor, InlineExecutor, LocalExecutor
from dataforge.flow import STAGE_VERSIONS, Flow
from dataforge.ingest.sources import Inputs, read_inputs
from dataforge.packing import corpus_content
from dataforge.report import write_descriptions, write_report
from dataforge.runner import MOMENTARY, OnProgress, Runner, StageCounts
from dataforge.store import Store
from manifests.corpus import open_corpus
from manifests.errors import (
    CorpusError,
    EnvironmentFault,
    IntegrityError,
    NotFoundError,
    UnsupportedSchemaError,
    UsageError,
)
from manifests.fsops import environment_faults, output_lock, remove_stale_temporaries
from manifests.header import read_header
from manifests.ids import digest_of
from manifests.repair import RepairReport, repair
from manifests.writer import check_output, commit_corpus, remove_unnamed, write_derived

__all__ = ["BuildResult", "build", "derive", "mend"]

WORK = ".work"


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What a build ended with. `exit_code` is 0, or 3 where too much was quarantined or a subject is insufficient."""

    root: Path
    digest: str
    counts: dict[str, int]
    stages: dict[str, StageCounts]
    quarantined_share: float
    insufficient: tuple[str, ...]
    exit_code: int
    unchanged: bool = False
    warnings: tuple[str, ...] = field(default=())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _silent(stage: str, done: int, total: int) -> None:
    del stage, done, total


def build(
    subjects: str | Path,
    output: str | Path,
    recipe: Recipe | None = None,
    *,
    workers: int | None = None,
    executor: Executor | None = None,
    max_quarantine: float = 0.05,
    rehash: bool = False,
    retry_failed: bool = False,
    on_progress: OnProgress = _silent,
) -> BuildResult:
    """Build or bring up to date the corpus `output` from the photographs `subjects`.

    `subjects` is a folder of folders, a `subjects.yaml` or a `subjects.csv`. Only what is missing or changed is
    computed; a file counts as unchanged by path, size and mtime unless `rehash`. `retry_failed` tries again what
    failed for a worker's or stage's sake. `workers` is the number of worker processes (default: one a core); 0 runs
    everything in this process, which does not survive a decoder that crashes.

    Raises `UsageError` for a wrong call, recipe or listing, for a package or weights that the recipe names and this
    machine lacks, `OutputLocked` while another build writes to `output`,
    `EnvironmentFault` where the machine fails; the corpus that was there before is whole in every case.
    """
    recipe = recipe or Recipe()
    require_ready(recipe)
    given, root = Path(subjects), Path(output)
    if given.is_dir() and root.resolve().is_relative_to(given.resolve()):
        raise UsageError(f"{root} lies inside {given}, whose every file is a photograph.", code="E504")
    inputs = read_inputs(given)
    check_output(root)
    workers = _cores() if workers is None else workers
    runs_on = executor or (LocalExecutor(workers) if workers else InlineExecutor())
    try:
        with environment_faults(root), output_lock(root / WORK / "lock"):
            remove_stale_temporaries(root)
            with contextlib.closing(runs_on), contextlib.closing(Store(root / WORK)) as store:
                return _build_locked(
                    inputs, root, recipe, store, runs_on, max_quarantine, rehash, retry_failed, on_progress
                )
    except sqlite3.OperationalError as error:  # sqlite says "disk is full" in its own way
        raise EnvironmentFault(f"{WORK}/store.sqlite: {error}.", code="E510") from error


def _build_locked(
    inputs: Inputs,
    root: Path,
    recipe: Recipe,
    store: Store,
    executor: Executor,
    max_quarantine: float,
    rehash: bool,
    retry_failed: bool,
    on_progress: OnProgress,
) -> BuildResult:
    asked = _fingerprint(inputs, recipe)
    runner = Runner(
        executor=executor, store=store, root=str(inputs.root), on_progress=on_progress, retry_failed=retry_failed
    )
    before = _digest(root)
    unchanged = bool(before) and not rehash and not retry_failed and store.note("done") == f"{asked} {before}"
    if not unchanged:
        flow = Flow(inputs, recipe, runner)
        flow.run(rehash=rehash)
        commit_corpus(root, corpus_content(inputs, flow, recipe, store))
        derive(root, on_progress)
        remove_unnamed(root)
        # what was momentarily unreadable is looked at again next time
        momentary = any(picture.fault and picture.fault.code in MOMENTARY for picture in flow.pictures)
        store.set_note("done", "" if momentary else f"{asked} {_digest(root)}")
    return _result(root, runner, inputs, max_quarantine, unchanged)


def derive(root: Path, on_progress: Callable[[str, int, int], None] = _silent) -> None:
    """Make everything that follows from the committed files: table copies, ID index, card, Croissant and report."""
    with open_corpus(root) as corpus:
        write_derived(root, corpus.samples())
        write_descriptions(corpus)
        write_report(corpus, on_progress=on_progress)


def mend(root: Path, on_progress: Callable[[str, int, int], None] = _silent) -> RepairReport:
    """Repair a corpus from its own whole parts and the stage results beside it, then make the derived files again."""
    read_header(root)
    with output_lock(root / WORK / "lock"):
        remove_stale_temporaries(root)
        store = Store(root / WORK)
        try:
            places = {ref.sha256: ref for ref in store.blobs()}

            def fetch(sha256: str) -> bytes | None:
                try:
                    return store.read(places[sha256]) if sha256 in places else None
                except (IntegrityError, OSError):
                    return None

            report = repair(root, fetch)
            if report.lost:
                # the next build has to make the shards again, whatever it remembers
                store.set_note("done", "")
            else:
                derive(root, on_progress)
        finally:
            store.close()
    return report


def _digest(root: Path) -> str:
    """Digest of the corpus that is there; empty where there is none, or none that is whole at a glance."""
    try:
        opened = read_header(root)
    except UnsupportedSchemaError:  # a newer program's corpus is not ours to write over
        raise
    except (CorpusError, NotFoundError):
        return ""
    whole = all((root / f.path).is_file() and (root / f.path).stat().st_size == f.size for f in opened.header.files)
    return opened.digest if whole else ""


def _fingerprint(inputs: Inputs, recipe: Recipe) -> str:
    """Digest of all that a build depends on: what was found, what a person said of it, settings and versions."""
    subjects = [
        [
            s.slug,
            s.name,
            s.class_noun,
            s.class_noun_origin,
            s.licence,
            s.credit,
            s.consent,
            s.overrides.model_dump(mode="json"),
        ]
        for s in inputs.subjects
    ]
    photographs = [
        [
            photo.file.path,
            photo.file.size,
            photo.file.mtime_ns,
            photo.box,
            photo.box_by,
            photo.mask and [photo.mask.path, photo.mask.mtime_ns],
        ]
        for subject in inputs.subjects
        for photo in subject.photographs
    ]
    scenes = [
        [scene.file.path, scene.file.size, scene.file.mtime_ns, scene.class_noun, scene.box] for scene in inputs.scenes
    ]
    settled = [[row.path, row.status, row.rule, row.size] for row in inputs.settled]
    weights = [model_identity(section) for section in recipe.sections().values()]
    settings = recipe.model_dump(mode="json")
    return digest_of([__version__, STAGE_VERSIONS, settings, weights, subjects, photographs, scenes, settled])


def _result(root: Path, runner: Runner, inputs: Inputs, max_quarantine: float, unchanged: bool) -> BuildResult:
    with open_corpus(root) as corpus:
        counts = corpus.header.counts
        insufficient = tuple(subject.id for subject in corpus.subjects.values() if subject.status != "ok")
        rows = corpus.ledger
        photographs = [row for row in rows if row.kind in ("photograph", "scene", "mask") and row.status != "ignored"]
        share = sum(row.status == "quarantined" for row in photographs) / max(1, len(photographs))
        return BuildResult(
            root=root,
            digest=corpus.digest,
            counts=counts,
            stages=runner.counts,
            quarantined_share=share,
            insufficient=insufficient,
            exit_code=3 if share > max_quarantine or insufficient else 0,
            unchanged=unchanged,
            warnings=(*inputs.warnings, *runner.notes),
        )
