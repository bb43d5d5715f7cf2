"""What a person learns before, during and after a long build."""

from __future__ import annotations

import fcntl
import json
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest

import manifests
from dataforge import build
from dataforge.building import only, refuse_beyond, refuse_full_disk
from dataforge.buildlog import LOG_NAME, BuildLog, read_status
from dataforge.config import Recipe
from dataforge.executor import InlineExecutor
from dataforge.ingest.sources import SubjectSource, read_inputs
from dataforge.planning import _growth_of_classes, _Watch, plan
from dataforge.samples import Picture, WorkingSubject
from manifests import fsops
from manifests.errors import EnvironmentFault, UsageError
from manifests.records import RegularPrompt, Word
from tests.conftest import draw_subjects, tree_digest
from tests.dataforge.conftest import FAKE


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return draw_subjects(tmp_path_factory.mktemp("plan") / "photographs", subjects=4, photographs=3, size=64)


def test_a_plan_counts_what_is_to_do_and_keeps_what_its_trial_made(photographs, tmp_path, fake):
    found = plan(photographs, tmp_path / "corpus", fake, workers=0, trial=2)
    stages = {stage.stage: stage for stage in found.stages}
    assert (found.subjects, found.photographs) == (4, 12)
    assert (stages["ingest"].total, stages["ingest"].there) == (12, 6)
    assert stages["describe"].total == 4
    assert found.seconds > 0
    assert not (tmp_path / "corpus" / "corpus.json").exists()
    result = build(photographs, tmp_path / "corpus", fake, workers=0)
    assert result.stages["ingest"].reused == 6
    assert {name: counts.computed + counts.reused for name, counts in result.stages.items()}["ingest"] == 12
    build(photographs, tmp_path / "whole", fake, workers=0)
    assert tree_digest(tmp_path / "corpus") == tree_digest(tmp_path / "whole")
    # all is there: nothing is left to compute or to measure, and next to nothing to write
    again = plan(photographs, tmp_path / "corpus", fake, workers=0, trial=4)
    assert all(stage.there == stage.total and stage.seconds == 0 for stage in again.stages)
    assert again.work_bytes == 0
    assert again.corpus_bytes < 0.1 * found.corpus_bytes


class OnceClosed(InlineExecutor):
    """What a cluster that was left is: it does not begin again."""

    closed = False

    def map_units(self, fn, units, resources):
        assert not self.closed
        return super().map_units(fn, units, resources)

    def close(self):
        self.closed = True


def test_a_plan_computes_twice_before_its_workers_end(photographs, tmp_path, fake):
    executor = OnceClosed()
    assert plan(photographs, tmp_path / "corpus", fake, executor=executor, trial=2).seconds > 0
    assert executor.closed


@pytest.mark.parametrize("nouns", [("mug", "ball", "can", "vase"), ("mug", "ball", "mug", "ball"), ("mug",) * 4])
def test_a_plan_knows_what_subjects_of_one_class_share(photographs, tmp_path, fake, nouns):
    root = shutil.copytree(photographs, tmp_path / "photographs")
    rows = [f"{folder.name},{noun}" for folder, noun in zip(sorted(root.iterdir()), nouns, strict=True)]
    (root / "subjects.csv").write_text("\n".join(["subject,class_noun", *rows]))
    found = plan(root / "subjects.csv", tmp_path / "corpus", fake, workers=0, trial=2)
    result = build(root / "subjects.csv", tmp_path / "corpus", fake, workers=0)
    for stage in found.stages:
        if stage.stage != "compose":  # shared by subjects with the same words: next to no work, whatever their number
            assert stage.total == result.stages[stage.stage].computed + result.stages[stage.stage].reused
    assert found.samples == result.counts["photographs"] + result.counts["regular"]


@pytest.mark.parametrize(("words", "growth"), [(["red"] * 4, 1.0), (["red", "blue", "old", "new"], 2.0)])
def test_pictures_of_a_class_grow_as_its_words_differ(words, growth):
    """Four subjects tried, eight in all, of one class: their prompts are shared, or as many as there are subjects."""
    tried = []
    for number, word in enumerate(words):
        source = SubjectSource(f"mug{number}", f"mug{number}", "mug", "listing")
        prompt = RegularPrompt(
            prompt=f"a {word} mug",
            template="",
            words=(Word(category="colour", word=word, origin="source"),),
            seed=0,
        )
        tried.append(WorkingSubject(source, [Picture("src", source.slug, "mug")], prompts=(prompt,)))
    everyone = [subject.source for subject in tried] * 2
    assert _growth_of_classes(everyone, tried) == pytest.approx(growth)


def test_a_plan_without_an_output_looks_at_the_disk_of_the_current_folder(
    photographs,
    tmp_path,
    fake,
    monkeypatch,
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dataforge.planning.free_bytes", lambda root: 1000 if root == Path() else 1 << 60)
    with pytest.raises(EnvironmentFault, match=r"bytes in \., and 1,000 are free there"):
        plan(photographs, None, fake, workers=0, trial=1)


def test_a_plan_without_an_output_leaves_nothing_behind(photographs, tmp_path, fake, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    plan(photographs, None, fake, workers=0, trial=1)
    assert list(tmp_path.iterdir()) == []


def test_a_plan_without_an_output_counts_its_trial_s_own_subjects_too(photographs, tmp_path, fake):
    """Its results are gone when it ends: a build computes them all."""
    found = plan(photographs, None, fake, workers=0, trial=4)
    assert [stage.there for stage in found.stages] == [0] * len(found.stages)
    kept = plan(photographs, tmp_path / "corpus", fake, workers=0, trial=4)
    assert {stage.stage: stage.total for stage in found.stages} == {stage.stage: stage.total for stage in kept.stages}
    assert found.work_bytes > 0 == kept.work_bytes


def test_the_rate_leaves_out_the_start_of_every_worker():
    watch = _Watch(lambda *_: None)
    # two workers start in 5 s and then take 1 s a unit of 8
    answers = [(0.0, 0), (5.0, 8), (5.0, 16), (6.0, 24), (6.0, 32), (7.0, 40), (7.0, 48)]
    watch.runs["ingest"] = [answers]
    assert watch.rate("ingest", 2) == (5.0, 2.0 / 32)


def test_a_trial_run_of_the_first_subjects_is_kept(photographs, tmp_path, fake):
    result = build(photographs, tmp_path / "corpus", fake, workers=0, limit=2)
    assert (result.counts["subjects"], result.counts["photographs"]) == (2, 6)
    whole = build(photographs, tmp_path / "corpus", fake, workers=0)
    assert whole.stages["ingest"].reused == 6
    assert whole.counts["subjects"] == 4
    with pytest.raises(UsageError, match="corpus holds 4 subjects, --limit 2 would leave fewer: name another output"):
        build(photographs, tmp_path / "corpus", fake, workers=0, limit=2)
    assert manifests.open(str(tmp_path / "corpus")).digest == whole.digest


def test_the_ledger_of_a_trial_holds_the_files_of_its_subjects(photographs, tmp_path, fake):
    root = shutil.copytree(photographs, tmp_path / "photographs")
    for subject in sorted(root.iterdir()):
        (subject / "notes.txt").write_text("ignored")
    inputs = read_inputs(root)
    assert inputs.files_found == 16
    # three photographs, and every ignored file: those belong to nobody
    assert only(inputs, inputs.subjects[:1]).files_found == 3 + 4


def test_a_disk_that_is_too_small_is_refused_before_anything_runs(photographs, tmp_path, fake, monkeypatch):
    with pytest.raises(EnvironmentFault, match=r"E510 disk: 12 photographs need 11 bytes in .*, and 10 are free there"):
        refuse_beyond(10, 11, "12 photographs", tmp_path)
    monkeypatch.setattr("dataforge.building.free_bytes", lambda root: 1000)
    with pytest.raises(EnvironmentFault, match="12 photographs need"):
        build(photographs, tmp_path / "corpus", fake, workers=0)
    assert not (tmp_path / "corpus").exists()
    refuse_full_disk(tmp_path, only(read_inputs(photographs), []), fake.ingest.limits)
    monkeypatch.setattr("dataforge.planning.free_bytes", lambda root: 1000)
    with pytest.raises(EnvironmentFault, match="photographs and what is made of them need"):
        plan(photographs, tmp_path / "planned", fake, workers=0, trial=1)


def test_an_unknown_executor_is_refused_in_one_sentence(photographs, tmp_path, fake):
    with pytest.raises(UsageError, match=r"--executor slurm: expected local, ray or ray:ADDRESS"):
        build(photographs, tmp_path / "corpus", fake, executor="slurm")
    with pytest.raises(UsageError, match="--workers 0 runs all in this process, --executor ray elsewhere"):
        build(photographs, tmp_path / "corpus", fake, executor="ray", workers=0)


def test_ray_that_is_not_installed_is_named_with_its_command(photographs, tmp_path, fake, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r'E505 .*--executor ray needs the package: pip install "dataforge\[ray\]"'):
        build(photographs, tmp_path / "corpus", fake, executor="ray")


def test_a_build_logs_what_it_does_and_status_reads_it(photographs, tmp_path, fake):
    (bad := tmp_path / "photographs" / "red_ball0").mkdir(parents=True)
    shutil.copytree(photographs, tmp_path / "photographs", dirs_exist_ok=True)
    (bad / "broken.jpg").write_bytes(b"no picture")
    seen: list[str] = []
    build(tmp_path / "photographs", tmp_path / "corpus", fake, workers=0, on_note=seen.append)
    work = tmp_path / "corpus" / ".work"
    status = read_status(work)
    assert status.owner is None
    assert status.last is not None
    assert status.last["state"] == "finished"
    assert status.last["stages"]["ingest"]["done"] == status.last["stages"]["ingest"]["total"] == 13
    assert sum(status.last["rejects"].values()) == 1
    assert any("refused" in text for text in seen)
    for line in (work / LOG_NAME).read_text().splitlines():
        assert {"at", "stage", "stages", "rejects", "cpu", "gpu"} <= json.loads(line).keys()


def test_what_is_refused_is_counted_by_reason_as_the_ledger_has_it(photographs, tmp_path):
    """Faults of tasks, of items within them, and of the gate; read again from the store, they count the same."""
    root = shutil.copytree(photographs, tmp_path / "photographs")
    (root / "red_ball0" / "broken.jpg").write_bytes(b"no picture")
    (root / "blue_ball1" / "overrides.yaml").write_text("boxes: {0.jpg: [900, 900, 950, 950]}\n")
    none_found = {"ground": {"kind": "fake", "min_score": 0.6}}
    too_small = {"ground": {"kind": "fake"}, "gate": {"min_area": 0.5}}
    for number, changed in enumerate((none_found, too_small)):
        recipe = Recipe.model_validate(FAKE | changed)
        for _ in range(2):
            build(root, tmp_path / f"corpus{number}", recipe, workers=0, rehash=True)
            with manifests.open(str(tmp_path / f"corpus{number}")) as corpus:
                codes = Counter(row.code for row in corpus.ledger if row.status == "quarantined")
            last = read_status(tmp_path / f"corpus{number}" / ".work").last
            assert last is not None
            assert last["rejects"] == codes
            assert len(codes) == 3
            assert sum(codes.values()) >= 12


def test_a_log_has_one_line_a_second_at_most_and_status_knows_who_writes(tmp_path):
    work = tmp_path / ".work"
    with fsops.output_lock(work / "lock"), BuildLog(work / LOG_NAME, lambda *_: None, lambda _: None) as log:
        for done in range(2000):
            log("ingest", done, 2000)
        status = read_status(work)
        assert len((work / LOG_NAME).read_text().splitlines()) == 1
        assert status.owner is not None
        assert status.owner["pid"] > 0
        log("ground", 0, 5)
        log("ground", 5, 5)
        log("ground", 0, 3)  # made pictures, in their turn
        log("ground", 1, 3)
    last = read_status(work).last
    assert last is not None
    assert (last["stages"]["ground"]["done"], last["stages"]["ground"]["total"]) == (6, 8)
    assert read_status(work).owner is None
    # a killed build leaves its name in the lock file, and no lock
    (work / "lock").write_text(json.dumps({"pid": 1, "host": "here", "since": "then"}))
    assert read_status(work).owner is None
    with (work / "lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert read_status(work).owner == {"pid": 1, "host": "here", "since": "then"}


def test_a_line_half_written_is_not_read(tmp_path):
    (tmp_path / LOG_NAME).write_text('{"stage": "ingest"}\n{"stage": "gro')
    assert read_status(tmp_path).last == {"stage": "ingest"}
    assert read_status(Path(tmp_path / "nowhere")).last is None
