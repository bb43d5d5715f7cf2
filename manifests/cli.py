"""Verbs that read a corpus: validate, show, ls, trace, diff; and those that cut or join: remove, merge, split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from manifests.corpus import Corpus
    from manifests.tracing import TraceStep

app = typer.Typer()

CorpusArgument = Annotated[str, typer.Argument(metavar="CORPUS", help="Folder of a corpus.", show_default=False)]
RefArgument = Annotated[str, typer.Argument(metavar="REF", help="CORPUS or CORPUS#ID[,ID...].", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@app.command()
def validate(
    corpus: CorpusArgument,
    quick: Annotated[bool, typer.Option("--quick", help="Header, tables and sizes only (the default).")] = False,
    full: Annotated[bool, typer.Option("--full", help="Hash every shard, picture and mask, compare records.")] = False,
    decode: Annotated[bool, typer.Option("--decode", help="As --full, and decode every picture and mask.")] = False,
    subset: Annotated[
        str, typer.Option(metavar="N/T", help="Full check of the N-th of T parts.", show_default=False)
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Check a corpus against itself; exit 4 when something is wrong."""
    from manifests.console import echo, emit_json, progress
    from manifests.errors import UsageError
    from manifests.validation import validate as check

    if quick and (full or decode or subset):
        raise UsageError("--quick does not go with --full, --decode or --subset.")
    with progress() as bar:
        problems = check(corpus, full=full, decode=decode, subset=_part(subset) if subset else None, on_progress=bar)
    if as_json:
        emit_json([{"code": p.code, "where": p.where, "detail": p.detail} for p in problems])
    else:
        how = "full, with pixels" if decode else "full" if full else f"part {subset}" if subset else "quick"
        for problem in problems:
            echo(str(problem))
        echo(f"{len(problems)} problems found." if problems else f"The corpus is whole ({how} check).")
    if problems:
        raise typer.Exit(4)


def _part(text: str) -> tuple[int, int]:
    from manifests.errors import UsageError

    part, mark, parts = text.partition("/")
    if not (mark and part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise UsageError(f"--subset takes N/T with 1 <= N <= T, not {text!r}.")
    return int(part), int(parts)


@app.command()
def show(
    ref: RefArgument,
    image: Annotated[Path | None, typer.Option(help="Write the picture here (PNG).", show_default=False)] = None,
    mask: Annotated[Path | None, typer.Option(help="Write the mask here (PNG).", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a corpus, a subject or a sample: picture, mask, words, and where each came from."""
    from manifests import console
    from manifests.corpus import open_corpus
    from manifests.errors import UsageError
    from manifests.refs import parse_reference
    from manifests.schema import encode

    reference = parse_reference(ref)
    with open_corpus(reference) as corpus:
        if (image or mask) and len(corpus.ids) != 1:
            raise UsageError("--image and --mask need one sample ID.")
        for path, which in ((image, "image"), (mask, "mask")):
            if path is not None:
                _write_png(corpus, corpus.ids[0], which, path)
        if as_json:
            samples = [encode(sample) for sample in corpus.samples()]
            subjects = [encode(corpus.subjects[name]) for name in reference.ids if name in corpus.subjects]
            console.emit_json({"subjects": subjects, "samples": samples})
        elif not reference.ids:
            console.show_corpus(corpus)
        else:
            for name in reference.ids:
                if name in corpus.subjects:
                    console.show_subject(corpus, name)
                else:
                    for sample_id in corpus.ids:
                        if sample_id == name or sample_id.startswith(f"{name}/"):
                            console.show_sample(corpus, sample_id)


def _write_png(corpus: Corpus, sample_id: str, which: str, path: Path) -> None:
    import io

    from PIL import Image

    from manifests.fsops import write_atomic
    from manifests.pixels import encode_mask

    if which == "mask":
        write_atomic(path, encode_mask(corpus.mask(sample_id)))
        return
    buffer = io.BytesIO()
    Image.fromarray(corpus.image(sample_id)).save(buffer, "PNG", compress_level=1)
    write_atomic(path, buffer.getvalue())


@app.command("ls")
def list_samples(
    ref: RefArgument,
    where: Annotated[
        str,
        typer.Option(
            help="SQL condition on manifest columns and `words`, e.g. \"mask_quality < 0.5 AND 'red' IN words\".",
            show_default=False,
        ),
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """List samples, all or those that meet a condition."""
    from manifests.console import emit_json, samples_table
    from manifests.corpus import open_corpus
    from manifests.query import select

    with open_corpus(ref) as corpus:
        rows = select(corpus, where)
    if as_json:
        for row in rows:
            emit_json(row, indent=None)
    else:
        samples_table(rows)


@app.command()
def trace(ref: RefArgument, as_json: JsonOption = False) -> None:
    """Walk a sample, or a composite (RESULTS#ID), back to its photographs and files, and who made each step."""
    from manifests.console import emit_json, show_composite, show_trace
    from manifests.corpus import open_corpus
    from manifests.errors import UsageError
    from manifests.tracing import RESULTS_NAME, trace_composite
    from manifests.tracing import trace as walk

    place, _, name = ref.rpartition("#")
    composite = trace_composite(Path(place), name) if place and (Path(place) / RESULTS_NAME).is_file() else None
    if composite is not None:
        if as_json:
            emit_json(
                {"composite": composite.row, "missing": composite.missing, "samples": _steps_json(composite.steps)}
            )
        else:
            show_composite(composite)
        return
    with open_corpus(ref) as corpus:
        if len(corpus.ids) != 1:
            raise UsageError("trace needs one sample: CORPUS#ID.")
        steps = walk(corpus, corpus.ids[0])
    if as_json:
        emit_json(_steps_json(steps))
    else:
        show_trace(steps)


def _steps_json(steps: list[TraceStep]) -> list[dict[str, Any]]:
    from manifests.schema import encode

    return [
        {"depth": step.depth, "sample": encode(step.sample), "file": encode(step.file) if step.file else None}
        for step in steps
    ]


@app.command()
def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="The older corpus.", show_default=False)],
    second: Annotated[str, typer.Argument(metavar="B", help="The newer corpus.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """What changed from one corpus to another, by subject, sample and word."""
    from manifests.console import echo, emit_json
    from manifests.tracing import diff as compare
    from manifests.tracing import diff_subjects

    subjects, samples = diff_subjects(first, second), compare(first, second)
    if as_json:
        emit_json(
            [
                {"level": level, "id": d.id, "kind": d.kind, "fields": list(d.fields), "words": list(d.words)}
                for level, differences in (("subject", subjects), ("sample", samples))
                for d in differences
            ]
        )
        return
    marks = {"added": "+", "removed": "-", "changed": "~"}
    for item in sorted((*subjects, *samples), key=lambda item: item.id):  # a subject stands above its samples
        echo(f"{marks[item.kind]} {item.id}{'  ' + ', '.join(item.fields) if item.fields else ''}")
        for word in item.words:
            echo(f"    {word}")
    for level, differences in (("subjects", subjects), ("samples", samples)):
        totals = {kind: sum(d.kind == kind for d in differences) for kind in marks}
        echo(f"{level}: " + ", ".join(f"{count} {kind}" for kind, count in totals.items()))


@app.command()
def remove(
    ref: Annotated[str, typer.Argument(metavar="REF", help="CORPUS#ID[,ID...] of what must go.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the new corpus.", show_default=False)],
) -> None:
    """Takedown: write a new corpus without these samples and without all that was made from them."""
    from manifests.console import echo
    from manifests.removal import remove as take_down

    digest, gone = take_down(ref, output)
    for name in gone:
        echo(f"- {name}")
    echo(f"{len(gone)} samples removed; {output} is corpus {digest[:12]}.")
    echo(f"`dataforge repair {output}` makes its report and index.")


@app.command()
def merge(
    places: Annotated[
        list[str], typer.Argument(metavar="A B...", help="The corpora to join, two or more.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the new corpus.", show_default=False)],
    rename: Annotated[
        list[str] | None,
        typer.Option(metavar="B#SUBJECT=NEW", help="Give a subject of one corpus another name.", show_default=False),
    ] = None,
) -> None:
    """Join corpora by subject; no picture is encoded again, IDs and digests stay."""
    from manifests.console import echo
    from manifests.corpus import open_corpus
    from manifests.merging import merge as join

    digest = join(places, output, rename or ())
    with open_corpus(str(output)) as corpus:
        echo(f"{len(corpus.subjects)} subjects, {len(corpus)} samples; {output} is corpus {digest[:12]}.")
    echo(f"`dataforge report {output}` makes its card and report.")


@app.command()
def split(
    ref: Annotated[
        str, typer.Argument(metavar="CORPUS#SUBJECT[,...]", help="The subjects to cut out.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for these subjects.", show_default=False)],
    rest: Annotated[Path | None, typer.Option(help="Folder for all others.", show_default=False)] = None,
) -> None:
    """Cut subjects out of a corpus; no picture is encoded again, IDs and digests stay."""
    from manifests.console import echo
    from manifests.merging import split as cut

    for place, digest in zip((output, rest), cut(ref, output, rest), strict=True):
        if digest:
            echo(f"{place} is corpus {digest[:12]}; `dataforge report {place}` makes its card and report.")
