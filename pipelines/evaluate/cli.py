"""The verb `evaluate`. Nothing heavy is imported before it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

app = typer.Typer()


class _Evaluate(typer.core.TyperGroup):
    """`evaluate CORPUS ...` is `evaluate run CORPUS ...`: what does not start with a word of its own is a run."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = ["run", *args]
        return list(super().parse_args(ctx, args))


evaluate = typer.Typer(
    name="evaluate",
    cls=_Evaluate,
    help="Paint what a protocol or an ablation asks for and score it; measure a corpus; ask people which they prefer.",
    no_args_is_help=True,
)
app.add_typer(evaluate, name="evaluate")

CorpusArgument = Annotated[str, typer.Argument(metavar="CORPUS[#ID,...]", help="Corpus, subjects.", show_default=False)]
OutputOption = Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder of the result.")]
PresetOption = Annotated[str, typer.Option(help="ours, dreamedit or bcmi.")]
SetsOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One setting on top, e.g. clip.model=DIR.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@evaluate.command("run")
def run_(
    corpus: CorpusArgument,
    output: OutputOption,
    protocol: Annotated[
        str | None, typer.Option(help="murecom, dreameditbench, dreambooth or dreammix.", show_default=False)
    ] = None,
    ablation: Annotated[
        str | None, typer.Option(help="dreammix or dreamcom: train and paint its rows.", show_default=False)
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            metavar="[NAME:]WHAT",
            help="Who paints: base=PLACE, adapters=DIR or a baseline such as copy-and-blend; again for more.",
            show_default=False,
        ),
    ] = None,
    base: Annotated[
        str | None, typer.Option(metavar="PLACE", help="Base model of an ablation.", show_default=False)
    ] = None,
    references: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...",
            help="Numbers of photographs an ablation tries too; 1 to 5 for dreamcom, none for '' and dreammix.",
            show_default=False,
        ),
    ] = None,
    preset: PresetOption = "ours",
    sets: SetsOption = None,
    train_sets: Annotated[
        list[str] | None,
        typer.Option("--train-set", metavar="KEY=VALUE", help="A setting of all trainings.", show_default=False),
    ] = None,
    paint_sets: Annotated[
        list[str] | None,
        typer.Option("--paint-set", metavar="KEY=VALUE", help="A setting of all painting.", show_default=False),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Pictures a pair; the protocol's own by default.", show_default=False)
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Pairs of each task and subject.", show_default=False)
    ] = None,
    boxes: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE|FOLDER",
            help="bbox.json or bbox.txt of a benchmark, or a folder with one for each of its sets; again for more.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Paint and score a protocol or an ablation; run again, it does what is missing."""
    from manifests.console import emit_json, progress
    from pipelines.evaluate.runs import Plan, run_plan

    plan = Plan(
        corpus=corpus,
        output=output,
        protocol=protocol,
        ablation=ablation,
        methods=tuple(methods or ()),
        base=base,
        references=references,
        preset=preset,
        sets=tuple(sets or ()),
        train_sets=tuple(train_sets or ()),
        paint_sets=tuple(paint_sets or ()),
        seeds=seeds,
        limit=limit,
        boxes=tuple(boxes or ()),
    )
    with progress() as bar:
        study = run_plan(plan, on_progress=bar)
    if as_json:
        import dataclasses

        emit_json({"rows": [dataclasses.asdict(row) for row in study.rows], "missing": study.missing})
        return
    _print_study(study, output)


def _print_study(study: Any, output: Path) -> None:
    """Each number with its interval, and under the table what made every column."""
    from manifests.console import echo

    for sentence in study.missing:
        echo(f"left out: {sentence}")
    for source in ("measured", "published"):
        rows = [row for row in study.rows if row.source == source]
        for protocol in dict.fromkeys(row.protocol for row in rows):
            echo(f"\n{source}: {protocol}")
            for row in rows:
                if row.protocol != protocol:
                    continue
                interval = f"[{row.low:.3f}, {row.high:.3f}]" if row.low == row.low else ""
                counted = f"{row.pairs} pairs, {row.subjects} subjects" if row.pictures else ""
                seeds = f", seeds {row.seeds}" if row.seeds else ""
                line = (
                    f"{row.task:<10} {row.method:<32} {row.column:<16} {row.value:8.3f} {interval:<16} {counted}{seeds}"
                )
                echo(line.rstrip())
    echo(f"\npreset {study.preset.title} ({study.preset.source})")
    for column, row in {row.column: row for row in study.rows if row.source == "measured"}.items():
        echo(f"{column:<16} {row.model}; {row.preprocessing}; crop: {row.crop}; better: {row.better}")
    echo(f"\n{output}/index.html")


@evaluate.command()
def corpus(
    corpus: CorpusArgument,
    output: OutputOption,
    masks: Annotated[
        Path | None, typer.Option(help="Folder of true masks, <subject>/<photograph>.png.", show_default=False)
    ] = None,
    colours: Annotated[
        Path | None,
        typer.Option(help="CSV of accepted colours: subject, accepted_main_colours.", show_default=False),
    ] = None,
    sets: SetsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a corpus: masks, words, regular pictures, leaks."""
    import dataclasses

    from manifests.console import echo, emit_json, progress
    from manifests.corpus import open_corpus
    from pipelines.evaluate.quality.evaluation import evaluate_corpus, write_quality

    with progress() as bar, open_corpus(corpus) as opened:
        result = evaluate_corpus(opened, masks=masks, colours=colours, sets=sets, on_progress=bar)
        write_quality(result, output)
    if as_json:
        emit_json(
            {
                "measures": [dataclasses.asdict(measure) for measure in result.measures],
                "leaks": [dataclasses.asdict(leak) for leak in result.leaks],
                "missing": result.missing,
            }
        )
        return
    for measure in result.measures:
        interval = f" [{measure.low:.3f}, {measure.high:.3f}]" if measure.low == measure.low else ""
        echo(f"{measure.value:8.3f}{interval:<17} n={measure.count:<6} {measure.name}: {measure.what}")
    for sentence in result.missing:
        echo(f"left out: {sentence}")
    echo(f"{output}/quality.html")


@evaluate.command("preference")
def preference(
    results: Annotated[list[Path], typer.Argument(metavar="RESULTS...", help="Evaluated runs.", show_default=False)],
    output: OutputOption,
    kind: Annotated[str, typer.Option(help="pairs or ranking.")] = "pairs",
    question: Annotated[str, typer.Option(help="What people are asked.")] = (
        "Which picture shows the thing best, and fits the words and the scene?"
    ),
    seed: Annotated[int, typer.Option(help="Of the order of questions and of places.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Questions at most.", show_default=False)] = None,
) -> None:
    """Make a blind page on which people choose between methods; nothing in it names one."""
    from manifests.console import echo
    from manifests.errors import UsageError
    from pipelines.evaluate.preference import write_page
    from pipelines.evaluate.studies import groups_of_runs

    if kind not in ("pairs", "ranking"):
        raise UsageError(f"--kind is pairs or ranking, not {kind!r}.")
    groups = groups_of_runs(results)
    study = write_page(
        groups, output, kind="pairs" if kind == "pairs" else "ranking", question=question, seed=seed, limit=limit
    )
    echo(f"{output}/page/index.html (study {study}); keep {output}/key.json back.")


@evaluate.command("answers")
def answers(
    key: Annotated[Path, typer.Argument(metavar="KEY", help="key.json of the study.", show_default=False)],
    files: Annotated[list[Path], typer.Argument(metavar="ANSWERS...", help="Saved answers.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Score the answers people saved."""
    import dataclasses

    from manifests.console import echo, emit_json
    from pipelines.evaluate.preference import score_answers

    found = score_answers(key, files)
    if as_json:
        emit_json([dataclasses.asdict(one) for one in found])
        return
    for one in found:
        echo(
            f"{one.value:6.3f} [{one.low:.3f}, {one.high:.3f}] {one.method}  "
            f"({one.answers} comparisons, {one.raters} raters, {one.interval})"
        )
