"""Joining and cutting corpora by subject: nothing is lost, nothing encoded again, and what contradicts is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from manifests.corpus import open_corpus
from manifests.errors import NotFoundError, UsageError
from manifests.merging import merge, split
from manifests.tracing import trace
from manifests.validation import validate
from tests.manifests.corpora import content, ledger_row, make, small_content, subject, write_corpus


def bytes_of(root):
    with open_corpus(root) as corpus:
        return {s.id: (corpus.image_bytes(s), corpus.mask_bytes(s)) for s in corpus.samples()}


@pytest.fixture
def halves(pristine, tmp_path):
    split(f"{pristine}#red-mug", tmp_path / "part", tmp_path / "rest")
    return tmp_path / "part", tmp_path / "rest"


def test_both_parts_of_a_cut_corpus_are_whole_and_hold_the_same_bytes(halves, pristine):
    whole = bytes_of(pristine)
    for root in halves:
        assert validate(root, full=True) == []
        assert bytes_of(root).items() <= whole.items()
    part, rest = map(bytes_of, halves)
    assert part.keys() | rest.keys() == whole.keys()
    assert {name.partition("/")[0] for name in part.keys() & rest.keys()} == {"class-mug"}  # both sides share it
    assert not any(name.startswith("red-mug/") for name in rest)
    assert any(name.startswith("scenes/") for name in part)


def test_merging_what_was_cut_gives_the_corpus_back(halves, pristine, tmp_path):
    with open_corpus(pristine) as corpus:
        assert merge(halves, tmp_path / "again") == corpus.digest
    assert merge(halves[::-1], tmp_path / "other order") == corpus.digest
    assert validate(tmp_path / "again", full=True) == []


def test_a_cut_without_rest_takes_only_the_files_of_its_subjects(pristine, tmp_path):
    digest, none = split(f"{pristine}#red-mug", tmp_path / "part")
    assert none is None
    with open_corpus(tmp_path / "part") as corpus:
        assert corpus.digest == digest
        assert {row.subject for row in corpus.ledger} == {"red-mug", ""}
        assert "red-mug/bad.jpg" in {row.path for row in corpus.ledger}
        assert list(corpus.subjects) == ["red-mug"]


@pytest.fixture
def other_red_mug(tmp_path):
    """A corpus whose subject has a name that is taken, whose files have the same paths, and other content."""
    photographs = [make("red-mug", "src", 700 + number) for number in range(3)]
    found = [
        replace(made, sample=replace(made.sample, source_uri=f"red-mug/{20 + number}.jpg"))
        for number, made in enumerate(photographs)
    ]
    regular = make("red-mug", "reg", 710, parents=(found[0].id,), source_uri=found[0].sample.source_uri)
    what = content([*found, regular], [subject("red-mug", found, [regular])], [ledger_row(made) for made in found])
    return write_corpus(tmp_path / "other", what)


def test_one_subject_with_two_contents_is_refused_and_nothing_is_written(pristine, other_red_mug, tmp_path):
    with pytest.raises(UsageError, match=r"subject red-mug differs .* --rename \S+other#red-mug=NEW"):
        merge([pristine, other_red_mug], tmp_path / "new")
    assert not (tmp_path / "new" / "corpus.json").exists()


def test_a_renamed_subject_keeps_its_bytes_and_its_way_back_to_the_files(pristine, other_red_mug, tmp_path):
    merge([pristine, other_red_mug], tmp_path / "new", [f"{other_red_mug}#red-mug=crimson-mug"])
    assert validate(tmp_path / "new", full=True) == []
    theirs = {f"crimson-mug/{name.partition('/')[2]}": data for name, data in bytes_of(other_red_mug).items()}
    assert bytes_of(tmp_path / "new") == bytes_of(pristine) | theirs
    with open_corpus(tmp_path / "new") as corpus:
        crimson = corpus.subjects["crimson-mug"]
        steps = trace(corpus, crimson.regular_ids[0])
        assert steps[0].sample.id == crimson.regular_ids[0]
        assert {step.sample.id for step in steps[1:]} <= set(crimson.sample_ids)
        files = [step.file.path for step in steps if step.file]
        assert len(files) == 1
        assert files[0].startswith("from-2/red-mug/")
        assert corpus.subjects["red-mug"] == open_corpus(pristine).subjects["red-mug"]


def test_a_sample_with_other_words_is_refused(pristine, tmp_path):
    changed = small_content()
    rows = [
        replace(item, sample=replace(item.sample, caption="another story")) if item.sample.role == "bg" else item
        for item in changed.samples()
    ]
    other = write_corpus(tmp_path / "other", replace(changed, samples=lambda: iter(rows)))
    with pytest.raises(UsageError, match=r"sample scenes/bg-\w+ differs"):
        merge([pristine, other], tmp_path / "new")


@pytest.mark.parametrize(
    ("rename", "said"),
    [
        ("nonsense", "--rename takes PLACE#SUBJECT=NEW"),
        ("elsewhere#red-mug=x", "--rename takes PLACE#SUBJECT=NEW"),
        ("{pristine}#no-mug=x", "has no subject 'no-mug'"),
        ("{pristine}#red-mug=blue-mug", "has a subject 'blue-mug' already"),
        ("{pristine}#red-mug=Red Mug", "is no name of a subject"),
        ("{pristine}#red-mug=scenes", "is no name of a subject"),
    ],
)
def test_a_rename_that_cannot_be_is_refused(pristine, other_red_mug, tmp_path, rename, said):
    with pytest.raises(UsageError, match=said):
        merge([pristine, other_red_mug], tmp_path / "new", [rename.format(pristine=pristine)])


def test_wrong_calls_get_a_sentence(pristine, tmp_path):
    with pytest.raises(UsageError, match="two corpora"):
        merge([pristine], tmp_path / "new")
    with pytest.raises(UsageError, match="a corpus already"):
        merge([pristine, pristine], pristine)
    with pytest.raises(UsageError, match="split takes subjects"):
        split(str(pristine), tmp_path / "new")
    with pytest.raises(NotFoundError, match=r"no subject 'gren-mug' in .*\. Did you mean green-mug\?"):
        split(f"{pristine}#gren-mug", tmp_path / "new")
    with pytest.raises(UsageError, match="nothing is left"):
        split(f"{pristine}#red-mug,blue-mug,green-mug", tmp_path / "new", tmp_path / "rest")
    with open_corpus(pristine) as corpus:
        scene = next(name for name in corpus if name.startswith("scenes/"))
    with pytest.raises(UsageError, match=f"not {scene}"):
        split(f"{pristine}#{scene}", tmp_path / "new")


def test_other_settings_and_versions_are_kept_beside(pristine, tmp_path):
    photographs = [make("tin", "src", 800 + number) for number in range(2)]
    what = content(photographs, [subject("tin", photographs)], [ledger_row(made) for made in photographs], 1 << 20)
    other = write_corpus(tmp_path / "tin", replace(what, made_with={"dataforge": "0.2.0"}))
    merge([pristine, other], tmp_path / "new")
    with open_corpus(tmp_path / "new") as corpus, open_corpus(pristine) as first:
        assert corpus.header.recipe == first.header.recipe | {"merged_with": [what.recipe]}
        assert corpus.header.made_with == {"dataforge": "0.1.0 and 0.2.0", "python": "3"}
