"""A corpus of many small pictures of several sizes and formats, in several row groups and shards."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.manifests.corpora import content, ledger_row, make, subject, write_corpus

PHOTOGRAPHS, REGULAR = 30, 12


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 photographs of three subjects, 12 regular pictures of a class, a scene; the manifest has groups of 8 rows."""
    photographs = [
        make(f"mug-{number % 3}", "src", number, image_format=("jpg", "webp", "png")[number % 3], provenance=())
        for number in range(PHOTOGRAPHS)
    ]
    regular = [make("class-mug", "reg", 100 + number, provenance=()) for number in range(REGULAR)]
    scene = make("scenes", "bg", 200, provenance=(), own_pixels=False)
    by_subject = {
        name: [made for made in photographs if made.sample.subject == name] for name in ("mug-0", "mug-1", "mug-2")
    }
    subjects = [subject(name, found, regular) for name, found in by_subject.items()]
    ledger = sorted(map(ledger_row, [*photographs, scene]), key=lambda row: row.path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("manifests.writer.ROWS_PER_GROUP", 8)
        return write_corpus(
            tmp_path_factory.mktemp("many") / "corpus", content([*photographs, *regular, scene], subjects, ledger)
        )
