"""Results on disk: one row a job, kept as it finishes, and the tables and page made of all of them.

output/
  images/<job key>.png       a picture of the scene's size
  thumbs/<job key>-*.jpg     small pictures of scene, reference and subject, for the page
  parts/<job key>.json       its row, written after the picture, which it names by sha256
  results.parquet            all rows; index.html the gallery
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from manifests.fsops import sha256_of_file, write_atomic
from manifests.ids import sha256_hex
from manifests.pixels import ImageArray

__all__ = ["Row", "RowRegion", "is_done", "read_row", "write_image", "write_row", "write_tables", "write_thumbnail"]

THUMB_PX = 320


@dataclass(frozen=True, kw_only=True, slots=True)
class RowRegion:
    """A further subject of a result; the fields are those of `Row`."""

    adapter: str
    adapter_digest: str
    subject: str
    corpus: str
    box_xyxy: tuple[int, int, int, int]
    mask: str
    prompt: str
    local_prompt: str
    edit: tuple[tuple[str, str], ...]
    removed_words: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One result, as `results.parquet` holds it."""

    id: str  # <adapter id>/out-<12 hex>
    job: str  # key of the job: what made the result, by content
    method: str
    image: str  # relative to the output folder
    image_sha256: str
    width: int
    height: int
    scene: str
    scene_sha256: str  # of its pixels
    box_xyxy: tuple[int, int, int, int]  # of the mask
    mask: str  # the mask's file; empty for a box
    prompt: str  # as it was read
    prompt_template: str  # as it was asked
    local_prompt: str  # of the stage on the crop, as it was asked; empty for the same
    edit: tuple[tuple[str, str], ...]
    removed_words: tuple[str, ...]
    reference: str
    adapter: str  # ID; empty for none
    adapter_digest: str
    adapter_place: str
    subject: str
    class_noun: str
    identifier: str
    base: str
    base_digest: str
    corpus: str  # what the adapter was trained from
    corpus_digest: str
    sample_ids: tuple[str, ...]  # of every adapter that was trained from that corpus
    also: tuple[RowRegion, ...]  # the other subjects of the scene
    seed: int
    settings: str  # JSON
    seconds: float  # of denoising


def is_done(output: Path, key: str) -> bool:
    """Whether a job of that key has its row and the very picture that the row names."""
    try:
        row = read_row(output, key)
        return sha256_of_file(output / row.image)[1] == row.image_sha256
    except (OSError, ValueError, TypeError, KeyError):
        return False


def read_row(output: Path, key: str) -> Row:
    """The row of a finished job. Raises OSError, ValueError, TypeError or KeyError for one that is not whole."""
    values = json.loads((output / "parts" / f"{key}.json").read_bytes())
    also = tuple(RowRegion(**_as_tuples(region)) for region in values.pop("also"))
    return Row(also=also, **_as_tuples(values))


def _as_tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(tuple(one) if isinstance(one, list) else one for one in value) if isinstance(value, list) else value
        for name, value in values.items()
    }


def write_image(output: Path, key: str, image: ImageArray) -> tuple[str, str]:
    """Write a picture as PNG; its path relative to the folder and its sha256."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    (output / "images").mkdir(exist_ok=True)
    path = f"images/{key}.png"
    write_atomic(output / path, buffer.getvalue())
    return path, sha256_hex(buffer.getvalue())


def write_thumbnail(output: Path, name: str, image: ImageArray) -> None:
    """Write a small JPEG for the page."""
    buffer = io.BytesIO()
    small = Image.fromarray(image)
    small.thumbnail((THUMB_PX, THUMB_PX))
    small.save(buffer, "JPEG", quality=85)
    (output / "thumbs").mkdir(exist_ok=True)
    write_atomic(output / "thumbs" / f"{name}.jpg", buffer.getvalue())


def write_row(output: Path, row: Row) -> None:
    """Write the row of a job whose picture is there: from now on the job is done."""
    (output / "parts").mkdir(exist_ok=True)
    text = json.dumps(dataclasses.asdict(row), ensure_ascii=False)
    write_atomic(output / "parts" / f"{row.job}.json", text.encode())


def write_tables(output: Path, rows: Sequence[Row]) -> None:
    """Write `results.parquet` and `index.html`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipelines.gallery import write_gallery

    table = pa.Table.from_pylist([_plain(row) for row in rows], schema=pa.schema(_fields(Row)))
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    write_atomic(output / "results.parquet", buffer.getvalue())
    write_gallery(output, rows)


def _plain(row: Row | RowRegion) -> dict[str, Any]:
    values: dict[str, Any] = {item.name: getattr(row, item.name) for item in dataclasses.fields(row)}
    values["edit"] = [{"category": name, "word": word} for name, word in row.edit]
    if isinstance(row, Row):
        values["also"] = [_plain(region) for region in row.also]
    return values


def _fields(record: type[Row | RowRegion]) -> list[Any]:
    import pyarrow as pa

    text = pa.string()
    kinds = {
        "int": pa.int64(),
        "float": pa.float64(),
        "str": text,
        "tuple[str, ...]": pa.list_(text),
        "tuple[int, int, int, int]": pa.list_(pa.int32(), 4),
        "tuple[tuple[str, str], ...]": pa.list_(pa.struct([("category", text), ("word", text)])),
    }
    if record is Row:
        kinds["tuple[RowRegion, ...]"] = pa.list_(pa.struct(_fields(RowRegion)))
    return [pa.field(item.name, kinds[str(item.type)]) for item in dataclasses.fields(record)]
