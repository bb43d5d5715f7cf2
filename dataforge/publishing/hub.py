"""The Hub: repositories, and a dataset repository as a target. The one module that knows `huggingface_hub`, imported
when it is used.

Files named by content are uploaded one by one and committed in batches, so that a killed run has lost at most the one
on its way; header, manifest, card and what is deleted go in one last commit on the commit that was seen, and a tag with
the corpus digest names it. https://huggingface.co/docs/huggingface_hub/guides/upload
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from dataforge.publishing.parcels import OURS, Parcel, Parcels
from dataforge.publishing.targets import OnSent, Standing, header_at
from manifests.errors import NotFoundError, OutputLocked, UsageError
from manifests.header import HEADER_NAME
from manifests.patience import patiently
from manifests.refs import Reference

__all__ = ["HubTarget", "Repository"]

# a commit names this many files or bytes at most: what a killed run has to name again
BATCH_FILES = 50
BATCH_BYTES = 4 << 30


class Repository:
    """A dataset repository, `hf://datasets/USER/NAME`, or a model repository, `hf://USER/NAME`.

    It is made private unless `public`. Large files are known there by sha256, small ones by git's object ID.
    """

    def __init__(self, place: str, *, public: bool) -> None:
        try:
            import huggingface_hub
            from huggingface_hub.hf_api import RepoFile
            from huggingface_hub.utils.tqdm import disable_progress_bars
        except ImportError as error:
            raise UsageError("hf:// needs huggingface_hub: `pip install 'dataforge[hub]'`.", code="E505") from error
        # our own bar counts all files; theirs would count each
        disable_progress_bars()
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        self.place = place.rstrip("/")
        path = self.place.removeprefix("hf://")
        self._name = path.removeprefix("datasets/")
        self._kind = "model" if path == self._name else "dataset"
        self._public = public
        self._api: Any = huggingface_hub.HfApi()
        self._hub = huggingface_hub
        self._file_kind = RepoFile
        self._made = False
        self.url = f"{self._api.endpoint}/{path}"

    def ask(self, method: str, **arguments: Any) -> Any:
        """What a method of the client answers about this repository."""
        call = getattr(self._api, method)
        return patiently(lambda: call(repo_id=self._name, repo_type=self._kind, **arguments), self.place)

    def head(self) -> str | None:
        """The newest commit, or None where there is no repository yet.

        Raises `UsageError` E501 where the repository is public and should not be, or the other way round.
        """
        try:
            info = self.ask("repo_info")
        except NotFoundError:
            return None
        if not info.private and not self._public:
            raise UsageError(f"{self.place} is public; say --public if that is meant.")
        if info.private and self._public:
            raise UsageError(f"{self.place} is private: make it public on the Hub first, or leave out --public.")
        self._made = True
        return str(info.sha)

    def files(self, revision: str) -> dict[str, str]:
        """Paths of a revision, with what their content is known by."""

        def walk() -> list[Any]:
            return list(self._api.list_repo_tree(self._name, recursive=True, revision=revision, repo_type=self._kind))

        files = [item for item in patiently(walk, self.place) if isinstance(item, self._file_kind)]
        return {file.path: file.lfs.sha256 if file.lfs else file.blob_id for file in files}

    def same(self, parcel: Parcel, known: str) -> bool:
        """Whether what is known there by that is the parcel."""
        return known == (parcel.sha256 if len(known) == 64 else parcel.digest("git"))

    def make(self) -> None:
        """Create the repository, where it is not there."""
        if not self._made:
            self.ask("create_repo", private=not self._public, exist_ok=True)
            self._made = True

    def upload(self, parcel: Parcel) -> Any:
        """Send the bytes of a large file; what is to be committed."""
        source = parcel.checked()
        addition = self._hub.CommitOperationAdd(
            path_in_repo=parcel.path, path_or_fileobj=source if isinstance(source, bytes) else str(source)
        )
        # one upload at a time: of a killed run, one file at most is on its way
        self.ask("preupload_lfs_files", additions=[addition], num_threads=1)
        return addition

    def commit(
        self,
        parcels: Sequence[Parcel],
        last: Sequence[Parcel],
        stale: Sequence[str],
        header: tuple[str, str],
        tag: str,
        title: str,
    ) -> None:
        """Put `last` there and take `stale` away in one commit, so that `parcels` are what is there; then tag it.

        Raises `OutputLocked` E521 where the header (its path, and what it was known by) is another by now, or one of
        the other parcels is gone. The commit holds for the very tree that was looked at.
        """
        self.make()
        additions = [self.upload(parcel) for parcel in last]
        path, seen = header
        while True:
            head = str(self.ask("repo_info").sha)
            there = self.files(head)
            missing = [parcel for parcel in parcels if not self._holds(there, parcel)]
            if not missing and not there.keys() & set(stale):
                break  # nothing to do; or the answer to our commit was lost on the way
            if there.get(path, "") != seen:
                raise OutputLocked(f"{self.place}.", code="E521")
            gone = [parcel.path for parcel in missing if parcel not in last]
            if gone:
                raise OutputLocked(f"{self.place}: {gone[0]} is no longer there.", code="E521")
            deletions = [self._hub.CommitOperationDelete(path_in_repo=each) for each in stale if each in there]
            operations = [*additions, *deletions]
            with contextlib.suppress(OutputLocked):  # a commit came in between: look again
                made = self.ask("create_commit", operations=operations, commit_message=title, parent_commit=head)
                head = str(made.oid)
                break
        self.ask("create_tag", tag=tag, revision=head, exist_ok=True, tag_message=title)

    def _holds(self, there: Mapping[str, str], parcel: Parcel) -> bool:
        return parcel.path in there and self.same(parcel, there[parcel.path])


class HubTarget:
    """A dataset repository."""

    def __init__(self, place: str, *, public: bool) -> None:
        self._repository = Repository(place, public=public)
        self.name, self.url = self._repository.place, self._repository.url

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Nothing can be held on the Hub; `commit` finds out."""
        return contextlib.nullcontext()

    def look(self) -> Standing:
        """What is there.

        Old are the files that the header there names, and what was never named and lay there before that header did.
        """
        head = self._repository.head()
        if head is None:
            return Standing()
        files = self._repository.files(head)
        header = header_at(Reference(self.name, head, ()))
        if header is None:
            return Standing(files, files.get(HEADER_NAME, ""))
        old = {entry.path for entry in header.header.files}
        if any(OURS.fullmatch(path) for path in files.keys() - old):
            with contextlib.suppress(NotFoundError):
                old.update(self._repository.files(header.digest))  # the tag of that version
        return Standing(files, files[HEADER_NAME], frozenset(old & files.keys()))

    def same(self, parcel: Parcel, known: str) -> bool:
        """By sha256 for a large file, by git's object ID for a small one."""
        return self._repository.same(parcel, known)

    def send(self, parcels: Sequence[Parcel], on_sent: OnSent) -> None:
        """Upload each file by itself, and commit them in batches."""
        self._repository.make()
        batch: list[Any] = []
        held = 0
        for parcel in parcels:
            batch.append(self._repository.upload(parcel))
            held += parcel.size
            if len(batch) >= BATCH_FILES or held >= BATCH_BYTES or parcel is parcels[-1]:
                self._repository.ask("create_commit", operations=batch, commit_message="Files of a corpus to come")
                batch, held = [], 0
            on_sent(parcel)

    def commit(self, parcels: Parcels, last: Sequence[Parcel], stale: Sequence[str], seen: Standing) -> None:
        """One commit on the commit that is there now, if its header is still the one that was seen; then the tag."""
        everything = (*parcels.body, *parcels.last)
        title = f"Corpus {parcels.digest[:12]}"
        self._repository.commit(everything, last, stale, (HEADER_NAME, seen.mark), parcels.digest, title)
