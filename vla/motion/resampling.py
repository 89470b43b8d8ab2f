"""Motions and forces at another rate: low-pass where the new rate is lower, then values in between.

The filter extends a signal beyond its ends by its point reflection there, so that constants and straight lines stay
what they are up to the first and the last sample.
"""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped

from vla.motion.clip import Poses
from vla.motion.rotations import between

PASS = 0.4
"""Cut-off of the low-pass, as a share of the new rate: a little below its half, since the filter's edge has a width."""
WHOLE = 1e-4
"""Share by which a rate may miss a whole number that is meant."""
REACH = 3.0
"""Half of the filter's length, in periods of the new rate."""


def times(frames: int, rate_hz: float, target_hz: float) -> Float64[np.ndarray, " N"]:
    """When the samples of another rate stand, s: from the first frame on, none after the last."""
    last = (frames - 1) / rate_hz
    # A clock of 29.97 Hz and one of 30 Hz round: a millionth of a period is no reason to lose the last sample.
    return np.arange(int(last * target_hz + 1e-6) + 1) / target_hz


def low_pass(values: Float[np.ndarray, "T *D"], rate_hz: float, target_hz: float) -> Float64[np.ndarray, "T *D"]:
    """Without what a lower rate cannot show: a sinc under a Hann window, of unit sum; a higher rate shows all."""
    values = np.asarray(values, dtype=np.float64)
    if target_hz >= rate_hz or len(values) < 2:
        return values
    half = int(np.ceil(REACH * rate_hz / target_hz))
    at = np.arange(-half, half + 1)
    kernel = np.sinc(2 * PASS * target_hz / rate_hz * at) * np.cos(np.pi * at / (2 * (half + 1))) ** 2
    kernel /= kernel.sum()
    flat = values.reshape(len(values), -1)
    extended = np.pad(flat, ((half, half), (0, 0)), mode="reflect", reflect_type="odd")
    out = np.stack([np.convolve(column, kernel, mode="valid") for column in extended.T], axis=1)
    return out.reshape(values.shape)


def numbers(values: Float[np.ndarray, "T *D"], rate_hz: float, target_hz: float) -> Float64[np.ndarray, "N *D"]:
    """Values at another rate: places, forces."""
    if rate_hz == target_hz:
        return np.asarray(values, dtype=np.float64)
    before, share = _between(len(values), rate_hz, target_hz)
    smooth = low_pass(values, rate_hz, target_hz)
    share = share.reshape(-1, *[1] * (smooth.ndim - 1))
    after = np.minimum(before + 1, len(values) - 1)
    found: Float64[np.ndarray, N * D] = smooth[before] + share * (smooth[after] - smooth[before])
    return found


def quantity(
    values: Float[np.ndarray, "T D"], rate_hz: float, when_s: Float64[np.ndarray, " N"], target_hz: float
) -> Float64[np.ndarray, "N D"]:
    """Values at times since the first one, without what a clock of `target_hz` cannot show.

    NaN is what was not measured, and what lies beside one, before the first row or after the last.
    """
    return np.stack([_one_quantity(column, rate_hz, when_s, target_hz) for column in values.T], axis=1)


def _one_quantity(
    values: Float[np.ndarray, " T"], rate_hz: float, when_s: Float64[np.ndarray, " N"], target_hz: float
) -> Float64[np.ndarray, " N"]:
    known = np.isfinite(values)
    if not known.any():
        return np.full(len(when_s), np.nan)
    smooth = low_pass(nearest(values, known), rate_hz, target_hz)
    # A clock that is a millionth of a period off reaches the first and the last row.
    places = when_s * rate_hz
    inside = (places > -1e-6) & (places < len(values) - 1 + 1e-6)
    places = places.clip(0, len(values) - 1)
    before = np.floor(places + 1e-6).astype(np.int64)
    share = (places - before).clip(min=0)
    after = np.minimum(before + (share > 0), len(values) - 1)
    found: Float64[np.ndarray, " N"] = smooth[before] + share * (smooth[after] - smooth[before])
    found[~(inside & known[before] & known[after])] = np.nan
    return found


def column(values: Shaped[np.ndarray, "T _"], rate_hz: float, target_hz: float) -> Shaped[np.ndarray, "N _"]:
    """Further values at another rate.

    Quantities are filtered, what numbers something is that of the nearest frame, and a flag holds on both sides.
    """
    if rate_hz == target_hz:
        return values
    when_s = times(len(values), rate_hz, target_hz)
    if np.issubdtype(values.dtype, np.floating):
        return quantity(values, rate_hz, when_s, target_hz)
    if values.dtype == np.bool_:
        return np.stack([measured(flags, rate_hz, target_hz) for flags in values.T], axis=1)
    return np.asarray(values[np.rint(when_s * rate_hz).astype(np.int64).clip(max=len(values) - 1)])


def turns(values: Float64[np.ndarray, "T J 4"], rate_hz: float, target_hz: float) -> Float64[np.ndarray, "N J 4"]:
    """Unit quaternions at another rate: filtered with signs that do not jump, then along great circles (slerp)."""
    values = continuous(values)
    if rate_hz == target_hz:
        return values
    before, share = _between(len(values), rate_hz, target_hz)
    smooth = low_pass(values, rate_hz, target_hz)
    smooth = smooth / np.linalg.norm(smooth, axis=-1, keepdims=True)
    after = np.minimum(before + 1, len(values) - 1)
    start, end = torch.from_numpy(smooth[before]), torch.from_numpy(smooth[after])
    return between(start, end, torch.from_numpy(share)[:, None, None]).numpy()


def poses(values: Poses, rate_hz: float, target_hz: float) -> Poses:
    """A moving skeleton at another rate."""
    return Poses(
        skeleton=values.skeleton,
        root=numbers(values.root, rate_hz, target_hz),
        turns=turns(values.turns, rate_hz, target_hz),
    )


def rate_of(period_s: float) -> float:
    """Frames a second of a period that a file may have rounded (0.033333 s): whole where that is 1e-4 off at most.

    NTSC's rates, such as 23.976, are 1e-3 off and stay. ValueError of a period that is none.
    """
    if not 0 < period_s < math.inf:
        raise ValueError(f"a frame lasts {period_s:g} s, which is no period; correct the frame time")
    rate = 1 / period_s
    return float(round(rate)) if abs(rate - round(rate)) < WHOLE * rate else rate


def evened(values: Poses, times_s: Float64[np.ndarray, " T"], rate_hz: float) -> Poses:
    """A moving skeleton seen at uneven times, as it is at even ones: from its first frame on, none after its last."""
    at = times_s[0] + times(2, 1 / (times_s[-1] - times_s[0]), rate_hz)
    before = np.searchsorted(times_s, at, side="right").clip(1, len(times_s) - 1) - 1
    share = ((at - times_s[before]) / (times_s[before + 1] - times_s[before])).clip(0.0, 1.0)
    shifts = share[:, None] * (values.root[before + 1] - values.root[before])
    turned = torch.from_numpy(continuous(values.turns))
    found = between(turned[before], turned[before + 1], torch.from_numpy(share)[:, None, None])
    return Poses(skeleton=values.skeleton, root=values.root[before] + shifts, turns=found.numpy())


def measured(valid: Bool[np.ndarray, " T"], rate_hz: float, target_hz: float) -> Bool[np.ndarray, " N"]:
    """Which samples of another rate have none but measured ones near: those that they are between."""
    if rate_hz == target_hz:
        return valid
    before, share = _between(len(valid), rate_hz, target_hz)
    after = np.minimum(before + (share > 0), len(valid) - 1)
    both: Bool[np.ndarray, " N"] = valid[before] & valid[after]
    return both


def nearest(values: Float[np.ndarray, "T *D"], known: Bool[np.ndarray, " T"]) -> Float[np.ndarray, "T *D"]:
    """Each frame as the known one nearest to it, so that a filter has something to go on; at least one is known."""
    if known.all():
        return values
    places, frames = np.flatnonzero(known), np.arange(len(values))
    after = np.searchsorted(places, frames).clip(max=len(places) - 1)
    before = np.maximum(after - 1, 0)
    nearer = np.abs(places[before] - frames) < np.abs(places[after] - frames)
    return np.asarray(values[np.where(nearer, places[before], places[after])])


def continuous(values: Float64[np.ndarray, "T J 4"]) -> Float64[np.ndarray, "T J 4"]:
    """The same rotations by quaternions each on the side of the one before: q and -q are one rotation."""
    flips = np.where((values[1:] * values[:-1]).sum(axis=-1, keepdims=True) < 0, -1.0, 1.0)
    signs: Float64[np.ndarray, "T J 1"] = np.concatenate([np.ones((1, *flips.shape[1:])), flips]).cumprod(axis=0)
    return np.asarray(values * signs)


def _between(
    frames: int, rate_hz: float, target_hz: float
) -> tuple[Int64[np.ndarray, " N"], Float64[np.ndarray, " N"]]:
    """Of each new sample the frame before it, and which share of the way to the next it stands at."""
    at = times(frames, rate_hz, target_hz) * rate_hz
    before = np.minimum(np.floor(at + 1e-9).astype(np.int64), frames - 1)
    return before, np.clip(at - before, 0.0, 1.0)
