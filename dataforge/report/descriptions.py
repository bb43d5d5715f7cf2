"""What describes a corpus in its own folder: the card, the pictures on it, and the description for machines."""

from __future__ import annotations

from itertools import islice

from dataforge.report.card import write_card
from dataforge.report.croissant import croissant_bytes
from dataforge.report.thumbnails import contact_sheet
from manifests.corpus import Corpus
from manifests.fsops import write_atomic

__all__ = ["thumbnails_bytes", "write_descriptions"]

# on a card: the first photographs of the first subjects
CELLS, COLUMNS, SIDE = 24, 6, 128


def thumbnails_bytes(corpus: Corpus) -> bytes:
    """A sheet of small pictures with their masks drawn in, one photograph a subject before a second one (WebP)."""
    subjects = [corpus.subjects[name].sample_ids for name in sorted(corpus.subjects)]
    deepest = max((len(ids) for ids in subjects), default=0)
    turns = (ids[turn] for turn in range(deepest) for ids in subjects if turn < len(ids))
    chosen = [name for name in islice(turns, CELLS) if name in corpus]
    samples = (corpus.record(name) for name in chosen)
    return contact_sheet(
        ((corpus.image_bytes(sample), sample.image.format, corpus.mask_bytes(sample)) for sample in samples),
        SIDE,
        COLUMNS,
    )


def write_descriptions(corpus: Corpus) -> None:
    """Write `README.md`, `thumbnails.webp` and `croissant.json`. The same corpus gives the same bytes.

    Raises `CorpusError` E301 for a subject whose ID does not follow the grammar, `IntegrityError` for damaged pictures.
    """
    write_card(corpus)
    write_atomic(corpus.root / "thumbnails.webp", thumbnails_bytes(corpus))
    write_atomic(corpus.root / "croissant.json", croissant_bytes(corpus))
