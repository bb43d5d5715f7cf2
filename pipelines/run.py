"""Many jobs: checked first, grouped by base and adapter, painted in batches, each result on disk before the next.

What is done is known by content (`pipelines.preparing`), and stands in the output folder (`pipelines.results`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests.errors import UsageError
from manifests.fsops import output_lock
from manifests.ids import canonical_json, sha256_hex
from manifests.pixels import ImageArray, box_from_mask
from pipelines.baselines import BASELINES, load_baselines
from pipelines.jobs import Job
from pipelines.preparing import Part, Prepared, Reader, prepare
from pipelines.results import Row, RowRegion, is_done, read_row, write_image, write_row, write_tables, write_thumbnail

if TYPE_CHECKING:
    from pipelines.painter import Painter, Request, Result

__all__ = ["Prepared", "Row", "prepare", "run"]

Progress = Callable[[str, int, int], None]
External = Callable[[Prepared], ImageArray]


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
    methods = {**load_baselines(device), **(methods or {})}
    progress = on_progress or (lambda stage, done, total: None)
    with output_lock(output / ".lock"), Reader() as reader:
        keys, waiting = [], {}
        for number, job in enumerate(jobs):
            progress("check", number, len(jobs))
            where = f"job {number + 1}"
            _check(job, methods, where)
            key = reader.prepare(job, where=where).key
            keys.append(key)
            if not is_done(output, key):
                waiting[key] = job
        progress("check", len(jobs), len(jobs))
        progress("paint", 0, len(waiting))
        for done, _ in enumerate(_paint(waiting, output, reader, methods, device, batch_size), start=1):
            progress("paint", done, len(waiting))
        rows = [read_row(output, key) for key in keys]
        write_tables(output, rows)
    return rows


def _check(job: Job, methods: Mapping[str, External], where: str) -> None:
    if job.method != "adapter" and job.method not in methods:
        raise UsageError(f"{where}: no method {job.method!r}; there are adapter, {', '.join(methods)}.", code="E502")
    if job.method == "adapter" and job.adapter is None and job.base is None:
        raise UsageError(f"{where}: names neither an adapter nor a base.", code="E502")
    for name in BASELINES[job.method].needs if job.method in BASELINES else ():
        if getattr(job, name) is None:
            raise UsageError(f"{where}: method {job.method!r} needs a job that names its {name}.", code="E502")
    if job.also and job.method != "adapter":
        raise UsageError(f"{where}: method {job.method!r} paints one subject; `also` names more.", code="E502")


def _paint(
    waiting: Mapping[str, Job],
    output: Path,
    reader: Reader,
    methods: Mapping[str, External],
    device: str,
    batch_size: int,
) -> Iterator[Row]:
    """Every waiting job, its row written: jobs of one base and one adapter together."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for key, job in waiting.items():
        base = job.base or (reader.record(job.adapter).base.digest if job.adapter else "")
        groups.setdefault((job.method, base, job.adapter or ""), []).append(key)
    painter: Painter | None = None
    here = ""
    for (method, base, adapter), keys in sorted(groups.items()):
        if method != "adapter":
            for key, prepared in _again(keys, waiting, reader):
                image = methods[method](prepared)
                yield _write(
                    output, reader, key, prepared, image, prompts=[(prepared.prompt, ())], base=prepared.job.base
                )
            continue
        if painter is None or base != here:
            from pipelines.painter import load

            painter, here = None, base  # the last base goes before the next one comes
            painter = load(adapter or None, base=waiting[keys[0]].base, device=device, batch_size=batch_size)
        else:
            from pipelines.adapters import open_adapter

            painter.use(open_adapter(adapter) if adapter else None)
        yield from _paint_group(painter, output, reader, {key: waiting[key] for key in keys})


def _again(keys: Iterable[str], waiting: Mapping[str, Job], reader: Reader) -> Iterator[tuple[str, Prepared]]:
    """The jobs prepared once more, now that it is their turn: pictures of all at once would fill the memory."""
    for key in keys:
        prepared = reader.prepare(waiting[key])
        if prepared.key != key:
            raise UsageError(
                f"{prepared.job.scene}: scene, mask or reference changed while the run was on.", code="E104"
            )
        yield key, prepared


def _paint_group(painter: Painter, output: Path, reader: Reader, jobs: Mapping[str, Job]) -> Iterator[Row]:
    from pipelines.dif import frame_sizes

    batches: dict[Any, list[str]] = {}
    for key, prepared in _again(jobs, jobs, reader):
        # a prompt that is too long is said before the first picture of the group, not after an hour
        painter.check(_request(prepared, prepared.parts[0]), prepared.settings)
        sizes = frame_sizes(painter.backbone, prepared.mask, prepared.settings)
        alike: tuple[Any, ...] = (canonical_json(dataclasses.asdict(prepared.settings)), sizes)
        batches.setdefault((key,) if prepared.job.also else alike, []).append(key)
    for keys in batches.values():
        for first in range(0, len(keys), painter.batch_size):
            batch = list(_again(keys[first : first + painter.batch_size], jobs, reader))
            for (key, prepared), results in zip(batch, _results(painter, batch), strict=True):
                yield _write(
                    output, reader, key, prepared, results[-1].image,
                    prompts=[(result.prompt, result.removed) for result in results],
                    base=painter.backbone.base.model, base_digest=painter.backbone.base.digest,
                    seconds=sum(result.seconds for result in results),
                )  # fmt: skip


def _results(painter: Painter, batch: Sequence[tuple[str, Prepared]]) -> list[list[Result]]:
    """What is painted for each job of a batch: one result a region."""
    first = batch[0][1]
    if not first.job.also:
        requests = [_request(prepared, prepared.parts[0]) for _, prepared in batch]
        return [[result] for result in painter.paint(requests, first.settings)]
    from pipelines.adapters import open_adapter

    own = painter.adapter
    pairs = [
        (own if number == 0 else open_adapter(part.region.adapter) if part.region.adapter else None,
         _request(first, part, first.seed + number))
        for number, part in enumerate(first.parts)
    ]  # fmt: skip
    try:
        return [painter.paint_regions(pairs, first.settings, in_turn=first.job.in_turn)]
    finally:
        painter.use(own)


def _request(prepared: Prepared, part: Part, seed: int | None = None) -> Request:
    from pipelines.painter import Request

    region = part.region
    return Request(
        scene=prepared.scene,
        mask=part.mask,
        prompt=region.prompt,
        local_prompt=region.local_prompt,
        edit=region.edit,
        remove=region.remove,
        seed=prepared.seed if seed is None else seed,
        reference=prepared.reference,
    )


def _write(
    output: Path,
    reader: Reader,
    key: str,
    prepared: Prepared,
    image: ImageArray,
    *,
    prompts: Sequence[tuple[str, tuple[str, ...]]],
    base: str | None,
    base_digest: str = "",
    seconds: float = 0.0,
) -> Row:
    job, record = prepared.job, prepared.record
    if image.shape != prepared.scene.shape:
        raise UsageError(f"method {job.method!r} gave {image.shape}, the scene is {prepared.scene.shape}.", code="E502")
    path, sha256 = write_image(output, key, image)
    write_thumbnail(output, f"{key}-scene", prepared.scene)
    regions = [_region(part, *words) for part, words in zip(prepared.parts, prompts, strict=True)]
    if prepared.reference is not None:
        write_thumbnail(output, f"{key}-reference", prepared.reference.image)
    elif record is not None and (photograph := reader.photograph(record, regions[0].corpus)) is not None:
        write_thumbnail(output, f"{key}-subject", photograph)
    seen = {
        sample: None
        for part, region in zip(prepared.parts, regions, strict=True)
        if part.record and _whole(region.corpus) == _whole(regions[0].corpus)
        for sample in part.record.sample_ids
    }
    row = Row(
        id=f"{record.id if record else job.method}/out-{key}",
        job=key,
        method=job.method,
        image=path,
        image_sha256=sha256,
        width=image.shape[1],
        height=image.shape[0],
        scene=job.scene,
        scene_sha256=sha256_hex(prepared.scene.tobytes()),
        prompt_template=job.prompt,
        reference=job.reference or "",
        adapter_place=job.adapter or "",
        class_noun=record.class_noun if record else "",
        identifier=record.identifier if record else "",
        base=_public(base),
        base_digest=base_digest,
        corpus_digest=record.corpus_digest if record else "",
        sample_ids=tuple(seen),
        also=tuple(regions[1:]),
        seed=prepared.seed,
        settings=canonical_json(dataclasses.asdict(prepared.settings)),
        seconds=seconds,
        **{item.name: getattr(regions[0], item.name) for item in dataclasses.fields(RowRegion)},
    )
    write_row(output, row)
    return row


def _region(part: Part, prompt: str, removed: tuple[str, ...]) -> RowRegion:
    region, record = part.region, part.record
    corpus = ""
    if record is not None:
        from pipelines.backbones import remembered

        # a record names a local corpus by its name only; where it lay stands beside the adapters
        corpus = remembered(Path(region.adapter or ""), record.corpus_digest) or record.corpus
    return RowRegion(
        adapter=record.id if record else "",
        adapter_digest=record.digest if record else "",
        subject=record.subject if record else "",
        corpus=corpus,
        box_xyxy=box_from_mask(part.mask),
        mask=region.mask or "",
        prompt=prompt,
        local_prompt=region.local_prompt or "",
        edit=tuple(region.edit.items()),
        removed_words=removed,
    )


def _whole(corpus: str) -> str:
    from manifests.refs import parse_reference

    return parse_reference(corpus).place if corpus else ""


def _public(base: str | None) -> str:
    if not base:
        return ""
    from pipelines.backbones import public_name

    return public_name(base)
