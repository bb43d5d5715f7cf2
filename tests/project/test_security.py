"""What the packages never do: run data as code, unpack archives, start shells, fetch what data names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
PACKAGES = ("manifests", "dataforge", "pipelines", "trainer")

FORBIDDEN_MODULES = {
    "pickle": "unpickling runs code",
    "cPickle": "unpickling runs code",
    "_pickle": "unpickling runs code",
    "marshal": "unpickling runs code",
    "shelve": "unpickling runs code",
    "joblib": "unpickling runs code",
    "dill": "unpickling runs code",
    "cloudpickle": "unpickling runs code",
    "requests": "fetching goes through one place with an allow-list",
    "urllib.request": "fetching goes through one place with an allow-list",
    "webdataset": "its decoders unpickle; shards are read with our own reader",
}
FORBIDDEN_BUILTINS = {"eval", "exec", "compile", "__import__"}
# by the last two names of a call, or by the last alone
FORBIDDEN_CALLS = {
    "os.system",
    "os.popen",
    "tempfile.mktemp",
    "yaml.load",
    "yaml.load_all",
    "yaml.full_load",
    "yaml.unsafe_load",
    "extract",
    "extractall",
    "unpack_archive",
    "urlopen",
    "urlretrieve",
    "read_pickle",
}
FORBIDDEN_TRUE = {"shell", "allow_pickle", "trust_remote_code"}


def scan(text: str, where: str = "planted.py") -> Iterator[str]:
    """One line per breach."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module or ""]
        else:
            names = []
        for name in names:
            for module, reason in FORBIDDEN_MODULES.items():
                if name == module or name.startswith(f"{module}."):
                    yield f"{where}:{node.lineno}: import {module}: {reason}"
        if isinstance(node, ast.Call):
            yield from scan_call(node, where)
        if isinstance(node, ast.Constant) and node.value == "trust_remote_code":
            yield f"{where}:{node.lineno}: trust_remote_code"


def scan_call(node: ast.Call, where: str) -> Iterator[str]:
    place = f"{where}:{node.lineno}"
    called = ast.unparse(node.func).split(".")
    if isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_BUILTINS:
        yield f"{place}: {node.func.id}()"
    if called[-1] in FORBIDDEN_CALLS or ".".join(called[-2:]) in FORBIDDEN_CALLS:
        yield f"{place}: {'.'.join(called[-2:])}()"
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    for name in FORBIDDEN_TRUE & keywords.keys():
        value = keywords[name]
        if not (isinstance(value, ast.Constant) and value.value is False):
            yield f"{place}: {name} is not False"
    if called[-2:] == ["torch", "load"]:
        value = keywords.get("weights_only")
        if not (isinstance(value, ast.Constant) and value.value is True):
            yield f"{place}: torch.load without weights_only=True"


@pytest.mark.parametrize("package", PACKAGES)
def test_package_holds_none_of_it(package):
    files = sorted((REPOSITORY / package).rglob("*.py"))
    assert files
    assert [breach for file in files for breach in scan(file.read_text(), str(file.relative_to(REPOSITORY)))] == []


PLANTED = [
    *(f"import {module}" for module in FORBIDDEN_MODULES),
    "import pickle as safe",
    "from pickle import loads",
    "from urllib import request",
    "from urllib.request import urlopen",
    "import webdataset as wds",
    "def f():\n    import dill",
    *(f"{name}('1')" for name in sorted(FORBIDDEN_BUILTINS)),
    "import os\nos.system('ls')",
    "from os import popen\nimport os\nos.popen('ls')",
    "subprocess.run('ls', shell=True)",
    "subprocess.Popen('ls', shell=flag)",
    "torch.load(path)",
    "torch.load(path, weights_only=False)",
    "torch.load(path, weights_only=flag)",
    "np.load(path, allow_pickle=True)",
    "numpy.load(path, allow_pickle=flag)",
    "pandas.read_pickle(path)",
    "tarfile.open(path).extractall()",
    "tar.extract(member)",
    "zipfile.ZipFile(path).extractall(folder)",
    "shutil.unpack_archive(path)",
    "yaml.load(text)",
    "yaml.load(text, Loader=yaml.SafeLoader)",
    "yaml.unsafe_load(text)",
    "yaml.full_load(text)",
    "yaml.load_all(text)",
    "AutoModel.from_pretrained(name, trust_remote_code=True)",
    "options = {'trust_remote_code': True}",
    "urllib.request.urlopen(url)",
    "urlopen(url)",
    "urllib.request.urlretrieve(url)",
    "tempfile.mktemp()",
]


@pytest.mark.parametrize("text", PLANTED)
def test_planted_breach_is_caught(text):
    assert list(scan(text))


def test_every_rule_has_a_planted_breach():
    rules = {*FORBIDDEN_MODULES, *FORBIDDEN_BUILTINS, *FORBIDDEN_CALLS, *FORBIDDEN_TRUE, "weights_only"}
    assert [rule for rule in sorted(rules) if not any(rule in text for text in PLANTED)] == []


@pytest.mark.parametrize(
    "text",
    [
        "re.compile('x')",
        "yaml.safe_load(text)",
        "np.load(path)",
        "np.load(path, allow_pickle=False)",
        "torch.load(path, weights_only=True)",
        "subprocess.run(['ls'])",
        "data.decode('utf-8')",
        "connection.execute('SELECT 1')",
        "from urllib.parse import unquote",
        "tempfile.mkstemp()",
    ],
)
def test_what_is_fine_is_not_called_a_breach(text):
    assert list(scan(text)) == []
