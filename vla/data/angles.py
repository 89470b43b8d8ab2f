"""Which action dimensions are angles that wrap."""

import math
import re
from collections.abc import Mapping, Sequence

from vla.data.episode import Episode
from vla.statistics import span

ORIENTATION = {"yaw", "roll", "pitch", "rx", "ry", "rz", "euler"}
ORIENTATION_CONTEXT = {"x", "y", "z", "ee", "eef", "tcp", "end", "effector", "pose", "euler", "rot", "rotation"}
ORIENTATION_CONTEXT |= {"orientation", "base", "target", "left", "right"}
DEGREES = {"deg", "degree", "degrees"}
RADIANS = {"rad", "radian", "radians"}


def parse_angles(words: Sequence[str]) -> dict[str, float]:
    """The period of each dimension that `yaw=rad 5=deg` names. ValueError where it is written otherwise."""
    periods: dict[str, float] = {}
    for word in words:
        name, _, unit = word.rpartition("=")
        if not name or unit.lower() not in DEGREES | RADIANS or name in periods:
            raise ValueError(
                f"--data.angles has {word!r}, expected dimensions of the action by index or name, each once, with rad "
                "or deg, such as yaw=rad 5=deg"
            )
        periods[name] = 360.0 if unit.lower() in DEGREES else 2 * math.pi
    return periods


def angle_periods(
    width: int, names: Sequence[str], units: Sequence[str], asked: Mapping[int, float], episodes: Sequence[Episode]
) -> tuple[float, ...]:
    """Per action dimension the period of an angle that wraps, 0 where it is none.

    An angle is one by its name (`ee_yaw`, `rz`, `roll_deg`) and its unit, in the name or beside it, or because its
    period is `asked` for; a joint (`left_wrist_roll`) or a difference (`delta_yaw`) does not wrap, and nothing is told
    from the size of values. Data that span more than one period were unwrapped: they have none.
    """
    periods = [
        asked.get(index, max(0.0, named_period(names[index] if names else "", units[index] if units else "")))
        for index in range(width)
    ]
    if not any(periods):
        return (0.0,) * width
    return tuple(
        period
        if period and span([episode.actions.values[:, index] for episode in episodes]) <= period * (1 + 1e-6)
        else 0.0
        for index, period in enumerate(periods)
    )


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
