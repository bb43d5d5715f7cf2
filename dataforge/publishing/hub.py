"""The Hub as a target: the one module that knows `huggingface_hub`, imported when it is used.

Files named by content are uploaded one by one and committed in batches, so that a killed run has lost at most the one
on its way; header, manifest, card and what is deleted go in one last commit on the commit that was seen, and a tag with
the corpus digest names it. https://huggingface.co/docs/huggingface_hub/guides/upload
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import Any

from dataforge.publishing.parcels import Parcel
from dataforge.publishing.targets import OnSent, Standing
from manifests.errors import NotFoundError, OutputLocked, UsageError
from manifests.header import HEADER_NAME
from manifests.remote import patiently

__all__ = ["HubTarget"]

# a commit names this many files or bytes at most: what a killed run has to name again
BATCH_FILES = 50
BATCH_BYTES = 4 << 30


class HubTarget:
    """A dataset repository, `hf://datasets/USER/NAME`; made private unless `public`."""

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
        self.name = place.rstrip("/")
        self._repo = self.name.removeprefix("hf://datasets/")
        self._public = public
        self._api: Any = huggingface_hub.HfApi()
        self._hub = huggingface_hub
        self._file_kind = RepoFile
        self._made = False
        self._head = ""
        self.url = f"{self._api.endpoint}/datasets/{self._repo}"

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Nothing can be held on the Hub; `commit` finds out."""
        return contextlib.nullcontext()

    def _ask(self, method: str, **arguments: Any) -> Any:
        call = getattr(self._api, method)
        return patiently(lambda: call(repo_id=self._repo, repo_type="dataset", **arguments), self.name)

    def look(self) -> Standing:
        """Paths with sha256 (large files) or git's object ID of what is there."""
        try:
            info = self._ask("repo_info")
        except NotFoundError:
            return Standing()
        if not info.private and not self._public:
            raise UsageError(f"{self.name} is public; say --public if that is meant.")
        self._made, self._head = True, info.sha
        return self._standing(info.sha)

    def _standing(self, commit: str) -> Standing:
        def walk() -> list[Any]:
            return list(self._api.list_repo_tree(self._repo, recursive=True, revision=commit, repo_type="dataset"))

        files = [item for item in patiently(walk, self.name) if isinstance(item, self._file_kind)]
        known = {file.path: file.lfs.sha256 if file.lfs else file.blob_id for file in files}
        return Standing(known, known.get(HEADER_NAME, ""))

    def same(self, parcel: Parcel, known: str) -> bool:
        """By sha256 for a large file, by git's object ID for a small one."""
        return known == (parcel.sha256 if len(known) == 64 else parcel.digest("git"))

    def send(self, parcels: Sequence[Parcel], on_sent: OnSent) -> None:
        """Upload each file by itself, and commit them in batches."""
        self._make()
        batch: list[Any] = []
        held = 0
        for parcel in parcels:
            batch.append(self._uploaded(parcel))
            held += parcel.size
            if len(batch) >= BATCH_FILES or held >= BATCH_BYTES:
                self._ask("create_commit", operations=batch, commit_message="Files of a corpus to come")
                batch, held = [], 0
            on_sent(parcel)
        if batch:
            self._ask("create_commit", operations=batch, commit_message="Files of a corpus to come")

    def _make(self) -> None:
        if not self._made:
            self._ask("create_repo", private=not self._public, exist_ok=True)
            self._made = True

    def _uploaded(self, parcel: Parcel) -> Any:
        source = parcel.checked()
        addition = self._hub.CommitOperationAdd(
            path_in_repo=parcel.path, path_or_fileobj=source if isinstance(source, bytes) else str(source)
        )
        # one upload at a time: of a killed run, one file at most is on its way
        self._ask("preupload_lfs_files", additions=[addition], num_threads=1)
        return addition

    def commit(self, parcels: Sequence[Parcel], stale: Sequence[str], seen: Standing, digest: str) -> None:
        """One commit on the commit that is there now, if the header is still the one that was seen; then the tag."""
        self._make()
        if parcels or stale:
            self._head = self._ask("repo_info").sha
            if self._standing(self._head).mark != seen.mark:
                raise OutputLocked(f"{self.name}.", code="E521")
            operations = [self._uploaded(parcel) for parcel in parcels]
            operations += [self._hub.CommitOperationDelete(path_in_repo=path) for path in stale]
            self._head = self._last_commit(operations, parcels, digest)
        message = f"Corpus {digest[:12]}"
        self._ask("create_tag", tag=digest, revision=self._head, exist_ok=True, tag_message=message)

    def _last_commit(self, operations: list[Any], parcels: Sequence[Parcel], digest: str) -> str:
        try:
            made = self._ask(
                "create_commit",
                operations=operations,
                commit_message=f"Corpus {digest[:12]}",
                parent_commit=self._head,
            )
            return str(made.oid)
        except OutputLocked:
            # an answer that was lost on the way: it is ours that is there
            head: str = self._ask("repo_info").sha
            there = self._standing(head).files
            if not all(parcel.path in there and self.same(parcel, there[parcel.path]) for parcel in parcels):
                raise
            return head
