"""The recipes that ship, and how one is named: `dreammix`, `dreammix:paper`, or a YAML file.

A file is a mapping of settings with `recipe` and, if wanted, `preset` beside them:

    recipe: dreammix
    preset: released
    rank: 16
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests.errors import UsageError

if TYPE_CHECKING:
    from trainer.recipe import Recipe

__all__ = ["NAMES", "load_recipe"]

# recipe -> module and the classes in it; imported when asked for, for they bring torch
NAMES = {
    "dreambooth": ("trainer.recipes.dreambooth", "DreamBooth"),
    "dreamcom": ("trainer.recipes.dreamcom", "DreamCom"),
    "dreaminpainter": ("trainer.recipes.dreaminpainter", "DreamInpainter"),
    "dreammix": ("trainer.recipes.dreammix", "DreamMix"),
}


def load_recipe(name_or_file: str, sets: Sequence[str] = (), settings: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe with its settings: defaults, then the preset, the file, `settings`, and `key=value` on top.

    Raises `UsageError` E502 for an unknown key or a value that does not fit, naming each; E503 for no such recipe.
    """
    from pydantic import ValidationError

    values, where = _read(name_or_file)
    values |= dict(settings or {})
    for assignment in sets:
        key, mark, value = assignment.partition("=")
        if not mark or not key:
            raise UsageError(f"--set takes key=value, not {assignment!r}.")
        values[key] = _yaml(value.encode(), f"--set {assignment}")
    name, preset = values.pop("recipe", None), values.pop("preset", None)
    if name not in NAMES:
        raise UsageError(f"no recipe {name!r}; there are {', '.join(NAMES)}, and files ending in .yaml.", code="E503")
    module = importlib.import_module(NAMES[name][0])
    kind = getattr(module, NAMES[name][1])
    if preset is not None and preset not in module.PRESETS:
        presets = ", ".join(module.PRESETS) or "none"
        raise UsageError(f"{where}: {name} has no preset {preset!r}; there are {presets}.", code="E502")
    model = getattr(module, f"{NAMES[name][1]}Settings")
    try:
        recipe: Recipe = kind(model.model_validate({**module.PRESETS.get(preset, {}), **values}))
    except ValidationError as error:
        raise UsageError(f"{where}: {_sentences(error)}.", code="E502") from error
    return recipe


def _read(name_or_file: str) -> tuple[dict[str, Any], str]:
    path = Path(name_or_file)
    if path.suffix not in (".yaml", ".yml"):
        name, _, preset = name_or_file.partition(":")
        return {"recipe": name} | ({"preset": preset} if preset else {}), name_or_file
    if not path.is_file():
        raise UsageError(f"no recipe file {name_or_file}.", code="E503")
    values = _yaml(path.read_bytes(), name_or_file)
    if not isinstance(values, dict):
        raise UsageError(f"{name_or_file}: a recipe is a mapping of settings.", code="E502")
    return values, name_or_file


def _yaml(text: bytes, where: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{where}: {' '.join(str(error).split())}", code="E502") from error


def _sentences(error: Any) -> str:
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors())
