"""What `counts` of corpus.json says, from the rows themselves: written and checked by one rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from manifests.records import LedgerRow, Sample, Subject

__all__ = ["counts_of"]


def counts_of(samples: Iterable[Sample], subjects: Sequence[Subject], ledger: Sequence[LedgerRow]) -> dict[str, int]:
    """Totals by name; `samples` is gone through once."""
    roles: Counter[str] = Counter()
    flagged = 0
    for sample in samples:
        roles[sample.role] += 1
        flagged += bool(sample.flags)
    files = Counter(row.status for row in ledger if row.path)
    return {
        "subjects": len(subjects),
        "files_found": sum(files.values()),
        "photographs": roles["src"],
        "regular": roles["reg"],
        "scenes": roles["bg"],
        "flagged": flagged,
        "files_accepted": files["accepted"],
        "files_alias": files["alias"],
        "files_ignored": files["ignored"],
        "files_quarantined": files["quarantined"],
        "made_quarantined": sum(row.kind == "made" for row in ledger),
    }
