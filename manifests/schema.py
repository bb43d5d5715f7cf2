"""Records to Arrow and back: the schema is read off the records, so the two cannot drift apart."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable
from typing import Any, TypeVar

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from manifests.errors import CorpusError

__all__ = [
    "SCHEMA_VERSION",
    "arrow_schema",
    "check_columns",
    "decode",
    "encode",
    "records_from_table",
    "table_from_records",
]

SCHEMA_VERSION = 1
RecordT = TypeVar("RecordT")
_schemas: dict[type, pa.Schema] = {}
_adapters: dict[type, TypeAdapter[Any]] = {}


def _arrow_type(annotation: Any) -> pa.DataType:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _arrow_type(arguments[0])
    if origin is typing.Literal or annotation is str:
        return pa.string()
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return pa.list_(_arrow_type(arguments[0]))
        # a box: four numbers of one kind; a plain list, because more readers know it than fixed-size lists
        return pa.list_(pa.int32() if arguments[0] is int else _arrow_type(arguments[0]))
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return pa.struct(_fields(annotation))
    scalars: dict[Any, pa.DataType] = {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    return scalars[annotation]


def _description(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Annotated:
        return next((text for text in typing.get_args(annotation)[1:] if isinstance(text, str)), "")
    return ""


def _fields(record: type) -> list[pa.Field]:
    hints = typing.get_type_hints(record, include_extras=True)
    fields = []
    for item in dataclasses.fields(record):
        text = _description(hints[item.name])
        metadata = {"description": text} if text else None
        fields.append(pa.field(item.name, _arrow_type(hints[item.name]), nullable=False, metadata=metadata))
    return fields


def arrow_schema(record: type) -> pa.Schema:
    """The Arrow schema of `Sample`, `Subject` or `LedgerRow`, with field descriptions and the format version."""
    if record not in _schemas:
        metadata = {"dataforge_schema_version": str(SCHEMA_VERSION), "record": record.__name__}
        _schemas[record] = pa.schema(_fields(record), metadata=metadata)
    return _schemas[record]


def _adapter(record: type) -> TypeAdapter[Any]:
    if record not in _adapters:
        _adapters[record] = TypeAdapter(record)
    return _adapters[record]


def decode(record: type[RecordT], value: dict[str, Any], *, where: str) -> RecordT:
    """A record from a plain dict. Raises `CorpusError` E305 naming where, the field and what was found."""
    try:
        decoded: RecordT = _adapter(record).validate_python(value)
        return decoded
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        found = str(first["input"])[:60]
        raise CorpusError(f"{where}: {place}: {first['msg']} (found {found!r}).", code="E305") from error


def encode(record: Any) -> dict[str, Any]:
    """A record as a plain dict of JSON values."""
    return dataclasses.asdict(record)


def table_from_records(record: type, rows: Iterable[Any]) -> pa.Table:
    """An Arrow table of the records, in the order given."""
    return pa.Table.from_pylist([encode(row) for row in rows], schema=arrow_schema(record))


def check_columns(record: type, columns: Iterable[str], *, where: str) -> None:
    """Raise `CorpusError` E305 where a column is missing.

    Columns with a default came after the first version; a table without them is an older one, not a damaged one.
    """
    needed = {item.name for item in dataclasses.fields(record) if item.default is dataclasses.MISSING}
    missing = needed - set(columns)
    if missing:
        raise CorpusError(f"{where}: column {sorted(missing)[0]} is missing.", code="E305")


def records_from_table(record: type[RecordT], table: pa.Table, *, where: str) -> list[RecordT]:
    """The records of a table. Raises `CorpusError` E305 where a column is missing or a value does not fit."""
    check_columns(record, table.column_names, where=where)
    # a newer minor version may add columns: they are left alone, so that readers can be upgraded last
    known = [name for name in arrow_schema(record).names if name in table.column_names]
    # batch by batch: what a whole table is decoded through takes as much memory as the records
    batches = table.select(known).to_batches(max_chunksize=256)
    rows = (row for batch in batches for row in batch.to_pylist())
    return [decode(record, row, where=f"{where} row {number}") for number, row in enumerate(rows)]
