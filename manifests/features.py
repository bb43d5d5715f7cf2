"""What HF Datasets calls the columns of both shapes, read off the records: for parquet metadata and the card's YAML.

Declared, never inferred: the `webdataset` builder guesses types from the first five samples, and an attribute list that
is empty there would lose its words later. https://huggingface.co/docs/hub/datasets-webdataset
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from manifests.records import Sample
from manifests.schema import arrow_schema

__all__ = ["data_schema", "parquet_features", "shard_features"]

PICTURES = ("image", "mask")
_PICTURE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
# Feature names are Arrow's but for these two
_NAMES = {"double": "float64", "float": "float32"}


def _row_fields() -> list[pa.Field]:
    """The manifest's columns that are neither picture nor mask."""
    return [field for field in arrow_schema(Sample) if field.name not in PICTURES]


def data_schema() -> pa.Schema:
    """Arrow schema of `data/*.parquet`: picture and mask as struct<bytes, path>, then the manifest's other columns.

    The metadata `huggingface` declares the `Image` features, so that every reader of HF Datasets decodes them.
    """
    texts = {"image": "the stored bytes of the picture", "mask": "1-bit PNG, white = the subject"}
    pictures = [pa.field(name, _PICTURE, metadata={"description": texts[name]}) for name in PICTURES]
    metadata = {"huggingface": json.dumps({"info": {"features": _features()}}), **(arrow_schema(Sample).metadata or {})}
    return pa.schema([*pictures, *_row_fields()], metadata=metadata)


def _features() -> dict[str, Any]:
    pictures = {"image": {"_type": "Image"}, "mask": {"mode": "L", "_type": "Image"}}
    return pictures | {field.name: _feature(field.type) for field in _row_fields()}


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    return {"dtype": _name(kind), "_type": "Value"}


def _name(kind: pa.DataType) -> str:
    return _NAMES.get(str(kind), str(kind))


def parquet_features() -> list[dict[str, Any]]:
    """The `dataset_info.features` of `data/*.parquet` as a card's YAML has them."""
    return [*_yaml_pictures({"image": "", "mask": "L"}), *(_yaml(field.name, field.type) for field in _row_fields())]


def shard_features(formats: Iterable[str]) -> list[dict[str, Any]]:
    """The `dataset_info.features` of the tar shards: one column per member ending; `formats` are the pictures' endings.

    A sample has one picture, so that all but one of the picture columns are null in each row.
    """
    row = {"name": "json", "struct": [_yaml(field.name, field.type) for field in _row_fields()]}
    pictures = dict.fromkeys(sorted(formats), "") | {"mask.png": "L"}
    keys = [{"name": name, "dtype": "string"} for name in ("__key__", "__url__")]
    return [*_yaml_pictures(pictures), row, *keys]


def _yaml_pictures(modes: dict[str, str]) -> list[dict[str, Any]]:
    return [{"name": name, "dtype": {"image": {"mode": mode}} if mode else "image"} for name, mode in modes.items()]


def _yaml(name: str, kind: pa.DataType) -> dict[str, Any]:
    return {"name": name, **_yaml_type(kind)}


def _yaml_type(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_list(kind):
        inner = _yaml_type(kind.value_type)
        # a list of plain values or of structs is written short, a list of lists is not
        return {"list": inner.get("dtype") or inner.get("struct") or inner}
    if pa.types.is_struct(kind):
        return {"struct": [_yaml(field.name, field.type) for field in kind]}
    return {"dtype": _name(kind)}
