"""Motions as the body itself sees them: from above the pelvis, along its heading."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from vla.evaluation.motion.clips import Windows
from vla.evaluation.motion.landmarks import Landmarks

SMALLEST_SPREAD = 0.05


def heading(positions: Float[np.ndarray, "T J 3"], body: Landmarks) -> Float64[np.ndarray, " T"]:
    """Where the body faces, in radians about the vertical: 0 along z, a quarter turn along x.

    Level and square to what leads from the left hip and shoulder to the right ones.
    """
    (left, right), (left_hip, right_hip) = body.shoulders, body.hips
    across = positions[:, right] - positions[:, left] + positions[:, right_hip] - positions[:, left_hip]
    angle: Float64[np.ndarray, " T"] = np.arctan2(across[:, 2], -across[:, 0]).astype(np.float64)
    return angle


def turn(
    vectors: Float[np.ndarray, "T *shape 3"], angle: Float64[np.ndarray, " T"]
) -> Float64[np.ndarray, "T *shape 3"]:
    """Vectors turned about the vertical, each frame by its own angle: what pointed along z points where it says."""
    spread = angle.reshape(-1, *(1,) * (vectors.ndim - 2))
    sine, cosine = np.sin(spread), np.cos(spread)
    x, y, z = (vectors[..., axis].astype(np.float64) for axis in range(3))
    return np.stack([cosine * x + sine * z, y, cosine * z - sine * x], axis=-1)


def level(positions: Float[np.ndarray, "T J 3"], body: Landmarks) -> Float64[np.ndarray, "T 3"]:
    """Where the pelvis is above, on the level of 0."""
    return positions[:, body.pelvis].astype(np.float64) * (1.0, 0.0, 1.0)


def local(positions: Float[np.ndarray, "T J 3"], body: Landmarks) -> Float64[np.ndarray, "T J 3"]:
    """Positions from below the pelvis, along the heading: (left, up, ahead)."""
    return turn(positions - level(positions, body)[:, None], -heading(positions, body))


def features(positions: Float[np.ndarray, "T J 3"], body: Landmarks, rate_hz: float) -> Float64[np.ndarray, "T F"]:
    """Of each frame: local positions in metres, and the velocities over ground along the heading in m/s.

    A foot that stands has no velocity, whatever the body does; in a glide nothing stands.
    """
    velocity = np.gradient(positions.astype(np.float64), 1 / rate_hz, axis=0)
    both = [local(positions, body), turn(velocity, -heading(positions, body))]
    return np.concatenate([part.reshape(len(positions), -1) for part in both], axis=1)


def window_features(windows: Windows, body: Landmarks) -> Float64[np.ndarray, "N T F"]:
    """The features of each window; 0 where it has ended."""
    described = np.zeros((*windows.positions.shape[:2], 6 * len(body.names)))
    for place, (positions, length) in enumerate(zip(windows.positions, windows.lengths, strict=True)):
        described[place, :length] = features(positions[:length], body, windows.rate_hz)
    return described


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The mean and the spread of each feature among real motions."""

    mean: Float64[np.ndarray, " F"]
    spread: Float64[np.ndarray, " F"]

    @staticmethod
    def of(blocks: Iterable[Windows], body: Landmarks) -> "Scale":
        """Of the windows' own frames; what hardly varies counts as varying by 5 cm, or 5 cm/s."""
        count, total, squares = 0, np.zeros(1), np.zeros(1)
        for windows in blocks:
            frames = window_features(windows, body)[windows.valid]
            count, total, squares = count + len(frames), total + frames.sum(axis=0), squares + (frames**2).sum(axis=0)
        mean = total / count
        spread = np.sqrt(np.maximum(squares / count - mean**2, SMALLEST_SPREAD**2))
        return Scale(mean=mean, spread=spread)

    def normalised(self, windows: Windows, body: Landmarks) -> Float64[np.ndarray, "N T F"]:
        """Features of mean 0 and spread 1; 0 where a window has ended."""
        described = (window_features(windows, body) - self.mean) / self.spread
        return np.where(windows.valid[..., None], described, 0.0)
