"""Ask a corpus questions in SQL (DuckDB over the manifest table)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manifests.errors import UsageError

if TYPE_CHECKING:
    from manifests.corpus import Corpus

__all__ = ["matching_ids", "select"]


def select(corpus: Corpus, where: str = "") -> list[dict[str, Any]]:
    """Manifest rows of the corpus or selection that meet an SQL condition, in ID order, as plain dicts.

    Raises `UsageError` E501 as `matching_ids` does.
    """
    table = corpus.table()
    if where.strip():
        wanted = set(matching_ids(corpus, where))
        table = table.filter([name in wanted for name in table.column("id").to_pylist()])
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def matching_ids(corpus: Corpus, where: str) -> list[str]:
    """IDs of the rows that meet an SQL condition, in order.

    The condition sees the manifest's columns and nothing else: no files, no network, no settings.
    Raises `UsageError` E501 with DuckDB's own words where the condition is wrong.
    """
    import duckdb

    connection = duckdb.connect(config={"enable_external_access": "false"})
    try:
        connection.register("manifest", corpus.table())
        connection.execute("SET lock_configuration = true")
        statements = connection.extract_statements(f"SELECT id FROM manifest WHERE ({where}\n) ORDER BY id")
        if len(statements) != 1:
            raise UsageError(f"--where {where!r}: is more than one condition.")
        return [name for (name,) in connection.execute(statements[0]).fetchall()]
    except duckdb.Error as error:
        raise UsageError(f"--where {where!r}: {str(error).splitlines()[0]}.") from error
    finally:
        connection.close()
