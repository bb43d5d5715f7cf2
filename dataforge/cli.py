"""The command line: collects the verbs of every package, maps errors to exit codes, and holds this package's verbs.

Nothing heavy is imported here; each verb imports what it needs when it is called.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from manifests.errors import EnvironmentFault, ReportedError, redact

app = typer.Typer()

CorpusArgument = Annotated[Path, typer.Argument(metavar="CORPUS", help="Folder of a corpus.", show_default=False)]
SubjectsArgument = Annotated[
    Path,
    typer.Argument(metavar="SUBJECTS", help="A folder of folders, subjects.yaml or subjects.csv.", show_default=False),
]
RecipeOption = Annotated[str | None, typer.Option(metavar="NAME|FILE", help="Settings; `laptop` is the default.")]
SetsOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One setting on top, e.g. generate.seed=1.", show_default=False),
]
WorkersOption = Annotated[
    int | None, typer.Option(min=0, help="Worker processes; one a core by default.", show_default=False)
]
ExecutorOption = Annotated[
    str, typer.Option(metavar="local|ray[:ADDRESS]", help="Where it runs: this machine, or a Ray cluster.")
]


class Interrupted(BaseException):
    """A signal asked the program to stop; not an Exception, so that no fault handling swallows it."""

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number


@app.command()
def build(
    subjects: SubjectsArgument,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="CORPUS", help="Folder of the corpus.", show_default=False)
    ],
    recipe: RecipeOption = None,
    sets: SetsOption = None,
    workers: WorkersOption = None,
    executor: ExecutorOption = "local",
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="A trial run with the first so many subjects; kept.", show_default=False),
    ] = None,
    max_quarantine: Annotated[float, typer.Option(min=0, max=1, help="Exit 3 above this share of files.")] = 0.05,
    rehash: Annotated[bool, typer.Option("--rehash", help="Read every file again, whatever its time says.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what a worker or stage failed on.")
    ] = False,
    parquet: Annotated[
        bool, typer.Option("--parquet", help="Write the same rows as data/*.parquet too (pack.parquet=true).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON for machines.")] = False,
) -> None:
    """Build a corpus from photographs, or bring it up to date: only what changed is computed."""
    from dataforge.building import build as run
    from dataforge.config import load_recipe
    from dataforge.summary import print_summary, summary_json
    from manifests.console import emit_json, progress

    settings = load_recipe(recipe, [*(sets or []), *(["pack.parquet=true"] if parquet else [])])
    with progress() as bar:
        result = run(
            subjects,
            output,
            settings,
            workers=workers,
            executor=executor,
            limit=limit,
            max_quarantine=max_quarantine,
            rehash=rehash,
            retry_failed=retry_failed,
            on_progress=bar,
            on_note=bar.note,
        )
    if as_json:
        emit_json(summary_json(result))
    else:
        print_summary(result)
    raise typer.Exit(result.exit_code)


@app.command()
def plan(
    subjects: SubjectsArgument,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="CORPUS", help="Keep the trial's results there.", show_default=False),
    ] = None,
    recipe: RecipeOption = None,
    sets: SetsOption = None,
    workers: WorkersOption = None,
    executor: ExecutorOption = "local",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Plan for the first so many subjects.", show_default=False)
    ] = None,
    trial: Annotated[
        int | None,
        typer.Option(
            min=1, help="Subjects of the trial that measures this machine; six a worker by default.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON for machines.")] = False,
) -> None:
    """Say what a build would compute, how long it takes and what room it needs, from a trial of a few subjects."""
    from dataclasses import asdict

    from dataforge.config import load_recipe
    from dataforge.planning import plan as make
    from dataforge.summary import print_plan
    from manifests.console import emit_json, progress

    settings = load_recipe(recipe, sets or [])
    with progress() as bar:
        found = make(
            subjects,
            output,
            settings,
            workers=workers,
            executor=executor,
            limit=limit,
            trial=trial,
            on_progress=bar,
        )
    if as_json:
        emit_json(asdict(found))
    else:
        print_plan(found)


@app.command()
def status(
    corpus: CorpusArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON for machines.")] = False,
) -> None:
    """Say what a build in another terminal is at: stages, rates, time left and what was refused."""
    from dataclasses import asdict

    from dataforge.buildlog import read_status
    from dataforge.summary import print_status
    from manifests.console import emit_json
    from manifests.errors import NotFoundError

    if not (corpus / ".work").is_dir():
        raise NotFoundError(f"{corpus} has no work folder: nothing was ever built there.")
    found = read_status(corpus / ".work")
    if as_json:
        emit_json(asdict(found))
    else:
        print_status(str(corpus), found)


@app.command()
def repair(corpus: CorpusArgument) -> None:
    """Mend damaged shards and tables from copies of the same bytes, and make the derived files again."""
    from dataforge.building import mend
    from manifests.console import echo, progress

    with progress() as bar:
        report = mend(corpus, on_progress=bar)
    for name in report.mended:
        echo(f"mended {name}")
    for name in report.lost:
        echo(f"lost {name}: no copy of its bytes is left; build the corpus again")
    echo(f"{len(report.mended)} files mended, {len(report.lost)} samples lost; index, card and report made again.")
    if report.lost:
        raise typer.Exit(4)


@app.command()
def report(corpus: CorpusArgument) -> None:
    """Make the card and the HTML report of a corpus again."""
    from dataforge.report import write_descriptions, write_report
    from manifests.console import echo, progress
    from manifests.corpus import open_corpus

    with progress() as bar, open_corpus(corpus) as opened:
        write_descriptions(opened)
        write_report(opened, on_progress=bar)
    echo(f"{corpus}/report/index.html")


@app.command()
def doctor(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|FILE", help="A recipe; all that ship, and all other kinds, by default.", show_default=False
        ),
    ] = None,
    sets: SetsOption = None,
    fetch: Annotated[
        str | None,
        typer.Option(
            metavar="RECIPE",
            help="Download a recipe's weights, or LAYOUT:MODEL[@REVISION][+VARIANT].",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON for machines.")] = False,
) -> None:
    """Say what a recipe's models need and what of it is on this machine; download weights when asked to."""
    from dataforge.config import load_recipe, named_recipes
    from dataforge.doctor import examine, examine_others, findings_json, print_findings, print_others
    from dataforge.doctor import fetch as download
    from manifests.console import echo, emit_json

    if fetch is not None:
        names = download(fetch, lambda name: load_recipe(name, sets))
        echo(f"fetched {', '.join(names)}" if names else "nothing to fetch: no model of this recipe is the Hub's")
        recipe = recipe or (fetch if ":" not in fetch else None)
        if recipe is None:
            return
    recipes = {name: load_recipe(name, sets) for name in ([recipe] if recipe else named_recipes())}
    found = {name: examine(read) for name, read in recipes.items()}
    others = [] if recipe else examine_others(recipes.values())
    if as_json:
        values = found if recipe else found | {"other kinds": others}
        emit_json({name: findings_json(findings) for name, findings in values.items()})
    else:
        print_findings(found)
        print_others(others)
    if recipe and any(finding.problem for finding in found[recipe]):
        raise typer.Exit(2)


@app.command()
def publish(
    corpus: Annotated[
        Path, typer.Argument(metavar="CORPUS|ADAPTER", help="Folder of a corpus or an adapter.", show_default=False)
    ],
    place: Annotated[
        str,
        typer.Argument(
            metavar="PLACE",
            help="hf://datasets/USER/NAME, s3://BUCKET/KEY or a folder; of an adapter hf://USER/NAME.",
            show_default=False,
        ),
    ],
    dataset: Annotated[
        str | None,
        typer.Option(metavar="PLACE", help="Where an adapter's corpus is published, for its card.", show_default=False),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Let anyone read it; private is the default.")] = False,
    allow_unknown_rights: Annotated[
        bool, typer.Option("--allow-unknown-rights", help="Publish subjects whose licence or consent is not stated.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go where, and send nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON for machines.")] = False,
) -> None:
    """Publish a corpus on the Hub, in S3 or in a folder, or an adapter; again, and only what changed is sent."""
    from dataforge.publishing import publish as send
    from dataforge.publishing.adapters import is_adapter, publish_adapter
    from manifests.console import echo, emit_json, progress
    from manifests.errors import UsageError

    adapter = is_adapter(corpus)
    if dataset is not None and not adapter:
        raise UsageError("--dataset is for an adapter, whose card links it.")
    with progress() as bar:
        done = (
            publish_adapter(corpus, place, dataset=dataset, public=public, dry_run=dry_run, on_progress=bar)
            if adapter
            else send(
                corpus,
                place,
                public=public,
                allow_unknown_rights=allow_unknown_rights,
                dry_run=dry_run,
                on_progress=bar,
            )
        )
    if as_json:
        sent = [{"path": parcel.path, "size": parcel.size} for parcel in done.sent]
        emit_json({"url": done.url, "digest": done.digest, "sent": sent, "deleted": done.deleted, "kept": done.kept})
        return
    if dry_run:
        for parcel in done.sent:
            echo(f"+ {parcel.path}  {parcel.size:,} bytes")
        for path in done.deleted:
            echo(f"- {path}")
    size = sum(parcel.size for parcel in done.sent)
    would = "would be " if dry_run else ""
    echo(
        f"{len(done.sent)} files ({size:,} bytes) {would}sent, {len(done.deleted)} {would}deleted, "
        f"{done.kept} there already."
    )
    echo(f"{done.url}{' (nothing was sent)' if dry_run else ''}")
    if adapter:
        echo(f"Paint with it: dataforge inpaint {done.place}@{done.digest} ...")
        return
    echo(f"Read it: manifests.open({f'{done.place}@{done.digest}' if '://' in done.place else done.place!r})")


@app.command()
def pull(
    ref: Annotated[
        str, typer.Argument(metavar="REF", help="PLACE[@REVISION]: hf://..., s3://... or a folder.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Folder of the corpus.", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON for machines.")] = False,
) -> None:
    """Bring a published corpus to this disk, resuming what was begun, every byte checked."""
    from dataforge.publishing import pull as fetch
    from manifests.console import echo, emit_json, progress

    with progress() as bar:
        done = fetch(ref, output, on_progress=bar)
    if as_json:
        emit_json({"digest": done.digest, "fetched": done.fetched, "kept": done.kept})
        return
    echo(f"{done.fetched} files fetched, {done.kept} there already; {output} is corpus {done.digest[:12]}.")
    echo(f"`dataforge show {output}` says what is in it; {output}/report/index.html shows it.")


def _verbs() -> typer.Typer:
    from importlib.metadata import entry_points

    verbs = typer.Typer(
        name="dataforge",
        help="Photographs of many things in; a corpus of masks, words and pictures out, with an ID for everything.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    for entry in sorted(entry_points(group="dataforge.verbs"), key=lambda e: e.name):
        verbs.add_typer(entry.load())
    return verbs


def _stop(signal_number: int, frame: FrameType | None) -> NoReturn:
    del frame
    signal.signal(signal_number, signal.SIG_DFL)  # the second signal ends the program at once
    raise Interrupted(signal_number)


def main() -> NoReturn:
    """Run the command line and exit with a documented code (docs/errors.md)."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        _verbs()(standalone_mode=True)
        sys.exit(0)
    except ReportedError as error:
        print(f"dataforge: {error}", file=sys.stderr)  # noqa: T201 the command line is what prints
        sys.exit(error.exit_code)
    except Interrupted as stop:
        name = signal.Signals(stop.signal_number).name
        fault = EnvironmentFault(f"stopped by {name}.", code="E511")
        print(f"dataforge: {fault}", file=sys.stderr)  # noqa: T201 the command line is what prints
        sys.exit(128 + stop.signal_number)
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception:
        _report_bug()
        sys.exit(1)


def _report_bug() -> None:
    """A bug of ours: keep the traceback in a file a person can send, and say so in one sentence."""
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="dataforge-bug-", suffix=".txt", delete=False) as file:
        file.write(redact(traceback.format_exc()))
    last = redact(traceback.format_exc().strip().splitlines()[-1])[:200]
    message = f"this is a bug of ours: {last} The whole story is in {file.name}; please report it."
    print(f"dataforge: {message}", file=sys.stderr)  # noqa: T201 the command line is what prints
    if os.environ.get("DATAFORGE_DEBUG"):
        print(redact(traceback.format_exc()), file=sys.stderr)  # noqa: T201 the command line is what prints
