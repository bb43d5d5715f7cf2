"""Ask a corpus questions in SQL (DuckDB over the manifest table)."""

from __future__ import annotations

from typing import Any

from manifests.corpus import Corpus
from manifests.errors import UsageError

__all__ = ["select"]


def select(corpus: Corpus, where: str = "") -> list[dict[str, Any]]:
    """Manifest rows of the corpus or selection that meet an SQL condition, in ID order, as plain dicts.

    The condition sees the manifest's columns and nothing else: no files, no network, no settings.
    Raises `UsageError` E501 with DuckDB's own words where the condition is wrong.
    """
    import duckdb

    table = corpus.table()
    if not where.strip():
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows
    connection = duckdb.connect(config={"enable_external_access": "false"})
    try:
        connection.register("manifest", table)
        connection.execute("SET lock_configuration = true")
        statements = connection.extract_statements(f"SELECT id FROM manifest WHERE ({where}\n) ORDER BY id")
        if len(statements) != 1:
            raise UsageError(f"--where {where!r}: is more than one condition.")
        found = connection.execute(statements[0]).fetchall()
    except duckdb.Error as error:
        raise UsageError(f"--where {where!r}: {str(error).splitlines()[0]}.") from error
    finally:
        connection.close()
    wanted = {name for (name,) in found}
    return [row for row in table.to_pylist() if row["id"] in wanted]
