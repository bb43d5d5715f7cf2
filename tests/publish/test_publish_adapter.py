"""Publishing adapters as model repositories: what arrives, what the card links, what is sent again and what refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from pipelines.records import AdapterRecord, Base, read_record, write_record
from tests.conftest import tree_digest
from tests.publish.conftest import Place, digest_of

CARD = """---
library_name: diffusers
tags: [lora]
---

# red-mug

- base `base`
- corpus `corpus#red-mug`, digest `0123`
"""


def adapter(folder: Path, corpus: Path, *, weights: bytes = b"weights", **more: object) -> Path:
    facts = {
        "id": "red-mug/lora-0123456789ab", "subject": "red-mug", "class_noun": "mug", "identifier": "sks",
        "source_words": (), "kind": "lora", "recipe": "dreammix", "settings": {"rank": 4},
        "base": Base("base", None, "sd", 9, "ab" * 32), "corpus": "corpus#red-mug", "corpus_digest": digest_of(corpus),
        "sample_ids": ("red-mug/src-0123456789ab",), "seed": 0, "steps": 3, "losses": (0.1, 1e-7), "versions": {},
    }  # fmt: skip
    folder.mkdir()
    (folder / "README.md").write_text(CARD)
    (folder / "pytorch_lora_weights.safetensors").write_bytes(weights)
    write_record(folder, AdapterRecord(**{**facts, **more}))
    return folder


@pytest.fixture
def made(tmp_path, both_shapes) -> Path:
    return adapter(tmp_path / "red-mug", both_shapes)


def publish(place: Place, folder: Path, *arguments: str):
    return place.dataforge("publish", folder, f"hf://{place.name}", *arguments)


def test_a_published_adapter_is_a_private_model_repository_tagged_with_its_digest(place, made):
    done = publish(place, made)
    assert done.code == 0, done.err
    repo = place.hub.repos[place.name]
    record = read_record(made, full=True)
    assert repo.private
    assert repo.tags == {record.digest: repo.commits[-1][0]}
    assert len(repo.commits) == 2  # the Hub's own, and one of ours
    assert all("/datasets/" not in asked.path for asked in place.hub.log)
    assert f"dataforge inpaint hf://{place.name}@{record.digest}" in done.out
    pulled = place.python(
        "from huggingface_hub import snapshot_download\n"
        "from pathlib import Path\n"
        "from pipelines.records import read_record\n"
        f"folder = Path(snapshot_download({place.name!r}, revision={record.digest!r}))\n"
        "print(read_record(folder, full=True).digest)"
    )
    assert pulled.out.strip() == record.digest


def test_published_again_nothing_is_sent_and_a_changed_one_takes_its_old_files_away(lfs, tmp_path, made, both_shapes):
    (made / "unet").mkdir()
    (made / "unet" / "config.json").write_text("{}")
    write_record(made, dataclasses.replace(read_record(made), files=()))
    assert publish(lfs, made).code == 0
    commits = len(lfs.hub.repos[lfs.name].commits)
    again = publish(lfs, made)
    assert "0 files (0 bytes) sent, 0 deleted, 4 there already" in again.out
    assert len(lfs.hub.repos[lfs.name].commits) == commits
    other = adapter(tmp_path / "other", both_shapes, weights=b"other weights")
    dry = publish(lfs, other, "--dry-run")
    assert "- unet/config.json" in dry.out
    assert len(lfs.hub.repos[lfs.name].commits) == commits
    done = publish(lfs, other)
    assert "2 files" in done.out
    assert set(lfs.files) == {".gitattributes", "README.md", "adapter.json", "pytorch_lora_weights.safetensors"}
    assert len(lfs.hub.repos[lfs.name].commits) == commits + 1


def test_the_card_links_the_dataset_that_holds_its_corpus_and_no_other(lfs, made, both_shapes, published):
    dataset, digest = published.name, digest_of(both_shapes)
    before = tree_digest(made)
    place = Place(published.hub, published.clients, f"{lfs.name}-adapter", lfs.cache)
    done = publish(place, made, "--dataset", f"hf://datasets/{dataset}")
    assert done.code == 0, done.err
    assert tree_digest(made) == before, "what is published is not changed by it"
    pulled = place.python(
        "from huggingface_hub import snapshot_download\n"
        "from pathlib import Path\n"
        "from pipelines.records import read_record\n"
        f"folder = Path(snapshot_download({place.name!r}))\n"
        "record = read_record(folder, full=True)\n"
        "print(record.corpus, record.digest)\n"
        "print((folder / 'README.md').read_text())"
    )
    facts, _, card = pulled.out.partition("\n")
    (tag,) = place.hub.repos[place.name].tags
    assert facts == f"hf://datasets/{dataset}@{digest}#red-mug {tag}"
    assert yaml.safe_load(card.split("---\n")[1]) == {
        "library_name": "diffusers", "tags": ["lora"], "datasets": [dataset],
    }  # fmt: skip
    assert f"- corpus [`{dataset}`](https://huggingface.co/datasets/{dataset}), digest `{digest[:16]}`" in card
    assert "corpus#red-mug" not in card
    again = publish(place, made, "--dataset", f"hf://datasets/{dataset}")
    assert "0 files (0 bytes) sent" in again.out
    # another corpus than the one trained on
    edit(made, corpus_digest="ab" * 32)
    refused = publish(place, made, "--dataset", f"hf://datasets/{dataset}")
    assert refused.code == 2
    assert f"hf://datasets/{dataset} holds no corpus abababababab, which the adapter was trained on" in refused.err


@pytest.mark.parametrize(
    ("breach", "sentence"),
    [
        (
            lambda folder: (folder / "README.md").write_text("other"),
            "README.md is not the file that adapter.json names",
        ),
        (lambda folder: (folder / "adapter.json").write_text("{}"), "is no record of an adapter"),
        (
            lambda folder: edit(folder, files=[{"path": "../secret", "size": 0, "sha256": ""}]),
            "is no record of an adapter",
        ),
        (lambda folder: relocate(folder, "base", "/srv/models/base"), "names /srv/models/base, a folder of"),
        (lambda folder: relocate(folder, "base", "user/name+fooocus=/opt/fooocus"), "names /opt/fooocus, a folder of"),
        (lambda folder: relocate(folder, "corpus", "/srv/corpus#a"), "names /srv/corpus#a, a folder of"),
    ],
)
def test_what_is_not_whole_or_names_this_machine_is_not_published(lfs, made, breach, sentence):
    breach(made)
    done = publish(lfs, made)
    assert done.code == 2
    assert sentence in " ".join(done.err.split())
    assert lfs.name not in lfs.hub.repos


def edit(folder: Path, **changes: object) -> None:
    value = json.loads((folder / "adapter.json").read_text())
    (folder / "adapter.json").write_text(json.dumps({**value, **changes}))


def relocate(folder: Path, what: str, place: str) -> None:
    base = json.loads((folder / "adapter.json").read_text())["base"]
    edit(folder, **({"base": base | {"model": place}} if what == "base" else {"corpus": place}))


def test_another_adapter_that_came_in_between_is_told(lfs, made, tmp_path, both_shapes):
    assert publish(lfs, made).code == 0
    repo = lfs.hub.repos[lfs.name]
    lfs.hub.before_commit = lambda: repo.commit("theirs", {**repo.files, "adapter.json": repo.files["README.md"]})
    done = publish(lfs, adapter(tmp_path / "other", both_shapes, weights=b"other"))
    assert done.code == 6
    assert f"E521 published-meanwhile: hf://{lfs.name}. " in done.err
    assert repo.commits[-1][1] == "theirs"


def test_faults_on_the_way_and_a_lost_answer_are_made_good(lfs, made):
    """Each would end it, or be taken for someone else's commit."""
    assert publish(lfs, made).code == 0
    edit(made, seed=1)
    lfs.hub.fault("GET .*/tree", 503, times=8, headers={"Retry-After": "0"})  # more than the client itself would try
    lfs.hub.fault("POST .*/commit/main", "lost")
    done = lfs.dataforge("publish", made, f"hf://{lfs.name}", DATAFORGE_PATIENCE_S="60")
    assert done.code == 0, done.err
    assert list(lfs.hub.repos[lfs.name].tags.values())[-1] == lfs.hub.repos[lfs.name].commits[-1][0]


@pytest.mark.parametrize("place", ["hf://datasets/user/name", "s3://bucket/key", "hf://user", "folder"])
def test_an_adapter_goes_to_a_model_repository_only(place, made):
    from dataforge.publishing.adapters import publish_adapter
    from manifests.errors import UsageError

    with pytest.raises(UsageError, match=r"E501 .*an adapter is published at hf://USER/NAME"):
        publish_adapter(made, place)
