"""What differs between two corpora, by subject, by sample and by word."""

from __future__ import annotations

import json
import shutil

from typer.testing import CliRunner

from manifests.cli import app
from manifests.tracing import diff, diff_subjects
from tests.manifests.corpora import edit_table


def changed_copy(many, tmp_path):
    other = shutil.copytree(many, tmp_path / "other")

    def subjects(rows):
        words = rows[1]["attributes"]
        words[0]["score"] = 0.25
        words[1]["word"] = "cracked"
        rows[1]["licence"] = "CC0-1.0"

    def samples(rows):
        row = next(row for row in rows if row["subject"] == "mug-1")
        row["attributes"].append({"category": "material", "word": "tin", "score": 0.5, "origin": "source"})

    edit_table(other, "subjects", subjects)
    edit_table(other, "manifest", samples)
    return other


def test_words_are_told_one_by_one(many, tmp_path):
    other = changed_copy(many, tmp_path)
    (subject,) = diff_subjects(many, other)
    assert (subject.id, subject.kind, subject.fields) == ("mug-1", "changed", ("licence", "attributes"))
    assert subject.words == (
        "- colour chipped (source)",
        "+ colour cracked (source)",
        "~ colour red (source) 0.80 to 0.25",
    )
    (sample,) = diff(many, other)
    assert (sample.fields, sample.words) == (("attributes",), ("+ material tin (source)",))
    assert [item.words for item in diff(other, many)] == [("- material tin (source)",)]
    assert diff_subjects(many, many) == diff(many, many) == []


def test_subjects_of_a_selection_alone_are_compared(many, tmp_path):
    other = changed_copy(many, tmp_path)
    assert diff_subjects(f"{many}#mug-0", f"{other}#mug-0") == []
    (gone,) = diff_subjects(f"{many}#mug-0,mug-2", f"{other}#mug-2")
    assert (gone.id, gone.kind) == ("mug-0", "removed")


def test_command_prints_subject_sample_and_word(many, tmp_path):
    other = changed_copy(many, tmp_path)
    lines = CliRunner().invoke(app, ["diff", str(many), str(other)]).output.splitlines()
    assert lines[0] == "~ mug-1  licence, attributes"
    assert "    + colour cracked (source)" in lines
    assert lines[-2:] == ["subjects: 0 added, 0 removed, 1 changed", "samples: 0 added, 0 removed, 1 changed"]
    found = json.loads(CliRunner().invoke(app, ["diff", str(many), str(other), "--json"]).output)
    assert [item["level"] for item in found] == ["subject", "sample"]
    assert found[1]["words"] == ["+ material tin (source)"]
