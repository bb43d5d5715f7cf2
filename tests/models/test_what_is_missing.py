"""A package, weights or a kind that a recipe names and this machine lacks: one sentence with the command, at once."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from dataforge import model_config
from dataforge.backends import KINDS, backend_class, needs_of
from dataforge.backends.checkpoints import PTH_HOMES, identity, parameter_names
from dataforge.backends.licences import licence_of
from dataforge.building import build
from dataforge.config import Recipe, load_recipe, named_recipes
from dataforge.doctor import examine, examine_others, fetch, findings_json
from dataforge.section import Section
from manifests.errors import UsageError
from tests.conftest import REPOSITORY, draw_subjects
from tests.models.tiny import tiny
from tests.publish.hub import Repo, running
from tests.tiny_models import tiny as tiny_pipeline

SHIPPED = sorted((REPOSITORY / "dataforge" / "recipes").glob("*.yaml"))


def dataforge(*arguments: str, **environment: str) -> tuple[int, str, float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "dataforge", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=REPOSITORY, env=os.environ | {"HF_HUB_OFFLINE": "1"} | environment
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.returncode, done.stderr, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_the_command_line_says_it_in_one_sentence_and_under_five_seconds_and_touches_nothing(tmp_path):
    photos = draw_subjects(tmp_path / "photos", subjects=1, photographs=1)
    code, text, seconds = dataforge(
        "build", str(photos), "-o", str(tmp_path / "corpus"), "--recipe", "paper", "--set", "describe={kind: fake}"
    )
    print(f"{seconds:.2f} s of CPU")
    assert code == 2
    assert text.count("\n") == 1
    assert "E505" in text
    assert "`dataforge doctor --fetch transformers:IDEA-Research/grounding-dino-base`" in text
    assert seconds < 5
    assert not (tmp_path / "corpus").exists()


def wrong(role: str, **section) -> Recipe:
    return Recipe.model_validate({role: section if role != "generate" else {"generator": section}})


def refused(recipe: Recipe, tmp_path: Path) -> str:
    photos = draw_subjects(tmp_path / "photos", subjects=1, photographs=1)
    with pytest.raises(UsageError) as caught:
        build(photos, tmp_path / "corpus", recipe, workers=0)
    assert not (tmp_path / "corpus").exists()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 320
    return str(caught.value)


MISSING = {
    "a model of the Hub": ("segment", {"kind": "sam2"}, "doctor --fetch transformers:facebook/sam2.1-hiera-large"),
    "a folder": ("segment", {"kind": "sam-hf", "model": "./nowhere"}, "name a folder that is there"),
    "a known file": (
        "segment",
        {"kind": "sam", "model": "sam_vit_h_4b8939.pth"},
        "curl -L -o sam_vit_h_4b8939.pth https",
    ),
    "a pipeline": (
        "generate",
        {"kind": "diffusers", "revision": "abc", "variant": "fp16"},
        "doctor --fetch diffusers:stabilityai/stable-diffusion-xl-base-1.0@abc+fp16",
    ),
}


@pytest.mark.parametrize("case", MISSING)
def test_missing_weights_are_named_with_the_command_that_gets_them(case, tmp_path):
    role, section, command = MISSING[case]
    text = refused(wrong(role, **section), tmp_path)
    assert "E505" in text
    assert command in text


def test_a_model_of_another_kind_is_refused_before_any_work(tmp_path):
    clip = str(tiny("clip"))
    text = refused(wrong("ground", kind="grounding-dino", model=clip), tmp_path)
    assert "E508" in text
    assert "tiny-clip is of the kind clip; grounding-dino, mm-grounding-dino can be loaded" in text
    other = str(tiny_pipeline("sd9"))
    assert "E508" in refused(wrong("generate", kind="diffusers", model=other), tmp_path)
    assert "has no readable model_index.json" in refused(wrong("generate", kind="diffusers", model=clip), tmp_path)
    assert "E508" in refused(wrong("segment", kind="sam", model=str(tiny("groundingdino-py"))), tmp_path)
    assert "E508" in refused(wrong("segment", kind="sam", model=clip), tmp_path)
    assert "E508" in refused(
        wrong("ground", kind="groundingdino-py", model=str(tiny("sam")), text_encoder=str(tiny("bert"))), tmp_path
    )


def test_weights_that_lack_a_file_or_are_no_checkpoint_are_refused(tmp_path):
    import shutil

    model = tmp_path / "model"
    shutil.copytree(tiny("sam2"), model)
    (model / "model.safetensors").unlink()
    assert "has no *.safetensors" in refused(wrong("segment", kind="sam2", model=str(model)), tmp_path)
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-00001.safetensors"}}))
    assert "has no model-00001.safetensors" in refused(wrong("segment", kind="sam2", model=str(model)), tmp_path)
    page = tmp_path / "sam.pth"
    for content in (b"<html>", b"version https://git-lfs.github.com/spec/v1\n", tiny("sam").read_bytes()[:5000], b""):
        page.write_bytes(content)
        assert "is no whole checkpoint" in refused(wrong("segment", kind="sam", model=str(page)), tmp_path)


@pytest.mark.parametrize(
    ("role", "section", "module"),
    [
        ("describe", {"kind": "vlm-server", "url": "https://x/v1", "model": "m"}, "openai"),
        ("ground", {"kind": "grounding-dino"}, "transformers"),
        ("segment", {"kind": "sam", "model": "x.pth"}, "segment_anything"),
        ("ground", {"kind": "groundingdino-py", "model": "x.pth"}, "groundingdino"),
        ("describe", {"kind": "vlm"}, "xgrammar"),
        ("generate", {"kind": "diffusers"}, "diffusers"),
    ],
)
def test_an_extra_that_is_not_installed_is_named_with_its_command(role, section, module, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    text = refused(wrong(role, **section), tmp_path)
    assert "E505" in text
    assert f"needs the package {module}: `pip install" in text


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize(("role", "kind"), [("segment", "sam"), ("ground", "groundingdino-py")])
@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "old format"])
def test_a_checkpoint_that_would_run_code_is_refused_unrun(role, kind, zipped, tmp_path):
    """A whole checkpoint of the kind, and one entry more that would touch a file when it is unpickled."""
    place, canary = tmp_path / "model.pth", tmp_path / "canary"
    state = torch.load(tiny(kind), weights_only=True)
    torch.save(state | {"more": Canary(canary)}, place, _use_new_zipfile_serialization=zipped)
    photos = draw_subjects(tmp_path / "photos", subjects=1, photographs=1)
    section = {"kind": kind, "model": str(place)}
    if kind == "groundingdino-py":
        section["text_encoder"] = str(tiny("bert"))
    with pytest.raises(UsageError, match=rf"E508 .*{kind}: model.pth is no checkpoint of weights alone\."):
        build(photos, tmp_path / "corpus", wrong(role, **section), workers=0)
    assert not (tmp_path / "corpus" / "corpus.json").exists()
    assert not canary.exists()
    torch.load(place, weights_only=False)  # that it would have run
    assert canary.exists()


def test_names_in_a_checkpoint_are_read_without_unpickling():
    names = parameter_names(tiny("sam"))
    assert {"image_encoder.pos_embed", "mask_decoder.iou_token.weight"} <= names
    assert zipfile.is_zipfile(tiny("sam"))


def test_an_identity_is_the_folders_name_and_a_digest_of_what_lies_in_it(tmp_path):
    import shutil

    first = identity(str(tiny("clip")), None)
    shutil.copytree(tiny("clip"), tmp_path / "tiny-clip")
    assert identity(str(tmp_path / "tiny-clip"), None) == first
    assert first.startswith("tiny-clip@sha256:")
    (tmp_path / "tiny-clip" / "config.json").write_text("{}")
    assert identity(str(tmp_path / "tiny-clip"), None) != first


@pytest.mark.parametrize("name", named_recipes())
def test_doctor_says_of_every_backend_of_a_recipe_what_it_needs(name):
    findings = examine(load_recipe(name))
    assert {"ground", "segment", "describe", "generate.generator"} <= {finding.role for finding in findings}
    for finding in findings_json(findings):
        if finding["kind"] == "embedded":
            assert finding["ready"]
        elif finding["kind"] != "vlm-server":
            assert finding["packages"]["torch"]
            assert finding["memory_gb"]
            assert finding["ready"] or "doctor --fetch" in finding["problem"]


def test_memory_that_doctor_names_grows_with_the_model_and_fits_the_card_of_the_best_recipe():
    needs = {finding.role: finding.needs.memory_gb for finding in examine(load_recipe("best"))}
    assert needs["describe"] == 19  # 8 billion parameters of two bytes, and what it works on
    assert max(gb for gb in needs.values() if gb) <= 24
    whole = load_recipe("best", ["generate.generator.offload=none"])
    (painter,) = [finding for finding in examine(whole) if finding.role == "generate.generator"]
    assert painter.needs.memory_gb == 30
    small = examine(load_recipe("fast"))
    assert next(finding.needs.memory_gb for finding in small if finding.role == "describe") == 7


def test_doctor_ends_with_2_where_something_is_missing_and_0_where_nothing_is():
    code, _, seconds = dataforge("doctor", "fast")
    assert code == 2
    assert seconds < 5
    assert dataforge("doctor", "laptop")[0] == 0


def test_doctor_without_a_recipe_ends_with_the_kinds_that_none_names():
    command = [sys.executable, "-m", "dataforge", "doctor"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    shown, values = (
        subprocess.run([*command, *more], capture_output=True, text=True, cwd=REPOSITORY, env=environment, check=True)
        for more in ([], ["--json"])
    )
    rest = shown.stdout.partition("kinds that none of these recipes names:\n")[2]
    assert [line.split()[:2] for line in rest.splitlines() if "missing: " not in line] == [
        ["ground", "groundingdino-py"],
        ["segment", "sam"],
    ]
    assert rest.count("`curl -L -o ") == 2
    found = [(finding["role"], finding["kind"]) for group in json.loads(values.stdout).values() for finding in group]
    asked = {(role, kind) for role, kind in KINDS if hasattr(backend_class(role, kind), "needs")}
    assert asked <= {(role.partition(".")[0], kind) for role, kind in found}
    assert set(json.loads(values.stdout)) == {*named_recipes(), "other kinds"}


def test_kinds_with_install_steps_of_their_own_are_shown_with_them(monkeypatch):
    monkeypatch.setitem(sys.modules, "groundingdino", None)
    monkeypatch.setitem(sys.modules, "segment_anything", None)
    problems = {finding.kind: finding.problem for finding in examine_others([])}
    assert "`pip install --no-deps groundingdino-py==0.4.0`" in problems["groundingdino-py"]
    assert '`pip install "dataforge[sam]"`' in problems["sam"]
    paper = examine_others([load_recipe("paper")])
    assert "diffusers" in problems
    assert {finding.kind for finding in paper} == problems.keys() - {
        "grounding-dino",
        "sam-hf",
        "vlm-server",
        "diffusers",
    }


def test_fetch_asks_nothing_of_a_recipe_without_weights_and_refuses_what_the_hub_has_not():
    assert fetch("laptop", load_recipe) == []
    local = Recipe.model_validate({"segment": {"kind": "sam", "model": str(tiny("sam"))}})
    assert fetch("mine", lambda _: local) == []
    lacking = Recipe.model_validate({"segment": {"kind": "sam", "model": "sam_vit_b_01ec64.pth"}})
    with pytest.raises(UsageError, match="curl"):
        fetch("mine", lambda _: lacking)


def test_fetched_weights_are_found_by_doctor_and_a_gate_is_named(tmp_path):
    """By the real client, from a server that speaks the Hub's protocol."""
    recipe = tmp_path / "recipe.yaml"
    generator = "generate: {generator: {kind: diffusers, model: ann/tiny-sd}}"
    recipe.write_text(f"segment: {{kind: sam-hf, model: ann/tiny-sam}}\n{generator}\n")
    places = {"ann/tiny-sam": tiny("sam-hf"), "ann/tiny-sd": tiny_pipeline("sd4")}
    expected = {path.relative_to(place) for place in places.values() for path in place.rglob("*") if path.is_file()}
    with running() as hub:
        for name, place in places.items():
            files = {
                path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()
            }
            files |= {"model.pkl": b"never fetched", "model.ckpt": b"nor this", "README.md": b"nor this"}
            digests = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
            hub.blobs |= {digests[path]: data for path, data in files.items()}
            hub.repos[name] = Repo(private=False)
            hub.repos[name].commit("weights", digests)
        here = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
        assert dataforge("doctor", str(recipe), **here)[0] == 2
        code, text, _ = dataforge("doctor", "--fetch", str(recipe), **here)
        assert code == 0, text
        snapshots = list((tmp_path / "cache").rglob("snapshots/*"))
        fetched = {path.relative_to(place) for place in snapshots for path in place.rglob("*") if path.is_file()}
        assert fetched == expected
        assert dataforge("doctor", str(recipe), **here | {"HF_HUB_OFFLINE": "1"})[0] == 0
        code, text, _ = dataforge("doctor", "--fetch", "transformers:ann/nothing", **here)
        assert (code, "E507" in text, "is not on the Hub, or not for you" in text) == (2, True, True)
        hub.fault("ann/tiny-sam", 403, times=-1, headers={"X-Error-Code": "GatedRepo"})
        again = here | {"HF_HOME": str(tmp_path / "another cache")}
        code, text, _ = dataforge("doctor", "--fetch", "transformers:ann/tiny-sam", **again)
        assert (code, "E507" in text) == (2, True), text
        assert "accept its terms at https://huggingface.co/ann/tiny-sam" in text
    code, text, _ = dataforge("doctor", "--fetch", "transformers:ann/tiny-sam", **again)
    assert (code, "E513" in text, text.count("\n")) == (5, True, 1), text


def header_of(path: Path) -> str:
    """The remarks at the top of a recipe, on one line."""
    lines = [line.removeprefix("#") for line in path.read_text().splitlines() if line.startswith("#")]
    return " ".join(" ".join(lines).split())


def test_every_recipe_that_ships_says_licences_disk_memory_and_time():
    for path in SHIPPED:
        header = header_of(path)
        for word in ("licences:", "disk:", "memory:", "expected: about"):
            assert word in header, path.name
        assert "s a photograph" in header, path.name
        assert re.search(r", so (about|\d+ to) (an|\d+) (seconds|minutes|hour) a subject", header), path.name
    assert {"laptop", "paper", "best", "fast"} <= set(named_recipes())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_licence_of_every_model_of_a_recipe_that_ships_is_known_and_in_its_header(path):
    for role, section in load_recipe(path.stem).sections().items():
        models = {weights.model for weights in needs_of(role, section).weights} | {getattr(section, "model", "")} - {""}
        for model in models:
            assert licence_of(model), model
            assert licence_of(f"{model}@0123456789ab") in header_of(path)


def test_licence_of_every_model_that_a_kind_takes_by_itself_is_known():
    for section in vars(model_config).values():
        for name in ("model", "text_encoder") if isinstance(section, type) and issubclass(section, Section) else ():
            default = getattr(section.model_fields.get(name), "default", None)
            assert not isinstance(default, str) or licence_of(default), default
    assert all(licence_of(name) for name in PTH_HOMES)
    assert licence_of("somebody/a-model") == ""
