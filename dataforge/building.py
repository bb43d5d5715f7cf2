"""Build a corpus: this file is the whole story, top to bottom."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from dataforge import __version__
from dataforge.backends import model_identity
from dataforge.buildlog import LOG_NAME, BuildLog
from dataforge.config import Limits, Recipe
from dataforge.doctor import require_ready
from dataforge.executor import Executor, InlineExecutor, LocalExecutor
from dataforge.flow import STAGE_VERSIONS, Flow
from dataforge.ingest.sources import Inputs, SubjectSource, read_inputs
from dataforge.packing import corpus_content
from dataforge.report import write_descriptions, write_report
from dataforge.runner import MOMENTARY, OnProgress, Runner, StageCounts
from dataforge.store import Store
from dataforge.worker_process import cores
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

__all__ = [
    "WORK",
    "BuildResult",
    "build",
    "choose_executor",
    "compute",
    "derive",
    "first_subjects",
    "free_bytes",
    "mend",
    "only",
    "refuse_beyond",
    "silent",
]

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


def silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""
    del stage, done, total


def _unsaid(text: str) -> None:
    del text


def choose_executor(named: Executor | str | None, workers: int | None) -> Executor:
    """`local`, `ray` or `ray:ADDRESS` made; an executor is taken as it is. Raises `UsageError` for any other name."""
    if not isinstance(named, str | None):
        return named
    kind, _, address = (named or "local").partition(":")
    if kind == "ray":
        if workers == 0:
            raise UsageError("--workers 0 runs all in this process, --executor ray elsewhere: name one of them.")
        from dataforge.ray_executor import RayExecutor

        return RayExecutor(address or None, workers)
    if kind != "local" or address:
        raise UsageError(f"--executor {named}: expected local, ray or ray:ADDRESS.")
    workers = cores() if workers is None else workers
    return LocalExecutor(workers) if workers else InlineExecutor()


def first_subjects(inputs: Inputs, limit: int | None) -> Inputs:
    """The inputs of a trial run: the first `limit` subjects; files of the others are as if they were not there."""
    if limit is None or limit >= len(inputs.subjects):
        return inputs
    return only(inputs, inputs.subjects[:limit])


def only(inputs: Inputs, subjects: list[SubjectSource]) -> Inputs:
    """The inputs with some of their subjects, all scenes, and the ledger of what belongs to these."""
    slugs = {subject.slug for subject in subjects}
    settled = [row for row in inputs.settled if not row.subject or row.subject in slugs]
    photographs = [photo for subject in subjects for photo in subject.photographs]
    used = {photo.file.path for photo in photographs} | {photo.mask.path for photo in photographs if photo.mask}
    used |= {scene.file.path for scene in inputs.scenes}
    return replace(
        inputs,
        subjects=subjects,
        settled=settled,
        files_found=len(used | {row.path for row in settled}),
    )


def leaving(root: Path, inputs: Inputs) -> list[str]:
    """Subjects of the corpus that is there which no photograph is given for: a build takes them out.

    Raises `UsageError` where those are all of several, as they are where another folder is built into a corpus.
    """
    try:
        with open_corpus(root) as corpus:
            there = {subject.id for subject in corpus.subjects.values() if subject.sample_ids}
    except (CorpusError, NotFoundError):  # none, or one that is damaged
        return []
    gone = sorted(there - {subject.slug for subject in inputs.subjects if subject.photographs})
    if len(gone) == len(there) > 1:
        raise UsageError(
            f"{root} holds {len(gone)} subjects, and there is no photograph of any of them in {inputs.root}: name "
            "another output (`dataforge merge` joins corpora), or delete this one."
        )
    return gone


def refuse_to_cut(root: Path, limit: int | None) -> None:
    """Raises `UsageError` where a trial run would take the place of a corpus of more subjects."""
    with contextlib.suppress(CorpusError, NotFoundError):
        there = read_header(root).header.counts["subjects"]
        if limit is not None and there > limit:
            raise UsageError(
                f"{root} holds {there:,} subjects, --limit {limit} would leave fewer: name another output."
            )


def refuse_full_disk(root: Path, inputs: Inputs, limits: Limits) -> None:
    """Refuse at once what a disk cannot hold: the bytes of each JPEG at the least, once in the work folder.

    Raises `EnvironmentFault` E510. `dataforge plan` knows better, from a trial.
    """
    if (root / WORK / "parts").is_dir():  # a build that was begun: how much of it is there, the stages find out
        return
    files = [photo.file for subject in inputs.subjects for photo in subject.photographs]
    kept = [file for file in files if file.path.lower().endswith((".jpg", ".jpeg")) and file.size <= limits.max_bytes]
    needed = sum(file.size for file in kept)
    refuse_beyond(free_bytes(root), needed, f"{len(files)} photographs", root)


def refuse_beyond(free: int, needed: int, what: str, root: Path) -> None:
    """Raises `EnvironmentFault` E510 where a disk has too little room."""
    if needed > free:
        raise EnvironmentFault(f"{what} need {needed:,} bytes in {root}, and {free:,} are free there.", code="E510")


def free_bytes(root: Path) -> int:
    """Free bytes of the disk that a folder lies on or will lie on."""
    there = next(folder for folder in (root.resolve(), *root.resolve().parents) if folder.is_dir())
    return shutil.disk_usage(there).free


def build(
    subjects: str | Path,
    output: str | Path,
    recipe: Recipe | None = None,
    *,
    workers: int | None = None,
    executor: Executor | str | None = None,
    limit: int | None = None,
    max_quarantine: float = 0.05,
    rehash: bool = False,
    retry_failed: bool = False,
    on_progress: OnProgress = silent,
    on_note: Callable[[str], None] = _unsaid,
) -> BuildResult:
    """Build or bring up to date the corpus `output` from the photographs `subjects`.

    `subjects` is a folder of folders, a `subjects.yaml` or a `subjects.csv`. Only what is missing or changed is
    computed; a file counts as unchanged by path, size and mtime unless `rehash`. `retry_failed` tries again what
    failed for a worker's or stage's sake. `workers` is the number of worker processes (default: one a core); 0 runs
    everything in this process, which does not survive a decoder that crashes. `executor` is where they run:
    `local`, `ray` (a cluster of this machine alone), `ray:ADDRESS`, or an `Executor` of your own: `map_units`,
    `release` after each stage, `close` after the last. `limit` takes the first so many subjects: a trial run, whose
    results a whole build then finds done; it never replaces a corpus of more. `on_progress` is called with stage,
    items done and items in all, `on_note` with a short text of refusals and load.

    Raises `UsageError` for a wrong call, recipe or listing, for a package or weights that the recipe names and this
    machine lacks, `OutputLocked` while another build writes to `output`,
    `EnvironmentFault` where the machine fails; the corpus that was there before is whole in every case.
    """
    recipe = recipe or Recipe()
    require_ready(recipe)
    given, root = Path(subjects), Path(output)
    if given.is_dir() and root.resolve().is_relative_to(given.resolve()):
        raise UsageError(f"{root} lies inside {given}, whose every file is a photograph.", code="E504")
    inputs = first_subjects(read_inputs(given), limit)
    check_output(root)
    refuse_to_cut(root, limit)
    refuse_full_disk(root, inputs, recipe.ingest.limits)
    try:
        with environment_faults(root), output_lock(root / WORK / "lock"):
            remove_stale_temporaries(root)
            with (
                contextlib.closing(choose_executor(executor, workers)) as runs_on,
                contextlib.closing(Store(root / WORK)) as store,
                BuildLog(root / WORK / LOG_NAME, on_progress, on_note) as log,
            ):
                return _build_locked(inputs, root, recipe, store, runs_on, max_quarantine, rehash, retry_failed, log)
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
    log: BuildLog,
) -> BuildResult:
    asked = _fingerprint(inputs, recipe)
    runner = Runner(
        executor=executor,
        store=store,
        root=str(inputs.root),
        on_progress=log,
        on_reject=log.rejected,
        retry_failed=retry_failed,
    )
    before = _digest(root)
    unchanged = bool(before) and not rehash and not retry_failed and store.note("done") == f"{asked} {before}"
    if not unchanged:
        if gone := leaving(root, inputs):
            named = ", ".join(gone[:5]) + (f" and {len(gone) - 5} more" if len(gone) > 5 else "")
            runner.notes[f"{named}: in the corpus before, no photographs now; taken out"] = None
        # workers with their models need not live while files are written
        momentary = compute(inputs, root, recipe, runner, rehash=rehash, on_computed=executor.close)
        derive(root, log)
        remove_unnamed(root)
        # what was momentarily unreadable is looked at again next time
        store.set_note("done", "" if momentary else f"{asked} {_digest(root)}")
    return _result(root, runner, inputs, max_quarantine, unchanged)


def compute(
    inputs: Inputs,
    root: Path,
    recipe: Recipe,
    runner: Runner,
    *,
    rehash: bool = False,
    on_computed: Callable[[], None] = lambda: None,
) -> bool:
    """All stages, and the commit; whether a file was momentarily unreadable. Pictures are forgotten on return."""
    flow = Flow(inputs, recipe, runner)
    flow.run(rehash=rehash)
    on_computed()
    runner.store.make_last()
    commit_corpus(root, corpus_content(inputs, flow, recipe, runner.store))
    return any(picture.fault and picture.fault.code in MOMENTARY for picture in flow.pictures)


def derive(root: Path, on_progress: Callable[[str, int, int], None] = silent) -> None:
    """Make everything that follows from the committed files: table copies, ID index, card, Croissant and report."""
    with open_corpus(root) as corpus:
        write_derived(root, corpus.samples())
        write_descriptions(corpus)
        write_report(corpus, on_progress=on_progress)


def mend(root: Path, on_progress: Callable[[str, int, int], None] = silent) -> RepairReport:
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
