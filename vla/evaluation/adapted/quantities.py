"""What of a motion a style changes, in SI units, and which weights of an adapter make equal steps of it."""

from collections.abc import Callable, Sequence

import numpy as np

from vla.adapters.curves import isotonic, spearman, weight_for
from vla.evaluation.motion.clips import Clip, speeds
from vla.evaluation.motion.heading import level
from vla.evaluation.motion.landmarks import Landmarks
from vla.motion.joints import known


def pelvis_height(clip: Clip, body: Landmarks) -> float:
    """Mean height of the pelvis above the floor, m."""
    return float(clip.positions[:, body.pelvis, 1].mean())


def wrist_height(clip: Clip, body: Landmarks) -> float:
    """Mean height of both wrists above the floor, m; NaN of a body without any."""
    called = known(body.names, {})
    if not {"left_wrist", "right_wrist"} <= called.keys():
        return float("nan")
    places = [body.names.index(called[joint]) for joint in ("left_wrist", "right_wrist")]
    return float(clip.positions[:, places, 1].mean())


def speed(clip: Clip, body: Landmarks) -> float:
    """Mean speed of the pelvis over ground, m/s."""
    return float(speeds(level(clip.positions, body), clip.rate_hz).mean())


def trunk_lean(clip: Clip, body: Landmarks) -> float:
    """Mean angle of the way from the pelvis to between the shoulders from the vertical, degrees."""
    trunk = clip.positions[:, list(body.shoulders)].mean(axis=1) - clip.positions[:, body.pelvis]
    across = np.hypot(trunk[:, 0], trunk[:, 2])
    return float(np.degrees(np.arctan2(across, trunk[:, 1])).mean())


QUANTITIES: dict[str, tuple[str, Callable[[Clip, Landmarks], float]]] = {
    "pelvis height": ("m", pelvis_height),
    "wrist height": ("m", wrist_height),
    "speed": ("m/s", speed),
    "trunk lean": ("degrees", trunk_lean),
}
"""Of prepared clips, whose floor is at 0: unit and measure by name."""


def curve(weights: Sequence[float], values: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """Which weights make equal steps of a quantity, from its value at the first weight to that at the last.

    As many values as weights were measured, each with its weight; errors as `weight_for`.
    """
    rising = 1.0 if spearman(weights, values) > 0 else -1.0
    order = np.argsort(np.asarray(weights))
    ends = rising * isotonic(rising * np.asarray(values, dtype=np.float64)[order])[[0, -1]]
    wanted = np.linspace(ends[0], ends[1], len(values)).clip(ends.min(), ends.max()).tolist()
    return tuple((value, weight_for(weights, values, value)) for value in wanted)
