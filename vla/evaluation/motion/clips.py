"""Clips: positions of joints over time, as they came and as they are measured."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from vla.evaluation.motion.landmarks import Landmarks
from vla.evaluation.motion.resampling import CUTOFF_HZ, RATE_HZ, resample

FLOOR_QUANTILE = 0.05
PACES = (0.85, 1.0, 1.18)
VARIATIONS = 2 * len(PACES)
FEWEST_FRAMES = 4
"""A third derivative takes four."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A motion."""

    positions: Float[np.ndarray, "T J 3"]
    """In metres, y up."""
    rate_hz: float
    source: str
    """The recording that it was cut from, or the sample that it is: clips of one source are not independent."""
    label: str = ""
    """The action that it shows."""


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Clips of one rate side by side; the last frame of a shorter one is repeated."""

    positions: Float[np.ndarray, "N T J 3"]
    lengths: Int64[np.ndarray, " N"]
    """Frames of each that are its own."""
    rate_hz: float

    @property
    def valid(self) -> Bool[np.ndarray, "N T"]:
        """Which frames are a clip's own."""
        inside: Bool[np.ndarray, "N T"] = np.arange(self.positions.shape[1]) < self.lengths[:, None]
        return inside


def prepare(
    clip: Clip, *, rate_hz: float = RATE_HZ, cutoff_hz: float = CUTOFF_HZ, floor_m: float | None = None
) -> Clip:
    """A clip as it is measured: at one rate, in one band, with the floor at 0.

    Cut clips to the length of those that they are compared with before, not after: a filter has ends. The floor is the
    clip's own, unless its height is given.

    Raises:
        ValueError: the rate is too low for the band, a position is not finite, or the clip is too short.
    """
    positions = resample(clip.positions, clip.rate_hz, rate_hz, cutoff_hz=cutoff_hz)
    if len(positions) < FEWEST_FRAMES:
        raise ValueError(
            f"a clip of {clip.source} has {len(positions)} frames at {rate_hz:g} Hz, and is measured from "
            f"{FEWEST_FRAMES} on; leave it out"
        )
    positions[..., 1] -= floor_height(positions) if floor_m is None else floor_m
    return replace(clip, positions=positions, rate_hz=rate_hz)


def floor_height(positions: Float[np.ndarray, "T J 3"]) -> float:
    """The height of the floor, as a clip tells it: below its lowest joint in all but 5 % of the frames, in metres.

    So a body that is in the air for most of the time still stands on it, and single frames may be wrong. Of joints
    alone: where no toe is among them, it lies as high as an ankle at rest. A clip that has sunk into the ground as a
    whole is not seen so; compare floor heights where the ground is known to be at 0.
    """
    return float(np.quantile(positions[..., 1].min(axis=1), FLOOR_QUANTILE))


def cut(clip: Clip, seconds: float, every_s: float) -> list[Clip]:
    """Windows of a clip, one each so many seconds and one at its end; the clip itself where it is not longer."""
    frames, stride = round(seconds * clip.rate_hz) + 1, max(1, round(every_s * clip.rate_hz))
    last = len(clip.positions) - frames
    if last <= 0:
        return [clip]
    return [
        replace(clip, positions=clip.positions[start : start + frames]) for start in [*range(0, last, stride), last]
    ]


def varied(clip: Clip, body: Landmarks, paces: Sequence[float] = PACES) -> list[Clip]:
    """A clip at several paces, each also mirrored left for right: more real motions, to train a judge of few.

    Vary before cutting and preparing.
    """
    other = clip.positions[:, body.mirrored] * np.array((-1.0, 1.0, 1.0))
    return [
        replace(clip, positions=positions, rate_hz=clip.rate_hz * pace)
        for pace in paces
        for positions in (clip.positions, other)
    ]


def stack(clips: Sequence[Clip], frames: int | None = None) -> Windows:
    """Prepared clips side by side, as long as the longest or as so many frames.

    Raises:
        ValueError: the clips have several rates, or one is longer than that.
    """
    rates = {clip.rate_hz for clip in clips}
    if len(rates) != 1:
        raise ValueError(f"clips at {sorted(rates)} Hz do not go together; prepare them at one rate")
    lengths = np.array([len(clip.positions) for clip in clips])
    frames = int(lengths.max()) if frames is None else frames
    if lengths.max() > frames:
        raise ValueError(f"a clip has {lengths.max()} frames, more than {frames}; cut it first")
    padded = [
        np.pad(clip.positions, ((0, frames - len(clip.positions)), (0, 0), (0, 0)), mode="edge") for clip in clips
    ]
    return Windows(positions=np.stack(padded), lengths=lengths, rate_hz=rates.pop())


def speeds(positions: Float[np.ndarray, "T *shape axes"], rate_hz: float) -> Float64[np.ndarray, "steps *shape"]:
    """The speed of each point from a frame to the next, in m/s."""
    moved = np.diff(positions.astype(np.float64), axis=0)
    return np.asarray(np.linalg.norm(moved, axis=-1)) * rate_hz
