"""Imports: every module by itself, nothing heavy before it is needed, and the public names are what they say."""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
PACKAGES = ("manifests", "dataforge", "pipelines", "trainer")
HEAVY = ("torch", "numpy", "pyarrow", "cv2", "PIL", "pydantic", "duckdb", "pandas", "skimage", "transformers")


def modules() -> list[str]:
    found = []
    for package in PACKAGES:
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            parts = path.relative_to(REPOSITORY).with_suffix("").parts
            found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return [name for name in found if not name.endswith("__main__")]


def run(code: str, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


# each module in a fork of its own, so that none leans on what another has imported; what is not ours is imported
# once before, because that is where the time goes
EACH_ALONE = """
import contextlib, importlib, json, os, sys, traceback
for name in sys.argv[2].split():
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
assert not any(name.split(".")[0] in ("manifests", "dataforge", "pipelines", "trainer") for name in sys.modules)
failed = {}
for name in json.loads(sys.argv[1]):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        text = ""
        try:
            importlib.import_module(name)
        except BaseException:
            text = traceback.format_exc(limit=-2)
        os.write(writing, text.encode()[-4000:])
        os._exit(bool(text))
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read().decode()
    if os.waitpid(child, 0)[1]:
        failed[name] = text or "died"
print(json.dumps(failed))
"""


THIRD_PARTY = (
    "numpy pyarrow.parquet pyarrow.compute pydantic PIL.Image cv2 duckdb jinja2 typer yaml rich.table rich.progress "
    "torch torch.utils.data torchvision transformers diffusers peft accelerate datasets huggingface_hub fsspec skimage"
)


def test_every_module_imports_by_itself():
    names = modules()
    assert len(names) > 40
    assert json.loads(run(EACH_ALONE, json.dumps(names), THIRD_PARTY).splitlines()[-1]) == {}


def loaded_by(code: str) -> list[str]:
    """Which heavy packages are loaded once the code has run."""
    output = run(f"import sys\n{code}\nprint(*[name for name in {HEAVY!r} if name in sys.modules])")
    return output.splitlines()[-1].split()


def test_importing_the_packages_loads_nothing_heavy():
    assert loaded_by("import manifests, dataforge") == []
    assert loaded_by("import manifests.errors, manifests.ids, manifests.refs") == []


def test_help_loads_nothing_heavy():
    code = "import dataforge.cli\nsys.argv = ['dataforge', '--help']\n"
    code += "try:\n    dataforge.cli.main()\nexcept SystemExit:\n    pass"
    assert loaded_by(code) == []
    assert loaded_by("import numpy") == ["numpy"]


def test_help_takes_less_than_a_third_of_a_second_of_cpu_and_names_every_verb():
    command = [sys.executable, "-m", "dataforge", "--help"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    print(f"dataforge --help: {min(times):.2f} s of CPU")
    assert min(times) < 0.3
    for verb in ("build", "validate", "repair", "show", "ls", "trace", "diff", "remove", "report", "publish", "pull"):
        assert f" {verb} " in done.stdout


@pytest.mark.parametrize("package", ["manifests", "dataforge"])
def test_public_names_are_those_of_all(package):
    module = importlib.import_module(package)
    assert list(module.__all__) == sorted(module.__all__, key=lambda name: (name.lower() == name, name))
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        _ = module.nosuch
    # names that can be had lazily are all declared, and nothing else of ours lies in the namespace
    assert set(module._HOME) | ({"__version__"} & set(module.__all__)) == set(module.__all__)
    public = {name for name in vars(module) if not name.startswith("_")} - set(module.__all__)
    assert {name for name in public if not hasattr(sys.modules.get(f"{package}.{name}"), "__name__")} <= {
        "TYPE_CHECKING",
        "annotations",
        "importlib",
    }


@pytest.mark.parametrize("name", modules())
def test_all_of_a_module_names_what_is_there(name):
    module = importlib.import_module(name)
    missing = [entry for entry in getattr(module, "__all__", []) if not hasattr(module, entry)]
    assert missing == []


def test_types_of_every_package_are_published():
    for package in ("manifests", "dataforge"):
        assert (REPOSITORY / package / "py.typed").exists(), package
