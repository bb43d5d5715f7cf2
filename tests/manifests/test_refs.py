"""References: what counts as a place, a revision and IDs, for folders with any name and for URLs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.corpus import open_corpus
from manifests.errors import UsageError
from manifests.refs import Reference, parse_reference

SAMPLE = "red-mug/src-0123456789ab"


@pytest.mark.parametrize(
    ("text", "place", "revision", "ids"),
    [
        ("corpus", "corpus", None, ()),
        ("a/b.c/", "a/b.c/", None, ()),
        ("corpus#red-mug", "corpus", None, ("red-mug",)),
        (f"corpus#{SAMPLE}", "corpus", None, (SAMPLE,)),
        (f"corpus#{SAMPLE},blue-mug", "corpus", None, (SAMPLE, "blue-mug")),
        ("me@home/corpus", "me@home/corpus", None, ()),
        ("me@home/corpus#red-mug", "me@home/corpus", None, ("red-mug",)),
        ("C# course/Corpus#One", "C# course/Corpus#One", None, ()),
        ("issue #12 photos/corpus#red-mug", "issue #12 photos/corpus", None, ("red-mug",)),
        ("a#B#red-mug", "a#B", None, ("red-mug",)),
        ("corpus#", "corpus#", None, ()),
        ("hf://user/name", "hf://user/name", None, ()),
        ("hf://user/name@rev", "hf://user/name", "rev", ()),
        ("hf://user/name@rev#red-mug", "hf://user/name", "rev", ("red-mug",)),
        ("hf://datasets/user/name@v1.0#a,b", "hf://datasets/user/name", "v1.0", ("a", "b")),
        ("s3://bucket/key#a/src-1", "s3://bucket/key", None, ("a/src-1",)),
    ],
)
def test_reference_is_taken_apart(text, place, revision, ids):
    reference = parse_reference(text)
    assert (reference.place, reference.revision, reference.ids) == (place, revision, ids)
    assert str(reference) == text
    assert reference.is_remote is ("://" in text)


@pytest.mark.parametrize("text", ["", "#red-mug", "hf://user/name#Red Mug", "hf://u/n#a,,b", "corpus#a,B", "corpus#a,"])
def test_reference_without_a_place_or_with_ids_that_are_none_is_refused(text):
    with pytest.raises(UsageError, match="E501"):
        parse_reference(text)


@given(
    st.text(max_size=30), st.lists(st.from_regex(r"[a-z0-9][a-z0-9_-]{0,8}", fullmatch=True), min_size=1, max_size=3)
)
def test_ids_after_any_folder_name_come_back(place, ids):
    if not place or "://" in place:
        place = "x"
    assert parse_reference(f"{place}#{','.join(ids)}") == Reference(place, None, tuple(ids))


@pytest.mark.parametrize("name", ["me@home", "C# Course", "a b", "café", "50%"])
def test_corpus_in_a_folder_with_an_odd_name_is_opened(corpus_root, name):
    place = corpus_root.rename(corpus_root.parent / name)
    with open_corpus(str(place)) as corpus:
        assert len(corpus) == 13
    with open_corpus(f"{place}#green-mug") as corpus:
        assert len(corpus) == 3
