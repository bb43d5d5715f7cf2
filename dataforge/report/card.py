"""The dataset card: the README.md of a corpus, for people and for the Hub.

Text from data stands in it escaped, so that no name or caption can add a link, a picture, markup or a table cell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import yaml

from dataforge.report.overview import who_spoke
from dataforge.report.plan import check_owner
from dataforge.report.wording import BACKENDS
from manifests.corpus import Corpus
from manifests.errors import printable
from manifests.fsops import write_atomic
from manifests.records import Subject

__all__ = ["markdown_text", "write_card"]

NAME = "README.md"
MOST_SUBJECTS = 200
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
# the licences that the Hub knows by these names; any other is `other` with its name beside it
HUB_LICENCES = frozenset(
    {"apache-2.0", "mit", "cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-4.0"}
    | {"cc-by-nd-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "odbl", "odc-by", "pddl", "unlicense"}
)
COUNTS = {
    "subjects": "subjects",
    "photographs": "photographs",
    "regular": "regular pictures",
    "scenes": "scenes",
    "flagged": "flagged for a person to look at",
    "files_found": "files found",
    "files_accepted": "files accepted",
    "files_alias": "files with the same bytes as another",
    "files_ignored": "files ignored",
    "files_quarantined": "files refused",
    "made_quarantined": "regular pictures made and not kept",
}

FILES = """\
| file | what it holds |
|---|---|
| `corpus.json` | the header: names every file below with size and sha256, the recipe and the counts |
| `manifest-*.parquet` | one row per picture: ID, box, mask quality, words, prompt, where its bytes lie, provenance |
| `subjects-*.parquet` | one row per subject: attribute dictionary, prompts, picture IDs, licence, credit, consent |
| `ledger-*.parquet` | one row per file found and per picture made and not kept, with the reason |
| `shards/*.tar` | WebDataset: `<id>.jpg`, `.webp` or `.png`, `<id>.mask.png`, `<id>.json` |
| `manifest.parquet`, `subjects.parquet`, `ledger.parquet` | the same tables under fixed names |
| `index.sqlite` | where each ID lies |
| `report/index.html` | every picture with its mask drawn in; open it in a browser |
"""

READING = """\
The snippets run in the folder that holds `corpus.json`.

With this project's own reader, which checks every byte against its sha256:

```python
import manifests

with manifests.open(".") as corpus:
    for sample in corpus.samples(role="src"):
        image = corpus.image(sample)  # uint8, height x width x 3, RGB
        mask = corpus.mask(sample)  # bool, height x width, True = the subject
        print(sample.id, sample.class_noun, image.shape, f"{mask.mean():.3f}")
```

With `webdataset` (undecoded bytes; decode them with the library of your choice):

```python
import json
from pathlib import Path

import webdataset

header = json.loads(Path("corpus.json").read_text("utf-8"))
shards = ["./" + shard["path"] for shard in header["shards"]]
for sample in webdataset.WebDataset(shards, shardshuffle=False):
    facts = json.loads(sample["json"])
    image = next(sample[ending] for ending in ("jpg", "webp", "png") if ending in sample)
    mask = sample["mask.png"]
    print(sample["__key__"], facts["caption"], len(image), len(mask))
```

With `pyarrow`, and the bytes of one picture by their position:

```python
import json
from pathlib import Path

import pyarrow.parquet as pq

header = json.loads(Path("corpus.json").read_text("utf-8"))
table = pq.read_table(header["manifest"]["path"])
print(table.num_rows, table.schema.names)
for row in table.slice(0, 1).to_pylist():
    with Path(row["image"]["shard"]).open("rb") as shard:
        shard.seek(row["image"]["offset"])
        image = shard.read(row["image"]["length"])
    print(row["id"], row["box_xyxy"], len(image))
```

With nothing but Python:

```python
import tarfile
from pathlib import Path

for path in sorted(Path("shards").glob("*.tar")):
    with tarfile.open(path) as shard:
        for member in shard:
            print(member.name, member.size)
```

With `duckdb`:

```python
import duckdb

question = \"\"\"
    SELECT class_noun, role, count(*) AS pictures, round(avg(mask_quality), 2) AS mask_quality
    FROM 'manifest.parquet' GROUP BY ALL ORDER BY ALL
\"\"\"
print(duckdb.sql(question))
```
"""

LIMITS = """\
- Masks, boxes and words are estimates unless the table above says that a person gave them. `mask_quality` is itself
  an estimate of how well a mask fits (its IoU), not a measurement against a drawn mask.
- The `embedded` backends measure pixels and know no things: a word of theirs is a colour, surface or shape that was
  measured inside the mask, and a regular picture of theirs is the subject's own pixels recoloured and set on a scene.
- `flags` say where a person should look. Whoever uses the corpus decides which flags to leave out.
- Licence, credit and consent are as stated by whoever gave the photographs; nobody has checked them.
"""


def write_card(corpus: Corpus) -> None:
    """Write the card of a corpus to its `README.md`. The same corpus gives the same bytes.

    Raises `CorpusError` E301 for a subject whose ID does not follow the grammar.
    """
    write_atomic(corpus.root / NAME, _card(corpus).encode("utf-8", "replace"))


def markdown_text(text: str) -> str:
    """Text from data as one line of Markdown that shows that very text and nothing else."""
    line = printable(" ".join(text.split()))
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # the colon, at sign and `www.` too: bare addresses become links in GitHub's and the Hub's Markdown
    line = re.sub(r"([\\`*\[\]#!|~:@$])|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\\g<0>", line)
    return re.sub(r"(?i)\bwww\.", lambda match: match[0][:-1] + r"\.", line)


def _card(corpus: Corpus) -> str:
    counts = corpus.header.counts
    subjects = [corpus.subjects[name] for name in sorted(corpus.subjects)]
    version = markdown_text(corpus.header.made_with.get("dataforge", ""))
    front = yaml.safe_dump(_front_matter(corpus, subjects), sort_keys=False, allow_unicode=True)
    introduction = (
        f"{_counted(counts, 'photographs', 'photograph')} of {_counted(counts, 'subjects', 'subject')} with masks, "
        f"boxes and attribute words, {_counted(counts, 'regular', 'regular picture')} of the same classes with "
        f"known attributes, and {_counted(counts, 'scenes', 'scene')} to paint into: data for fine-tuning image models "
        f"on things of one's own. Made by dataforge {version}. The corpus goes by the digest `{corpus.digest}`, "
        "the sha256 of `corpus.json`."
    )
    known = [(label, f"{counts[key]:,}") for key, label in COUNTS.items() if key in counts]
    other = [(markdown_text(key), f"{count:,}") for key, count in sorted(counts.items()) if key not in COUNTS]
    stages = [
        (
            markdown_text(step.stage),
            markdown_text(step.backend),
            BACKENDS.get(step.backend, ""),
            markdown_text(step.model) or "none",
            markdown_text(step.version),
            f"{step.count:,}",
        )
        for step in who_spoke(corpus.table())
    ]
    blocks = [
        f"---\n{front}---",
        f"# Corpus of {_counted(counts, 'subjects', 'subject')}",
        introduction,
        "## What is in it",
        _table(("what", "how many"), [*known, *other], numbers=(1,)),
        "## How it was made",
        "Which backend spoke in each stage, and for how many pictures:",
        _table(("stage", "who spoke", "that is", "model", "version", "pictures"), stages, numbers=(5,)),
        "## Subjects",
        *_subjects(subjects),
        "## Files",
        FILES.rstrip(),
        "## How to read it",
        READING.rstrip(),
        "## Limits",
        LIMITS.rstrip(),
    ]
    return "\n\n".join(blocks) + "\n"


def _counted(counts: dict[str, int], key: str, one: str) -> str:
    number = counts.get(key, 0)
    return f"{number:,} {one}{'' if number == 1 else 's'}"


def _front_matter(corpus: Corpus, subjects: Sequence[Subject]) -> dict[str, object]:
    values: dict[str, object] = {"pretty_name": f"Corpus {corpus.digest[:12]}"}
    licences = {subject.licence.strip() for subject in subjects}
    if len(licences) == 1 and (licence := licences.pop()):
        if licence.lower() in HUB_LICENCES:
            values["license"] = licence.lower()
        else:
            values |= {"license": "other", "license_name": licence}
    values["task_categories"] = ["text-to-image", "image-segmentation"]
    values["tags"] = ["dataforge", "webdataset", "subject-driven-generation"]
    values["size_categories"] = [next((name for limit, name in SIZES if len(corpus) < limit), "1M<n<10M")]
    return values


def _subjects(subjects: Sequence[Subject]) -> list[str]:
    if not subjects:
        return ["None."]
    rows = [
        (
            f"`{check_owner(subject.id)}`",
            markdown_text(subject.class_noun),
            f"{len(subject.sample_ids):,}",
            f"{len(subject.regular_ids):,}",
            markdown_text(subject.licence) or "not stated",
            markdown_text(subject.credit) or "not stated",
            markdown_text(subject.consent) or "not stated",
        )
        for subject in subjects[:MOST_SUBJECTS]
    ]
    names = ("subject", "class noun", "photographs", "regular pictures", "licence", "credit", "consent")
    blocks = [_table(names, rows, numbers=(2, 3))]
    if len(subjects) > MOST_SUBJECTS:
        blocks.append(f"and {len(subjects) - MOST_SUBJECTS:,} more, in `subjects.parquet`.")
    return blocks


def _table(names: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[int] = ()) -> str:
    marks = ["--:" if column in numbers else "---" for column in range(len(names))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (names, marks, *rows))
