"""A new corpus from samples of corpora that exist: bytes are copied, checked on the way, and never encoded again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from manifests.corpus import Corpus, open_corpus
from manifests.errors import UsageError
from manifests.fsops import output_lock, remove_stale_temporaries
from manifests.header import HEADER_NAME
from manifests.ids import canonical_json
from manifests.records import LedgerRow, Sample, Subject
from manifests.writer import (
    CorpusContent,
    UnpackedSample,
    check_output,
    commit_corpus,
    remove_unnamed,
    unpacked,
    write_derived,
)

__all__ = ["Source", "new_corpus", "write_corpus"]

Source = tuple[Corpus, Sample, Sample]
"""Where a sample's bytes are, the sample as it stands there, and as it shall stand in the new corpus."""


@contextmanager
def new_corpus(output: str | Path) -> Iterator[Path]:
    """Hold the lock of a folder that is to become a corpus and is none yet."""
    root = Path(output)
    if (root / HEADER_NAME).exists():
        raise UsageError(f"{root} is a corpus already; name a new folder with -o.")
    check_output(root)
    with output_lock(root / ".work" / "lock"):
        remove_stale_temporaries(root)
        yield root


def write_corpus(
    root: Path,
    sources: Iterable[Source],
    subjects: Iterable[Subject],
    ledger: Iterable[LedgerRow],
    corpora: Sequence[Corpus],
) -> str:
    """Commit the corpus and make its index and table copies; returns its digest.

    Recipe and shard size are those of the first of `corpora`; where another's recipe differs, it is kept beside.
    """
    ordered = sorted(sources, key=lambda source: source[2].id)

    def samples() -> Iterator[UnpackedSample]:
        for corpus, there, sample in ordered:
            yield unpacked(sample, partial(corpus.image_bytes, there), partial(corpus.mask_bytes, there))

    recipe = corpora[0].header.recipe
    digest = commit_corpus(
        root,
        CorpusContent(
            samples=samples,
            subjects=sorted(subjects, key=lambda subject: subject.id),
            ledger=sorted(ledger, key=lambda row: (not row.path, row.path, row.sample_id)),
            recipe=recipe | _others([corpus.header.recipe for corpus in corpora]),
            made_with=_made_with([corpus.header.made_with for corpus in corpora]),
            shard_bytes=int(recipe.get("pack", {}).get("shard_bytes", 256 << 20)),
            parquet=any(corpus.header.data for corpus in corpora),
        ),
    )
    remove_unnamed(root)
    with open_corpus(str(root)) as new:
        write_derived(root, new.samples())
    return digest


def _others(recipes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    different = {canonical_json(recipe): recipe for recipe in recipes if recipe != recipes[0]}
    return {"merged_with": [different[text] for text in sorted(different)]} if different else {}


def _made_with(all_versions: Sequence[dict[str, str]]) -> dict[str, str]:
    names = {name for versions in all_versions for name in versions}
    return {
        name: " and ".join(sorted({versions[name] for versions in all_versions if name in versions}))
        for name in sorted(names)
    }
