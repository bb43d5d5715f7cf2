"""What a person meets: verbs, sentences and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conftest import draw_subjects


def dataforge(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dataforge", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    photographs = draw_subjects(folder / "photographs", subjects=2, photographs=3)
    done = dataforge("build", photographs, "-o", folder / "corpus", "--set", "generate.generator.size=64", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"]["photographs"] == 6
    return folder / "corpus"


def test_a_stranger_learns_from_show_what_a_sample_is_and_where_each_fact_came_from(corpus, tmp_path):
    rows = [json.loads(line) for line in dataforge("ls", corpus, "--json").stdout.splitlines()]
    name = next(row["id"] for row in rows if row["role"] == "src")
    shown = dataforge("show", f"{corpus}#{name}", "--image", tmp_path / "p.png", "--mask", tmp_path / "m.png")
    assert shown.returncode == 0
    for expected in (
        "photograph of",
        "box",
        "mask",
        "caption",
        "words",
        "from",
        ".jpg, sha256",
        "made by",
        "ingest",
        "segment",
    ):
        assert expected in shown.stdout
    assert "report/index.html" in shown.stdout
    assert (tmp_path / "p.png").stat().st_size > 0
    assert (tmp_path / "m.png").stat().st_size > 0


def test_trace_walks_a_regular_picture_back_to_the_file(corpus):
    rows = [
        json.loads(line) for line in dataforge("ls", corpus, "--where", "role = 'reg'", "--json").stdout.splitlines()
    ]
    traced = dataforge("trace", f"{corpus}#{rows[0]['id']}")
    assert traced.returncode == 0
    assert rows[0]["parents"][0] in traced.stdout
    assert f"file {rows[0]['source_uri']}, sha256" in traced.stdout
    steps = json.loads(dataforge("trace", f"{corpus}#{rows[0]['id']}", "--json").stdout)
    assert [step["depth"] for step in steps] == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["build", "{tmp}/gone", "-o", "{tmp}/out"], 2, "E503 not-found"),
        (["build", "{photographs}", "-o", "{photographs}"], 2, "E504 output-not-a-corpus"),
        (
            ["build", "{photographs}", "-o", "{tmp}/out", "--recipe", "gone"],
            2,
            "no recipe 'gone'; there are best, fast",
        ),
        (
            ["build", "{photographs}", "-o", "{tmp}/out", "--set", "segment.sides=3"],
            2,
            "segment.embedded.sides: extra inputs",
        ),
        (
            ["build", "{photographs}", "-o", "{tmp}/out", "--set", "segment.kind=best"],
            2,
            "names no backend of this role",
        ),
        (["show", "{corpus}#nobody"], 2, "no sample or subject 'nobody'"),
        (["show", "{tmp}"], 2, "holds no corpus.json"),
        (["show", "hf://user/name"], 2, "a corpus on the Hub is hf://datasets"),
        (["ls", "{corpus}", "--where", "mood = 1"], 2, "mood"),
        (["validate", "{corpus}", "--subset", "3/2"], 2, "--subset takes N/T"),
        (["remove", "{corpus}", "-o", "{tmp}/out"], 2, "remove needs IDs"),
        (["build"], 2, "Missing argument"),
        (["dance"], 2, "No such command"),
    ],
)
def test_a_wrong_call_is_one_sentence_and_exit_2(corpus, tmp_path, arguments, code, sentence):
    places = {"tmp": tmp_path, "corpus": corpus, "photographs": corpus.parent / "photographs"}
    done = dataforge(*[argument.format(**places) for argument in arguments])
    assert done.returncode == code
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert "bug" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3 or "Usage" in done.stderr


def test_an_output_inside_the_photographs_is_refused(corpus):
    photographs = corpus.parent / "photographs"
    done = dataforge("build", photographs, "-o", photographs / "corpus")
    assert done.returncode == 2
    assert "inside" in done.stderr
    assert not (photographs / "corpus").exists()


def test_damage_is_exit_4_and_repair_mends_it(corpus, tmp_path):
    import shutil

    copy = tmp_path / "corpus"
    shutil.copytree(corpus, copy)
    assert dataforge("validate", copy, "--full").returncode == 0
    shard = next((copy / "shards").glob("*.tar"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 4
    shard.write_bytes(data)
    found = dataforge("validate", copy, "--full")
    assert found.returncode == 4
    assert f"E401 checksum: shards/{shard.name}" in found.stdout
    mended = dataforge("repair", copy)
    assert mended.returncode == 0, mended.stderr
    assert f"mended shards/{shard.name}" in mended.stdout
    assert dataforge("validate", copy, "--full").returncode == 0
    # without the stage results, what is gone is said and not invented
    shutil.rmtree(copy / ".work")
    shard.write_bytes(data)
    lost = dataforge("repair", copy)
    assert lost.returncode in (0, 4)
    assert lost.returncode == 0 or "no copy of its bytes is left" in lost.stdout


def test_takedown_removes_what_was_made_from_a_photograph(corpus, tmp_path):
    rows = [json.loads(line) for line in dataforge("ls", corpus, "--json").stdout.splitlines()]
    name = next(row["id"] for row in rows if row["role"] == "src")
    children = [row["id"] for row in rows if name in row["parents"]]
    assert children
    done = dataforge("remove", f"{corpus}#{name}", "-o", tmp_path / "less")
    assert done.returncode == 0, done.stderr
    assert dataforge("repair", tmp_path / "less").returncode == 0
    assert dataforge("validate", tmp_path / "less", "--full").returncode == 0
    left = {json.loads(line)["id"] for line in dataforge("ls", tmp_path / "less", "--json").stdout.splitlines()}
    assert left == {row["id"] for row in rows} - {name, *children}
    changes = json.loads(dataforge("diff", corpus, tmp_path / "less", "--json").stdout)
    assert {change["id"] for change in changes if change["kind"] == "removed"} == {name, *children}


def test_too_much_quarantined_is_exit_3_with_everything_else_done(tmp_path):
    photographs = draw_subjects(tmp_path / "photographs", subjects=1, photographs=3)
    (photographs / "red_ball0" / "bad.jpg").write_bytes(b"no picture")
    arguments = ["build", photographs, "-o", tmp_path / "corpus", "--set", "generate.generator.size=64"]
    assert dataforge(*arguments).returncode == 3
    assert dataforge(*arguments, "--max-quarantine", "0.5").returncode == 0
    assert dataforge("validate", tmp_path / "corpus", "--full").returncode == 0
