"""Cases that once went wrong, kept so that they stay right."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
import yaml
from PIL import Image

import manifests
from dataforge import build
from dataforge.config import Recipe
from dataforge.executor import LocalExecutor, Resources
from dataforge.ingest.sources import read_inputs
from dataforge.stages.ingest import IngestPhotographs
from manifests.errors import EnvironmentFault, Fault, IntegrityError, UsageError
from manifests.removal import remove
from tests.conftest import draw_mask, draw_photograph, draw_subjects, tree_digest
from tests.dataforge.conftest import FAKE, QUICK
from tests.dataforge.test_workers import DeadlyExecutor


def rows_of(output) -> dict[str, tuple[str, str]]:
    with manifests.open(str(output)) as corpus:
        return {row.path: (row.status, row.code or row.rule) for row in corpus.ledger if row.path}


def test_taking_a_scene_down_takes_the_pictures_that_show_it(tmp_path, quick):
    photographs = draw_subjects(tmp_path / "in", subjects=1, photographs=2)
    draw_photograph(photographs / "scenes" / "a.jpg", colour=(120, 120, 120), seed=50)
    recipe = Recipe.model_validate({**QUICK, "generate": {"generator": {"size": 64}, "images_per_photograph": 4}})
    build(photographs, tmp_path / "corpus", recipe, workers=0)
    with manifests.open(str(tmp_path / "corpus")) as corpus:
        (scene,) = corpus.samples(role="bg")
        composites = {s.id for s in corpus.samples(role="reg") if scene.id in s.parents}
    assert composites
    _, gone = remove(f"{tmp_path / 'corpus'}#{scene.id}", tmp_path / "less")
    assert set(gone) == {scene.id, *composites}
    with pytest.raises(UsageError, match="name a new folder"):
        remove(f"{tmp_path / 'corpus'}#{scene.id}", tmp_path / "less")


def test_a_stage_result_that_rotted_is_never_packed(tmp_path, quick):
    photographs = draw_subjects(tmp_path / "in", subjects=1, photographs=2)
    build(photographs, tmp_path / "corpus", quick, workers=0)
    for shard in (tmp_path / "corpus" / "shards").iterdir():
        shard.unlink()
    (tmp_path / "corpus" / "corpus.json").unlink()
    for part in (tmp_path / "corpus" / ".work" / "parts" / "ingest").iterdir():
        data = bytearray(part.read_bytes())
        data[-1] ^= 1  # a picture's last byte: the index before it stays whole
        part.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"stage result .* is damaged"):
        build(photographs, tmp_path / "corpus", quick, workers=0)
    assert not (tmp_path / "corpus" / "corpus.json").exists()
    assert list((tmp_path / "corpus" / "shards").iterdir()) == []


def test_workers_run_no_module_of_the_folder_they_are_started_in(photographs, tmp_path, fake, monkeypatch):
    (tmp_path / "random.py").write_text("raise SystemExit('planted')")
    monkeypatch.chdir(tmp_path)
    assert build(photographs, tmp_path / "corpus", fake, workers=1).counts["photographs"] == 20


def masked(root, overrides):
    for name in ("a", "b"):
        draw_photograph(root / "mug" / "images" / f"{name}.jpg", colour=(9, 9, 200), seed=ord(name))
    draw_mask(root / "mug" / "masks" / "a.png")
    draw_mask(root / "mug" / "masks" / "orphan.png")
    (root / "mug" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    return root


@pytest.mark.parametrize(
    "overrides",
    [
        {"masks": {"images/b.jpg": "masks/orphan.png"}},
        {"masks": {"images/a.jpg": "masks/a.png"}},
        {"masks": {"images/b.jpg": "masks/orphan.png"}, "drop": ["masks/orphan.png"]},
        {"masks": {"images/a.jpg": "masks/a.png", "images/b.jpg": "masks/a.png"}, "drop": ["images/b.jpg"]},
    ],
)
def test_masks_in_overrides_are_used_and_every_file_has_one_row(tmp_path, fake, overrides):
    build(masked(tmp_path / "in", overrides), tmp_path / "corpus", fake, workers=0)
    rows = rows_of(tmp_path / "corpus")
    assert len(rows) == 5
    with manifests.open(str(tmp_path / "corpus")) as corpus:
        by = {s.source_uri: s for s in corpus.samples(role="src")}
    for name, mask in overrides["masks"].items():
        if f"mug/{name}" in by:
            assert by[f"mug/{name}"].mask_quality == 1.0
            assert rows[f"mug/{mask}"][0] == "accepted"


def test_an_override_mask_holds_even_where_given_masks_are_not_used(tmp_path):
    root = masked(tmp_path / "in", {"masks": {"images/b.jpg": "masks/orphan.png"}})
    recipe = Recipe.model_validate({**FAKE, "ingest": {"use_given_masks": False}})
    build(root, tmp_path / "corpus", recipe, workers=0)
    with manifests.open(str(tmp_path / "corpus")) as corpus:
        spoke = {
            s.source_uri: p.backend for s in corpus.samples(role="src") for p in s.provenance if p.stage == "segment"
        }
    assert spoke == {"mug/images/a.jpg": "fake", "mug/images/b.jpg": "override"}


def test_two_masks_of_one_name_are_both_accounted_for(tmp_path, fake):
    root = tmp_path / "in"
    draw_photograph(root / "mug" / "images" / "a.jpg", colour=(9, 9, 200), seed=1)
    draw_mask(root / "mug" / "masks" / "a.png")
    draw_mask(root / "mug" / "masks" / "old" / "a.png")
    build(root, tmp_path / "corpus", fake, workers=0)
    assert rows_of(tmp_path / "corpus")["mug/masks/old/a.png"] == ("quarantined", "E204")


def test_a_mask_a_pattern_does_not_reach_is_accounted_for(tmp_path, fake):
    root = tmp_path / "in"
    draw_photograph(root / "mug" / "a.jpg", colour=(9, 9, 200), seed=1)
    draw_mask(root / "mug" / "cut" / "a.png")
    draw_mask(root / "mug" / "cut" / "gone.png")
    (root / "subjects.yaml").write_text("subjects: [{name: mug, masks: 'mug/cut/{stem}.png'}]\n")
    build(root / "subjects.yaml", tmp_path / "corpus", fake, workers=0)
    rows = rows_of(tmp_path / "corpus")
    assert rows["mug/cut/a.png"] == ("accepted", "")
    assert rows["mug/cut/gone.png"] == ("quarantined", "E204")


def test_a_file_the_reader_lost_would_stop_the_build(photographs, tmp_path, fake, monkeypatch):
    from dataforge import building

    def forgetful(given):
        inputs = read_inputs(given)
        inputs.subjects[0].photographs.pop()
        return inputs

    monkeypatch.setattr(building, "read_inputs", forgetful)
    with pytest.raises(AssertionError, match="20 files found, 19 ledger rows"):
        build(photographs, tmp_path / "corpus", fake, workers=0)


def test_rows_of_a_table_that_fit_no_folder_are_said(tmp_path):
    draw_photograph(tmp_path / "mug" / "0.jpg", colour=(1, 2, 3), seed=1)
    draw_photograph(tmp_path / unicodedata.normalize("NFD", "café") / "0.jpg", colour=(1, 2, 3), seed=1)
    (tmp_path / "subjects.csv").write_text("subject,class_noun\nMug,cup\ncaf\u00e9,shop\n", "utf-8")
    inputs = read_inputs(tmp_path)
    assert inputs.warnings == ["subjects.csv lists Mug, and there is no folder of that name"]
    assert {s.class_noun for s in inputs.subjects} == {"mug", "shop"}


def test_listed_names_may_hold_glob_characters(tmp_path):
    draw_photograph(tmp_path / "mug [blue]" / "0.jpg", colour=(1, 2, 3), seed=1)
    (tmp_path / "subjects.yaml").write_text("subjects: [{name: 'mug [blue]'}]\n")
    assert len(read_inputs(tmp_path / "subjects.yaml").subjects[0].photographs) == 1


def test_two_listed_subjects_of_one_name_or_folder_are_refused(tmp_path):
    draw_photograph(tmp_path / "a" / "0.jpg", colour=(1, 2, 3), seed=1)
    (tmp_path / "subjects.yaml").write_text("subjects: [{name: a}, {name: a}]\n")
    with pytest.raises(UsageError, match='"a" and "a" both become a'):
        read_inputs(tmp_path / "subjects.yaml")
    (tmp_path / "two.csv").write_text("subject,folder\na,a\nb,a/\n")
    with pytest.raises(UsageError, match="a and b share the folder a"):
        read_inputs(tmp_path / "two.csv")


def test_a_linked_subject_folder_is_said(tmp_path):
    draw_photograph(tmp_path / "real" / "0.jpg", colour=(1, 2, 3), seed=1)
    draw_photograph(tmp_path / "in" / "mug" / "0.jpg", colour=(1, 2, 3), seed=1)
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "real")
    inputs = read_inputs(tmp_path / "in")
    assert inputs.warnings == ["linked is a link and is not followed; give the folder itself"]
    assert [row.code for row in inputs.settled] == ["E101"]


@pytest.mark.parametrize("damage", ["rotten", "missing", "header"])
def test_building_again_makes_a_damaged_corpus_whole(photographs, tmp_path, fake, damage):
    output = tmp_path / "corpus"
    build(photographs, output, fake, workers=0)
    whole = tree_digest(output)
    shard = next((output / "shards").glob("*.tar"))
    if damage == "rotten":
        data = bytearray(shard.read_bytes())
        data[1000] ^= 1
        shard.write_bytes(data)
        assert manifests.validate(output, full=True)
        build(photographs, output, fake, workers=0, rehash=True)
    elif damage == "missing":
        shard.unlink()
        build(photographs, output, fake, workers=0)
    else:
        (output / "corpus.json").write_text("{")
        build(photographs, output, fake, workers=0)
    assert tree_digest(output) == whole


def test_a_corpus_of_a_newer_version_is_not_written_over(photographs, tmp_path, fake):
    output = tmp_path / "corpus"
    build(photographs, output, fake, workers=0)
    header = json.loads((output / "corpus.json").read_text())
    (output / "corpus.json").write_text(json.dumps({**header, "schema_version": 99}))
    for rehash in (False, True):
        with pytest.raises(manifests.CorpusError, match="schema version 99"):
            build(photographs, output, fake, workers=0, rehash=rehash)


def test_after_a_broken_machinery_the_same_command_tries_again(photographs, tmp_path, fake):
    with pytest.raises(EnvironmentFault, match="E512"):
        build(photographs, tmp_path / "corpus", fake, executor=DeadlyExecutor(".jpg"))
    assert build(photographs, tmp_path / "corpus", fake, workers=0).counts["photographs"] == 20


def test_killers_far_apart_do_not_stop_a_build(tmp_path, fake):
    for number in range(66):
        name = "killer" if number % 3 == 0 else "good"
        draw_photograph(tmp_path / "in" / "a" / f"{number:03}-{name}.jpg", colour=(9, 9, 200), seed=number, size=48)
    result = build(tmp_path / "in", tmp_path / "corpus", fake, executor=DeadlyExecutor("killer"))
    assert result.counts["photographs"] == 44
    assert result.counts["files_quarantined"] == 22


def test_of_two_results_for_one_key_the_later_counts_also_after_the_cache_is_gone(photographs, tmp_path, fake):
    output = tmp_path / "corpus"
    build(photographs, output, fake, executor=DeadlyExecutor("red_ball0/2.jpg"))
    good = build(photographs, output, fake, workers=0, retry_failed=True)
    assert good.counts["photographs"] == 20
    for path in (output / ".work").glob("store.sqlite*"):
        path.unlink()
    again = build(photographs, output, fake, workers=0)
    assert again.digest == good.digest


def test_what_was_unreadable_for_a_moment_is_looked_at_again(photographs, tmp_path, fake, monkeypatch):
    real = IngestPhotographs._one

    def refused(self, value):
        if value["path"] == "red_ball0/0.jpg":
            return Fault("E106", "Permission denied")
        return real(self, value)

    monkeypatch.setattr(IngestPhotographs, "_one", refused)
    assert build(photographs, tmp_path / "corpus", fake, workers=0).counts["photographs"] == 19
    monkeypatch.setattr(IngestPhotographs, "_one", real)
    assert build(photographs, tmp_path / "corpus", fake, workers=0).counts["photographs"] == 20


def test_an_output_that_cannot_be_written_is_an_environment_fault(photographs, tmp_path, fake):
    (tmp_path / "file").write_text("")
    with pytest.raises((EnvironmentFault, UsageError)):
        build(photographs, tmp_path / "file" / "corpus", fake, workers=0)


def test_json_is_json_whatever_the_words(tmp_path, fake):
    draw_photograph(tmp_path / "in" / "soft\u00adhyphen :cat: \U0001fae8" / "0.jpg", colour=(9, 9, 200), seed=1)
    build(tmp_path / "in", tmp_path / "corpus", fake, workers=0)
    for verb in ("show", "ls"):
        done = subprocess.run(
            [sys.executable, "-m", "dataforge", verb, str(tmp_path / "corpus"), "--json"],
            capture_output=True,
            text=True,
        )
        lines = done.stdout.splitlines() if verb == "ls" else [done.stdout]
        assert all(json.loads(line) for line in lines)
        assert ":cat:" in done.stdout


def test_a_stuck_worker_is_ended_and_its_items_are_tried_again(photographs, tmp_path, fake):
    executor = LocalExecutor(1)
    stopped: list[int] = []

    class Impatient:
        """Limits every stage to two seconds, and stops the first worker it sees."""

        def map_units(self, fn, units, resources):
            def watched():
                for unit in units:
                    yield unit
                    if not stopped and executor._workers:
                        stopped.append(executor._workers[0]._process.pid)
                        os.kill(stopped[0], signal.SIGSTOP)

            return executor.map_units(fn, watched(), Resources(untrusted=resources.untrusted, timeout_s=2.0))

        def release(self):
            executor.release()

        def close(self):
            executor.close()

    result = build(photographs, tmp_path / "corpus", fake, executor=Impatient())
    assert stopped
    assert result.counts["photographs"] == 20


def test_one_more_scene_or_word_moves_few_regular_pictures(tmp_path):
    photographs = draw_subjects(tmp_path / "in", subjects=1, photographs=5)
    for number in range(6):
        draw_photograph(photographs / "scenes" / f"{number}.jpg", colour=(120, 120, 120), seed=50 + number)
    recipe = Recipe.model_validate({**QUICK, "generate": {"generator": {"size": 64}, "images_per_photograph": 4}})
    build(photographs, tmp_path / "corpus", recipe, workers=0)
    with manifests.open(str(tmp_path / "corpus")) as corpus:
        before = {s.id for s in corpus.samples(role="reg")}
    draw_photograph(photographs / "scenes" / "new.jpg", colour=(120, 120, 120), seed=99)
    build(photographs, tmp_path / "corpus", recipe, workers=0)
    with manifests.open(str(tmp_path / "corpus")) as corpus:
        after = {s.id for s in corpus.samples(role="reg")}
    assert len(before - after) <= 4  # of 20, half of them on scenes: about a seventh of those


def test_another_near_duplicate_limit_decodes_nothing_again(photographs, tmp_path, fake):
    build(photographs, tmp_path / "corpus", fake, workers=0)
    other = Recipe.model_validate({**FAKE, "ingest": {"near_duplicate_bits": 5}})
    result = build(photographs, tmp_path / "corpus", other, workers=0)
    assert not {name: c.computed for name, c in result.stages.items() if c.computed}


def test_a_word_in_two_categories_gives_one_prompt_and_one_link(tmp_path):
    photographs = draw_subjects(tmp_path / "in", subjects=1, photographs=2)
    (photographs / "red_ball0" / "overrides.yaml").write_text("add_words: {colour: [gold], material: [gold]}\n")
    recipe = Recipe.model_validate({**FAKE, "compose": {"pairs": 0}})
    build(photographs, tmp_path / "corpus", recipe, workers=0)
    with manifests.open(str(tmp_path / "corpus")) as corpus:
        ids = corpus.subjects["red_ball0"].regular_ids
    assert len(ids) == len(set(ids))


def test_a_reference_with_a_name_in_place_of_an_id_is_explained(photographs, tmp_path, fake):
    build(photographs, tmp_path / "corpus", fake, workers=0)
    with pytest.raises(UsageError, match="'Mug Big' is no ID"):
        manifests.open(f"{tmp_path / 'corpus'}#Mug Big")


def thin_masks():
    """A frame of one pixel along all borders, and specks."""
    frame = np.ones((40, 600), bool)
    frame[1:-1, 1:-1] = False
    specks = np.random.default_rng(0).random((40, 600)) < 0.02
    return [frame, specks]


@pytest.mark.parametrize("number", [0, 1])
def test_a_mask_of_single_pixels_costs_no_subject_its_words(tmp_path, number):
    rng = np.random.default_rng(3)
    folder = tmp_path / "in" / "wire"
    for name in ("a", "b"):
        path = folder / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(60, 200, (40, 600, 3), dtype=np.uint8)).save(path)
        (folder / "masks").mkdir(exist_ok=True)
        Image.fromarray(thin_masks()[number]).save(folder / "masks" / f"{name}.png")
    recipe = Recipe.model_validate({**QUICK, "ingest": {"limits": {"min_side": 8}}})
    build(tmp_path / "in", tmp_path / "corpus", recipe, workers=0)
    with manifests.open(str(tmp_path / "corpus")) as corpus:
        assert corpus.header.counts["photographs"] == 2
        assert all(sample.caption and "not-described" not in sample.flags for sample in corpus.samples(role="src"))
        assert {row.code for row in corpus.ledger if row.kind == "made"} <= {"E221"}


def test_taking_a_photograph_down_takes_its_copy_under_another_subject(tmp_path, fake):
    photographs = draw_subjects(tmp_path / "in", subjects=2, photographs=2)
    (photographs / "blue_ball1" / "same.jpg").write_bytes((photographs / "red_ball0" / "0.jpg").read_bytes())
    build(photographs, tmp_path / "corpus", fake, workers=0)
    with manifests.open(str(tmp_path / "corpus")) as corpus:
        name = next(row.sample_id for row in corpus.ledger if row.path == "red_ball0/0.jpg")
    _, gone = remove(f"{tmp_path / 'corpus'}#{name}", tmp_path / "less")
    assert gone == sorted([name, name.replace("red_ball0", "blue_ball1")])
    with manifests.open(str(tmp_path / "less")) as corpus:
        assert not any(row.sha256 and name.endswith(row.sha256[:12]) for row in corpus.ledger)


def test_pictures_that_were_read_wrongly_are_read_right_or_refused():
    import io

    from dataforge.config import Ingest
    from dataforge.ingest.policy import Photograph, normalise_photograph
    from manifests.pixels import decode_image

    ramp = np.linspace(0, 1.02, 64 * 64, dtype=np.float32).reshape(64, 64)
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "TIFF")
    photograph = normalise_photograph(buffer.getvalue(), Ingest())
    assert isinstance(photograph, Photograph)
    assert abs(float(decode_image(photograph.data, photograph.format).mean()) - 127) < 3
    deep = (ramp * 60000).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(deep).save(buffer, "TIFF", tiffinfo={262: 0})
    assert normalise_photograph(buffer.getvalue(), Ingest()) == Fault("E199", "a deep TIFF whose zero is white")
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    wide = np.random.default_rng(1).integers(0, 255, (40, 80, 3), dtype=np.uint8)
    Image.fromarray(wide).save(buffer, "JPEG", exif=exif)
    data = buffer.getvalue()
    stub = b"\xff\xe1" + (8).to_bytes(2) + b"Exif\0\0"
    turned = normalise_photograph(data[:2] + stub + data[2:], Ingest())
    assert isinstance(turned, Photograph)
    assert (turned.width, turned.height) == (40, 80)
