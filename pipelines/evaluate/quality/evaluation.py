"""All measures of a corpus in one go, and what is written of them: two tables and a page."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from manifests.corpus import Corpus
from manifests.fsops import write_atomic
from manifests.schema import table_from_records
from pipelines.evaluate.metrics.clip import Clip, load_clip
from pipelines.evaluate.metrics.dino import Dino
from pipelines.evaluate.pages import render
from pipelines.evaluate.presets import load_preset
from pipelines.evaluate.quality import Measure
from pipelines.evaluate.quality.leaks import KINDS, Leak, find_leaks, leak_measures
from pipelines.evaluate.quality.masks import MaskScore, calibration, mask_measures, score_masks
from pipelines.evaluate.quality.variety import variety_measures
from pipelines.evaluate.quality.words import colour_measures, prompt_measures, read_accepted_colours
from pipelines.evaluate.weights import MissingWeights, find_model

__all__ = ["Quality", "evaluate_corpus", "write_quality"]


@dataclass
class Quality:
    """What was measured of a corpus, and a sentence for what could not be."""

    name: str
    digest: str
    measures: list[Measure] = field(default_factory=list)
    masks: list[MaskScore] = field(default_factory=list)
    leaks: list[Leak] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def evaluate_corpus(
    corpus: Corpus,
    *,
    masks: Path | None = None,
    colours: Path | None = None,
    sets: list[str] | None = None,
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Quality:
    """Measure masks (with true ones), colour words (with accepted ones), regular pictures and leaks.

    CLIP-T of prompts and the DINO distance need weights (`sets` as for the metrics); without them they are left out
    with a sentence. Raises `UsageError` for masks or colours that do not fit the corpus.
    """

    def bar(stage: str) -> Callable[[int, int], None]:
        return lambda done, total: on_progress(stage, done, total)

    result = Quality(corpus.root.name, corpus.digest)
    clip, dino = _encoders(sets, result.missing)
    if masks is not None:
        result.masks = score_masks(corpus, masks, on_progress=bar("masks"))
        result.measures += mask_measures(result.masks)
    else:
        result.missing.append("mask IoU and calibration: no true masks were given (--masks FOLDER).")
    if colours is not None:
        result.measures += colour_measures(corpus, read_accepted_colours(colours))
    else:
        result.missing.append("colour words: no accepted colours were given (--colours FILE).")
    result.measures += prompt_measures(corpus, clip, on_progress=bar("prompts"))
    result.measures += variety_measures(corpus, dino, on_progress=bar("variety"))
    result.leaks = find_leaks(corpus, on_progress=bar("leaks"))
    result.measures += leak_measures(result.leaks)
    return result


def _encoders(sets: list[str] | None, missing: list[str]) -> tuple[Clip | None, Dino | None]:
    preset = load_preset("ours", sets)
    clip: Clip | None = None
    dino: Dino | None = None
    try:
        if preset.clip:
            clip = load_clip(
                find_model(preset.clip.model, preset.clip.revision, setting="clip", metric="prompt CLIP-T")
            )
    except MissingWeights as error:
        missing.append(str(error))
    try:
        if preset.dino:
            dino = Dino(find_model(preset.dino.model, preset.dino.revision, setting="dino", metric="DINO distance"))
    except MissingWeights as error:
        missing.append(str(error))
    return clip, dino


def write_quality(result: Quality, folder: Path) -> None:
    """`quality.parquet` (measures), `masks.parquet` and `leaks.parquet` (every case), `quality.html`."""
    for name, kind, rows in (
        ("quality", Measure, result.measures),
        ("masks", MaskScore, result.masks),
        ("leaks", Leak, result.leaks),
    ):
        table = table_from_records(kind, rows)
        write_atomic(folder / f"{name}.parquet", lambda file, table=table: pq.write_table(table, file))  # type: ignore[misc]
    worst = sorted(result.masks, key=lambda score: (score.iou - score.mask_quality, score.id))[:20]
    html = render(
        "quality.html",
        title=f"Quality of {result.name}",
        quality=result,
        bins=calibration(result.masks)[1] if result.masks else [],
        worst=worst,
        kinds=KINDS,
        measures=[dataclasses.asdict(measure) for measure in result.measures],
    )
    write_atomic(folder / "quality.html", html.encode())
