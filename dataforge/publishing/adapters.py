"""Publish an adapter folder as a model repository of the Hub: its record, its weights and its card in one commit.

An adapter names its corpus by digest, and a corpus is published under a tag of that digest. So where a card is to link
the dataset, the repository is looked at first: it must hold that very corpus.
https://huggingface.co/docs/hub/model-cards
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from dataforge.publishing.hub import Repository
from dataforge.publishing.parcels import Parcel
from dataforge.publishing.sending import Published
from manifests.errors import NotFoundError, UsageError
from manifests.fsops import check_relative, sha256_of_file
from manifests.ids import digest_of, sha256_hex
from manifests.refs import parse_reference
from manifests.remote import FsspecPlace, Place

__all__ = ["is_adapter", "publish_adapter"]

RECORD_NAME, CARD_NAME = "adapter.json", "README.md"
FRONT = re.compile(r"---\n(.*?)---\n", re.DOTALL)
OnProgress = Callable[[str, int, int], None]


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder is an adapter's and no corpus."""
    return (Path(folder) / RECORD_NAME).is_file()


def publish_adapter(
    adapter: str | Path,
    place: str,
    *,
    dataset: str | None = None,
    public: bool = False,
    dry_run: bool = False,
    on_progress: OnProgress = lambda *_: None,
) -> Published:
    """Publish the adapter in a folder at `hf://USER/NAME` and tag it with the digest of its record.

    `dataset` is where its corpus is published, `hf://datasets/USER/NAME`: the record and the card that are sent name
    it, and those in the folder stay as they are. Only what is missing there is sent; what the adapter before named and
    this one does not goes in the same commit. The repository is made private unless `public`.

    Raises `UsageError` E501 for places that are none, E505 without huggingface_hub, E603 for a folder that is no whole
    adapter or names places of this machine; `NotFoundError` E503 for a dataset that does not hold its corpus;
    `OutputLocked` E521 where someone else published meanwhile; `EnvironmentFault` E513 where the Hub cannot be reached.
    """
    found = re.fullmatch(r"hf://(?:models/)?([\w.-]+/[\w.-]+)", place)
    if found is None or found[1].startswith(("datasets/", "spaces/")):
        raise UsageError(f"{place}: an adapter is published at hf://USER/NAME.")
    folder = Path(adapter)
    record, made = checked_record(folder), dict[str, bytes]()
    if dataset is not None:
        record, made = _linked(folder, record, dataset)
    _check_places(folder, record)
    digest = digest_of(record)
    record_bytes = made.get(RECORD_NAME) or (folder / RECORD_NAME).read_bytes()
    parcels = [
        Parcel(file["path"], file["size"], file["sha256"], made.get(file["path"], folder / file["path"]))
        for file in record["files"]
    ]
    parcels.append(Parcel(RECORD_NAME, len(record_bytes), sha256_hex(record_bytes), record_bytes))
    repository = Repository(f"hf://{found[1]}", public=public)
    head = repository.head()
    there = repository.files(head) if head else {}
    new = [each for each in parcels if each.path not in there or not repository.same(each, there[each.path])]
    named = _named_in(FsspecPlace(repository.place, head)) if RECORD_NAME in there else set()
    stale = sorted(named & there.keys() - {parcel.path for parcel in parcels})
    if not dry_run:
        on_progress("publish", 0, 1)
        seen = there.get(RECORD_NAME, "")
        repository.commit(parcels, new, stale, (RECORD_NAME, seen), digest, f"Adapter {record['id']}")
        on_progress("publish", 1, 1)
    return Published(repository.url, repository.place, digest, tuple(new), tuple(stale), len(parcels) - len(new))


def _named_in(place: Place) -> set[str]:
    """The files that the record at a place names; none where it is no record."""
    try:
        record = json.loads(place.read(RECORD_NAME, 0, place.size(RECORD_NAME)))
        return {str(file["path"]) for file in record["files"]}
    except (ValueError, KeyError, TypeError):
        return set()


def checked_record(folder: Path) -> dict[str, Any]:
    """The record of an adapter, after each file it names is found to be that file. Raises `UsageError` E603."""
    try:
        record: dict[str, Any] = json.loads((folder / RECORD_NAME).read_bytes())
        files = [(str(file["path"]), (int(file["size"]), str(file["sha256"]))) for file in record["files"]]
        for path, _ in files:
            check_relative(path)
        _ = record["id"], record["base"]["model"], record["corpus"], record["corpus_digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{folder / RECORD_NAME} is no record of an adapter.", code="E603") from error
    for path, stated in files:
        if not (folder / path).is_file() or sha256_of_file(folder / path) != stated:
            raise UsageError(f"{folder / path} is not the file that {RECORD_NAME} names.", code="E603")
    return record


def _check_places(folder: Path, record: Mapping[str, Any]) -> None:
    for place in (*str(record["base"]["model"]).split("+fooocus="), str(record["corpus"])):
        if "://" not in place and place.startswith(("/", ".", "~")):
            raise UsageError(f"{folder / RECORD_NAME} names {place}, a folder of this machine.", code="E603")


def _linked(folder: Path, record: dict[str, Any], dataset: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The record that names the published corpus, once that is found to be the one that was trained on, and the bytes
    of the files that change with it."""
    reference = parse_reference(dataset)
    if re.fullmatch(r"hf://datasets/[\w.-]+/[\w.-]+", reference.place) is None or reference.ids or reference.revision:
        raise UsageError(f"{dataset}: --dataset takes hf://datasets/USER/NAME.")
    digest = str(record["corpus_digest"])
    try:
        Repository(reference.place, public=False).ask("repo_info", revision=digest)
    except NotFoundError as error:
        raise NotFoundError(f"{dataset} holds no corpus {digest[:12]}, which the adapter was trained on.") from error
    ids = parse_reference(str(record["corpus"])).ids
    made: dict[str, bytes] = {}
    files = []
    for file in record["files"]:
        if file["path"] == CARD_NAME:
            name = reference.place.removeprefix("hf://datasets/")
            card = linked_card((folder / CARD_NAME).read_text("utf-8"), name, digest).encode()
            made[CARD_NAME] = card
            file = {**file, "size": len(card), "sha256": sha256_hex(card)}
        files.append(file)
    named = f"{reference.place}@{digest}" + (f"#{','.join(ids)}" if ids else "")
    record = {**record, "corpus": named, "files": files}
    made[RECORD_NAME] = f"{json.dumps(record, indent=1, ensure_ascii=False)}\n".encode()
    return record, made


def linked_card(text: str, dataset: str, digest: str) -> str:
    """A model card with the dataset `USER/NAME` in its front matter, which the Hub links, and in its corpus line."""
    front = FRONT.match(text)
    values = dict(yaml.safe_load(front[1]) or {}) if front else {}
    head = yaml.safe_dump({**values, "datasets": [dataset]}, sort_keys=False, allow_unicode=True)
    body = text[front.end() :] if front else text
    link = f"- corpus [`{dataset}`](https://huggingface.co/datasets/{dataset}), digest `{digest[:16]}`"
    return f"---\n{head}---\n" + re.sub(r"^- corpus .*$", lambda _: link, body, count=1, flags=re.MULTILINE)
