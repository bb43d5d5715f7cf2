"""One run of `evaluate`: cases, pictures, scores, table and report, each step going on where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.corpus import Corpus, open_corpus
from manifests.errors import UsageError
from manifests.fsops import output_lock
from manifests.overrides import load_yaml
from manifests.refs import parse_reference
from pipelines.evaluate.ablations import ABLATIONS, train_all
from pipelines.evaluate.painting import Method, paint, parse_method
from pipelines.evaluate.presets import load_preset
from pipelines.evaluate.protocols import PROTOCOLS, cases
from pipelines.evaluate.studies import Study, evaluate_items, write_study

__all__ = ["Plan", "run_plan"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was asked for on the command line."""

    corpus: str
    output: Path
    protocol: str | None = None
    ablation: str | None = None
    methods: tuple[str, ...] = ()
    base: str | None = None
    references: str | None = None  # None: the paper's
    preset: str = "ours"
    sets: tuple[str, ...] = ()
    train_sets: tuple[str, ...] = ()
    paint_sets: tuple[str, ...] = ()
    seeds: int | None = None
    limit: int | None = None
    boxes: tuple[Path, ...] = ()


def run_plan(plan: Plan, *, on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None) -> Study:
    """Do what is asked, or what is left of it. Raises `UsageError` for a plan that does not make sense."""
    name, tables, notes = _what(plan)
    preset = load_preset(plan.preset, list(plan.sets))
    counts = _counts(plan.references)
    settings = _settings(plan.paint_sets)
    reference = parse_reference(plan.corpus)
    place = reference.place if reference.is_remote else str(Path(reference.place))
    with output_lock(plan.output / ".lock"), open_corpus(place) as corpus:
        protocol = PROTOCOLS[name]
        if protocol.whole:
            preset = preset.of_whole_pictures()
        subjects = _subjects(corpus, reference.ids)
        wanted = cases(corpus, protocol, subjects=subjects, seeds=plan.seeds, limit=plan.limit, boxes=plan.boxes)
        methods = [parse_method(text) for text in plan.methods]
        if len({method.name for method in methods}) < len(methods):
            raise UsageError("two methods have one name; put NAME: before one of them.")
        if plan.ablation is not None:
            assert plan.base is not None
            ablation = ABLATIONS[plan.ablation]
            trained = sorted({case.subject for case in wanted})
            there = [len(corpus.subjects[name].sample_ids) for name in trained]
            if counts is None:  # a row is called by what all subjects were trained on
                counts = tuple(count for count in ablation.references if count <= min(there))
            if counts:
                tables += ablation.published_references
            setups = ablation.with_references(counts, max(there))
            methods = (
                train_all(
                    setups,
                    f"{place}#{','.join(trained)}",
                    plan.base,
                    plan.output,
                    train_sets=plan.train_sets,
                    paint_settings=settings,
                )
                + methods
            )
        elif settings:
            methods = [_with(method, settings) for method in methods]
        items = paint(methods, wanted, corpus, place, plan.output / "painted", on_progress=on_progress)
        study = evaluate_items(
            items,
            corpus,
            preset,
            plan.output,
            title=f"Ablation {plan.ablation}" if plan.ablation else f"Protocol {name}",
            protocol=f"{protocol.name}: {protocol.description}",
            published_tables=tables,
            notes=notes,
            on_progress=on_progress,
        )
        write_study(study, plan.output, corpus)
    return study


def _what(plan: Plan) -> tuple[str, tuple[str, ...], list[str]]:
    """The protocol's name, the published tables beside it, and notes for the report."""
    if plan.ablation is not None:
        if plan.ablation not in ABLATIONS:
            raise UsageError(f"no ablation {plan.ablation!r}; there are {', '.join(ABLATIONS)}.", code="E503")
        if plan.base is None:
            raise UsageError("an ablation trains adapters: name their base with --base PLACE.")
        ablation = ABLATIONS[plan.ablation]
        if plan.protocol not in (None, ablation.protocol):
            raise UsageError(f"ablation {plan.ablation} runs over protocol {ablation.protocol}.")
        notes = ["The rows repeat the paper's; data, base and measuring are this run's."]
        if plan.train_sets or plan.paint_sets:
            notes.append(f"Set for all rows: {', '.join((*plan.train_sets, *plan.paint_sets))}.")
        return ablation.protocol, ablation.published, notes
    if plan.protocol is None:
        raise UsageError("name a --protocol or an --ablation.")
    if plan.protocol not in PROTOCOLS:
        raise UsageError(f"no protocol {plan.protocol!r}; there are {', '.join(PROTOCOLS)}.", code="E503")
    if not plan.methods:
        raise UsageError("name who paints: --method copy-and-blend, --method base=PLACE, --method adapters=DIR.")
    return plan.protocol, (plan.protocol,), []


def _subjects(corpus: Corpus, ids: tuple[str, ...]) -> tuple[str, ...]:
    unknown = [name for name in ids if name not in corpus.subjects]
    if unknown:
        raise UsageError(f"{unknown[0]!r} is no subject of the corpus; subjects are what is painted.", code="E503")
    return ids


def _counts(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        counts = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise UsageError(f"--references takes N,N,..., not {text!r}.") from error
    if any(count < 1 for count in counts):
        raise UsageError(f"--references takes numbers of photographs, not {text!r}.")
    return counts


def _settings(assignments: tuple[str, ...]) -> dict[str, Any]:
    settings = {}
    for assignment in assignments:
        key, mark, value = assignment.partition("=")
        if not mark or not key:
            raise UsageError(f"--paint-set takes key=value, not {assignment!r}.")
        settings[key] = load_yaml(value.encode(), where=f"--paint-set {assignment}")
    return settings


def _with(method: Method, settings: dict[str, Any]) -> Method:
    import dataclasses

    by_model = method.base or method.adapters
    return method if not by_model else dataclasses.replace(method, settings={**method.settings, **settings})
