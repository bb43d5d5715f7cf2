"""Where a metric's weights lie. They are never fetched behind anyone's back, and never replaced by others."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Any

from manifests.errors import EnvironmentFault
from manifests.fsops import sha256_of_file

__all__ = ["MissingWeights", "Weights", "find_file", "find_model", "load_whole"]

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


class MissingWeights(EnvironmentFault):
    """A metric's weights are not there; the sentence names the file and how to get it. Exit 5, E505."""

    default_code = "E505"


class Weights:
    """A file of weights: path, the ID it was asked for by, and its sha256."""

    def __init__(self, name: str, revision: str, path: Path) -> None:
        self.name, self.revision, self.path = name, revision, path

    @property
    def folder(self) -> Path:
        """The folder the file lies in."""
        return self.path.parent

    def __str__(self) -> str:
        revision = f"@{self.revision[:12]}" if self.revision else ""
        return f"{self.name}{revision} (sha256 {self._sha256[:12]})"

    @cached_property
    def _sha256(self) -> str:
        # kept no longer than what was loaded: another file may come to lie in the same place
        return sha256_of_file(self.path)[1]


def find_model(name: str, revision: str, *, setting: str, metric: str) -> Weights:
    """The folder of a model: `name` is a folder, or a model of the Hub that is in the local cache.

    Raises `MissingWeights` that says which file is missing and the command that gets it.
    """
    place = Path(name)
    if place.is_dir():
        for file in ("model.safetensors", "pytorch_model.bin"):
            if (place / file).is_file():
                return Weights(place.name, "", place / file)
        raise MissingWeights(
            f"{metric}: {place.name}/model.safetensors is not there; name a whole model folder with "
            f"--set {setting}.model=DIR."
        )
    if _HUB_NAME.fullmatch(name):
        try:
            from huggingface_hub import try_to_load_from_cache
        except ImportError as error:
            raise MissingWeights(f"{metric}: huggingface_hub is missing: `pip install 'dataforge[models]'`.") from error
        for file in ("model.safetensors", "pytorch_model.bin"):
            found = try_to_load_from_cache(name, file, revision=revision or None)
            if isinstance(found, str) and (Path(found).parent / "config.json").is_file():
                return Weights(name, Path(found).parent.name, Path(found))
    command = f"hf download {name}" + (f" --revision {revision}" if revision else "")
    raise MissingWeights(
        f"{metric}: model.safetensors of {name} is not there; `{command}` gets it, or name a folder with "
        f"--set {setting}.model=DIR."
    )


def find_file(path: str, default: str, *, url: str, setting: str, metric: str) -> Weights:
    """A single file of weights: `path` if given, else `default` in torch's cache. Raises `MissingWeights`."""
    import torch

    place = Path(path) if path else Path(torch.hub.get_dir()) / "checkpoints" / default
    if not place.is_file():
        where = place if path else f"$TORCH_HOME/hub/checkpoints/{default}"
        raise MissingWeights(
            f"{metric}: {where} is not there; `curl -L -o {default} {url}` gets it, then name it with "
            f"--set {setting}.weights={default}."
        )
    return Weights(place.name, "", place)


def load_whole(kind: type, weights: Weights, *, metric: str, **options: object) -> Any:
    """A transformers model with every one of its weights from the file, in evaluation mode.

    Libraries fill what a file lacks with random numbers and a warning; a score through such a layer is noise
    (the pooler of `dino-vits16`). Raises `MissingWeights` instead.
    """
    import torch
    from transformers.utils import logging as quiet

    logging: Any = quiet

    bars = logging.is_progress_bar_enabled()
    level = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        model, info = kind.from_pretrained(  # type: ignore[attr-defined]
            weights.folder, local_files_only=True, output_loading_info=True, dtype=torch.float32, **options
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise MissingWeights(f"{metric}: {weights.name} cannot be loaded ({str(error).splitlines()[0]}).") from error
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
    absent = sorted(info["missing_keys"])
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise MissingWeights(
            f"{metric}: {weights.path.name} of {weights.name} has no weights for {absent[0]}{more}, which would be "
            "random numbers; get the whole file."
        )
    return model.eval()
