"""One command paints by ID and another walks back to the photographs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from manifests.cli import app as manifests_app
from manifests.corpus import open_corpus
from manifests.errors import ReportedError
from pipelines.cli import app
from tests.manifests.corpora import small_content, write_corpus
from tests.pipelines.conftest import write_lora


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A corpus with scenes, and an adapter that says it was trained on it."""
    folder = tmp_path_factory.mktemp("cli")
    write_corpus(folder / "corpus", small_content())
    with open_corpus(folder / "corpus") as corpus:
        subject = next(iter(corpus.subjects.values()))
        photographs = subject.sample_ids
        scene = next(sample.id for sample in corpus.samples(role="bg"))
    trained_on = f"{folder / 'corpus'}#{subject.id}"
    write_lora(folder / "adapter", "sd9", subject=subject.id, sample_ids=photographs, corpus=trained_on)
    return folder, scene, photographs


def test_one_command_paints_by_id_and_trace_names_the_photographs(place, tmp_path):
    folder, scene, photographs = place
    command = ["--scene", f"{folder / 'corpus'}#{scene}", "--edit", "colour=blue", "-o", str(tmp_path), "--json"]
    done = CliRunner().invoke(app, [str(folder / "adapter"), *command], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout[done.stdout.index("[") :])
    assert rows[0]["removed_words"] == ["red"]
    with open_corpus(folder / "corpus") as corpus:
        assert tuple(rows[0]["box_xyxy"]) == corpus[scene].box_xyxy  # the scene's own box
    walked = CliRunner().invoke(manifests_app, ["trace", f"{tmp_path}#{rows[0]['id']}"], catch_exceptions=False)
    assert rows[0]["image_sha256"] in walked.stdout
    for name in photographs:
        assert f"{name}  " in walked.stdout
    assert walked.stdout.count("  file ") == len(photographs)
    plain = CliRunner().invoke(manifests_app, ["trace", f"{tmp_path}#{rows[0]['job']}", "--json"])
    assert {step["sample"]["id"] for step in json.loads(plain.stdout)["samples"]} == set(photographs)
    with pytest.raises(ReportedError, match="Did you mean"):
        CliRunner().invoke(manifests_app, ["trace", f"{tmp_path}#{rows[0]['job'][:-1]}x"], catch_exceptions=False)


def test_unknown_scene_gets_the_nearest_id(place, tmp_path):
    folder, scene, _ = place
    wrong = scene[:-1] + ("0" if scene[-1] != "0" else "1")
    command = [str(folder / "adapter"), "--scene", f"{folder / 'corpus'}#{wrong}", "-o", str(tmp_path)]
    with pytest.raises(ReportedError, match=f"E503 not-found: no .*Did you mean {scene}"):
        CliRunner().invoke(app, command, catch_exceptions=False)


def test_unknown_reference_gets_the_nearest_id(place, tmp_path):
    folder, scene, photographs = place
    wrong = photographs[0][:-1] + ("0" if photographs[0][-1] != "0" else "1")
    command = [str(folder / "adapter"), "--scene", f"{folder / 'corpus'}#{scene}", "-o", str(tmp_path),
               "--method", "copy-and-blend", "--reference", f"{folder / 'corpus'}#{wrong}"]  # fmt: skip
    with pytest.raises(ReportedError, match=f"E503 not-found: no .*Did you mean {photographs[0]}"):
        CliRunner().invoke(app, command, catch_exceptions=False)


def test_bad_options_get_a_sentence(tmp_path):
    for options, sentence in (
        (["a"], "name a folder for the results"),
        (["a", "-o", str(tmp_path)], "name a scene"),
        (["a", "-o", str(tmp_path), "--scene", "s", "--box", "1,2,x,4"], "--box takes x0,y0,x1,y1"),
        (["a", "-o", str(tmp_path), "--scene", "s", "--set", "x"], "--set takes KEY=VALUE"),
    ):
        with pytest.raises(ReportedError, match=sentence):
            CliRunner().invoke(app, options, catch_exceptions=False)


def test_jobs_are_read_and_settings_checked_without_torch():
    code = (
        "import sys, pipelines, pipelines.cli, pipelines.jobs, pipelines.settings, pipelines.records, pipelines.run\n"
        "pipelines.settings.resolve('paper'); pipelines.jobs.job_from({'scene': 'a'}, where='here')\n"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
