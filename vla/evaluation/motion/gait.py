"""Whether a body steps or glides."""

import numpy as np
from jaxtyping import Bool, Float, Float64

from vla.evaluation.motion.heading import local
from vla.evaluation.motion.landmarks import Landmarks


def ankle_distance(positions: Float[np.ndarray, "T J 3"], body: Landmarks) -> Float64[np.ndarray, " T"]:
    """By how far the left ankle is ahead of the right one along the body's heading, in m."""
    left, right = body.ankles
    ahead = local(positions, body)[..., 2]
    distance: Float64[np.ndarray, " T"] = ahead[:, left] - ahead[:, right]
    return distance


def gait_amplitude(positions: Float[np.ndarray, "T J 3"], body: Landmarks) -> float:
    """The standard deviation over time of the ankles' distance along the heading, in m: near 0 where a body glides."""
    return float(ankle_distance(positions, body).std())


def steps(amplitudes: Float[np.ndarray, " N"], real: Float[np.ndarray, " M"]) -> Bool[np.ndarray, " N"]:
    """Which gait amplitudes are more than half of the mean one of real motions of the same action."""
    large: Bool[np.ndarray, " N"] = amplitudes > real.mean() / 2
    return large
