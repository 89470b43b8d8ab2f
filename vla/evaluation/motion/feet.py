"""Whether feet stand where they stand: on prepared positions, with the floor at 0.

A foot is judged by its toes, or by its ankle where the skeleton has no toes; heights are then those above an ankle at
rest (`clips.floor_height`). Real motions are not at 0 in any of these: print theirs beside.
"""

import math

import numpy as np
from jaxtyping import Bool, Float

from vla.evaluation.motion.clips import speeds
from vla.evaluation.motion.landmarks import Landmarks

CONTACT_M = 0.05
"""Below this height a foot is on the ground."""
NEAR_M = 0.12
"""Below this height it is near the ground."""
AIRBORNE_M = 0.1
"""Above this height it is in the air, also where the heel alone is lifted."""
SLIDE_MPS = 0.5
SLIDE_STEPS = 5
GROUND = [0, 2]
"""Axes."""


def skating_ratio(positions: Float[np.ndarray, "T J 3"], body: Landmarks, rate_hz: float) -> float:
    """The share of steps in which a foot slides: less than 5 cm above the floor before and after, and over 0.5 m/s.

    Over 0.5 m/s along the ground both in this step and in the mean of the five round it, of which those beyond the ends
    count as 0; one foot is enough. Karunratanakul et al., "Guided motion diffusion for controllable human motion
    synthesis" (2023), at 20 Hz.
    """
    feet = positions[:, body.tips]
    pace = speeds(feet[..., GROUND], rate_hz)
    margin = SLIDE_STEPS // 2
    around = np.lib.stride_tricks.sliding_window_view(np.pad(pace, ((margin, margin), (0, 0))), SLIDE_STEPS, axis=0)
    low = feet[..., 1] < CONTACT_M
    slides = low[:-1] & low[1:] & (pace > SLIDE_MPS) & (around.mean(axis=-1) > SLIDE_MPS)
    return float(slides.any(axis=1).mean())


def contact_speed(positions: Float[np.ndarray, "T J 3"], body: Landmarks, rate_hz: float) -> float:
    """The mean speed with which a foot leaves a place less than 5 cm above the floor, in m/s; NaN where none is there.

    In all directions: "foot skate from height" of Kimodo (2026).
    """
    feet = positions[:, body.tips]
    return _mean(speeds(feet, rate_hz), feet[:-1, :, 1] < CONTACT_M)


def ground_speed(positions: Float[np.ndarray, "T J 3"], body: Landmarks, rate_hz: float) -> float:
    """The mean speed along the ground of a foot less than 12 cm above it before and after, in m/s; NaN of none."""
    feet = positions[:, body.tips]
    low = feet[..., 1] < NEAR_M
    return _mean(speeds(feet[..., GROUND], rate_hz), low[:-1] & low[1:])


def _mean(values: Float[np.ndarray, "steps feet"], counted: Bool[np.ndarray, "steps feet"]) -> float:
    return float(values[counted].mean()) if counted.any() else math.nan


def airborne_share(positions: Float[np.ndarray, "T J 3"], body: Landmarks, height_m: float = AIRBORNE_M) -> float:
    """The share of frames in which every joint of both feet is above a height."""
    return float((positions[:, sum(body.feet, ()), 1] > height_m).all(axis=1).mean())


def penetration(positions: Float[np.ndarray, "T J 3"]) -> float:
    """How far the lowest joint is below the floor, in m: 0 where it is not, in the mean over frames."""
    return float(np.maximum(-positions[..., 1].min(axis=1), 0.0).mean())


def floating(positions: Float[np.ndarray, "T J 3"]) -> float:
    """How far the lowest joint is above the floor, in m: 0 where it is not, in the mean over frames."""
    return float(np.maximum(positions[..., 1].min(axis=1), 0.0).mean())


def contact_score(positions: Float[np.ndarray, "T J 3"], body: Landmarks, rate_hz: float) -> float:
    """The physical foot contact score: how much the pelvis accelerates while no foot stands; 0 where it never does.

    1e4 times the mean of |s_left| |s_right| |a| / max |a|, with the slowest joint's step along the ground of each foot
    in m and the acceleration of the pelvis, of which falling does not count (Tseng et al., "EDGE: editable dance
    generation from music", 2023). It goes with the square of the frames' distance in time and with the clip's largest
    acceleration: compare it at one rate and length alone.
    """
    acceleration = np.diff(positions[:, body.pelvis].astype(np.float64), n=2, axis=0) * rate_hz**2
    acceleration[:, 1] = np.maximum(acceleration[:, 1], 0.0)
    push = np.linalg.norm(acceleration, axis=-1)
    if not push.any():
        return 0.0
    steps = speeds(positions[1:, :, GROUND], 1.0)
    both = np.prod([steps[:, foot].min(axis=1) for foot in body.feet], axis=0)
    return float(1e4 * (both * push / push.max()).mean())
