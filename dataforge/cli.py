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

from manifests.errors import EnvironmentFault, ReportedError

app = typer.Typer()

CorpusArgument = Annotated[Path, typer.Argument(metavar="CORPUS", help="Folder of a corpus.", show_default=False)]


class Interrupted(BaseException):
    """A signal asked the program to stop; not an Exception, so that no fault handling swallows it."""

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number


@app.command()
def build(
    subjects: Annotated[
        Path,
        typer.Argument(
            metavar="SUBJECTS", help="A folder of folders, subjects.yaml or subjects.csv.", show_default=False
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="CORPUS", help="Folder of the corpus.", show_default=False)
    ],
    recipe: Annotated[str | None, typer.Option(metavar="NAME|FILE", help="Settings; `laptop` is the default.")] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="One setting on top, e.g. generate.seed=1.", show_default=False
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Worker processes; one a core by default.", show_default=False)
    ] = None,
    max_quarantine: Annotated[float, typer.Option(min=0, max=1, help="Exit 3 above this share of files.")] = 0.05,
    rehash: Annotated[bool, typer.Option("--rehash", help="Read every file again, whatever its time says.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what a worker or stage failed on.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON for machines.")] = False,
) -> None:
    """Build a corpus from photographs, or bring it up to date: only what changed is computed."""
    from dataforge.building import build as run
    from dataforge.config import load_recipe
    from dataforge.summary import print_summary, summary_json
    from manifests.console import emit_json, progress

    settings = load_recipe(recipe, sets)
    with progress() as bar:
        result = run(
            subjects,
            output,
            settings,
            workers=workers,
            max_quarantine=max_quarantine,
            rehash=rehash,
            retry_failed=retry_failed,
            on_progress=bar,
        )
    if as_json:
        emit_json(summary_json(result))
    else:
        print_summary(result)
    raise typer.Exit(result.exit_code)


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
    from dataforge.report import write_card, write_report
    from manifests.console import echo, progress
    from manifests.corpus import open_corpus

    with progress() as bar, open_corpus(corpus) as opened:
        write_card(opened)
        write_report(opened, on_progress=bar)
    echo(f"{corpus}/report/index.html")


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
        file.write(traceback.format_exc())
    last = traceback.format_exc().strip().splitlines()[-1][:200]
    message = f"this is a bug of ours: {last} The whole story is in {file.name}; please report it."
    print(f"dataforge: {message}", file=sys.stderr)  # noqa: T201 the command line is what prints
    if os.environ.get("DATAFORGE_DEBUG"):
        traceback.print_exc()
