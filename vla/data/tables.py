"""Parquet tables as memory-mapped Arrow, through HF datasets, and their columns as arrays."""

import glob
import hashlib
import json
import mmap
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.exceptions import DatasetGenerationError
from jaxtyping import Float, Float64, Int64

from vla import cache
from vla.data.reading import refused, unreadable
from vla.errors import CorruptData
from vla.floats import floats

ONE_BATCH = 1 << 30
"""Rows of a record batch of the cache: as many as a row group has, so that an episode's rows lie side by side."""


LIST = "tables.json"
"""In a folder of converted tables, their names in order; written last."""


def read_small_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A metadata table, whole. Raises CorruptData where the file is damaged."""
    try:
        return pq.ParquetFile(path).read(columns=None if columns is None else list(columns))
    except (pa.ArrowException, OSError) as error:
        raise incomplete(path, error) from error


def columns_of(path: Path) -> list[str]:
    """The columns of a parquet file. Raises CorruptData where it is damaged."""
    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowException, OSError) as error:
        raise incomplete(path, error) from error


def check_parquet(path: Path) -> int:
    """Rows of a parquet file according to its footer. Raises CorruptData where there is none."""
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise incomplete(path, error) from error


def incomplete(path: Path, error: Exception) -> Exception:
    """The error to raise for a file that does not open as parquet."""
    return unreadable(error, f"{path} is not a complete parquet file ({_first_line(error)})", "copy it again")


def kept_tables() -> Path:
    """Where tables are kept as Arrow, below the cache of HF datasets (HF_DATASETS_CACHE)."""
    return Path(datasets.config.HF_DATASETS_CACHE).absolute() / "touchstone"


def forget_numbers(roots: Sequence[Path]) -> None:
    """Remove what is kept of these folders, so that opening them reads every number (ValueError where it stays)."""
    cache.forget(*roots)
    for root in roots:
        cache.forget(root)
        cache.forget(root, base=kept_tables())


@contextmanager
def opened_table(root: Path, files: Sequence[Path], columns: Sequence[str], *, sparingly: bool) -> Iterator[pa.Table]:
    """The columns of the parquet files of a folder, one after the other, as memory-mapped Arrow.

    They are converted once, so that opening costs nothing and all processes share the pages. The table outlives the
    context, within which `sparingly` has the system read the pages that are looked at and none around them. Raises
    CorruptData naming a file that cannot be read.
    """
    wanted = hashlib.sha256("\n".join([*map(str, files), *columns]).encode()).hexdigest()[:32]
    place = cache.folder_of(root, base=kept_tables()) / wanted / cache.stamp(files)[:32]
    try:
        maps, table = _map_tables(place, sparingly=sparingly)
    except (OSError, ValueError) as error:  # pyarrow's are among them
        if (place / LIST).exists():
            cache.log.warning("%s is damaged (%s): its tables are converted again", place, _first_line(error))
            shutil.rmtree(place, ignore_errors=True)
        _convert(files, columns, place)
        maps, table = _map_tables(place, sparingly=sparingly)
    try:
        yield table
    finally:
        for pages in maps:
            pages.madvise(mmap.MADV_NORMAL)


def _map_tables(place: Path, *, sparingly: bool) -> tuple[list[mmap.mmap], pa.Table]:
    """The tables that were converted into a folder, one after the other, and the maps they are in."""
    maps, tables = [], []
    for name in json.loads((place / LIST).read_text(encoding="utf-8")):
        with (place / name).open("rb") as file:
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if sparingly:
            pages.madvise(mmap.MADV_RANDOM)
        maps.append(pages)
        tables.append(pa.ipc.open_stream(pa.BufferReader(pa.py_buffer(pages))).read_all())
    return maps, pa.concat_tables(tables)


def _convert(files: Sequence[Path], columns: Sequence[str], place: Path) -> None:
    """Have HF datasets write columns of parquet files as Arrow, under a lock when several processes ask at once.

    It tells files apart by path and time alone, so each stamp of them has a folder of its own, of which the last stays.
    """
    for path in files:
        if os.path.expandvars(path) != str(path):
            raise ValueError(
                f"{path} reads like a variable of the environment and would be replaced; rename the folder"
            )
    with _quiet_datasets():
        try:
            dataset = datasets.Dataset.from_parquet(
                [glob.escape(str(path)) for path in files],
                cache_dir=str(place),
                columns=list(columns),
                writer_batch_size=ONE_BATCH,
            )
        except (DatasetGenerationError, pa.ArrowException, ValueError, OSError) as error:
            for path in files:
                _read_through(path, columns)
            cause = error.__cause__ or error
            if isinstance(cause, OSError) and refused(cause) is None:
                raise ValueError(
                    f"cannot write the cache of tables ({_first_line(cause)}); make room, or set HF_DATASETS_CACHE to "
                    "a folder that can be written"
                ) from error
            what = f"{files[0].parent} holds tables that do not fit together ({_first_line(cause)})"
            raise unreadable(cause, what, "convert them again") from error
    made = [str(Path(entry["filename"]).relative_to(place)) for entry in dataset.cache_files]
    beside = place / f"{LIST}.{uuid.uuid4().hex}.part"
    beside.write_text(json.dumps(made), encoding="utf-8")
    beside.replace(place / LIST)
    cache.remove_outdated(place)


def float_rows(
    column: pa.ChunkedArray, shape: tuple[int, ...], where: str, *, even: bool = False
) -> Float[np.ndarray, "*shape"]:
    """The rows of a column as floats of this shape a row; a view of the mapped file where that is possible.

    `even` says that all rows are known to have the same number of values.
    """
    pieces = [_flat(chunk, shape, where, even=even) for chunk in column.chunks]
    values = pieces[0] if len(pieces) == 1 else np.concatenate(pieces or [np.zeros(0, np.float32)])
    return floats(values).reshape(len(column), *shape)


def double_rows(column: pa.ChunkedArray, shape: tuple[int, ...], where: str) -> Float64[np.ndarray, "*shape"]:
    """The rows of a column as float64 of this shape a row, for time stamps."""
    pieces = [_flat(chunk, shape, where) for chunk in column.chunks]
    return np.concatenate(pieces or [np.zeros(0)]).astype(np.float64).reshape(len(column), *shape)


def integer_column(column: pa.ChunkedArray, where: str) -> Int64[np.ndarray, " N"]:
    """A column of integers, scalars or lists of one. CorruptData names the first row without one."""
    pieces = [_flat(chunk, (1,), where) for chunk in column.chunks]
    values = np.concatenate(pieces or [np.zeros(0, np.int64)])
    if (empty := np.flatnonzero(~np.isfinite(values))).size:
        raise CorruptData(f"{where} holds no number in row {empty[0]}; record it again")
    return values.astype(np.int64)


def _flat(array: pa.Array, shape: tuple[int, ...], where: str, *, even: bool = False) -> np.ndarray:
    """All values of an array, one row after the other; NaN for one that is empty, and for each of an empty row."""
    rows, below = len(array), list(shape) or [1]
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    while _is_list(array.type):
        array = _without_empty_rows(array, below, where)
        below = below[1:]
        if not (even or pa.types.is_fixed_size_list(array.type)) and len(array) > 0:
            lengths = np.diff(array.offsets.to_numpy())
            if lengths.min() != lengths.max():
                raise CorruptData(f"{where} holds rows of {lengths.min()} to {lengths.max()} values; record it again")
        array = array.flatten()
    if len(array) != rows * int(np.prod(shape)):
        raise CorruptData(
            f"{where} holds {len(array) / max(1, rows):g} values a row, its metadata says {int(np.prod(shape))}"
        )
    if array.null_count and array.type not in (pa.float32(), pa.float64()):
        array = array.cast(pa.float64())
    return np.asarray(array.to_numpy(zero_copy_only=False))


def _is_list(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def _without_empty_rows(array: pa.Array, shape: Sequence[int], where: str) -> pa.Array:
    """Lists in which one that is empty as a whole holds as many empty values as the others, of this shape.

    CorruptData names the first one where the lists within lists are not of this shape.
    """
    if not array.null_count:
        return array
    nested, inner = 0, array.type
    while _is_list(inner):
        nested, inner = nested + 1, inner.value_type
    if nested != len(shape):
        empty = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
        raise CorruptData(f"{where} holds nothing in row {empty}; record it again")
    row = np.full(tuple(shape), None).tolist()
    return pa.array([row if values is None else values for values in array.to_pylist()], array.type)


def _read_through(path: Path, columns: Sequence[str]) -> None:
    """Read one file whole, to find out whether it is the one that cannot be read, and where."""
    where = ""
    try:
        with pq.ParquetFile(path) as file:
            missing = sorted(set(columns) - set(file.schema_arrow.names))
            if missing:
                raise CorruptData(f"{path} has no column {missing[0]}, which belongs there; record it again")
            first = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                for column in columns:
                    where = f" in rows {first} to {first + rows - 1}{_episodes(file, group)}, column {column}"
                    file.read_row_group(group, [column])
                first += rows
    except (pa.ArrowException, OSError) as error:
        raise unreadable(error, f"{path} is damaged{where} ({_first_line(error)})", "copy it again") from error


def _episodes(file: pq.ParquetFile, group: int) -> str:
    """Of which episodes the rows of a row group are, where that can still be read."""
    try:
        indices = file.read_row_group(group, ["episode_index"])["episode_index"].to_pylist()
    except (pa.ArrowException, OSError, KeyError):
        return ""
    return f" (episodes {min(indices)} to {max(indices)})" if len(set(indices)) > 1 else f" (episode {indices[0]})"


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")[:120] or type(error).__name__


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    """Keep progress bars and logged tracebacks of datasets off the user's screen: errors are raised."""
    verbosity = datasets.logging.get_verbosity()
    bars = not datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if bars:
            datasets.enable_progress_bars()
