"""Whether a motion goes round: three times the same, one after the other.

A walk is cyclic and no loop: of two strides no two are alike to a tenth of what moves in them, while what was cut out
and put together again is the same but for rounding.
"""

import numpy as np
from jaxtyping import Float, Float64, Int64

MIDDLE = np.array([3.0, -25.0, 150.0, 150.0, -25.0, 3.0]) / 256
"""Lagrange's weights of the value in the middle of six."""
SHORTEST_S, LONGEST_S = 0.25, 4.0
"""Periods that are looked for."""
TIMES = 3
"""Rounds that make a loop."""
NEAR = 0.3**2
"""Square of how near a stretch has to be to three times the same for its lag to be looked at again."""
MOVES_M = 0.01
"""Deviation of the joints below which a stretch does not move, and so does not go round either."""


def repetition(poses: Float[np.ndarray, "T J 3"], rate_hz: float) -> float:
    """How far the stretch that is nearest to three times the same is from it: RMS, as a share of its own deviation.

    0: a loop. Infinite where no stretch of three shortest periods moves. Of poses against the root, m.

    Periods are looked for among half frames, and again among quarter frames where that has found something. The
    distance from one round to the next goes with the square of what a period is missed by, so between their lags it is
    that of the parabola through three of them (de Cheveigné & Kawahara 2002, of pitch).
    """
    half = doubled(poses.reshape(len(poses), -1) / np.sqrt(poses.shape[1]))
    longest = min(round(LONGEST_S * 2 * rate_hz), (len(half) - 1) // TIMES)
    shortest = round(SHORTEST_S * 2 * rate_hz)
    if longest < shortest:
        return np.inf
    lags = np.arange(shortest, longest + 1)
    coarse = apart(half, lags)
    # A quarter of a frame off, a loop of fast limbs is no further from itself than this; what is further is none.
    if not (near := lags[coarse.min(axis=1) < min(NEAR, 2 * coarse.min())]).size:
        return float(np.sqrt(coarse.min()))
    fine = np.unique(np.concatenate([2 * near + step for step in range(-2, 3)]))
    quarter = doubled(half)
    fine = fine[TIMES * fine <= len(quarter)]
    return float(np.sqrt(lowest(apart(quarter, fine), fine)))


def apart(values: Float[np.ndarray, "N D"], lags: Int64[np.ndarray, " L"]) -> Float64[np.ndarray, "L N"]:
    """Of each lag and start, the mean square from one round to the next of those that follow, by their own variance.

    Infinite where they do not move, or do not fit.
    """
    sums = np.concatenate([np.zeros((1, values.shape[1])), values.cumsum(axis=0)])
    squares = np.concatenate([[0.0], (values**2).sum(axis=1).cumsum()])
    found = np.full((len(lags), len(values)), np.inf)
    for row, lag in enumerate(lags.tolist()):
        rounds, compared = TIMES * lag, (TIMES - 1) * lag
        starts = len(values) - rounds + 1
        away = np.concatenate([[0.0], ((values[lag:] - values[:-lag]) ** 2).sum(axis=1).cumsum()])
        mean = (sums[rounds : rounds + starts] - sums[:starts]) / rounds
        deviation = (squares[rounds : rounds + starts] - squares[:starts]) / rounds - (mean**2).sum(axis=1)
        moves = deviation > MOVES_M**2
        distance = (away[compared : compared + starts] - away[:starts]) / compared
        found[row, :starts] = np.where(moves, distance / np.where(moves, deviation, 1.0), np.inf)
    return found


def lowest(far: Float64[np.ndarray, "L N"], lags: Int64[np.ndarray, " L"]) -> float:
    """The least value, between its lags where a parabola through three neighbours has a lower one."""
    row, start = np.unravel_index(np.argmin(far), far.shape)
    least = float(far[row, start])
    if 0 < row < len(far) - 1 and lags[row + 1] - lags[row - 1] == 2:
        before, after = far[row - 1, start], far[row + 1, start]
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
