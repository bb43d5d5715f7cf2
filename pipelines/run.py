"""Many jobs: checked first, grouped by base and adapter, painted in batches, each result on disk before the next.

output/
  images/<job key>.png       a picture of the scene's size
  parts/<job key>.json       its row, written after the picture: a job with both is done and never done again
  results.parquet            all rows; results.jsonl the same for people; index.html the gallery
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from manifests.errors import UsageError
from manifests.fsops import output_lock, write_atomic
from manifests.ids import canonical_json, digest_of, sha256_hex
from manifests.pixels import ImageArray, MaskArray, box_from_mask
from pipelines.jobs import Job, seed_of
from pipelines.places import mask_of, read_mask, read_scene
from pipelines.records import AdapterRecord, read_record
from pipelines.settings import PRESETS, Painting, resolve_for

if TYPE_CHECKING:
    from pipelines.painter import Painter

__all__ = ["Prepared", "Row", "prepare", "run"]

Progress = Callable[[str, int, int], None]
External = Callable[["Prepared"], ImageArray]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One result, as `results.parquet` holds it."""

    id: str  # <adapter id>/out-<12 hex>
    job: str  # key of the job
    method: str
    image: str  # relative to the output folder
    image_sha256: str
    width: int
    height: int
    scene: str
    scene_sha256: str  # of its pixels
    box_xyxy: tuple[int, int, int, int]  # of the mask
    mask: str  # the mask's file; empty for a box
    prompt: str  # as it was read
    prompt_template: str  # as it was asked
    edit: tuple[tuple[str, str], ...]
    removed_words: tuple[str, ...]
    reference: str
    adapter: str  # ID; empty for none
    adapter_digest: str
    adapter_place: str
    subject: str
    class_noun: str
    identifier: str
    base: str
    base_digest: str
    corpus: str  # what the adapter was trained from
    corpus_digest: str
    sample_ids: tuple[str, ...]
    seed: int
    settings: str  # JSON
    seconds: float  # of denoising


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job whose pictures are read and whose words are checked: what a baseline or an external program is given."""

    job: Job
    scene: ImageArray
    mask: MaskArray
    record: AdapterRecord | None
    seed: int
    settings: Painting


def run(
    jobs: Sequence[Job],
    output: Path,
    *,
    device: str = "auto",
    batch_size: int = 4,
    methods: Mapping[str, External] | None = None,
    on_progress: Progress | None = None,
) -> list[Row]:
    """Paint every job that is not done yet; the rows of all of them, in the order of the jobs.

    All jobs are checked before a model is loaded. `methods` adds callables `Prepared -> uint8 HxWx3` by name, so that
    other programs' composites are scored like ours. Raises what the places, settings and adapters raise.
    """
    output.mkdir(parents=True, exist_ok=True)
    methods = {**_baselines(), **(methods or {})}
    with output_lock(output / ".lock"):
        keys = [_key(job) for job in jobs]
        waiting = {key: job for key, job in zip(keys, jobs, strict=True) if not _is_done(output, key)}
        progress = on_progress or (lambda stage, done, total: None)
        for number, (key, job) in enumerate(waiting.items()):
            progress("check", number, len(waiting))
            _check(job, methods, where=f"job {key}")
        progress("check", len(waiting), len(waiting))
        _paint_all(waiting, output, methods, device, batch_size, progress)
        rows = [_read_part(output, key) for key in keys]
        _write_tables(output, rows)
    return rows


def _key(job: Job) -> str:
    # an adapter trained again in the same place is another job
    return digest_of([dataclasses.asdict(job), _record(job).digest if job.adapter else ""])[:12]


def _record(job: Job) -> AdapterRecord:
    assert job.adapter is not None
    if "://" in job.adapter:
        from pipelines.adapters import open_adapter

        return open_adapter(job.adapter).record
    return read_record(Path(job.adapter))


def _is_done(output: Path, key: str) -> bool:
    return (output / "parts" / f"{key}.json").is_file() and (output / "images" / f"{key}.png").is_file()


def _read_part(output: Path, key: str) -> Row:
    values = json.loads((output / "parts" / f"{key}.json").read_bytes())
    for name in ("box_xyxy", "removed_words", "sample_ids"):
        values[name] = tuple(values[name])
    values["edit"] = tuple(tuple(pair) for pair in values["edit"])
    return Row(**values)


def _baselines() -> dict[str, External]:
    from pipelines.baselines import BASELINES

    return dict(BASELINES)


def _settings(job: Job, record: AdapterRecord | None) -> Painting:
    inference = record.inference if record is not None else None
    return resolve_for(inference, job.preset, job.settings, where=f"job {job.key}")


def _check(job: Job, methods: Mapping[str, External], *, where: str) -> None:
    """Everything that can be known to be wrong without a model."""
    if job.method != "adapter" and job.method not in methods:
        raise UsageError(f"{where}: no method {job.method!r}; there are adapter, {', '.join(methods)}.", code="E502")
    if job.method == "adapter" and job.adapter is None and job.base is None:
        raise UsageError(f"{where}: names neither an adapter nor a base.", code="E502")
    if job.preset is not None and job.preset not in PRESETS:
        raise UsageError(f"{where}: no preset {job.preset!r}; there are {', '.join(PRESETS)}.", code="E502")
    prepared = prepare(job)
    if prepared.record is not None and job.edit and job.remove is None and prepared.settings.tas is not None:
        from pipelines.words import words_of_edit

        words_of_edit(prepared.record.source_words, job.edit, prepared.record.subject)


def prepare(job: Job) -> Prepared:
    """Read the job's pictures and record, and check them. Raises E201, E211, E503, E603."""
    scene, box = read_scene(job.scene)
    height, width = scene.shape[:2]
    if job.mask is not None:
        mask = mask_of(read_mask(Path(job.mask)), height, width)
    elif job.box is not None or box is not None:
        mask = mask_of(job.box or box, height, width)
    else:
        raise UsageError(f"job {job.key}: {job.scene} has no box of its own: give a box or a mask.", code="E502")
    record = _record(job) if job.adapter is not None else None
    return Prepared(job, scene, mask, record, seed_of(job), _settings(job, record))


def _paint_all(
    waiting: Mapping[str, Job],
    output: Path,
    methods: Mapping[str, External],
    device: str,
    batch_size: int,
    progress: Progress,
) -> None:
    groups: dict[tuple[str, str | None, str], list[str]] = {}
    for key, job in waiting.items():
        base = job.base or (_record(job).base.model if job.adapter else "")
        groups.setdefault((base if job.method == "adapter" else "", job.adapter, job.method), []).append(key)
    done, total = 0, len(waiting)
    progress("paint", 0, total)
    painter: Painter | None = None
    here = ""
    for (base, adapter, method), keys in sorted(groups.items(), key=lambda item: (item[0][0], str(item[0][1]))):
        if method != "adapter":
            for key in keys:
                prepared = prepare(waiting[key])
                _write(output, key, prepared, methods[method](prepared))
                done += 1
                progress("paint", done, total)
            continue
        if painter is None or base != here:
            painter, here = _painter(base, adapter, device, batch_size), base
        else:
            from pipelines.adapters import open_adapter

            painter.use(None if adapter is None else open_adapter(adapter))
        _check_prompts(painter, [waiting[key] for key in keys])
        for first in range(0, len(keys), batch_size * 8):  # scenes are read some at a time
            chunk = keys[first : first + batch_size * 8]
            _paint_chunk(painter, output, {key: waiting[key] for key in chunk})
            done += len(chunk)
            progress("paint", done, total)


def _painter(base: str, adapter: str | None, device: str, batch_size: int) -> Painter:
    from pipelines.painter import load

    return load(adapter, base=base, device=device, batch_size=batch_size)


def _check_prompts(painter: Painter, jobs: Sequence[Job]) -> None:
    # a prompt that is too long is said before the first picture of the group, not after an hour
    for job in jobs:
        prompt, _ = painter.reading(
            _request(painter, prepare(job)), _settings(job, _record(job) if job.adapter else None)
        )
        painter.backbone.token_ids([prompt])


def _request(painter: Painter, prepared: Prepared) -> Any:
    from pipelines.painter import Reference, Request

    job = prepared.job
    reference = None
    if job.reference is not None:
        from manifests.corpus import open_corpus

        with open_corpus(job.reference) as corpus:
            if len(corpus.ids) != 1:
                raise UsageError(f"{job.reference} names {len(corpus.ids)} samples; one photograph was expected.")
            reference = Reference(corpus.image(corpus.ids[0]), corpus.mask(corpus.ids[0]))
    return Request(
        scene=prepared.scene,
        mask=prepared.mask,
        prompt=job.prompt,
        edit=job.edit,
        remove=job.remove,
        seed=prepared.seed,
        reference=reference,
    )


def _paint_chunk(painter: Painter, output: Path, jobs: Mapping[str, Job]) -> None:
    by_settings: dict[str, list[tuple[str, Prepared]]] = {}
    for key, job in jobs.items():
        prepared = prepare(job)
        by_settings.setdefault(canonical_json(dataclasses.asdict(prepared.settings)), []).append((key, prepared))
    for members in by_settings.values():
        for first in range(0, len(members), painter.batch_size):
            batch = members[first : first + painter.batch_size]
            results = painter.paint([_request(painter, one) for _, one in batch], batch[0][1].settings)
            for (key, prepared), result in zip(batch, results, strict=True):
                facts = {
                    "prompt": result.prompt, "removed_words": result.removed, "seconds": result.seconds,
                    "base": painter.backbone.base.model, "base_digest": painter.backbone.base.digest,
                }  # fmt: skip
                _write(output, key, prepared, result.image, **facts)


def _write(output: Path, key: str, prepared: Prepared, image: ImageArray, **facts: Any) -> None:
    job, record = prepared.job, prepared.record
    if image.shape != prepared.scene.shape:
        raise UsageError(f"method {job.method!r} gave {image.shape}, the scene is {prepared.scene.shape}.", code="E502")
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    for folder in ("images", "parts"):
        (output / folder).mkdir(exist_ok=True)
    write_atomic(output / "images" / f"{key}.png", buffer.getvalue())
    values: dict[str, Any] = {
        "id": f"{record.id if record else job.method}/out-{key}",
        "job": key,
        "method": job.method,
        "image": f"images/{key}.png",
        "image_sha256": sha256_hex(buffer.getvalue()),
        "width": image.shape[1],
        "height": image.shape[0],
        "scene": job.scene,
        "scene_sha256": sha256_hex(prepared.scene.tobytes()),
        "box_xyxy": box_from_mask(prepared.mask),
        "mask": job.mask or "",
        "prompt": job.prompt,
        "prompt_template": job.prompt,
        "edit": tuple(job.edit.items()),
        "removed_words": (),
        "reference": job.reference or "",
        "adapter": record.id if record else "",
        "adapter_digest": record.digest if record else "",
        "adapter_place": job.adapter or "",
        "subject": record.subject if record else "",
        "class_noun": record.class_noun if record else "",
        "identifier": record.identifier if record else "",
        "base": job.base or "",
        "base_digest": "",
        "corpus": record.corpus if record else "",
        "corpus_digest": record.corpus_digest if record else "",
        "sample_ids": record.sample_ids if record else (),
        "seed": prepared.seed,
        "settings": canonical_json(dataclasses.asdict(prepared.settings)),
        "seconds": 0.0,
        **facts,
    }
    row = Row(**values)
    write_atomic(output / "parts" / f"{key}.json", json.dumps(dataclasses.asdict(row), ensure_ascii=False).encode())


def _write_tables(output: Path, rows: Sequence[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipelines.gallery import write_gallery

    plain = [
        {**dataclasses.asdict(row), "edit": [{"category": name, "word": word} for name, word in row.edit]}
        for row in rows
    ]
    text = pa.string()
    kinds = {int: pa.int64(), float: pa.float64(), str: text}
    special = {
        "box_xyxy": pa.list_(pa.int32(), 4),
        "removed_words": pa.list_(text),
        "sample_ids": pa.list_(text),
        "edit": pa.list_(pa.struct([("category", text), ("word", text)])),
    }
    types = {"int": int, "float": float, "str": str}
    schema = pa.schema(
        [(item.name, special.get(item.name) or kinds[types[str(item.type)]]) for item in dataclasses.fields(Row)]
    )
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(plain, schema=schema), buffer)
    write_atomic(output / "results.parquet", buffer.getvalue())
    write_gallery(output, rows)
