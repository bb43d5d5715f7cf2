"""The dataset card: the README.md of a corpus, for people and for the Hub.

Text from data stands in it escaped, so that no name or caption can add a link, a picture, markup or a table cell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import yaml

from dataforge.backends.licences import licence_of
from dataforge.report.overview import Spoke, provenance, who_spoke
from dataforge.report.plan import check_owner
from dataforge.report.wording import BACKENDS
from manifests.corpus import Corpus
from manifests.errors import printable
from manifests.features import parquet_features, shard_features
from manifests.fsops import write_atomic
from manifests.header import FileEntry
from manifests.records import Subject

__all__ = ["card_bytes", "markdown_text", "write_card"]

NAME = "README.md"
MOST_SUBJECTS = 200
# beyond it the card names files by pattern
MOST_FILES = 2000
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
| `data/*.parquet` | where the corpus was built with them: the same rows with the pictures inside, for HF Datasets |
| `shards/*.tar` | WebDataset: `<id>.jpg`, `.webp` or `.png`, `<id>.mask.png`, `<id>.json` |
| `manifest.parquet`, `subjects.parquet`, `ledger.parquet` | the same tables under fixed names |
| `croissant.json`, `thumbnails.webp` | the corpus described for machines, and the pictures above |
"""
# what lies in a folder only: `dataforge pull` makes it there again
LOCAL_FILES = """\
| `index.sqlite` | where each ID lies |
| `report/index.html` | every picture with its mask drawn in; open it in a browser |
"""

OPENING = """\
From where it is published, without a copy of it (`pip install "dataforge[{extra}]"`); a picture costs one request:

```python
import manifests

with manifests.open("{reference}") as corpus:
    sample = corpus[next(iter(corpus))]
    print(sample.id, corpus.image(sample.id).shape)
```

A copy on this disk, every byte checked: `dataforge pull {reference} -o corpus`.
"""

LOADING = """\
With `datasets` (`streaming=True` reads as it goes; the columns are declared above, none is guessed):

```python
{imports}import datasets

loaded = datasets.load_dataset({arguments})
for name, split in loaded.items():
    print(name, split.num_rows, split[0][{key!r}], split.features[{mask!r}])
```
"""

DATA_FILES = """\
With `pandas`, pictures and all:

```python
import io
from pathlib import Path

import pandas
from PIL import Image

for path in sorted(Path("data").glob("*.parquet")):
    for row in pandas.read_parquet(path).to_dict("records"):
        image = Image.open(io.BytesIO(row["image"]["bytes"]))
        print(row["id"], row["box_xyxy"], image.size)
```

With `pyarrow.dataset`, only the columns that are asked for:

```python
import pyarrow.dataset

rows = pyarrow.dataset.dataset("data").to_table(columns=["id", "mask_quality"])
print(rows.num_rows, rows.column("id").to_pylist())
```
"""

WITH_CROISSANT = """\
With `mlcroissant`:

```python
import mlcroissant

described = mlcroissant.Dataset("croissant.json")
for record in described.records({record_set!r}):
    print(record[{field!r}])
```
"""

READING = """\
The snippets below run in the folder that holds `corpus.json`.

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

CITATION = """\
```bibtex
@misc{{corpus-{short},
  title = {{Corpus {short}}},
  note = {{sha256 {digest}, made by dataforge {version}}}
}}
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
    write_atomic(corpus.root / NAME, card_bytes(corpus))


def card_bytes(corpus: Corpus, place: str | None = None) -> bytes:
    """The card of a corpus for its own folder, or for the place it is published at (`hf://...`, `s3://...`)."""
    return _card(corpus, place).encode("utf-8", "replace")


def markdown_text(text: str) -> str:
    """Text from data as one line of Markdown that shows that very text and nothing else."""
    line = printable(" ".join(text.split()))
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # the colon, at sign and `www.` too: bare addresses become links in GitHub's and the Hub's Markdown
    line = re.sub(r"([\\`*\[\]#!|~:@$])|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\\g<0>", line)
    return re.sub(r"(?i)\bwww\.", lambda match: match[0][:-1] + r"\.", line)


def _card(corpus: Corpus, place: str | None) -> str:
    counts = corpus.header.counts
    subjects = [corpus.subjects[name] for name in sorted(corpus.subjects)]
    version_text = corpus.header.made_with.get("dataforge", "")
    version = markdown_text(version_text)
    front = yaml.safe_dump(_front_matter(corpus, subjects), sort_keys=False, allow_unicode=True)
    introduction = (
        f"{_counted(counts, 'photographs', 'photograph')} of {_counted(counts, 'subjects', 'subject')} with masks, "
        f"boxes and attribute words, {_counted(counts, 'regular', 'regular picture')} of the same classes with "
        f"known attributes, and {_counted(counts, 'scenes', 'scene')} to paint into: data for fine-tuning image models "
        f"on things of one's own. Made by dataforge {version}. The corpus goes by the digest `{corpus.digest}`, "
        "the sha256 of `corpus.json`."
    )
    known = [(label, f"{counts[key]:,}") for key, label in COUNTS.items() if key in counts]
    known.append(
        ("bytes, in the files that `corpus.json` names", f"{sum(file.size for file in corpus.header.files):,}")
    )
    other = [(markdown_text(key), f"{count:,}") for key, count in sorted(counts.items()) if key not in COUNTS]
    spoken = who_spoke(provenance(corpus))
    stages = [
        (
            markdown_text(step.stage),
            markdown_text(step.backend),
            BACKENDS.get(step.backend, ""),
            markdown_text(step.model) or "none",
            markdown_text(step.version),
            f"{step.count:,}",
        )
        for step in spoken
    ]
    blocks = [
        f"---\n{front}---",
        f"# Corpus of {_counted(counts, 'subjects', 'subject')}",
        introduction,
        "![Photographs with the outlines of their masks](thumbnails.webp)",
        "## What is in it",
        _table(("what", "how many"), [*known, *other], numbers=(1,)),
        "## How it was made",
        "Which backend spoke in each stage, and for how many pictures:",
        _table(("stage", "who spoke", "that is", "model", "version", "pictures"), stages, numbers=(5,)),
        *_models(spoken),
        "## Subjects, credits and consent",
        *_subjects(subjects),
        "## Files",
        (FILES + ("" if place else LOCAL_FILES)).rstrip(),
        "## How to read it",
        *_reading(corpus, place),
        "## Limits",
        LIMITS.rstrip(),
        "## How to cite",
        "Name the digest: it is of every byte. Credit the people above for their photographs.",
        CITATION.format(short=corpus.digest[:12], digest=corpus.digest, version=_plain(version_text)).rstrip(),
    ]
    return "\n\n".join(blocks) + "\n"


def _plain(text: str) -> str:
    """Text from data inside a fence: nothing that could close it."""
    return re.sub(r"[^A-Za-z0-9. -]", "", text)


def _models(spoken: Iterable[Spoke]) -> list[str]:
    models = sorted({model for step in spoken if step.model for model in _models_of(step.model)})
    if not models:
        return ["No model was used whose licence would reach the data."]
    known = [(markdown_text(model), markdown_text(licence_of(model)) or "see its own page") for model in models]
    return ["The models, and the licences their makers gave them:", _table(("model", "licence"), known)]


def _models_of(text: str) -> list[str]:
    """A step's models: several are `NAME@REVISION NAME@REVISION`, and one name alone may hold a space."""
    parts = text.split(" ")
    return parts if all("@" in part for part in parts) else [text]


def _reading(corpus: Corpus, place: str | None) -> list[str]:
    """Ways to read the corpus, each a snippet that runs as it stands."""
    header, digest = corpus.header, corpus.digest
    blocks = []
    imports, arguments = "from pathlib import Path\n\n", "str(Path.cwd())"
    if place is not None and place.startswith("hf://"):
        imports, arguments = "", f'"{place.removeprefix("hf://datasets/")}", revision="{digest}"'
    if place is not None:
        blocks.append(OPENING.format(reference=f"{place}@{digest}", extra="hub" if place.startswith("hf://") else "s3"))
    key, mask = ("id", "mask") if header.data else ("__key__", "mask.png")
    blocks.append(LOADING.format(imports=imports, arguments=arguments, key=key, mask=mask))
    blocks.append(READING)
    if header.data:
        blocks.append(DATA_FILES)
    record_set = f"pictures-{_splits(header.data)[0][0]}" if header.data else "samples"
    blocks.append(WITH_CROISSANT.format(record_set=record_set, field=f"{record_set}/id"))
    return [block.rstrip() for block in blocks]


def _splits(entries: Sequence[FileEntry]) -> list[tuple[str, list[str]]]:
    """Files by the first part of their names, which is their split: train, validation or scenes."""
    found: dict[str, list[str]] = {}
    for entry in entries:
        found.setdefault(entry.path.rpartition("/")[2].rpartition("-")[0], []).append(entry.path)
    order = ("train", "validation", "scenes")
    return sorted(found.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order))


def _datasets(corpus: Corpus) -> dict[str, object]:
    """What `datasets.load_dataset` and the Hub's viewer need to be told: files by split, and the columns' types.

    One builder reads a repository, so the data files are declared where there are any, else the shards. Files are named
    one by one: a reader of an old version must not see files of one that is being sent.
    """
    header = corpus.header
    entries = header.data or header.shards
    files: list[dict[str, object]] = []
    for split, paths in _splits(entries):
        pattern = f"{paths[0].rpartition('/')[0]}/{split}-*{paths[0][paths[0].rindex('.') :]}"
        files.append({"split": split, "path": paths if len(entries) <= MOST_FILES else pattern})
    formats = {
        struct["format"] for struct in corpus.columns(["image"], corpus.select_rows()).column("image").to_pylist()
    }
    features = parquet_features() if header.data else shard_features(formats)
    return {
        "configs": [{"config_name": "default", "data_files": files}],
        "dataset_info": {"config_name": "default", "features": features},
    }


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
    return values | _datasets(corpus)


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
