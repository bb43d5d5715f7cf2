"""Recipes: every one that ships loads; what is wrong with one is a sentence that names file and field."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dataforge.config import Recipe, load_recipe, named_recipes
from manifests.errors import UsageError

REPOSITORY = Path(__file__).parent.parent.parent
SHIPPED = sorted((REPOSITORY / "dataforge" / "recipes").rglob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_recipe_that_ships_loads_by_file_and_by_name(path):
    assert load_recipe(str(path)) == load_recipe(path.stem)
    assert path.stem in named_recipes()


def test_some_recipe_ships():
    assert "laptop" in named_recipes()
    assert len(SHIPPED) == len(named_recipes())


def test_no_recipe_and_an_empty_one_are_the_defaults(tmp_path):
    (tmp_path / "r.yaml").write_text("# nothing\n")
    assert load_recipe() == Recipe() == load_recipe(str(tmp_path / "r.yaml"))


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("grond: {kind: embedded}", "grond: "),
        ("ground: {min_scor: 0.3}", "ground.(embedded.)?min_scor: "),
        ("ground: {kind: dino-from-nowhere}", "ground(.kind)?: .*kind"),
        ("generate: {generator: {kind: nobody}}", "generate.generator(.kind)?: .*kind"),
        ("ground: {min_score: high}", "ground.(embedded.)?min_score: "),
        ("ground: {min_score: 1.5}", "ground.(embedded.)?min_score: "),
        ("ground: {min_score: .nan}", "ground.(embedded.)?min_score: "),
        ("ground: embedded", "ground: "),
        ("pack: {shard_bytes: 12}", "pack.shard_bytes: "),
        ("pack: {shard_bytes: 1.5e6.2}", "pack.shard_bytes: "),
        ("min_images: 0", "min_images: "),
        ("compose: {words: all}", "compose.words: "),
        ("split: {validation: [0.1]}", "split.validation: "),
    ],
)
def test_wrong_recipe_is_one_sentence_that_names_file_and_field(tmp_path, monkeypatch, text, field):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"E502 configuration: mine.yaml: ") as caught:
        load_recipe("mine.yaml")
    # the kind may stand in the path, where a section's settings depend on it
    assert re.search(f"mine.yaml: {field}", str(caught.value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["- a", "laptop", "3", "ground: {kind: [", "a: b: c", "a: &a {b: *a}"])
def test_what_is_no_recipe_is_one_sentence_that_names_the_file(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"E502 configuration: mine\.yaml") as caught:
        load_recipe("mine.yaml")
    assert "\n" not in str(caught.value)


def test_recipe_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(UsageError, match=r"E503 .*no recipe 'desktop'; there are .*laptop"):
        load_recipe("desktop")
    with pytest.raises(UsageError, match=r"E503 .*no recipe file nowhere\.yaml"):
        load_recipe("nowhere.yaml")


@pytest.mark.parametrize(
    ("assignment", "read"),
    [
        ("generate.seed=7", lambda recipe: recipe.generate.seed == 7),
        ("ground.min_score=0.25", lambda recipe: recipe.ground.min_score == 0.25),
        ("ingest.first_frame=true", lambda recipe: recipe.ingest.first_frame is True),
        ("ingest.limits.max_bytes=1000", lambda recipe: recipe.ingest.limits.max_bytes == 1000),
        ("compose.template=a {words} {class_noun}=x", lambda recipe: recipe.compose.template.endswith("=x")),
        ("pack={shard_bytes: 4096}", lambda recipe: recipe.pack.shard_bytes == 4096),
        ("min_images=2", lambda recipe: recipe.min_images == 2),
    ],
)
def test_set_puts_one_value_on_top(assignment, read):
    assert read(load_recipe("laptop", [assignment]))
    assert load_recipe("laptop", [assignment]).ground.kind == "embedded"


def test_last_set_wins_and_others_stay():
    recipe = load_recipe("laptop", ["generate.seed=1", "generate.seed=2", "compose.pairs=1"])
    assert (recipe.generate.seed, recipe.compose.pairs) == (2, 1)
    assert recipe.generate.images_per_photograph == load_recipe("laptop").generate.images_per_photograph


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("generate.seed", "--set takes key=value"),
        ("=7", "--set takes key=value"),
        ("", "--set takes key=value"),
        ("min_images.x=7", ""),
        ("laptop.seed=7", "laptop: "),
        ("generate.seeds=7", "generate.seeds: "),
        ("generate.seed=many", "generate.seed: "),
        (".=7", ""),
    ],
)
def test_wrong_set_is_one_sentence(assignment, sentence):
    with pytest.raises(UsageError, match=r"E50[12]") as caught:
        load_recipe("laptop", [assignment])
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["[", "{a", "'", "!!python/object/apply:os.getcwd []"])
def test_set_to_what_is_no_yaml_is_one_sentence(value):
    with pytest.raises(UsageError, match=r"E50[12]") as caught:
        load_recipe("laptop", [f"generate.seed={value}"])
    assert "\n" not in str(caught.value)


def test_digest_of_a_section_changes_with_its_settings_only():
    base = load_recipe("laptop")
    changed = load_recipe("laptop", ["generate.seed=9"])
    assert base.generate.digest != changed.generate.digest
    assert base.ground.digest == changed.ground.digest
