"""Takedown: what is removed is gone with all that was made from it, and the rest is a sound corpus."""

from __future__ import annotations

import pytest

from manifests.corpus import open_corpus
from manifests.errors import NotFoundError, UsageError
from manifests.ids import sha256_hex
from manifests.removal import remove
from manifests.tracing import diff
from manifests.validation import validate
from tests.manifests.corpora import derive, small_content

PARENT = next(
    made.sample.parents[0] for made in small_content().samples() if len(made.sample.parents) == 2
)  # the photograph from which one regular picture was made, and another from that one


@pytest.fixture
def without_photograph(pristine, tmp_path):
    digest, gone = remove(f"{pristine}#{PARENT}", tmp_path / "new")
    derive(tmp_path / "new")
    return tmp_path / "new", digest, gone


def test_pictures_made_from_a_removed_photograph_go_with_it_however_many_steps_away(without_photograph, pristine):
    root, _, gone = without_photograph
    assert PARENT in gone
    assert sorted(name.partition("-")[2][:7] for name in gone) == ["mug/reg", "mug/reg", "mug/src"]
    with open_corpus(root) as new, open_corpus(pristine) as old:
        assert set(old) - set(new) == set(gone)
        assert not any(set(gone) & {*s.sample_ids, *s.regular_ids, *s.scene_ids} for s in new.subjects.values())
        assert not any(set(gone) & set(sample.parents) for sample in new.samples())


def test_no_byte_of_a_removed_picture_is_left_anywhere(without_photograph):
    root, _, gone = without_photograph
    given = {made.sample.id: made for made in small_content().samples()}
    everything = b"".join(path.read_bytes() for path in root.rglob("*") if path.is_file())
    for name in gone:
        assert given[name].image() not in everything
        assert name.encode() not in everything
        assert given[name].sample.image.sha256.encode() not in everything


def test_words_that_only_the_removed_photograph_supported_are_gone(without_photograph, pristine):
    with open_corpus(without_photograph[0]) as new, open_corpus(pristine) as old:
        assert [word.word for word in old.subjects["red-mug"].attributes] == ["red", "chipped", "teal"]
        red, teal = new.subjects["red-mug"].attributes
        assert (red.word, len(red.sample_ids)) == ("red", 2)
        assert (teal.word, teal.sample_ids) == ("teal", ())
        assert new.subjects["blue-mug"] == old.subjects["blue-mug"]


def test_ledger_still_accounts_for_the_file_and_no_longer_identifies_it(without_photograph, pristine):
    with open_corpus(without_photograph[0]) as new, open_corpus(pristine) as old:
        assert [row.path for row in new.ledger] == [row.path for row in old.ledger]
        settled = [row for row in new.ledger if row.rule == "taken-down"]
        # the photograph, and the copy of it that stood beside it
        assert [row.path for row in settled] == ["red-mug/20.jpg", "red-mug/copy.jpg"]
        for row in settled:
            assert (row.status, row.sha256, row.sample_id, row.notes) == ("ignored", "", "", ())
        kept = [row for row in new.ledger if row.rule != "taken-down"]
        assert kept == [row for row in old.ledger if row.path not in {r.path for r in settled}]


def test_new_corpus_is_sound_and_the_old_one_untouched(without_photograph, pristine):
    root, digest, gone = without_photograph
    assert validate(root, full=True) == []
    assert validate(pristine, full=True) == []
    with open_corpus(root) as new:
        assert new.digest == digest == sha256_hex((root / "corpus.json").read_bytes())
        assert new.header.counts["photographs"] == 8
        assert new.header.counts["regular"] == 1
        assert new.header.counts["files_ignored"] == 2
    assert [(d.id, d.kind) for d in diff(pristine, root)] == [(name, "removed") for name in gone]


def test_removing_a_subject_leaves_what_others_share_with_it(pristine, tmp_path):
    _, gone = remove(f"{pristine}#red-mug", tmp_path / "new")
    derive(tmp_path / "new")
    assert {name.partition("/")[0] for name in gone} == {"red-mug"}
    with open_corpus(tmp_path / "new") as new:
        assert sorted(new.subjects) == ["blue-mug", "green-mug"]
        (shared,) = new.subjects["blue-mug"].regular_ids
        assert shared.startswith("class-mug/")
        assert shared in new
        assert {row.rule for row in new.ledger if row.subject == "red-mug"} == {"taken-down"}
        assert not any(row.sha256 for row in new.ledger if row.subject == "red-mug")
    assert validate(tmp_path / "new", full=True) == []


def test_removing_every_subject_that_links_a_shared_picture_removes_it(pristine, tmp_path):
    _, gone = remove(f"{pristine}#red-mug,blue-mug", tmp_path / "new")
    assert any(name.startswith("class-mug/") for name in gone)
    derive(tmp_path / "new")
    assert validate(tmp_path / "new", full=True) == []


def test_shared_picture_that_is_named_goes_from_all_who_link_it(pristine, tmp_path):
    _, gone = remove(f"{pristine}#class-mug", tmp_path / "new")
    assert len(gone) == 1
    derive(tmp_path / "new")
    with open_corpus(tmp_path / "new") as new:
        assert not any(gone[0] in subject.regular_ids for subject in new.subjects.values())
    assert validate(tmp_path / "new", full=True) == []


def test_removed_scene_takes_the_pictures_painted_on_it_along(pristine, tmp_path):
    _, gone = remove(f"{pristine}#scenes", tmp_path / "new")
    assert len(gone) == 3
    derive(tmp_path / "new")
    assert validate(tmp_path / "new", full=True) == []
    with open_corpus(tmp_path / "new") as new:
        assert new.subjects["red-mug"].scene_ids == ()


def test_removing_again_gives_the_same_corpus(pristine, tmp_path):
    first, _ = remove(f"{pristine}#{PARENT}", tmp_path / "a")
    again, _ = remove(f"{pristine}#{PARENT}", tmp_path / "b")
    assert first == again


def test_removal_onto_another_corpus_is_refused_and_leaves_it_whole(pristine, tmp_path):
    remove(f"{pristine}#green-mug", tmp_path / "new")
    before = {path: path.read_bytes() for path in (tmp_path / "new").rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="name a new folder"):
        remove(f"{pristine}#{PARENT}", tmp_path / "new")
    assert {path: path.read_bytes() for path in (tmp_path / "new").rglob("*") if path.is_file()} == before


def test_nothing_named_same_folder_all_gone_and_foreign_folder_are_refused(pristine, tmp_path):
    with pytest.raises(UsageError, match=r"E501 .*remove needs IDs"):
        remove(str(pristine), tmp_path / "new")
    with pytest.raises(UsageError, match=r"E501 .*name a new folder"):
        remove(f"{pristine}#red-mug", pristine / ".." / pristine.name)
    with pytest.raises(NotFoundError, match=r"E503 .*Did you mean red-mug"):
        remove(f"{pristine}#red-mgu", tmp_path / "new")
    with pytest.raises(UsageError, match="nothing would be left"):
        remove(f"{pristine}#red-mug,blue-mug,green-mug,scenes", tmp_path / "new")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="E504"):
        remove(f"{pristine}#red-mug", tmp_path / "full")
    assert not (tmp_path / "new" / "corpus.json").exists()
