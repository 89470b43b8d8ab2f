"""How good a motion is, as numbers from 0 to 1 that only fall as a fault grows."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from vla.critic.measures import Measures
from vla.critic_settings import CriticConfig

JERK_MPS3 = 400.0
"""At which a motion is half smooth; real walks have 30 to 80."""
VARIETY_M = 0.05
"""Deviation at which two thirds of the variety are reached."""
SOURCES: Mapping[str, float] = {
    **dict.fromkeys(("humanml3d", "kit", "babel"), 1.0),
    **dict.fromkeys(("amass", "cmu"), 0.95),
    **dict.fromkeys(("aist", "beat"), 0.9),
    "interhuman": 0.85,
    "ntu": 0.8,
    "100style": 0.75,
    "synthetic": 0.6,
}
"""How far what a source recorded is believed, by what it is called."""
UNKNOWN = 0.7
"""Of any other source."""
SYNTHETIC = 0.1
"""What is taken off the quality of what nobody recorded."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Of one motion, each 0 to 1."""

    smoothness: float
    artifact: float
    """How many faults it has: the only one that rises with them."""
    physics: float
    """1 within the root's limits of speed and acceleration."""
    variety: float
    realism: float
    combined: float

    def to_json(self) -> dict[str, float]:
        """Plain values."""
        return asdict(self)


def quality_of(
    measures: Measures, config: CriticConfig, *, source: str = "", camera_stability: float | None = None
) -> Quality:
    """The scores of a motion from some source, whose camera was as stable as that, where it had one.

    smoothness 1 / (1 + jerk / 400); artifact 0.25 jitter + 0.2 still + 0.25 bursts + 0.15 repetition + 0.15 skating,
    each from 0 to its limit; realism 0.4 smoothness + 0.3 (1 - artifact) + 0.3 physics; combined 0.5 base + 0.3 realism
    of its source + 0.2 (1 - artifact), with base the mean of physics, variety and the camera's stability.
    """
    smoothness = 1 / (1 + measures.jerk_mps3 / JERK_MPS3)
    faults = (
        (0.25, share(measures.jitter, config.jitter_share)),
        (0.2, measures.still),
        (0.25, share(measures.bursts, 0.1)),
        (0.15, 0.0 if math.isinf(measures.repetition) else 1 - share(measures.repetition, 2 * config.repetitive)),
        (0.15, share(measures.skating, 0.2)),
    )
    artifact = sum(weight * fault for weight, fault in faults)
    over = excess(measures.speed_mps, config.speed_mps) + excess(measures.acceleration_mps2, config.acceleration_mps2)
    physics = 1 / (1 + over)
    variety = 1 - math.exp(-measures.variety_m / VARIETY_M)
    realism = 0.4 * smoothness + 0.3 * (1 - artifact) + 0.3 * physics
    base = [physics, variety] if camera_stability is None else [physics, variety, camera_stability]
    called = source.lower()
    combined = 0.5 * sum(base) / len(base) + 0.3 * realism * SOURCES.get(called, UNKNOWN) + 0.2 * (1 - artifact)
    return Quality(
        smoothness=smoothness,
        artifact=artifact,
        physics=physics,
        variety=variety,
        realism=realism,
        combined=max(0.0, combined - (SYNTHETIC if called == "synthetic" else 0.0)),
    )


def share(value: float, limit: float) -> float:
    """Of a limit, at most 1; 0 of what cannot be measured."""
    return 0.0 if math.isnan(value) else min(value / limit, 1.0) if limit else float(value > 0)


def excess(value: float, limit: float) -> float:
    """How far a value is above its limit, as a share of it; 0 below."""
    return max(0.0, value / limit - 1) if limit else value
