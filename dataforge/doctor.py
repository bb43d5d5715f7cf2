"""What a recipe's backends need and whether it is on this machine, said before any work and without loading a model."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataforge.backends import KINDS, backend_class, needs_of
from dataforge.backends.checkpoints import Needs, Weights, locate, require, size_gb
from dataforge.backends.downloads import download
from dataforge.backends.licences import licence_of
from dataforge.config import Recipe
from dataforge.model_config import public_name
from dataforge.section import Section
from manifests.console import echo
from manifests.errors import UsageError

__all__ = [
    "Finding",
    "examine",
    "examine_others",
    "fetch",
    "findings_json",
    "print_findings",
    "print_others",
    "require_ready",
]


# packages that are installed under another name than they are imported by
_DISTRIBUTIONS = {"groundingdino": "groundingdino-py", "segment_anything": "segment-anything"}
# what a kind has no default for: the published files of the how-to pages, a server's address
_ASKED = {
    "groundingdino-py": {"model": "groundingdino_swinb_cogcoor.pth"},
    "sam": {"model": "sam_vit_h_4b8939.pth"},
    "vlm-server": {"url": "https://127.0.0.1/v1", "model": "any"},
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One backend of a recipe: what it needs and what stands in its way; `problem` is empty where nothing does."""

    role: str
    kind: str
    needs: Needs
    versions: dict[str, str]
    weights: dict[str, float | None]  # name to GB on this machine, None where they are not
    problem: str


def require_ready(recipe: Recipe) -> None:
    """Raise `UsageError` E505 or E508 for the first backend that cannot be built; one sentence with the command."""
    for role, section in recipe.sections().items():
        require(needs_of(role, section), f"{_name(role)}: {_kind(section)}")


def examine(recipe: Recipe) -> list[Finding]:
    """The state of every backend of a recipe."""
    return [_look(role, section) for role, section in recipe.sections().items()]


def examine_others(recipes: Iterable[Recipe]) -> list[Finding]:
    """The state of every kind with needs that none of the recipes names, each with the model it has by default."""
    named = {(role, _kind(section)) for recipe in recipes for role, section in recipe.sections().items()}
    findings = []
    for role, kind in KINDS:
        if (role, kind) in named or not hasattr(backend_class(role, kind), "needs"):
            continue
        settings = {"kind": kind} | _ASKED.get(kind, {})
        recipe = Recipe.model_validate({role: {"generator": settings} if role == "generate" else settings})
        findings.append(_look(role, recipe.sections()[role]))
    return findings


def _look(role: str, section: Section) -> Finding:
    needs = needs_of(role, section)
    problem = ""
    try:
        require(needs, f"{_name(role)}: {_kind(section)}")
    except UsageError as error:
        problem = error.detail
    versions = {package.module: _version(package.module) for package in needs.packages}
    places = {public_name(w.model): locate(w.model, w.revision) for w in needs.weights}
    weights = {name: None if path is None else size_gb(path) for name, path in places.items()}
    return Finding(_name(role), _kind(section), needs, versions, weights, problem)


def findings_json(findings: list[Finding]) -> list[dict[str, Any]]:
    """The same as JSON values."""
    return [
        {
            "role": finding.role,
            "kind": finding.kind,
            "ready": not finding.problem,
            "problem": finding.problem,
            "packages": finding.versions,
            "weights_gb": finding.weights,
            "licences": {model: licence_of(model) for model in finding.weights},
            "device": finding.needs.device,
            "memory_gb": finding.needs.memory_gb,
        }
        for finding in findings
    ]


def print_findings(found: dict[str, list[Finding]]) -> None:
    """Per recipe a line for each backend, and the command for what is missing."""
    for name, findings in found.items():
        echo(f"recipe {name}: {'ready' if not any(finding.problem for finding in findings) else 'not ready'}")
        _print(findings)


def print_others(findings: list[Finding]) -> None:
    """The same for the kinds that no recipe names."""
    if findings:
        echo("kinds that none of these recipes names:")
        _print(findings)


def _print(findings: list[Finding]) -> None:
    for finding in findings:
        weights = [
            f"{model} ({licence_of(model) or 'licence on its page'}, "
            f"{'not here' if size is None else f'{size:.1f} GB here'})"
            for model, size in finding.weights.items()
        ]
        packages = [f"{module} {version or 'missing'}" for module, version in finding.versions.items()]
        memory = finding.needs.memory_gb
        place = f"device {finding.needs.device}" + (f", about {memory:g} GB on a GPU" if memory else "")
        facts = "; ".join([*weights, ", ".join(packages), place] if packages else ["no weights, no extra packages"])
        echo(f"  {finding.role:<19} {finding.kind:<16} {facts}")
        if finding.problem:
            echo(f"    missing: {finding.problem}")


def fetch(what: str, load: Callable[[str], Recipe]) -> list[str]:
    """Download a recipe's weights, or those of `layout:model[@revision][+variant]`; returns their names.

    The Hub's client shows the progress. Raises `EnvironmentFault` E513 where the way to the Hub fails, `UsageError`
    E507 where a model is gated or gone.
    """
    match = re.fullmatch(r"(transformers|diffusers|tokenizer):([\w.-]+/[\w.-]+)(?:@([\w./-]+))?(?:\+(\w+))?", what)
    if match is not None:
        layout: Any = match[1]
        wanted = [Weights(match[2], match[3], layout, variant=match[4])]
    else:
        recipe = load(what)
        wanted = [w for role, section in recipe.sections().items() for w in needs_of(role, section).weights]
    fetched = []
    for weights in dict.fromkeys(wanted):
        if weights.layout == "pth" and locate(weights.model, weights.revision) is None:
            raise UsageError(f"{public_name(weights.model)} is not on the Hub: {weights.command}.", code="E505")
        if "/" in weights.model and not Path(weights.model).expanduser().exists():
            download(weights)
            fetched.append(weights.model)
    return fetched


def _kind(section: Section) -> str:
    return str(section.model_dump()["kind"])


def _name(role: str) -> str:
    return "generate.generator" if role == "generate" else role


def _version(module: str) -> str:
    try:
        return importlib.metadata.version(_DISTRIBUTIONS.get(module, module))
    except importlib.metadata.PackageNotFoundError:
        return ""
