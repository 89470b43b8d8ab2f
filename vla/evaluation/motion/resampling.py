"""One rate and one band for all motions, without which their accelerations say how they were recorded.

From 30 to 60 Hz the mean acceleration of a real clip about doubles and its jerk grows fivefold: what grows is noise.
"""

import math

import numpy as np
from jaxtyping import Float, Float64, Int64

RATE_HZ = 20.0
"""At which motions are measured."""
CUTOFF_HZ = 6.0
"""Where the low-pass has fallen to a half."""
TRANSITION_HZ = 3.0
"""From where the low-pass keeps all to where it keeps nothing."""
ATTENUATION_DB = 60.0
"""By how much it weakens what lies above."""


def resample(
    values: Float[np.ndarray, "T *shape"], from_hz: float, to_hz: float = RATE_HZ, *, cutoff_hz: float = CUTOFF_HZ
) -> Float64[np.ndarray, "S *shape"]:
    """Values over time at another rate, low-passed; the first stays at 0 s, the last is the last before the end.

    A sinc under Kaiser's window ("Nonrecursive digital filter design using the I0-sinh window function", 1974), laid
    round the time of every new frame, so that any two rates go together; its weights are made to add up to 1, so that
    what rests stays at rest. Beyond both ends the values go on mirrored in the end value, up for down: so do a
    constant and a steady course, which would come to a halt if the end value were repeated. The ends stay in place.

    Raises:
        ValueError: a rate is too low for the band, or a value is not finite.
    """
    for rate_hz in (from_hz, to_hz):
        if rate_hz < lowest_rate(cutoff_hz):
            raise ValueError(
                f"motion at {rate_hz:g} Hz does not hold the band of {cutoff_hz:g} Hz in which motions are measured, "
                f"which takes {lowest_rate(cutoff_hz):g} Hz; use more frames a second, or measure all in a lower band"
            )
    if not np.isfinite(values).all():
        frame = int(np.argwhere(~np.isfinite(values))[0][0])
        raise ValueError(f"frame {frame} of a motion is not finite; leave out its frames, or mend them first")
    reach = math.ceil(half_length() * from_hz)
    ends = ((reach, reach + 1), *((0, 0),) * (values.ndim - 1))
    padded = np.pad(values.astype(np.float64), ends, mode="reflect", reflect_type="odd")
    nearest, weights = _taps(len(values), from_hz, to_hz, cutoff_hz, reach)
    resampled = np.zeros((len(nearest), *values.shape[1:]))
    for tap, weight in enumerate(weights.T):
        resampled += weight.reshape(-1, *(1,) * (values.ndim - 1)) * padded[nearest + tap]
    return resampled


def lowest_rate(cutoff_hz: float = CUTOFF_HZ) -> float:
    """The rate from which on nothing within the band is folded over, in Hz."""
    return 2 * cutoff_hz + TRANSITION_HZ


def half_length() -> float:
    """How far the low-pass looks to either side, in seconds (Kaiser 1974: (A - 7.95) / 14.36 / transition in all)."""
    return (ATTENUATION_DB - 7.95) / (14.36 * TRANSITION_HZ) / 2


def _taps(
    frames: int, from_hz: float, to_hz: float, cutoff_hz: float, reach: int
) -> tuple[Int64[np.ndarray, " S"], Float64[np.ndarray, "S taps"]]:
    """Of each new frame: the first of the old ones that it is made of, in their padded order, and their weights."""
    # A last frame that is missed by rounding alone is there.
    count = math.floor((frames - 1) / from_hz * to_hz + 1e-6) + 1
    places = np.minimum(np.arange(count) / to_hz * from_hz, frames - 1)
    nearest = np.floor(places).astype(np.int64)
    away = (nearest[:, None] + np.arange(-reach, reach + 2) - places[:, None]) / from_hz
    beta = 0.1102 * (ATTENUATION_DB - 8.7)
    inside = np.sqrt(np.maximum(1 - (away / half_length()) ** 2, 0.0))
    window = np.where(np.abs(away) <= half_length(), np.i0(beta * inside), 0.0)
    weights = np.sinc(2 * cutoff_hz * away) * window
    return nearest, weights / weights.sum(axis=1, keepdims=True)
