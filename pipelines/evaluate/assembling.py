"""From a preset to metrics: each with all its weights, or left out with a sentence that says what is missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pipelines.evaluate.metrics import Column, FeatureMetric, PairMetric
from pipelines.evaluate.presets import Clip, Dino, Fid, Lpips, Preset
from pipelines.evaluate.segmenting import BoxSegmenter
from pipelines.evaluate.weights import MissingWeights, find_file, find_model

__all__ = ["Metrics", "assemble"]


@dataclass
class Metrics:
    """What can be measured here, and one sentence for each metric that cannot."""

    preset: Preset
    of_pairs: list[PairMetric] = field(default_factory=list)
    of_sets: list[FeatureMetric] = field(default_factory=list)
    segmenter: BoxSegmenter | None = None
    missing: list[str] = field(default_factory=list)

    @property
    def masked_by(self) -> str | None:
        """The segmenter's weights by name and content; None without one."""
        return str(self.segmenter.weights) if self.segmenter else None

    @property
    def columns(self) -> tuple[Column, ...]:
        """Every column, in the order of the table; those by mask say whose masks."""
        found = [column for metric in self.of_pairs for column in metric.columns]
        found += [column for measure in self.of_sets for column in measure.columns]
        cut = f"mask; the corpus's of photographs, of composites {self.masked_by or 'none'}"
        found = [replace(column, crop=cut) if column.crop == "mask" else column for column in found]
        return (*found, *overall_columns(found)) if self.preset.overall else tuple(found)


def assemble(preset: Preset) -> Metrics:
    """Load what the preset names. A metric whose weights or package are not there is left out, never replaced."""
    metrics = Metrics(preset)

    def attempt(build: Callable[[], None]) -> None:
        try:
            build()
        except MissingWeights as error:
            metrics.missing.append(str(error))
        except ModuleNotFoundError as error:
            metrics.missing.append(
                f"E505 missing-dependency: {error.name} is not installed: `pip install 'dataforge[metrics]'`."
            )

    for section, add in (
        (preset.clip, _add_clip),
        (preset.dino, _add_dino),
        (preset.lpips, _add_lpips),
        (preset.ssim, _add_ssim),
        (preset.fid, _add_fid),
        (preset.segmenter, _add_segmenter),
    ):
        if section is not None:
            attempt(lambda section=section, add=add: add(metrics, section))  # type: ignore[misc]
    return metrics


def _add_clip(metrics: Metrics, settings: Clip) -> None:
    weights = find_model(settings.model, settings.revision, setting="clip", metric="CLIP-T, CLIP-I and CLIP-FID")
    from pipelines.evaluate.metrics.clip import load_clip
    from pipelines.evaluate.metrics.clip_fid import ClipFid
    from pipelines.evaluate.metrics.clip_image import clip_image
    from pipelines.evaluate.metrics.clip_text import ClipText

    clip = load_clip(weights)
    if settings.text_crops:
        metrics.of_pairs.append(ClipText(clip, crops=settings.text_crops))
    metrics.of_pairs.append(
        clip_image(
            clip,
            crops=settings.crops,
            plain=settings.plain,
            first_to=settings.first_to,
            scale=settings.scale,
            resize_references=settings.resize_references,
        )
    )
    if settings.fid_crop:
        metrics.of_sets.append(ClipFid(clip, crop=settings.fid_crop, plain=settings.plain))


def _add_dino(metrics: Metrics, settings: Dino) -> None:
    weights = find_model(settings.model, settings.revision, setting="dino", metric="DINO")
    from pipelines.evaluate.metrics.dino import Dino as Model
    from pipelines.evaluate.metrics.dino import dino

    metrics.of_pairs.append(
        dino(
            Model(weights),
            crops=settings.crops,
            plain=settings.plain,
            first_to=settings.first_to,
            scale=settings.scale,
            resize_references=settings.resize_references,
        )
    )


def _add_lpips(metrics: Metrics, settings: Lpips) -> None:
    from pipelines.evaluate.metrics.lpips import BACKBONES
    from pipelines.evaluate.metrics.lpips import Lpips as Metric

    file = BACKBONES[settings.net]
    url = f"https://download.pytorch.org/models/{file}"
    weights = find_file(settings.weights, file, url=url, setting="lpips", metric="LPIPS")
    metrics.of_pairs.append(Metric(weights, net=settings.net, side=settings.side, ways=settings.ways))


def _add_ssim(metrics: Metrics, settings: object) -> None:
    from pipelines.evaluate.metrics.ssim import Ssim as Metric

    assert metrics.preset.ssim is not None
    metrics.of_pairs.append(Metric(side=metrics.preset.ssim.side, ways=metrics.preset.ssim.ways))


def _add_fid(metrics: Metrics, settings: Fid) -> None:
    from pipelines.evaluate.metrics.fid import INCEPTION, INCEPTION_URL
    from pipelines.evaluate.metrics.fid import Fid as Metric

    weights = find_file(settings.weights, INCEPTION, url=INCEPTION_URL, setting="fid", metric="FID")
    metrics.of_sets.append(Metric(weights, crop=settings.crop, layer=settings.layer))


def _add_segmenter(metrics: Metrics, settings: object) -> None:
    chosen = metrics.preset.segmenter
    assert chosen is not None
    weights = find_model(chosen.model, chosen.revision, setting="segmenter", metric="scores by mask")
    metrics.segmenter = BoxSegmenter(weights)


def overall_columns(found: list[Column]) -> tuple[Column, ...]:
    """DreamEditBench's overall score, if the four terms it needs are measured."""
    from pipelines.evaluate.metrics.overall import TERMS, columns

    return columns() if set(TERMS) <= {column.name for column in found} else ()
