"""How a body accelerates, and whether its bones keep their lengths."""

import numpy as np
from jaxtyping import Float

from vla.evaluation.motion.landmarks import Landmarks


def acceleration(positions: Float[np.ndarray, "T J 3"], rate_hz: float) -> float:
    """The mean acceleration over joints and frames, in m/s^2, of prepared positions."""
    return _mean_derivative(positions, rate_hz, 2)


def jerk(positions: Float[np.ndarray, "T J 3"], rate_hz: float) -> float:
    """The mean change of acceleration over joints and frames, in m/s^3, of prepared positions."""
    return _mean_derivative(positions, rate_hz, 3)


def _mean_derivative(positions: Float[np.ndarray, "T J 3"], rate_hz: float, order: int) -> float:
    differences = np.diff(positions.astype(np.float64), n=order, axis=0) * rate_hz**order
    return float(np.linalg.norm(differences, axis=-1).mean())


def bone_variation(positions: Float[np.ndarray, "T J 3"], body: Landmarks) -> float:
    """The standard deviation of a bone's length over time as a share of its mean, in the mean over bones.

    Of positions as they came: it knows no rate, and a low-pass shortens what turns fast. Bones of no length do not
    count.
    """
    lengths = body.bones(positions)
    real = lengths.mean(axis=0) > 0
    return float((lengths[:, real].std(axis=0) / lengths[:, real].mean(axis=0)).mean())
