"""Tracing: from a made picture back to photographs and files; and what differs between two corpora."""

from __future__ import annotations

from dataclasses import replace

import pytest

from manifests.corpus import open_corpus
from manifests.errors import CorpusError, NotFoundError
from manifests.tracing import diff, trace
from tests.manifests.corpora import edit_table, small_content, write_corpus


def regular_pictures(root):
    """The picture made from a photograph and a scene, and the one made from that picture."""
    with open_corpus(root) as corpus:
        made = [sample for sample in corpus.samples(role="reg") if sample.subject == "red-mug"]
    first = next(sample for sample in made if len(sample.parents) == 2)
    return first, next(sample for sample in made if sample.parents == (first.id,))


def test_trace_walks_every_step_back_to_the_files(pristine):
    first, second = regular_pictures(pristine)
    with open_corpus(pristine) as corpus:
        steps = trace(corpus, second.id)
    assert [(step.depth, step.sample.id) for step in steps] == [
        (0, second.id),
        (1, first.id),
        (2, first.parents[0]),
        (2, first.parents[1]),
    ]
    files = [step.file.path if step.file else None for step in steps]
    assert files == [None, None, "red-mug/20.jpg", "scenes/50.jpg"]
    assert steps[2].file.sha256 == steps[2].sample.source_sha256


def test_trace_of_a_selection_leaves_the_selection(pristine):
    _, second = regular_pictures(pristine)
    with open_corpus(f"{pristine}#{second.id}") as corpus:
        assert len(trace(corpus, second.id)) == 4
        with pytest.raises(NotFoundError, match="E503"):
            trace(corpus, second.parents[0])


def test_sample_that_is_its_own_ancestor_is_an_error_and_not_an_endless_walk(corpus_root):
    first, second = regular_pictures(corpus_root)

    def change(rows):
        next(row for row in rows if row["id"] == first.id)["parents"] = [second.id]

    edit_table(corpus_root, "manifest", change)
    with open_corpus(corpus_root) as corpus, pytest.raises(CorpusError, match=r"E303 .*its own ancestor"):
        trace(corpus, second.id)


def test_equal_corpora_do_not_differ_wherever_their_bytes_lie(pristine, tmp_path):
    other = write_corpus(tmp_path / "other", replace(small_content(), shard_bytes=1 << 20))
    assert (other / "corpus.json").read_bytes() != (pristine / "corpus.json").read_bytes()
    assert diff(pristine, other) == []


def test_diff_names_added_removed_and_changed_samples_with_their_fields(pristine, tmp_path):
    what = small_content()
    made = list(what.samples())
    lost = made.pop(0).sample.id
    changed = replace(made[3].sample, caption="another", image=replace(made[3].sample.image, sha256="0" * 64))

    def change(rows):
        row = next(row for row in rows if row["id"] == changed.id)
        row["caption"] = "another"
        row["image"]["sha256"] = "0" * 64

    other = write_corpus(tmp_path / "other", replace(what, samples=lambda: iter(made)))
    edit_table(other, "manifest", change)
    forward = {item.id: (item.kind, item.fields) for item in diff(pristine, other)}
    assert forward == {lost: ("removed", ()), changed.id: ("changed", ("caption", "image"))}
    backward = {item.id: item.kind for item in diff(other, pristine)}
    assert backward == {lost: "added", changed.id: "changed"}
