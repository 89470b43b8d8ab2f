"""Rows of a table and frames of a video: which frame belongs to which row, found before any is decoded.

nearest    each row has the frame that is shown nearest to its time; a video may be faster than its table
number     row k has frame k, counted from the first row's: for clocks that run apart
own clock  a camera slower than the table: a sample sees its newest frame that is not later than now
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from vla.data.clocks import nearest, newest
from vla.settings import Pairing

REACH = 0.9
"""A row this many periods from the nearest frame has none: on its own clock, a frame was dropped there."""
SLOWER = 1.25
"""A camera whose frames lie this many periods of the table apart has a clock of its own."""
ROUNDING_S = 1e-3
"""Rounding of time stamps: float32 after two hours, time bases of 1/1000 s."""
ALIKE = 0.05
"""Share by which the rates of two clocks may differ that are meant to be one."""
STEADY = 0.25
"""Periods of the table by which two clocks may leave a straight line and still run apart steadily."""


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The frames of one camera in one episode."""

    timestamps: Float64[np.ndarray, " N"]
    """Seconds since the start of the episode: of its rows or, of a camera with a clock of its own, of its frames."""
    frames: Int64[np.ndarray, " N"]
    """The frame of each, among those of the file; -1 where there is none."""


def pair(
    rows: Float64[np.ndarray, " N"],
    shown: Float64[np.ndarray, " M"],
    *,
    offset_s: float,
    fps: float,
    how: Pairing,
    what: str,
) -> Paired:
    """The frames of an episode whose rows stand at these times and which starts in the file after `offset_s`.

    `shown` are the times at which the file's frames are shown, and `fps` is the rate of the table.

    A row out of reach of every frame has none.

    Raises:
        ValueError: both clocks run apart, and nobody says by which to pair; names distance, drift, rates and flag.
    """
    times = rows + offset_s
    near = nearest(shown, times)
    distances = np.abs(shown[near] - times)
    period_s = period_of(shown, times, 1 / fps)
    reach_s = REACH * max(1 / fps, period_s) + ROUNDING_S
    numbered = near[0] + np.arange(len(rows))
    if how == "number":
        there = (numbered < len(shown)) & (distances[0] <= reach_s)
        return Paired(timestamps=rows, frames=np.where(there, numbered, -1))
    if period_s * fps > SLOWER and how == "auto":
        own = np.arange(max(0, int(newest(shown, times[:1])[0])), near[-1] + 1)
        return Paired(timestamps=shown[own] - offset_s, frames=own)
    if how == "auto" and runs_apart(shown, times, near, numbered, 1 / fps):
        drift_s = float((shown[numbered[-1]] - times[-1]) - (shown[numbered[0]] - times[0]))
        rates = (len(rows) - 1) / (times[-1] - times[0]), (len(rows) - 1) / (shown[numbered[-1]] - shown[numbered[0]])
        raise ValueError(
            f"{what}: the rows, at {rates[0]:.6g} Hz, and the frames, at {rates[1]:.6g} Hz, run apart by "
            f"{1000 * drift_s:+.0f} ms over {len(rows)} rows, and the nearest frame lies up to "
            f"{1000 * distances.max():.0f} ms from its row; pair them with `--data.pairing number` (row k has frame k) "
            "or `--data.pairing time`"
        )
    return Paired(timestamps=rows, frames=np.where(distances <= reach_s, near, -1))


def period_of(shown: Float64[np.ndarray, " M"], times: Float64[np.ndarray, " N"], otherwise_s: float) -> float:
    """The usual distance of the frames that are shown while the rows last."""
    first, last = np.searchsorted(shown, (times[0] - otherwise_s, times[-1] + otherwise_s))
    return float(np.median(np.diff(shown[first:last]))) if last - first > 1 else otherwise_s


def runs_apart(
    shown: Float64[np.ndarray, " M"],
    times: Float64[np.ndarray, " N"],
    near: Int64[np.ndarray, " N"],
    numbered: Int64[np.ndarray, " N"],
    period_s: float,
) -> bool:
    """Whether frames, counted like the rows, get ahead of them or fall behind by a steady drift.

    A frame that was dropped is a step, and not taken for a drift.
    """
    if numbered[-1] >= len(shown) or (near == numbered).all():
        return False
    since, ahead = times - times[0], (shown[numbered] - times) / period_s
    slope, start = np.polyfit(since, ahead, 1)
    return bool(abs(slope) * period_s < ALIKE and np.abs(ahead - slope * since - start).max() < STEADY)
