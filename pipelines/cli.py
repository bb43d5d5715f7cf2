"""The verb `inpaint`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer()


@app.command()
def inpaint(
    adapter: Annotated[
        str | None,
        typer.Argument(metavar="ADAPTER", help="Adapter folder or hf://user/name.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Folder of the results.", show_default=False)
    ] = None,
    scene: Annotated[
        str | None, typer.Option(metavar="REF|IMAGE", help="CORPUS#scenes/bg-... or a picture.", show_default=False)
    ] = None,
    box: Annotated[
        str | None, typer.Option(metavar="X0,Y0,X1,Y1", help="Where to paint, pixels, half-open.", show_default=False)
    ] = None,
    mask: Annotated[
        str | None, typer.Option(metavar="FILE", help="Where to paint: white on black.", show_default=False)
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="What to paint; {identifier} is filled in.", show_default=False)
    ] = None,
    edit: Annotated[
        list[str] | None,
        typer.Option(metavar="CATEGORY=WORD,...", help="Change the subject, e.g. colour=blue.", show_default=False),
    ] = None,
    remove: Annotated[
        str | None,
        typer.Option(metavar="WORD,...", help="Words to remove instead of the subject's.", show_default=False),
    ] = None,
    reference: Annotated[
        str | None, typer.Option(metavar="REF", help="CORPUS#subject/src-... to paint from.", show_default=False)
    ] = None,
    base: Annotated[
        str | None, typer.Option(metavar="PLACE", help="Base model, if not the adapter's.", show_default=False)
    ] = None,
    preset: Annotated[str | None, typer.Option(help="plain, paper, released, dreamcom ...", show_default=False)] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting, e.g. lambda_gch=0.5.", show_default=False),
    ] = None,
    method: Annotated[str, typer.Option(help="adapter, or a baseline such as copy-and-blend.")] = "adapter",
    seed: Annotated[int | None, typer.Option(help="Of the noise; by default from the job.", show_default=False)] = None,
    jobs: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Many jobs: YAML, JSON or JSON lines.", show_default=False)
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Jobs in one forward.")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON for machines.")] = False,
) -> None:
    """Paint a subject into scenes; run again, it does what is missing."""
    import dataclasses

    import yaml

    from manifests.console import echo, emit_json, progress
    from manifests.errors import UsageError
    from pipelines.jobs import job_from, parse_edit, read_jobs
    from pipelines.run import run

    if output is None:
        raise UsageError("name a folder for the results: -o DIR.")
    changes: dict[str, Any] = {}
    for text in sets or []:
        key, mark, value = text.partition("=")
        if not mark:
            raise UsageError(f"--set takes KEY=VALUE, not {text!r}.")
        changes[key] = yaml.safe_load(value)
    asked: dict[str, Any] = {
        "adapter": adapter,
        "base": base,
        "scene": scene,
        "box": None if box is None else _box(box),
        "mask": mask,
        "prompt": prompt,
        "edit": parse_edit(edit or []) or None,
        "remove": None if remove is None else tuple(word.strip() for word in remove.split(",")),
        "reference": reference,
        "preset": preset,
        "settings": changes or None,
        "method": method,
        "seed": seed,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    if jobs is None and scene is None:
        raise UsageError("name a scene (--scene) or a jobs file (--jobs).")
    todo = read_jobs(jobs, given) if jobs is not None else [job_from(given, where="command line")]
    with progress() as bar:
        rows = run(todo, output, device=device, batch_size=batch_size, on_progress=bar)
    if as_json:
        emit_json([dataclasses.asdict(row) for row in rows])
        return
    for row in rows:
        echo(f"{row.id}  {output / row.image}")
    echo(f"{len(rows)} results in {output / 'results.parquet'}; look at {output / 'index.html'}")


def _box(text: str) -> tuple[int, ...]:
    from manifests.errors import UsageError

    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--box takes x0,y0,x1,y1 in whole pixels, not {text!r}.", code="E211") from error
