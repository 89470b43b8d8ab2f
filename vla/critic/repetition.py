"""Whether a motion goes round: three times the same, one after the other.

A walk is cyclic and no loop: of two strides no two are alike to a tenth of what moves in them, while what was cut out
and put together again is the same but for rounding.
"""

import numpy as np
from jaxtyping import Float, Float64

MIDDLE = np.array([3.0, -25.0, 150.0, 150.0, -25.0, 3.0]) / 256
"""Lagrange's weights of the value in the middle of six."""
SHORTEST_S, LONGEST_S = 0.25, 4.0
"""Periods that are looked for."""
TIMES = 3
"""Rounds that make a loop."""
MOVES_M = 0.01
"""Deviation of the joints below which a stretch does not move, and so does not go round either."""


def repetition(poses: Float[np.ndarray, "T J 3"], rate_hz: float) -> float:
    """How far the stretch that is nearest to three times the same is from it: RMS, as a share of its own deviation.

    0: a loop. Infinite where no stretch of three shortest periods moves. Of poses against the root, m.

    The distance from one round to the next goes with the square of what a period is missed by, so between the lags of
    a quarter of a frame it is that of the parabola through three of them (de Cheveigné & Kawahara 2002, of pitch).
    """
    flat = poses.reshape(len(poses), -1) / np.sqrt(poses.shape[1])
    fine, fine_hz = doubled(doubled(flat)), 4 * rate_hz
    longest = min(round(LONGEST_S * fine_hz), (len(fine) - 1) // TIMES)
    shortest = round(SHORTEST_S * fine_hz)
    if longest < shortest:
        return np.inf
    sums = np.concatenate([np.zeros((1, fine.shape[1])), fine.cumsum(axis=0)])
    squares = np.concatenate([[0.0], (fine**2).sum(axis=1).cumsum()])
    lags = range(shortest - 1, longest + 2)
    far = np.full((len(lags), len(fine)), np.nan)
    """Of each lag and start, the mean square from one round to the next of those that follow."""
    for row, lag in enumerate(lags):
        rounds, compared = TIMES * lag, (TIMES - 1) * lag
        starts = len(fine) - rounds + 1
        if starts < 1:
            continue
        away = np.concatenate([[0.0], ((fine[lag:] - fine[:-lag]) ** 2).sum(axis=1).cumsum()])
        mean = (sums[rounds : rounds + starts] - sums[:starts]) / rounds
        deviation = (squares[rounds : rounds + starts] - squares[:starts]) / rounds - (mean**2).sum(axis=1)
        moves = deviation > MOVES_M**2
        distance = (away[compared : compared + starts] - away[:starts]) / compared
        far[row, :starts] = np.where(moves, distance / np.where(moves, deviation, 1.0), np.nan)
    return float(np.sqrt(lowest(far)))


def lowest(far: Float64[np.ndarray, "lags starts"]) -> float:
    """The least value, between its lags where a parabola through three has a lower one; infinite of nothing."""
    if np.isnan(far).all():
        return float(np.inf)
    lag, start = np.unravel_index(np.nanargmin(far), far.shape)
    least = float(far[lag, start])
    if 0 < lag < len(far) - 1:
        before, after = far[lag - 1, start], far[lag + 1, start]
        bend = before - 2 * least + after
        if np.isfinite(bend) and bend > 0:
            least -= float((before - after) ** 2 / (8 * bend))
    return max(least, 0.0)


def doubled(values: Float[np.ndarray, "T D"]) -> Float64[np.ndarray, "N D"]:
    """Values with those in the middle between each two; the ends go on by point reflection."""
    wide = np.pad(values.astype(np.float64), ((2, 2), (0, 0)), mode="reflect", reflect_type="odd")
    taps = len(MIDDLE)
    middle = sum(weight * wide[tap : len(wide) - taps + 1 + tap] for tap, weight in enumerate(MIDDLE))
    out = np.empty((2 * len(values) - 1, values.shape[1]))
    out[::2], out[1::2] = values, middle
    return out
