"""What was given, understood: subjects with their photographs, given boxes and masks, and scenes.

folder/                     one folder a subject; `scenes/` holds scenes; subjects.csv and overrides.yaml are read
folder/<subject>/images, masks            photographs and masks by name (DreamMix's layout)
folder/prompts_and_classes.txt            class nouns (the DreamBooth data set)
folder/<Class>/bg/bbox.txt, fg1, fg2, ..  MureCom: scenes with inclusive boxes, objects with masks by name
subjects.csv                subject, class_noun [, folder, licence, credit, consent]
subjects.yaml               see docs/how-to/inputs.md
"""

from __future__ import annotations

import csv
import difflib
import glob
import io
import os
import re
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from dataforge.ingest.listing import ListedSubject, Listing, read_listing
from dataforge.ingest.names import escape_name, unescape_name
from dataforge.ingest.scan import FoundFile, ignored_rule, match_glob, scan
from manifests.errors import Fault, NotFoundError, UsageError
from manifests.fsops import check_relative, open_below
from manifests.ids import SCENES, slug
from manifests.overrides import Overrides, parse_overrides
from manifests.records import LedgerRow

__all__ = ["Inputs", "PhotographSource", "SceneSource", "SubjectSource", "read_inputs"]

IMAGE_FOLDERS = frozenset({"image", "images"})
Status = Literal["accepted", "alias", "ignored", "quarantined"]
MASK_FOLDERS = frozenset({"mask", "masks"})
OVERRIDES_NAME = "overrides.yaml"
BOXES_NAME = "bbox.txt"


@dataclass(slots=True)
class PhotographSource:
    """A photograph of a subject and what a person said of it. A given box or mask names who gave it."""

    file: FoundFile
    box: tuple[float, ...] | None = None
    mask: FoundFile | None = None
    box_by: str = "given"
    mask_by: str = "given"
    caption: str | None = None


@dataclass(slots=True)
class SceneSource:
    """A picture to paint into; `box` is the default target, half-open pixels, None for the middle of the picture."""

    file: FoundFile
    class_noun: str
    box: tuple[float, ...] | None


# one for all subjects that have none
NO_OVERRIDES = Overrides()
TABLE_COLUMNS = ("subject", "class_noun", "licence", "credit", "consent", "folder")


@dataclass(slots=True)
class SubjectSource:
    """A subject as given."""

    slug: str
    name: str
    class_noun: str
    class_noun_origin: str
    licence: str = ""
    credit: str = ""
    consent: str = ""
    overrides: Overrides = field(default_factory=lambda: NO_OVERRIDES)
    photographs: list[PhotographSource] = field(default_factory=list)


@dataclass(slots=True)
class Inputs:
    """All that was given.

    `settled` holds the ledger rows of files that are no photograph; `files_found` was counted while files were
    listed, apart from what became of them.
    """

    root: Path
    subjects: list[SubjectSource]
    scenes: list[SceneSource]
    settled: list[LedgerRow]
    warnings: list[str]
    files_found: int


def read_inputs(given: Path) -> Inputs:
    """Understand a folder of folders, a `subjects.yaml` or a `subjects.csv`.

    Raises `UsageError` where a listing or overrides file is wrong (E502), two subjects end on one slug (E302), or
    nothing is found (E503).
    """
    if given.is_dir():
        inputs = _Reader(given).folder_of_folders()
    elif not given.exists():
        raise NotFoundError(f"{given} does not exist.")
    elif given.suffix.lower() in (".yaml", ".yml"):
        inputs = _Reader(given.parent).listing(given)
    elif given.suffix.lower() == ".csv":
        inputs = _Reader(given.parent).table(given)
    else:
        raise UsageError(f"{given.name} is neither a folder nor a .yaml or .csv listing.")
    if not inputs.subjects and not inputs.scenes:
        loose = sum(row.rule == "outside-a-subject-folder" for row in inputs.settled)
        hint = f" Its {loose} files lie loose: put them into one folder per subject." if loose else ""
        raise NotFoundError(f"{given} holds no subject folders.{hint}")
    by_slug: dict[str, SubjectSource] = {}
    for subject in inputs.subjects:
        other = by_slug.setdefault(subject.slug, subject)
        if other is not subject:
            raise UsageError(f'"{other.name}" and "{subject.name}" both become {subject.slug}.', code="E302")
    return inputs


def noun_from_name(name: str) -> str:
    """`Coffee_cup` to `coffee cup`, `dog6` to `dog`."""
    words = re.sub(r"[\W_]+", " ", name).strip().lower()
    return re.sub(r"\s*\d+$", "", words) or words or "thing"


class _Reader:
    """Reads one root; collects ledger rows and warnings on the way."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._settled: list[LedgerRow] = []
        self._seen: dict[str, FoundFile] = {}
        self._warnings: list[str] = []
        self._rows: dict[str, dict[str, str]] = {}
        self._row_origin = "subjects.csv"
        self._rows_used: set[str] = set()

    # folders -----------------------------------------------------------------------------------------------------

    def folder_of_folders(self) -> Inputs:
        files = self._without_ignored(self._scan())
        self._read_tables(files)
        if any(file.path == f"bg/{BOXES_NAME}" for file in files):  # the folder is one MureCom class itself
            subjects, scenes = self._murecom_class(self._root.name, "", files)
            return self._inputs(subjects, scenes)
        groups: dict[str, list[FoundFile]] = defaultdict(list)
        for file in files:
            top, mark, _ = file.path.partition("/")
            if mark:
                groups[top].append(file)
            elif not file.regular:
                fault = "a link in place of a subject folder; links are never followed"
                self._settled.append(_row(file, "other", "quarantined", code="E101", detail=fault))
                self._warnings.append(f"{file.path} is a link and is not followed; give the folder itself")
            elif not self._is_listing(file):
                self._ignore(file, "outside-a-subject-folder")
        for folder in sorted(self._empty_folders() - groups.keys()):
            groups[folder] = []
        subjects, scenes = [], []
        for name, group in sorted(groups.items()):
            if any(file.path == f"{name}/bg/{BOXES_NAME}" for file in group):
                more_subjects, more_scenes = self._murecom_class(name, f"{name}/", group)
                subjects += more_subjects
                scenes += more_scenes
            elif name == SCENES:
                scenes += self._scenes(f"{name}/", group, class_noun="")
            else:
                subjects.append(self._subject(name, f"{name}/", group))
        return self._inputs(subjects, scenes)

    def _scan(self, below: str = "") -> list[FoundFile]:
        files = scan(self._root, below)
        self._seen |= {file.path: file for file in files}
        return files

    def _empty_folders(self) -> set[str]:
        """Top folders, so that one without photographs is reported and not forgotten."""
        return {
            escape_name(path.name)
            for path in self._root.iterdir()
            if path.is_dir() and not path.is_symlink() and not path.name.startswith(".") and path.name != "__MACOSX"
        }

    def _inputs(self, subjects: list[SubjectSource], scenes: list[SceneSource]) -> Inputs:
        """Settle what is left: a file in use has its row from the build, any other the first thing said of it."""
        photographs = [photo for subject in subjects for photo in subject.photographs]
        used = {photo.file.path for photo in photographs} | {photo.mask.path for photo in photographs if photo.mask}
        used |= {scene.file.path for scene in scenes}
        settled: dict[str, LedgerRow] = {}
        for row in self._settled:
            if row.path not in used:
                settled.setdefault(row.path, row)
        for name in sorted(self._rows.keys() - self._rows_used):
            self._warnings.append(f"{self._row_origin} lists {name}, and there is no folder of that name")
        by_slug = sorted(subjects, key=lambda subject: subject.slug)
        return Inputs(self._root, by_slug, scenes, list(settled.values()), self._warnings, len(self._seen))

    def _subject(
        self, name: str, prefix: str, files: list[FoundFile], *, noun: tuple[str, str] | None = None
    ) -> SubjectSource:
        """A subject from the files of its folder; `images/` and `masks/` inside it are understood."""
        row = self._row_of(name)
        listed = (row["class_noun"], self._row_origin) if row.get("class_noun") else None
        class_noun, origin = listed or noun or (noun_from_name(name), "folder")
        subject = SubjectSource(
            slug(name),
            name,
            class_noun,
            origin,
            row.get("licence", ""),
            row.get("credit", ""),
            row.get("consent", ""),
        )
        inner = {
            file.path.removeprefix(prefix).split("/")[0].lower()
            for file in files
            if "/" in file.path.removeprefix(prefix)
        }
        has_masks = bool(inner & MASK_FOLDERS and inner & IMAGE_FOLDERS)
        masks: dict[str, FoundFile] = {}
        pictures: list[FoundFile] = []
        overrides: FoundFile | None = None
        for file in files:
            relative = file.path.removeprefix(prefix)
            if relative == OVERRIDES_NAME:
                overrides = file
            elif has_masks and relative.split("/")[0].lower() in MASK_FOLDERS and "/" in relative:
                if masks.setdefault(file.stem, file) is not file:
                    self._refuse_mask(file, slug(name), "another mask of that name comes first")
            elif rule := ignored_rule(file):
                self._ignore(file, rule)
            else:
                pictures.append(file)
        subject.photographs = [PhotographSource(file) for file in pictures]
        self._pair_masks(subject, masks)
        if overrides is not None:
            self._apply_overrides(subject, prefix, overrides, {file.path: file for file in files})
        return subject

    def _row_of(self, name: str) -> dict[str, str]:
        """The table's row for a folder, whichever way its accents are composed."""
        wanted = unicodedata.normalize("NFC", unescape_name(name))
        for listed, row in self._rows.items():
            if unicodedata.normalize("NFC", listed) == wanted:
                self._rows_used.add(listed)
                return row
        return {}

    def _pair_masks(self, subject: SubjectSource, masks: dict[str, FoundFile]) -> None:
        """Give masks to photographs by file name; a mask that fits none is reported."""
        for photo in subject.photographs:
            mask = masks.pop(photo.file.stem, None)
            if photo.mask is None:
                photo.mask = mask
            elif mask is not None and mask.path != photo.mask.path:
                self._ignore(mask, "replaced-by-overrides")
        for mask in masks.values():
            self._refuse_mask(mask, subject.slug, "no photograph of that name")

    def _refuse_mask(self, mask: FoundFile, subject: str, why: str) -> None:
        self._settled.append(_row(mask, "mask", "quarantined", subject=subject, code="E204", detail=why))

    def _apply_overrides(
        self, subject: SubjectSource, prefix: str, file: FoundFile, files: dict[str, FoundFile]
    ) -> None:
        overrides = _escaped(parse_overrides(self._text(file), where=file.path))
        subject.overrides = overrides
        if overrides.class_noun:
            subject.class_noun, subject.class_noun_origin = overrides.class_noun, "overrides"
        by_name = {photo.file.path.removeprefix(prefix): photo for photo in subject.photographs}
        missing = [
            name
            for name in [*overrides.drop, *overrides.boxes, *overrides.masks, *overrides.caption]
            if name not in by_name
        ]
        for name, box in overrides.boxes.items():
            if name in by_name:
                by_name[name].box, by_name[name].box_by = box, "override"
        for name, caption in overrides.caption.items():
            if name in by_name:
                by_name[name].caption = caption
        unclaimed = []
        for name, mask_name in overrides.masks.items():
            mask = files.get(prefix + mask_name)
            if mask is None:
                missing.append(mask_name)
                continue
            others = [photo for photo in subject.photographs if photo.file is not mask]
            if name in by_name:
                if by_name[name].mask is not None:
                    self._ignore(by_name[name].mask, "replaced-by-overrides")
                by_name[name].mask, by_name[name].mask_by = mask, "override"
            elif len(others) < len(subject.photographs):
                unclaimed.append(mask)
            subject.photographs = others  # never a photograph, whoever it is for
        for mask in unclaimed:
            if all(photo.mask is not mask for photo in subject.photographs):
                self._ignore(mask, "mask-of-no-photograph")
        for name in overrides.drop:
            if name in by_name:
                dropped = by_name[name]
                subject.photographs = [photo for photo in subject.photographs if photo is not dropped]
                self._ignore(dropped.file, "dropped-by-overrides")
                if dropped.mask is not None:
                    self._ignore(dropped.mask, "dropped-by-overrides")
        self._settled.append(_row(file, "overrides", "accepted", subject=subject.slug))
        for name in missing:
            self._warnings.append(f"{file.path} names {name}, which is not there")

    def _text(self, file: FoundFile) -> bytes:
        """A file a person wrote, at most 1 MiB and no link. Raises `UsageError` E502."""
        try:
            with os.fdopen(open_below(self._root, unescape_name(file.path)), "rb") as opened:
                return opened.read((1 << 20) + 1)
        except (OSError, ValueError) as error:
            raise UsageError(f"{file.path} cannot be read: {error}.", code="E502") from error

    # MureCom -----------------------------------------------------------------------------------------------------

    def _murecom_class(
        self, name: str, prefix: str, files: list[FoundFile]
    ) -> tuple[list[SubjectSource], list[SceneSource]]:
        noun = noun_from_name(name)
        groups: dict[str, list[FoundFile]] = defaultdict(list)
        for file in files:
            inner, mark, _ = file.path.removeprefix(prefix).partition("/")
            if mark:
                groups[inner].append(file)
            elif not self._is_listing(file):
                self._ignore(file, "outside-a-subject-folder")
        scenes = self._scenes(f"{prefix}bg/", groups.pop("bg"), class_noun=noun)
        subjects = []
        for inner, group in sorted(groups.items()):
            masks = {file.stem: file for file in group if file.path.lower().endswith(".png") and _has_twin(file, group)}
            rest = [file for file in group if file not in masks.values()]
            subject = self._subject(f"{name}-{inner}", f"{prefix}{inner}/", rest, noun=(noun, "folder"))
            self._pair_masks(subject, masks)
            subjects.append(subject)
        return subjects, scenes

    def _scenes(self, prefix: str, files: list[FoundFile], *, class_noun: str) -> list[SceneSource]:
        boxes: dict[str, tuple[float, ...]] = {}
        for file in files:
            if file.path == prefix + BOXES_NAME:
                boxes = _murecom_boxes(self._text(file).decode("utf-8", "replace"), file.path)
                self._settled.append(_row(file, "listing", "accepted"))
        scenes = []
        for file in files:
            if file.path == prefix + BOXES_NAME:
                continue
            if rule := ignored_rule(file):
                self._ignore(file, rule)
            else:
                scenes.append(SceneSource(file, class_noun, boxes.get(file.path.removeprefix(prefix))))
        return scenes

    # listings ----------------------------------------------------------------------------------------------------

    def _read_tables(self, files: list[FoundFile]) -> None:
        """Class nouns and licences from a table inside the folder, or beside it under the folder's own name."""
        inside = self._root / "subjects.csv"
        beside = self._root.parent / f"{self._root.name}.csv"
        classes = self._root / "prompts_and_classes.txt"
        for file in files:
            if self._is_listing(file):
                self._settled.append(_row(file, "listing", "accepted"))
        if inside.is_file():
            self._rows = self._table(inside)
        elif beside.is_file():
            self._rows = self._table(beside)
        elif classes.is_file():
            self._rows, self._row_origin = _dreambooth_classes(classes), "tree"

    def _table(self, path: Path) -> dict[str, dict[str, str]]:
        rows = _read_table(path)
        unknown = sorted({column for row in rows.values() for column in row} - set(TABLE_COLUMNS))
        for column in unknown:
            near = difflib.get_close_matches(column, TABLE_COLUMNS, 1)
            meant = f"did you mean {near[0]}?" if near else f"known are {', '.join(TABLE_COLUMNS)}"
            self._warnings.append(f"{path.name} has a column {column!r}, which is not read: {meant}")
        return rows

    def _is_listing(self, file: FoundFile) -> bool:
        return file.path in ("subjects.csv", "prompts_and_classes.txt")

    def table(self, path: Path) -> Inputs:
        """Subjects from a CSV: folders beside it, or in a folder of the CSV's own name."""
        self._rows = self._table(path)
        self._settled.append(_row(self._see(path.name), "listing", "accepted"))
        subjects = []
        folders: dict[str, str] = {}
        for name, row in self._rows.items():
            candidates = [row["folder"]] if row.get("folder") else [name, f"{path.stem}/{name}"]
            candidates = [check_listed(candidate, path.name) for candidate in candidates]
            folder = next((c for c in candidates if (self._root / c).is_dir()), None)
            if folder is None:
                raise UsageError(f"{path.name}: no folder {' or '.join(candidates)} for subject {name}.", code="E502")
            for other, owner in folders.items():
                if f"{folder}/".startswith(f"{other}/") or f"{other}/".startswith(f"{folder}/"):
                    raise UsageError(f"{path.name}: {owner} and {name} share the folder {folder}.", code="E502")
            folders[folder] = name
            files = self._without_ignored(self._scan(folder))
            subjects.append(self._subject(escape_name(name), f"{escape_name(folder)}/", files))
        return self._inputs(subjects, [])

    def listing(self, path: Path) -> Inputs:
        """Subjects and scenes from a YAML listing."""
        listing = read_listing(path)
        self._settled.append(_row(self._see(path.name), "listing", "accepted"))
        taken: dict[str, str] = {path.name: "the listing"}
        subjects = [self._listed_subject(item, listing, path.name, taken) for item in listing.subjects]
        scenes = []
        for number, item in enumerate(listing.scenes):
            boxes = {escape_name(name): box for name, box in item.boxes.items()}
            found = self._matching(item.photographs, path.name)
            own = [file for file in found if self._take(file, f"scenes {number}", taken)]
            scenes += [SceneSource(file, item.class_noun, boxes.pop(file.path, None)) for file in own]
            self._warn_unmatched(path.name, boxes)
        return self._inputs(subjects, scenes)

    def _listed_subject(
        self, item: ListedSubject, listing: Listing, where: str, taken: dict[str, str]
    ) -> SubjectSource:
        defaults = listing.defaults
        subject = SubjectSource(
            slug(item.name),
            escape_name(item.name),
            item.class_noun or noun_from_name(item.name),
            "subjects.yaml" if item.class_noun else "folder",
            item.licence or defaults.licence,
            item.credit or defaults.credit,
            item.consent or defaults.consent,
        )
        files = self._matching(item.photographs or [f"{glob.escape(item.name)}/**"], where)
        listed_masks = item.masks if isinstance(item.masks, dict) else {}
        given_masks = {escape_name(name): mask for name, mask in listed_masks.items()}
        boxes = {escape_name(name): box for name, box in item.boxes.items()}
        mask_paths = {escape_name(mask) for mask in given_masks.values()}
        if isinstance(item.masks, str):
            mask_paths = {item.masks.replace("{stem}", file.stem) for file in files}
        folders = sorted({file.folder for file in files})
        overrides_path = item.overrides or next(
            (f"{folder}/{OVERRIDES_NAME}" for folder in folders if (self._root / folder / OVERRIDES_NAME).is_file()),
            None,
        )
        for file in files:
            if file.path in mask_paths or file.path == overrides_path or not self._take(file, item.name, taken):
                continue
            if rule := ignored_rule(file):
                self._ignore(file, rule)
                continue
            mask_path = given_masks.pop(file.path, None)
            if isinstance(item.masks, str):
                mask_path = item.masks.replace("{stem}", file.stem)
            there = mask_path is not None and (self._root / check_listed(mask_path, where)).is_file()
            mask = self._see(mask_path) if mask_path is not None and there else None
            if mask_path and mask is None and isinstance(item.masks, dict):
                self._warnings.append(f"{where} names {mask_path}, which is not there")
            if mask is not None and not self._take(mask, item.name, taken):
                mask = None
            subject.photographs.append(PhotographSource(file, boxes.pop(file.path, None), mask))
        self._warn_unmatched(where, [*boxes, *given_masks])
        for file in files:
            if file.path in mask_paths:  # one that serves a photograph has a row of its own and drops this one
                self._refuse_mask(file, subject.slug, "no photograph of that name")
        if overrides_path:
            self._see(overrides_path)
            folder = PurePosixPath(overrides_path).parent.as_posix()
            prefix = "" if folder == "." else f"{folder}/"
            inside = {file.path: file for file in self._without_ignored(scan(self._root, folder), quiet=True)}
            if overrides_path not in inside:
                raise UsageError(f"{where}: {overrides_path} is not there.", code="E502")
            self._apply_overrides(subject, prefix, inside[overrides_path], inside)
        return subject

    def _see(self, relative: str) -> FoundFile:
        """A file named one by one."""
        file = _found(self._root, relative)
        self._seen[file.path] = file
        return file

    def _matching(self, patterns: Iterable[str], where: str) -> list[FoundFile]:
        found: dict[str, FoundFile] = {}
        for pattern in patterns:
            check_listed(pattern, where)
            literal = PurePosixPath(*_literal_folders(pattern)).as_posix()
            folder = "" if literal == "." else literal
            if (self._root / folder).is_dir():
                found |= {
                    file.path: file
                    for file in scan(self._root, folder)
                    if match_glob(pattern, unescape_name(file.path))
                }
        if not found:
            self._warnings.append(f"{where}: nothing matches {', '.join(patterns)}")
        self._seen |= found
        return self._without_ignored([found[path] for path in sorted(found)])

    def _take(self, file: FoundFile, owner: str, taken: dict[str, str]) -> bool:
        """Claim a file for one owner; a second claim is a warning, so that no file is counted twice."""
        other = taken.setdefault(file.path, owner)
        if other != owner:
            self._warnings.append(f"{file.path} is listed for {other} and for {owner}; it goes to {other}")
        return other == owner

    def _warn_unmatched(self, where: str, names: Iterable[str]) -> None:
        self._warnings.extend(f"{where} names {name}, which is not among the photographs" for name in names)

    # ledger ------------------------------------------------------------------------------------------------------

    def _without_ignored(self, files: list[FoundFile], *, quiet: bool = False) -> list[FoundFile]:
        """Settle what is never looked at: hidden files, archive leftovers."""
        kept = []
        for file in files:
            rule = ignored_rule(file)
            if rule and not rule.startswith("not-a-picture"):
                if not quiet:
                    self._ignore(file, rule)
            else:
                kept.append(file)
        return kept

    def _ignore(self, file: FoundFile | None, rule: str) -> None:
        if file is not None:
            self._settled.append(_row(file, "other", "ignored", rule=rule))


def _escaped(overrides: Overrides) -> Overrides:
    """The overrides with file names as the ledger spells them."""
    return overrides.model_copy(
        update={
            "drop": [escape_name(name) for name in overrides.drop],
            "boxes": {escape_name(name): box for name, box in overrides.boxes.items()},
            "masks": {escape_name(name): escape_name(mask) for name, mask in overrides.masks.items()},
            "caption": {escape_name(name): text for name, text in overrides.caption.items()},
        }
    )


def _row(
    file: FoundFile,
    kind: str,
    status: Status,
    *,
    subject: str = "",
    rule: str = "",
    code: str = "",
    detail: str = "",
) -> LedgerRow:
    sentence = Fault(code, detail).sentence if code else ""
    return LedgerRow(
        path=file.path,
        kind=kind,
        status=status,
        subject=subject,
        rule=rule,
        code=code,
        sentence=sentence,
        size=file.size,
    )


def _found(root: Path, relative: str) -> FoundFile:
    status = (root / relative).lstat()
    return FoundFile(escape_name(relative), status.st_size, status.st_mtime_ns, stat.S_ISREG(status.st_mode))


def _has_twin(file: FoundFile, group: list[FoundFile]) -> bool:
    return any(
        other.stem == file.stem and other is not file and not other.path.lower().endswith(".png") for other in group
    )


def _literal_folders(pattern: str) -> list[str]:
    literal = []
    for part in pattern.split("/")[:-1]:
        if any(mark in part for mark in "*?["):
            break
        literal.append(part)
    return literal


def check_listed(text: str, where: str) -> str:
    """A path from a listing, relative and below it. Raises `UsageError` E502."""
    try:
        return check_relative(text).as_posix()
    except ValueError as error:
        raise UsageError(
            f"{where}: {error}; paths are relative to the listing and stay below it.", code="E502"
        ) from error


def _murecom_boxes(text: str, where: str) -> dict[str, tuple[float, ...]]:
    """`<Class> N.jpg x1 y1 x2 y2`, pixels, inclusive ends (DreamCom's MureCom), to half-open boxes by file name."""
    boxes: dict[str, tuple[float, ...]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        parts = line.split()
        if not parts:
            continue
        try:
            *_, name, x0, y0, x1, y1 = parts
            boxes[name] = (float(x0), float(y0), float(x1) + 1, float(y1) + 1)
        except ValueError as error:
            raise UsageError(
                f"{where} line {number}: expected `<class> <file> x1 y1 x2 y2`, found {line[:60]!r}.",
                code="E502",
            ) from error
    return boxes


def _read_table(path: Path) -> dict[str, dict[str, str]]:
    """Rows of a subjects.csv by subject. Raises `UsageError` E502 for a missing column, an empty or a doubled name."""
    reader = csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig", "replace")))
    if not reader.fieldnames or "subject" not in reader.fieldnames:
        raise UsageError(f"{path.name} line 1: no column `subject`.", code="E502")
    rows: dict[str, dict[str, str]] = {}
    for row in reader:
        name = (row["subject"] or "").strip()
        if not name or name in rows:
            raise UsageError(
                f"{path.name} line {reader.line_num}: subject {name!r} is {'doubled' if name else 'empty'}.",
                code="E502",
            )
        rows[name] = {
            key: (value or "").strip()
            for key, value in row.items()
            if isinstance(key, str) and isinstance(value, str | None)
        }
    return rows


def _dreambooth_classes(path: Path) -> dict[str, dict[str, str]]:
    """Subject and class from the DreamBooth data set's prompts_and_classes.txt (`subject,class` under `Classes`)."""
    rows: dict[str, dict[str, str]] = {}
    for line in path.read_text("utf-8", "replace").splitlines():
        name, mark, noun = line.strip().partition(",")
        if mark and re.fullmatch(r"[\w-]+", name) and re.fullmatch(r"[a-z][a-z -]*", noun) and name != "subject_name":
            rows[name] = {"class_noun": noun}
    return rows
