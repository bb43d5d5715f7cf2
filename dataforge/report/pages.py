"""The report: static pages on which a person looks at a corpus. No script, nothing from outside, no time stamps.

Small corpora are one page; larger ones have an index and pages per subject, each written whole before the next one
is begun, so that memory does not grow with the corpus.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import IO

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dataforge.report.overview import calibration, flag_groups, flat_recipe, histogram, provenance, rejects, who_spoke
from dataforge.report.plan import INDEX, Plan, owner_of
from dataforge.report.thumbnails import Thumbnail, make_thumbnail
from dataforge.report.views import Card, Picture, Section, card, picture, section
from manifests.corpus import Corpus
from manifests.errors import CorpusError
from manifests.fsops import crashpoint, write_atomic
from manifests.records import LedgerRow, Sample

__all__ = ["write_report"]

FOLDER = "report"
REJECTS = "rejects.html"
COVER_SIDE = 128
# pixels of the longer side: photographs are looked at for their masks, regular pictures stand many in a row
SIDES = {"src": 256, "reg": 192, "bg": 256}
# covers stay in memory until the index is written
MOST_COVERS = 1000

OnProgress = Callable[[str, int, int], None]


def _silent(stage: str, done: int, total: int) -> None:
    del stage, done, total


def write_report(corpus: Corpus, *, on_progress: OnProgress = _silent, page_above: int = 300) -> None:
    """Write `report/index.html` of a corpus, and a page per subject where it has more than `page_above` samples.

    The same corpus gives the same bytes. Pages of subjects that are gone are removed. `on_progress` is called with
    "report", samples done and samples in all. Raises `IntegrityError` where the corpus's bytes are not those it
    names, and `CorpusError` E301 or E307 where an ID or the folder is not safe to write by.
    """
    folder = corpus.root / FOLDER
    if folder.is_symlink():
        raise CorpusError(f"{FOLDER} is a symbolic link; pages are written to a folder only.", code="E307")
    written = _Writer(corpus, Plan(corpus, page_above=page_above), on_progress).write(folder)
    for stale in sorted(folder.glob("*.html")):
        if stale.name not in written:
            stale.unlink()
            crashpoint(f"removed {FOLDER}/{stale.name}")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("dataforge.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["thousands"] = "{:,}".format
    environment.filters["share"] = "{:.2f}".format
    environment.filters["coordinate"] = lambda value: f"{value:.1f}".removesuffix(".0")
    environment.globals["style"] = Markup(environment.get_template("style.css").render())
    return environment


class _Writer:
    """Writes the pages of one corpus."""

    def __init__(self, corpus: Corpus, plan: Plan, on_progress: OnProgress) -> None:
        self._corpus = corpus
        self._plan = plan
        self._on_progress = on_progress
        self._done = 0
        self._rows: dict[str, list[LedgerRow]] = defaultdict(list)
        for row in corpus.ledger:
            told = row.status == "alias" or (row.status == "accepted" and row.notes)
            if told and row.kind in ("photograph", "scene") and row.sample_id:
                self._rows[row.sample_id].append(row)
        self._refused: dict[str, list[LedgerRow]] = defaultdict(list)
        for row in corpus.ledger:
            if row.status == "quarantined" and row.kind != "made" and row.subject:
                self._refused[row.subject].append(row)

    def write(self, folder: Path) -> set[str]:
        """All pages; the index comes last, so that it never links to a page that is not there yet. Their names."""
        rejected = rejects(self._corpus.ledger)
        common = {
            "digest": self._corpus.digest,
            "rejects": rejected,
            "paged": self._plan.paged,
            "rejects_page": REJECTS,
        }
        if not self._plan.paged:
            samples = {sample.id: sample for sample in self._corpus.samples()}
            sections = (self._section(owner, 0, samples) for owner in self._plan.owners)
            self._page(
                folder / INDEX,
                "index.html",
                common | self._overview() | {"sections": sections, "cards": self._cards([])},
            )
            return {INDEX}
        cards: list[Card] = []
        written: set[str] = set()
        for owner, held in self._by_owner():
            for number, part in enumerate(self._plan.parts[owner]):
                shown = self._section(owner, number, held)
                self._page(folder / part.page, "owner.html", common | {"section": shown})
                written.add(part.page)
                if number == 0:
                    cover = self._cover(shown) if len(cards) < MOST_COVERS else None
                    cards.append(card(shown, self._plan.owner_href(owner, INDEX), cover))
        self._page(folder / REJECTS, "rejects.html", common)
        self._page(
            folder / INDEX, "index.html", common | self._overview() | {"sections": (), "cards": self._cards(cards)}
        )
        return written | {INDEX, REJECTS}

    def _by_owner(self) -> Iterator[tuple[str, Mapping[str, Sample]]]:
        seen: set[str] = set()
        for owner, group in groupby(self._corpus.samples(), key=lambda sample: owner_of(sample.id)):
            seen.add(owner)
            yield owner, {sample.id: sample for sample in group}
        for owner in self._plan.parts:
            if owner not in seen:  # a subject of which nothing was kept has a page too: it says why
                yield owner, {}

    def _section(self, owner: str, part: int, samples: Mapping[str, Sample]) -> Section:
        return section(self._plan, self._corpus, owner, part, samples, self._refused.get(owner, ()))

    def _page(self, path: Path, template: str, values: Mapping[str, object]) -> None:
        def look(sample: Sample) -> Picture:
            return self._look(sample, path.name)

        def owner_href(owner: str) -> str:
            return self._plan.owner_href(owner, path.name)

        def href(sample_id: str) -> str:
            return self._plan.href(sample_id, path.name)

        pieces = (
            _environment()
            .get_template(template)
            .generate(look=look, href=href, owner_href=owner_href, page=path.name, **values)
        )

        def write(file: IO[bytes]) -> None:
            for piece in pieces:
                file.write(piece.encode("utf-8", "replace"))

        write_atomic(path, write)

    def _look(self, sample: Sample, page: str) -> Picture:
        # a scene's mask is its box, which is drawn anyway
        mask = None if sample.role == "bg" else self._corpus.mask_bytes(sample)
        thumbnail = make_thumbnail(
            self._corpus.image_bytes(sample), sample.image.format, mask, SIDES.get(sample.role, 256)
        )
        self._done += 1
        self._on_progress("report", self._done, self._plan.total)
        return picture(sample, thumbnail, self._rows.get(sample.id, ()), self._plan, page)

    def _cover(self, shown: Section) -> Thumbnail | None:
        pictures = [*shown.photographs, *(sample for group in shown.groups for sample in group.samples), *shown.scenes]
        if not pictures:
            return None
        # the clearest of the photographs, which are first where there are any
        best = max(
            (p for p in pictures if p.role == pictures[0].role),
            key=lambda sample: (not sample.flags, sample.mask_quality),
        )
        return make_thumbnail(self._corpus.image_bytes(best), best.image.format, None, COVER_SIDE)

    def _cards(self, cards: list[Card]) -> list[Card]:
        order = {owner: number for number, owner in enumerate(self._plan.owners)}
        return sorted(cards, key=lambda each: order[each.owner])

    def _overview(self) -> dict[str, object]:
        header = self._corpus.header
        table = provenance(self._corpus)
        gate = header.recipe.get("gate")
        return {
            "counts": header.counts,
            "spoke": who_spoke(table),
            "histogram": histogram(table, gate.get("flag_below") if isinstance(gate, dict) else None),
            "calibration": calibration(table),
            "recipe": list(flat_recipe(header.recipe)),
            "made_with": sorted(header.made_with.items()),
            "flagged": flag_groups(self._plan),
            "owners": [
                (owner, self._corpus.subjects[owner].name if owner in self._corpus.subjects else owner)
                for owner in self._plan.owners
            ],
        }
