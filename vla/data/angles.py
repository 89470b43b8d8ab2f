"""Which action dimensions are angles that wrap."""

import math
import re
from collections.abc import Sequence

import numpy as np

from vla.data.episode import Episode

ORIENTATION = {"yaw", "roll", "pitch", "rx", "ry", "rz", "euler"}
ORIENTATION_CONTEXT = {"x", "y", "z", "ee", "eef", "tcp", "end", "effector", "pose", "euler", "rot", "rotation"}
ORIENTATION_CONTEXT |= {"orientation", "base", "target", "left", "right"}
DEGREES = {"deg", "degree", "degrees"}
RADIANS = {"rad", "radian", "radians"}


def angle_periods(
    action_dim: int, names: Sequence[str], units: Sequence[str], episodes: Sequence[Episode]
) -> tuple[float, ...]:
    """Per action dimension the period of an angle that wraps, 0 where it is none.

    An angle is one by its name (`ee_yaw`, `rz`, `roll_deg`) or its unit; a joint (`left_wrist_roll`) or a difference
    (`delta_yaw`) does not wrap. Data that span more than one period were unwrapped: they have none.
    """
    periods = [
        named_period(names[index] if names else "", units[index] if units else "") for index in range(action_dim)
    ]
    if not any(periods):
        return (0.0,) * action_dim
    low = np.min([np.nanmin(episode.actions.values, axis=0) for episode in episodes], axis=0)
    high = np.max([np.nanmax(episode.actions.values, axis=0) for episode in episodes], axis=0)
    found = []
    for index, named in enumerate(periods):
        in_radians = max(abs(low[index]), abs(high[index])) <= 2 * math.pi + 1e-3
        period = named if named >= 0 else 2 * math.pi if in_radians else 360.0
        found.append(period if high[index] - low[index] <= period * (1 + 1e-6) else 0.0)
    return tuple(found)


def named_period(name: str, unit: str) -> float:
    """360 or 2 pi for an orientation in degrees or radians, -1 for one without a unit, 0 for anything else."""
    words = [word for word in re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()) if word]
    unit_words = {unit.lower()} | set(words)
    named = set(words) - DEGREES - RADIANS
    if not (named & ORIENTATION) or named - ORIENTATION - ORIENTATION_CONTEXT:
        return 0.0
    if unit_words & DEGREES:
        return 360.0
    return 2 * math.pi if unit_words & RADIANS else -1.0
