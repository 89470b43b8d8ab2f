"""What can be set of the critic of motions; nothing heavy is imported here, so that help answers at once."""

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class CriticConfig:
    """From where on something is wrong with a motion, in SI units; vla/critic/verdict.py says how severe it is."""

    unsafe_severity: float = 0.7
    """A motion is unsafe that has an issue of this severity or more, 0 to 1."""
    frozen_share: float = 0.8
    """Share of the frames in which nothing may move against the root, 0 to 1."""
    frozen_mps: float = 0.05
    """Speed against the root below which a joint does not move, m/s, >= 0."""
    repetitive: float = 0.08
    """How far a stretch may be from three times the same, as a share of how much it moves, >= 0."""
    jitter_share: float = 0.3
    """Share of the frames in which accelerations may turn back at once, 0 to 1."""
    jitter_mps2: float = 7.5
    """Acceleration from which on one that turns back within 50 ms counts, m/s2, >= 0."""
    speed_mps: float = 15.0
    """Of the root, m/s, >= 0."""
    acceleration_mps2: float = 50.0
    """Of the root, m/s2, >= 0."""
    ground_m: float = -0.1
    """Height below which no joint may be, m; the floor is at 0."""
    quality: float = 0.3
    """Combined quality (vla/critic/quality.py) below which a motion is poor, 0 to 1."""
    step: float = 1.25
    """Of a robot: largest change of an action, in those of its demonstrations, > 0."""
    force: float = 1.25
    """Of a robot: largest reading of a sensor, in those of its demonstrations, > 0."""

    def __post_init__(self) -> None:
        for entry in fields(self):
            value, flag = getattr(self, entry.name), f"--critic.{entry.name.replace('_', '-')}"
            share = entry.name in ("unsafe_severity", "frozen_share", "jitter_share", "quality")
            if not math.isfinite(value):
                raise ValueError(f"{flag} is {value}; give a number")
            if share and not 0 <= value <= 1:
                raise ValueError(f"{flag} is {value}; give 0 to 1")
            if not share and entry.name != "ground_m" and value < 0:
                raise ValueError(f"{flag} is {value}; give 0 or more")
            if entry.name in ("step", "force") and value == 0:
                raise ValueError(
                    f"{flag} is {value}; give a number above 0, of which 1 allows what demonstrations have"
                )
