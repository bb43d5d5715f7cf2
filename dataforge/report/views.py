"""What a page shows of an owner and of each picture: plain values that the templates only lay out.

Everything here that comes from data is text to be escaped. The few values that go into attributes are checked: IDs
against their grammar, colours from a table of ours, numbers as numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from dataforge.report.overview import share
from dataforge.report.plan import Plan, anchor, kind_of, owner_of
from dataforge.report.thumbnails import Thumbnail
from dataforge.report.wording import FLAGS, NOTES, in_words, swatch
from manifests.corpus import Corpus
from manifests.records import LedgerRow, RegularPrompt, Sample, Score, Subject

__all__ = [
    "Card",
    "Chip",
    "Picture",
    "PromptGroup",
    "Section",
    "card",
    "chip",
    "picture",
    "section",
    "words_by_category",
]

CATEGORIES = ("colour", "material", "texture", "pattern", "shape", "state", "accessories")


@dataclass(frozen=True, slots=True)
class Chip:
    """A word as it is shown: its colour where it is a colour word, and how many photographs support it."""

    category: str
    word: str
    swatch: str
    score: float | None = None
    support: int = 0
    candidate: bool = False


def chip(category: str, word: str, *, score: float | None = None, support: int = 0, candidate: bool = False) -> Chip:
    """A word ready to be shown."""
    return Chip(category, word, swatch(word) if category == "colour" else "", score, support, candidate)


@dataclass(frozen=True, slots=True)
class Picture:
    """One sample as its figure shows it; boxes are x, y, width, height in thumbnail pixels, `rival` an SVG path."""

    sample: Sample
    thumbnail: Thumbnail | None
    box: tuple[float, float, float, float]
    rival: str
    other_boxes: tuple[tuple[float, float, float, float], ...]
    alt: str
    flags: tuple[str, ...]
    notes: tuple[str, ...]
    aliases: tuple[str, ...]
    parents: tuple[tuple[str, str], ...]
    words: tuple[Chip, ...]
    scores: tuple[Score, ...]
    spoke: tuple[str, ...]
    quality: float


def picture(sample: Sample, thumbnail: Thumbnail | None, row: Sequence[LedgerRow], plan: Plan, page: str) -> Picture:
    """The figure of a sample. `row` holds the ledger rows of its file and of copies of it."""
    scale_x = thumbnail.width / max(1, sample.width) if thumbnail else 0.0
    scale_y = thumbnail.height / max(1, sample.height) if thumbnail else 0.0

    def scaled(box: Sequence[int]) -> tuple[float, float, float, float]:
        x0, y0, x1, y1 = box if len(box) == 4 else (0, 0, 0, 0)
        return x0 * scale_x, y0 * scale_y, (x1 - x0) * scale_x, (y1 - y0) * scale_y

    what = {"src": "Photograph of", "reg": "Regular picture of", "bg": "Scene for"}.get(sample.role, "Picture of")
    return Picture(
        sample=sample,
        thumbnail=thumbnail,
        box=scaled(sample.box_xyxy),
        rival=_path(sample.rival_outline, scale_x, scale_y),
        other_boxes=tuple(scaled(box) for box in sample.other_boxes),
        alt=f"{what} {sample.class_noun or 'any thing'}. {sample.caption}".strip(),
        flags=tuple(in_words(FLAGS, flag) for flag in sample.flags),
        notes=tuple(in_words(NOTES, note) for entry in row if entry.status == "accepted" for note in entry.notes),
        aliases=tuple(entry.path for entry in row if entry.status == "alias"),
        parents=tuple((name, plan.href(name, page)) for name in sample.parents),
        words=tuple(
            chip(word.category, word.word, score=word.score, candidate=word.origin == "candidate")
            for word in sample.attributes
        ),
        scores=sample.scores,
        spoke=tuple(
            f"{step.stage}: {' '.join(filter(None, (step.backend, step.model, step.version)))}"
            for step in sample.provenance
        ),
        quality=share(sample.mask_quality),
    )


def _path(outline: Sequence[int], scale_x: float, scale_y: float) -> str:
    """A closed SVG path through x,y,x,y,... of the full picture, in thumbnail pixels; empty for no region."""
    points = [
        f"{(x + 0.5) * scale_x:.1f} {(y + 0.5) * scale_y:.1f}"
        for x, y in zip(outline[::2], outline[1::2], strict=False)
    ]
    return f"M{'L'.join(points)}Z" if len(points) > 2 else ""


@dataclass(frozen=True, slots=True)
class PromptGroup:
    """The regular pictures of one prompt, and the words that went into it."""

    prompt: str
    words: tuple[Chip, ...]
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """An owner's samples on one page: a subject, a class that shares regular pictures, or the scenes."""

    kind: str
    owner: str
    anchor: str
    title: str
    subject: Subject | None
    words: tuple[tuple[str, tuple[Chip, ...], tuple[Chip, ...]], ...]
    counts: Mapping[str, int]
    flagged: int
    photographs: tuple[Sample, ...]
    groups: tuple[PromptGroup, ...]
    scenes: tuple[Sample, ...]
    links: tuple[tuple[str, str, int], ...]
    unmade: tuple[str, ...]
    refused: tuple[LedgerRow, ...]
    part: int
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Card:
    """An owner on the index of a corpus that has a page per owner; holds no samples, so that many fit in memory."""

    owner: str
    title: str
    class_noun: str
    status: str
    split: str
    words: tuple[Chip, ...]
    counts: Mapping[str, int]
    flagged: int
    href: str
    cover: Thumbnail | None


def card(shown: Section, href: str, cover: Thumbnail | None) -> Card:
    """The card of a section."""
    subject = shown.subject
    return Card(
        owner=shown.owner,
        title=shown.title,
        class_noun=subject.class_noun if subject else "",
        status=subject.status if subject else "",
        split=subject.split if subject else "",
        words=tuple(word for _, has, _ in shown.words for word in has[:2])[:4],
        counts=shown.counts,
        flagged=shown.flagged,
        href=href,
        cover=cover,
    )


def section(
    plan: Plan, corpus: Corpus, owner: str, part: int, samples: Mapping[str, Sample], refused: Sequence[LedgerRow] = ()
) -> Section:
    """What the page shows of an owner; `samples` holds at least that part's, `refused` files of that subject."""
    kind = kind_of(owner)
    subject = corpus.subjects.get(owner) if kind == "subject" else None
    here = [samples[name] for name in plan.parts[owner][part].ids]
    page = plan.parts[owner][part].page
    regular = [sample for sample in here if sample.role == "reg"]
    prompts = {prompt.prompt: prompt for prompt in subject.regular_prompts} if subject else {}
    made = {plan.prompt_of.get(name, "") for name in subject.regular_ids} if subject else set()
    if subject:
        others = Counter(
            owner_of(name) for name in subject.regular_ids if name in plan.page_of and owner_of(name) != owner
        )
        title = subject.name
    else:
        others = Counter(dict.fromkeys(plan.used_by.get(owner, ()), plan.roles[owner]["reg"]))
        noun = next((sample.class_noun for sample in here), "") or owner.removeprefix("class-")
        title = "Scenes" if kind == "scenes" else f"Shared regular pictures: {noun}" if kind == "class" else owner
    return Section(
        kind=kind,
        owner=owner,
        anchor=anchor(owner),
        title=title,
        subject=subject,
        words=words_by_category(subject) if subject else (),
        counts=plan.roles[owner],
        flagged=sum(name in plan.flagged for each in plan.parts[owner] for name in each.ids),
        photographs=tuple(sample for sample in here if sample.role == "src"),
        groups=tuple(_prompt_groups(regular, prompts)),
        scenes=tuple(sample for sample in here if sample.role == "bg"),
        links=tuple((name, plan.owner_href(name, page), count) for name, count in sorted(others.items())),
        unmade=tuple(text for text in prompts if text not in made),
        refused=tuple(refused) if part == 0 else (),
        part=part,
        parts=tuple(each.page for each in plan.parts[owner]),
    )


def _prompt_groups(regular: Sequence[Sample], prompts: Mapping[str, RegularPrompt]) -> Iterator[PromptGroup]:
    for text, group in groupby(regular, key=lambda sample: sample.prompt):
        samples = tuple(group)
        prompt = prompts.get(text)
        words = prompt.words if prompt else samples[0].attributes
        yield PromptGroup(
            text, tuple(chip(w.category, w.word, candidate=w.origin == "candidate") for w in words), samples
        )


def words_by_category(subject: Subject) -> tuple[tuple[str, tuple[Chip, ...], tuple[Chip, ...]], ...]:
    """The attribute dictionary: category, the words the subject has, and the words an edit could ask for."""
    found: dict[str, tuple[list[Chip], list[Chip]]] = {}
    for word in subject.attributes:
        candidate = word.origin == "candidate"
        shown = chip(word.category, word.word, score=word.score, support=len(word.sample_ids), candidate=candidate)
        found.setdefault(word.category, ([], []))[candidate].append(shown)
    known = sorted(found, key=lambda name: (CATEGORIES.index(name) if name in CATEGORIES else len(CATEGORIES), name))
    return tuple((name, *(tuple(sorted(chips, key=_strongest)) for chips in found[name])) for name in known)  # type: ignore[misc]


def _strongest(shown: Chip) -> tuple[float, str]:
    return -share(shown.score or 0.0), shown.word
