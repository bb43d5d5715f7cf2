"""Which sample stands on which page, in which order, and how pages link to each other."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from manifests.corpus import Corpus
from manifests.errors import CorpusError
from manifests.ids import SCENES, check_id, is_id

__all__ = ["INDEX", "ROLE_ORDER", "Part", "Plan", "anchor", "check_owner", "kind_of", "owner_of"]

INDEX = "index.html"
ROLE_ORDER = {"src": 0, "reg": 1, "bg": 2}


def owner_of(sample_id: str) -> str:
    """The part of a checked sample ID before the stroke."""
    return sample_id.partition("/")[0]


def check_owner(name: str) -> str:
    """A subject's ID as it may stand in a file name; raises `CorpusError` E301 for anything else."""
    if not is_id(name) or "/" in name:
        raise CorpusError(f"{name!r} is no subject ID.", code="E301")
    return name


@dataclass(frozen=True, slots=True)
class Part:
    """One stretch of an owner's samples that stands on one page."""

    page: str
    ids: tuple[str, ...]


class Plan:
    """Which sample stands on which page and in which order: flagged ones first, regular pictures by prompt.

    Made from four columns of the manifest, so that links can point forward while pages are written one by one.
    """

    def __init__(self, corpus: Corpus, *, page_above: int) -> None:
        table = corpus.columns(["id", "role", "flags", "prompt"], corpus.select_rows())
        ids = [check_id(name) for name in table.column("id").to_pylist()]
        roles = table.column("role").to_pylist()
        flags = table.column("flags").to_pylist()
        flagged = [bool(words) for words in flags]
        prompts = table.column("prompt").to_pylist()
        self.total = len(ids)
        self.paged = self.total > page_above
        self.flagged = frozenset(name for name, yes in zip(ids, flagged, strict=True) if yes)
        self.by_flag: dict[str, list[str]] = defaultdict(list)
        # photographs first: what is corrected there is made right in what was made from them
        for _, name, words in sorted(zip((ROLE_ORDER.get(role, 3) for role in roles), ids, flags, strict=True)):
            for word in words:
                self.by_flag[word].append(name)
        self.prompt_of = {name: prompt for name, role, prompt in zip(ids, roles, prompts, strict=True) if role == "reg"}
        self.roles: dict[str, Counter[str]] = defaultdict(Counter)
        self.used_by: dict[str, set[str]] = defaultdict(set)
        ordered: dict[str, list[tuple[Any, ...]]] = {check_owner(name): [] for name in corpus.subjects}
        for subject in corpus.subjects.values():
            for name in subject.regular_ids:
                if owner_of(name) != subject.id:
                    self.used_by[owner_of(name)].add(subject.id)
        ranks: dict[str, dict[str, int]] = {
            subject.id: {prompt.prompt: number for number, prompt in enumerate(subject.regular_prompts)}
            for subject in corpus.subjects.values()
        }
        for name, role, yes, prompt in zip(ids, roles, flagged, prompts, strict=True):
            owner = owner_of(name)
            self.roles[owner][role] += 1
            by_prompt = (ranks.get(owner, {}).get(prompt, 1 << 30), prompt) if role == "reg" else (0, "")
            ordered.setdefault(owner, []).append((ROLE_ORDER.get(role, 3), *by_prompt, not yes, name))
        self.parts: dict[str, list[Part]] = {
            owner: self._cut(owner, [row[-1] for row in sorted(rows)], page_above)
            for owner, rows in sorted(ordered.items())
        }
        self.page_of = {name: part.page for parts in self.parts.values() for part in parts for name in part.ids}

    def _cut(self, owner: str, ids: list[str], page_above: int) -> list[Part]:
        if not self.paged:
            return [Part(INDEX, tuple(ids))]
        # a slug may be `index`, so a subject's page never goes by the slug alone; a slug holds no dot
        stem = f"subject-{owner}" if kind_of(owner) == "subject" else owner
        starts = range(0, max(1, len(ids)), max(1, page_above))
        names = [f"{stem}.html", *(f"{stem}.{number}.html" for number in range(2, len(starts) + 1))]
        return [
            Part(name, tuple(ids[start : start + max(1, page_above)]))
            for name, start in zip(names, starts, strict=True)
        ]

    @property
    def owners(self) -> list[str]:
        """Subjects first, then the classes that share regular pictures, then the scenes."""
        order = ("subject", "class", "scenes")
        return sorted(self.parts, key=lambda owner: (order.index(kind_of(owner)), owner))

    def href(self, sample_id: str, page: str) -> str:
        """A link from a page to a sample, or nothing where the sample is not in the corpus."""
        target = self.page_of.get(sample_id)
        return "" if target is None else f"#{sample_id}" if target == page else f"{target}#{sample_id}"

    def owner_href(self, owner: str, page: str) -> str:
        """A link from a page to the section of an owner, or nothing where there is none."""
        if owner not in self.parts:
            return ""
        target = self.parts[owner][0].page
        return f"#{anchor(owner)}" if target == page else f"{target}#{anchor(owner)}"


def kind_of(owner: str) -> str:
    """Whether an owner is a subject, a class that shares regular pictures, or the scenes."""
    return "scenes" if owner == SCENES else "class" if owner.startswith("class-") else "subject"


def anchor(owner: str) -> str:
    """The element ID of an owner's section; the colon keeps it apart from sample IDs."""
    return f"{kind_of(owner)}:{owner}"
