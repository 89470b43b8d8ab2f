"""What a copy keeps as it is stored: columns that nobody looks at, and the tables that belong to them."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float64

from vla.data.writing.features import text_table
from vla.data.writing.pieces import Piece
from vla.errors import CorruptData
from vla.lines import read_lines


def carried_rows(piece: Piece, key: str, feature: Mapping[str, Any]) -> pa.Array:
    """A column at the frames of a piece; empty values stay empty.

    Raises:
        CorruptData: its rows are not of the shape that its feature has.
    """
    column = piece.episode.carried[key]
    if feature["dtype"] == "language":
        return column.take(pa.array(piece.frames)).combine_chunks()
    rows = storage_of(column).take(pa.array(piece.frames))
    shape, found = tuple(feature["shape"]), shape_of(rows)
    if found not in (shape, None) and not {found, shape} <= {(), (1,)}:
        raise CorruptData(
            f"{piece.episode.name} has values of shape {found} in {key}, meta/info.json says {shape}; correct it there"
        )
    return rows.flatten() if shape in ((1,), ()) and pa.types.is_nested(rows.type) else rows


def storage_of(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece, without types that a library has added to Arrow's."""
    pieces = [chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk for chunk in column.chunks]
    return pa.concat_arrays(pieces) if pieces else pa.array([], column.type)


def shape_of(rows: pa.Array) -> tuple[int, ...] | None:
    """The shape of a row; -1 where rows differ, None where all are empty."""
    sizes: list[int] = []
    while pa.types.is_nested(rows.type):
        lengths = pc.unique(pc.list_value_length(rows).drop_null()).to_pylist()
        if not lengths:
            return None
        sizes.append(lengths[0] if len(lengths) == 1 else -1)
        rows = rows.flatten()
    return tuple(sizes)


def whole_rows(values: Float64[np.ndarray, "N C"]) -> Float64[np.ndarray, "M C"]:
    """Rows without empty values, which have no statistics."""
    return np.asarray(values[~np.isnan(values).any(axis=1)])


def copy_tables(root: Path, files: Sequence[str], destination: Path) -> None:
    """Write tables of texts beside a copy, those of JSON lines as parquet, as LeRobot v3.0 has them.

    Raises:
        CorruptData: a line holds no text and its number.
    """
    for name in files:
        if not name.endswith(".jsonl"):
            shutil.copyfile(root / name, destination / name)
            continue
        path = root / name
        kind = path.stem.removesuffix("s")
        try:
            texts = {str(row[kind]): int(row[f"{kind}_index"]) for row in read_lines(path, finished=True)}
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptData(f"{path} has a line without {kind} and {kind}_index; restore it") from error
        pq.write_table(text_table(texts, kind), (destination / name).with_suffix(".parquet"))
