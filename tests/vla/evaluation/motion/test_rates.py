"""The same motion, sampled at several rates, has the same figures."""

from collections.abc import Callable

import numpy as np
import pytest

from tests.vla.evaluation.motion.bodies import BODY, clip, walker
from vla.evaluation.motion import feet
from vla.evaluation.motion.clips import prepare
from vla.evaluation.motion.gait import gait_amplitude
from vla.evaluation.motion.heading import features
from vla.evaluation.motion.measuring import MEASURES
from vla.evaluation.motion.smoothness import bone_variation

RATES = (25.0, 30.0, 60.0, 120.0)
FIGURES: dict[str, Callable[[np.ndarray], float]] = {
    **{name: (lambda x, of=of: of(x, BODY, 20.0)) for (name, _), of in MEASURES.items()},
    "airborne share": lambda x: feet.airborne_share(x, BODY, 0.05),
    "bone variation": lambda x: bone_variation(x, BODY),
    "gait amplitude": lambda x: gait_amplitude(x, BODY),
    "features": lambda x: float(np.abs(features(x, BODY, 20.0)).mean()),
}


def hopper(rate_hz: float) -> np.ndarray:
    """A walker whose body also rises and sinks, and turns."""
    positions = walker(10.0, rate_hz, cadence_hz=0.83, phase=0.4)
    time = np.arange(len(positions)) / rate_hz
    positions[..., 1] += 0.08 * np.sin(2 * np.pi * 0.61 * time + 1.0)[:, None] ** 2
    positions[..., 0] += 0.5 * np.sin(2 * np.pi * 0.2 * time)[:, None]
    return positions


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_within_2_percent_at_all_rates(name: str) -> None:
    found = np.array([FIGURES[name](prepare(clip(hopper(rate), rate)).positions) for rate in RATES])
    assert found.min() > 0, "it is about something"
    assert found.max() <= 1.02 * found.min(), found
