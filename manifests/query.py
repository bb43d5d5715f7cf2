"""Ask a corpus questions in SQL: DuckDB on the manifest's parquet file itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from manifests.errors import UsageError

if TYPE_CHECKING:
    from manifests.corpus import Corpus

__all__ = ["matching_rows", "select"]

# nothing is loaded that did not come with DuckDB, nothing written aside, and no variable of ours is a table
_CLOSED = {
    "allow_community_extensions": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
    "temp_directory": "",
}


def select(corpus: Corpus, where: str = "") -> list[dict[str, Any]]:
    """Manifest rows of the corpus or selection that meet an SQL condition, in ID order, as plain dicts.

    Raises `UsageError` E501 as `matching_rows` does.
    """
    table = corpus.table_at(matching_rows(corpus, where).tolist()) if where.strip() else corpus.table()
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def matching_rows(corpus: Corpus, where: str) -> npt.NDArray[np.int64]:
    """Numbers of the selected rows of the manifest that meet an SQL condition, ascending.

    The condition sees the manifest's columns, `words` (the list of the words in `attributes`) and nothing else: no
    other file, no network, no settings (https://duckdb.org/docs/stable/operations_manual/securing_duckdb/overview).
    Raises `UsageError` E501 with DuckDB's own words where the condition is wrong.
    """
    import duckdb

    path = _quoted(str(corpus.manifest_file()))
    connection = duckdb.connect(config=_CLOSED)
    try:
        connection.register("selected", pa.table({"row": corpus.select_rows()}))
        connection.execute(f"SET allowed_paths = [{path}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        connection.execute(
            "CREATE TEMP VIEW manifest AS SELECT *, list_transform(attributes, lambda a: a.word) AS words "
            f"FROM read_parquet({path}, file_row_number = true) WHERE file_row_number IN (SELECT row FROM selected)"
        )
        # a filter of a relation is parsed as one expression: it cannot be anything else
        found = connection.view("manifest").filter(where).project("file_row_number AS row").fetchnumpy()["row"]
        return np.sort(found.astype(np.int64))
    except duckdb.Error as error:
        said, *more = str(error).splitlines()
        near = next((f" ({line})" for line in more if line.startswith("Candidate bindings")), "")
        raise UsageError(f"--where {where!r}: {said.rstrip('.!')}{near}.") from error
    finally:
        connection.close()


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
