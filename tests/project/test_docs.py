"""Reference pages say what the code says; no text of the project names a machine it was written on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from manifests import errors
from manifests.errors import CODES, ReportedError
from manifests.header import FileEntry, Header
from manifests.records import LedgerRow, Sample, Subject
from manifests.schema import SCHEMA_VERSION, arrow_schema
from manifests.shards import ENDINGS

REPOSITORY = Path(__file__).parent.parent.parent
ERRORS = REPOSITORY / "docs" / "errors.md"
FORMAT = REPOSITORY / "docs" / "manifest-format.md"
TABLES = {"manifest": Sample, "subjects": Subject, "ledger": LedgerRow}


def codes_table() -> str:
    """The table of docs/errors.md."""
    lines = ["| code | name | meaning | what to do |", "| --- | --- | --- | --- |"]
    lines += [f"| {code} | {entry.slug} | {entry.meaning} | {entry.advice} |" for code, entry in CODES.items()]
    return "\n".join(lines)


def arrow_type(kind: pa.DataType) -> str:
    """A type as a reader of the page writes it."""
    if pa.types.is_list(kind):
        return f"list<{arrow_type(kind.value_type)}>"
    return "struct" if pa.types.is_struct(kind) else str(kind)


def columns(fields: Iterator[pa.Field] | pa.Schema, above: str = "") -> Iterator[str]:
    for field in fields:
        text = (field.metadata or {}).get(b"description", b"").decode()
        yield f"| `{above}{field.name}` | {arrow_type(field.type)} | {text} |"
        inner = field.type.value_type if pa.types.is_list(field.type) else field.type
        if pa.types.is_struct(inner):
            yield from columns(iter(inner), f"{above}{field.name}{'[]' if inner is not field.type else ''}.")


def columns_table(record: type) -> str:
    """The table of one record in docs/manifest-format.md."""
    return "\n".join(["| column | type | meaning |", "| --- | --- | --- |", *columns(arrow_schema(record))])


def test_page_of_errors_has_every_code_and_no_other():
    """When this fails, put the text of `codes_table()` in place of the table."""
    assert codes_table() in ERRORS.read_text(encoding="utf-8")
    assert set(re.findall(r"^\| (E\d+) ", ERRORS.read_text(encoding="utf-8"), re.MULTILINE)) == set(CODES)


def test_page_of_errors_has_every_exit_code_of_the_error_tree():
    listed = {int(number) for number in re.findall(r"^\| (\d+) \|", ERRORS.read_text(encoding="utf-8"), re.MULTILINE)}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ReportedError)]
    assert {kind.exit_code for kind in kinds} | {0, 1, 3} == listed


@pytest.mark.parametrize("table", TABLES)
def test_page_of_the_format_has_the_columns_of_the_schema(table):
    """When this fails, put the text of `columns_table(record)` in place of the table."""
    section = FORMAT.read_text(encoding="utf-8").partition(f"### {table}\n")[2].partition("\n#")[0]
    assert columns_table(TABLES[table]) in section


def test_page_of_the_format_has_every_field_of_the_header():
    text = FORMAT.read_text(encoding="utf-8")
    for name in (*Header.model_fields, *FileEntry.model_fields):
        assert f"`{name}`" in text, name
    for ending in ENDINGS:
        assert f"`{ending}`" in text, ending
    assert f"`schema_version` {SCHEMA_VERSION}" in text


def texts() -> list[Path]:
    """Every text file of the project; not what tools and builds leave behind."""
    left_behind = {"__pycache__", "build", "dist", "demo-corpus", "demo-photographs"}
    found = []
    for top in sorted(REPOSITORY.iterdir()):
        hidden = top.name.startswith(".") and top.name not in (".ci", ".github", ".gitignore")
        if hidden or top.name in left_behind or top.name.endswith(".egg-info"):
            continue
        found += [path for path in ([top] if top.is_file() else sorted(top.rglob("*"))) if path.is_file()]
    kinds = {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".sh", ".html", ".css", ".j2", ".cfg", ".json", ""}
    return [path for path in found if path.suffix in kinds and not left_behind & set(path.parts)]


# put together here, so that this file does not name them itself
MACHINE_PATHS = re.compile(r"(?<![\w.])/(" + "|".join(["work", "root", "home", "Users"]) + r")/")
INDEX_HOSTS = re.compile(
    "|".join(["python" + "hosted", "pypi[.]" + "org/simple", "index" + "-url", "arti" + "factory"])
)


def machine_words(text: str) -> list[str]:
    return [match[0] for pattern in (MACHINE_PATHS, INDEX_HOSTS) for match in pattern.finditer(text)]


def test_no_text_names_a_machine_or_a_package_index():
    files = texts()
    assert len(files) > 60
    found = {
        str(path.relative_to(REPOSITORY)): words
        for path in files
        if (words := machine_words(path.read_text(encoding="utf-8", errors="replace")))
    }
    assert found == {}


def test_such_a_word_would_be_seen():
    for text in (
        "see /" + "work/main/x",
        "'/" + "root/.cache'",
        "--extra-index" + "-url",
        "files.python" + "hosted.org",
    ):
        assert machine_words(text), text
    assert machine_words("corpus/.work/lock and work/root") == []
