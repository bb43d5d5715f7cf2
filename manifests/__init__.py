"""The corpus contract: records, IDs, reader, writer, validation. Knows nothing of how a corpus is made or used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from manifests.corpus import Corpus
    from manifests.corpus import open_corpus as open
    from manifests.errors import CorpusError, ReportedError
    from manifests.records import Attribute, LedgerRow, Sample, Subject
    from manifests.samples import Example, LazySample
    from manifests.validation import validate

__all__ = [
    "Attribute",
    "Corpus",
    "CorpusError",
    "Example",
    "LazySample",
    "LedgerRow",
    "ReportedError",
    "Sample",
    "Subject",
    "open",
    "validate",
]

_HOME = {
    "Attribute": "manifests.records",
    "Corpus": "manifests.corpus",
    "CorpusError": "manifests.errors",
    "Example": "manifests.samples",
    "LazySample": "manifests.samples",
    "LedgerRow": "manifests.records",
    "ReportedError": "manifests.errors",
    "Sample": "manifests.records",
    "Subject": "manifests.records",
    "open": "manifests.corpus",
    "validate": "manifests.validation",
}


def __getattr__(name: str) -> object:
    # loaded on first use, so that `dataforge --help` does not wait for pyarrow
    if name not in _HOME:
        raise AttributeError(f"module 'manifests' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), "open_corpus" if name == "open" else name)
