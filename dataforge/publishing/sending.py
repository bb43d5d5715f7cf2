"""Publish a corpus: every byte checked, then its files, then the one commit that makes them the corpus."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dataforge.publishing.parcels import Parcel, parcels_of
from dataforge.publishing.targets import FolderTarget, S3Target, Target
from manifests.corpus import Corpus, open_corpus
from manifests.errors import IntegrityError, UsageError
from manifests.refs import Reference, parse_reference
from manifests.remote import connect
from manifests.validation import validate

__all__ = ["Published", "publish"]

OnProgress = Callable[[str, int, int], None]
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Published:
    """What publishing came to: where, which corpus, and the paths that were (or, in a dry run, would be) sent,
    deleted, and left as they were."""

    url: str
    place: str
    digest: str
    sent: tuple[Parcel, ...]
    deleted: tuple[str, ...]
    kept: int


def _silent(stage: str, done: int, total: int) -> None:
    del stage, done, total


def publish(
    corpus: str | Path,
    place: str,
    *,
    public: bool = False,
    allow_unknown_rights: bool = False,
    dry_run: bool = False,
    on_progress: OnProgress = _silent,
) -> Published:
    """Publish the corpus in a folder at `hf://datasets/USER/NAME`, `s3://BUCKET/KEY` or another folder.

    Only what is missing or changed there is sent; files of an earlier version go with the last step. On the Hub the
    repository is made private unless `public`, and the version is tagged with the corpus digest.
    Every byte is checked before the first is sent, in a dry run too. `on_progress` is called with "validate", pictures
    done and pictures in all, then with "publish", MiB done and MiB in all.

    Raises `UsageError` E506 for a subject whose licence or consent is not stated (unless `allow_unknown_rights`), E507
    where the place refuses; `IntegrityError` where the corpus is not whole; `OutputLocked` E521 where someone else
    published meanwhile; `EnvironmentFault` E513 where the place cannot be reached.
    """
    reference = parse_reference(place)
    if reference.ids or reference.revision:
        raise UsageError(f"{place}: publish to a place, without @revision and #IDs; the digest becomes the revision.")
    given = parse_reference(str(corpus))
    if given.is_remote or given.ids:
        raise UsageError(f"{corpus}: publish takes the folder of a whole corpus.")
    with open_corpus(given) as opened:
        if not allow_unknown_rights:
            _check_rights(opened)
        target = _target(reference, opened.root, public=public)
        _check_whole(opened.root, on_progress)  # last of the checks: it reads every byte
        with contextlib.nullcontext() if dry_run else target.held():
            return _publish(opened, target, dry_run=dry_run, on_progress=on_progress)


def _target(reference: Reference, root: Path, *, public: bool) -> Target:
    connect(reference)  # refuses what is no place
    if reference.place.startswith("hf://"):
        from dataforge.publishing.hub import HubTarget

        return HubTarget(reference.place, public=public)
    if public:
        raise UsageError("--public is for hf://; who may read a folder or bucket is decided there.")
    if reference.is_remote:
        return S3Target(reference.place)
    if Path(reference.place).resolve() == root.resolve():
        raise UsageError(f"{reference.place} is the corpus itself.")
    return FolderTarget(Path(reference.place))


def _check_whole(root: Path, on_progress: OnProgress) -> None:
    # what is derived is made again for the place
    problems = [p for p in validate(root, full=True, on_progress=on_progress) if p.code != "E407"]
    if problems:
        first = problems[0]
        more = f" and {len(problems) - 1} more problems" if len(problems) > 1 else ""
        raise IntegrityError(f"{first.where}: {first.detail.rstrip('.')}{more}; not published.", code=first.code)


def _check_rights(corpus: Corpus) -> None:
    unknown = [
        f"{subject.id} ({' and '.join(what)})"
        for subject in corpus.subjects.values()
        if (what := [name for name in ("licence", "consent") if not getattr(subject, name).strip()])
    ]
    if unknown:
        listed = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        raise UsageError(f"not stated: {listed}.", code="E506")


def _publish(corpus: Corpus, target: Target, *, dry_run: bool, on_progress: OnProgress) -> Published:
    # the card of a folder says nothing of where the folder is
    parcels = parcels_of(corpus, target.name if "://" in target.name else None)
    seen = target.look()

    def missing(group: tuple[Parcel, ...]) -> list[Parcel]:
        known = seen.files
        return [parcel for parcel in group if parcel.path not in known or not target.same(parcel, known[parcel.path])]

    body, last = missing(parcels.body), missing(parcels.last)
    stale = parcels.stale(seen.old)
    if not dry_run:
        done, total = 0, sum(parcel.size for parcel in (*body, *last))

        def sent(parcel: Parcel) -> None:
            nonlocal done
            done += parcel.size
            on_progress("publish", -(-done // MIB), max(1, -(-total // MIB)))

        if body:
            target.send(body, sent)
        target.commit(parcels, last, stale, seen)
        on_progress("publish", max(1, -(-total // MIB)), max(1, -(-total // MIB)))
    kept = len(parcels.body) + len(parcels.last) - len(body) - len(last)
    return Published(target.url, target.name, parcels.digest, (*body, *last), tuple(stale), kept)
