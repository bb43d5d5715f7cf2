"""The verbs `tour` and `study`. Nothing heavy is imported before it is called."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def tour(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder of the tour.")] = Path(
        "tour-out"
    ),
    count: Annotated[int, typer.Option("--subjects", min=1, max=12, help="Toy subjects.")] = 3,
    places: Annotated[int, typer.Option("--scenes", min=1, help="Scenes to paint each into.")] = 6,
    steps: Annotated[int, typer.Option(min=1, help="Steps of training.")] = 380,
    real: Annotated[
        Path | None,
        typer.Option(metavar="CORPUS", help="A corpus of real photographs to link to.", show_default=False),
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open the page in a browser, where there is a screen.")] = False,
) -> None:
    """Walk the whole way on the toy world: corpus, adapters, edits, scores, one page; minutes, no downloads."""
    from manifests.console import echo, progress
    from manifests.corpus import open_corpus
    from tour.page import write_page
    from tour.reading import read, shares
    from tour.walk import walk

    with progress() as bar:
        made = walk(
            output,
            count=count,
            places=places,
            training={"max_train_steps": steps, "checkpointing_steps": max(1, steps // 2)},
            on_progress=bar,
        )
        with made.step("reading"), open_corpus(str(made.corpus)) as corpus:
            readings = read(made.rows, made.painted, corpus, on_progress=bar)
    page = write_page(made, readings, real)
    for name, share in shares(readings).items():
        low, high = share.interval
        echo(f"{name:<36} {share.right:3d} of {share.count:3d}  {low:.2f} to {high:.2f}")
    echo(f"Look at {page}")
    if show and (sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        typer.launch(str(page))


@app.command()
def study(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder of the study.")] = Path(
        "study-out"
    ),
    only: Annotated[
        str, typer.Option(metavar="NAME,...", help="Questions: dif, edits, cross, self, references, presets; all.")
    ] = "",
    count: Annotated[int, typer.Option("--subjects", min=2, max=12, help="Toy subjects.")] = 8,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each subject.")] = 3,
    places: Annotated[int, typer.Option("--scenes", min=1, help="Scenes to paint each into.")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Steps of training.")] = 250,
) -> None:
    """Answer on the toy world which mechanism helps: trainings, pictures, a table with intervals; resumable."""
    from manifests.console import echo, progress
    from manifests.errors import UsageError
    from tour.page import write_study
    from tour.questions import QUESTIONS
    from tour.study import COLUMNS
    from tour.study import study as answer

    names = only.split(",") if only else list(QUESTIONS)
    for name in names:
        if name not in QUESTIONS:
            raise UsageError(f"--only {name}: expected some of {', '.join(QUESTIONS)}.")
    with progress() as bar:
        answers = answer(
            output,
            names,
            count=count,
            seeds=seeds,
            places=places,
            training={"max_train_steps": steps, "checkpointing_steps": steps},
            on_progress=bar,
        )
    columns = ["question", "arm", *COLUMNS, "difference", ""]
    echo(f"| {' | '.join(columns)} |")
    echo(f"| {' | '.join('---' for _ in columns)} |")
    for found in answers:
        cells = [f"{f.value:.3g} ({f.low:.3g} to {f.high:.3g})" for f in found.figures.values()]
        change = found.differences.get(QUESTIONS[found.question].judged_by)
        cells.append(f"{change.value:+.2g} ({change.low:+.2g} to {change.high:+.2g})" if change else "")
        echo(f"| {found.question} | {found.arm.name} | {' | '.join(cells)} | {found.verdict} |")
    echo(f"Look at {write_study(output, answers, subjects=count, seeds=seeds)}")
