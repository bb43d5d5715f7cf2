"""The verb `train`. Nothing heavy is imported before it is called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from trainer.job import Trained
    from trainer.planning import Plan

app = typer.Typer()


@app.command()
def train(
    corpus: Annotated[
        str, typer.Argument(metavar="CORPUS[#ID,...]", help="Corpus, subjects or photographs.", show_default=False)
    ],
    recipe: Annotated[
        str,
        typer.Option(
            metavar="NAME[:PRESET]|FILE",
            help="dreambooth, dreamcom, dreammix or dreaminpainter, or a YAML file.",
            show_default=False,
        ),
    ],
    base: Annotated[
        str, typer.Option(metavar="PLACE", help="Folder or Hub name of the base model.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the adapters.", show_default=False)],
    references: Annotated[
        int | None, typer.Option(min=1, help="Photographs of each subject to use.", show_default=False)
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting on top, e.g. rank=16.", show_default=False),
    ] = None,
    bank: Annotated[
        Path | None, typer.Option(help="Folder of cached latents, shared by runs.", show_default=False)
    ] = None,
    only_plan: Annotated[bool, typer.Option("--plan", help="Say what the run will take, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON for machines.")] = False,
) -> None:
    """Fine-tune a base on subjects of a corpus; run again to go on where it stopped."""
    from manifests.console import progress
    from trainer.planning import plan
    from trainer.recipes import load_recipe
    from trainer.training import speaks_for_all
    from trainer.training import train as run

    chosen = load_recipe(recipe, sets or ())
    if only_plan:
        _show_plan(plan(corpus, recipe=chosen, base=base, references=references, bank=bank), as_json)
        return
    with progress() as bar:
        result = run(corpus, recipe=chosen, base=base, output=output, references=references, bank=bank, on_progress=bar)
    if speaks_for_all():
        _show(result, as_json)
    raise typer.Exit(3 if result.left_out else 0)


def _show(result: Trained, as_json: bool) -> None:
    from manifests.console import echo, emit_json

    if as_json:
        emit_json(
            {
                "adapters": {name: str(folder) for name, folder in result.adapters.items()},
                "left_out": list(result.left_out),
                "warnings": list(result.warnings),
            }
        )
        return
    for warning in result.warnings:
        echo(warning)
    for name, folder in result.adapters.items():
        echo(f"{name}: {folder}")


def _show_plan(plan: Plan, as_json: bool) -> None:
    import dataclasses

    from manifests.console import echo, emit_json

    if as_json:
        emit_json({**dataclasses.asdict(plan), "seconds": plan.seconds, "disk_bytes": plan.disk_bytes})
        return
    for warning in plan.warnings:
        echo(warning)
    hours, rest = divmod(round(plan.seconds), 3600)
    echo(f"{plan.subjects} subjects, {plan.pictures} pictures, {plan.groups} groups of {plan.steps} steps")
    echo(f"time    {hours} h {rest // 60} min {rest % 60} s at {plan.seconds_per_step:.3g} s a step on {plan.device}")
    echo(f"memory  {plan.peak_memory / 2**30:.1f} GiB")
    echo(
        f"disk    {plan.disk_bytes / 2**30:.2f} GiB: cached latents {plan.bank_bytes / 2**20:.0f} MiB, checkpoints "
        f"{plan.checkpoint_bytes / 2**20:.0f} MiB, adapters {plan.adapter_bytes / 2**20:.0f} MiB"
    )
