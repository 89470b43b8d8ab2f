"""The clock of the rows of a LeRobot dataset."""

import numpy as np
import pyarrow as pa
from jaxtyping import Float64

from vla.data.tables import double_rows
from vla.errors import CorruptData

ON_GRID_S = 1e-4
"""Time stamps this close to frame / fps are that: float32 columns are off by up to half a microsecond a minute."""
UNIX_S = 1e8
"""Three years: no episode lasts so long, so that time stamps beyond are seconds since 1970."""


def row_times(column: pa.ChunkedArray, fps: float, name: str) -> tuple[Float64[np.ndarray, " N"], float]:
    """Seconds of the rows since the start of their episode, and what was taken off unix seconds: the first row's.

    They are exactly frame / fps where the column says so but for its rounding. CorruptData where they do not increase.
    """
    stamps = double_rows(column, (), f"{name}: timestamp")
    if unknown := np.flatnonzero(~np.isfinite(stamps)).tolist():
        raise CorruptData(f"{name}: row {unknown[0]} has no time stamp; restore it, or leave the episode out")
    start_s = float(stamps[0]) if len(stamps) and stamps[0] > UNIX_S else 0.0
    if (late := np.flatnonzero(np.diff(stamps) <= 0)).size:
        if start_s and pa.types.is_float32(column.type):
            raise CorruptData(
                f"{name}: its time stamps are unix seconds in 32 bits, which tell times of two minutes as one: write "
                "seconds since the start of the episode"
            )
        raise CorruptData(f"{name}: time stamps do not increase (row {late[0] + 1}); record the episode again")
    stamps = stamps - start_s
    grid = np.round(stamps * fps) / fps
    on_grid = np.abs(grid - stamps).max() < ON_GRID_S and (np.diff(grid) > 0).all()
    return (grid if on_grid else stamps), start_s


def on_unix(column: pa.ChunkedArray) -> list[str]:
    """What is said of a clock of unix seconds."""
    first = column[0].as_py() if len(column) else None
    first = first[0] if isinstance(first, list) and first else first
    unix = isinstance(first, float) and first > UNIX_S
    return ["timestamp is unix seconds: the first row of each episode, and of its videos, is its start"] if unix else []
