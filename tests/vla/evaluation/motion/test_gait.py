"""How far a body steps: a sine's amplitude, whatever its way and heading; real ones."""

from pathlib import Path

import numpy as np
import pytest

from tests.vla.evaluation.motion.bodies import BODY, recordings, walker
from vla.evaluation.motion.clips import cut, prepare
from vla.evaluation.motion.gait import ankle_distance, gait_amplitude, steps
from vla.evaluation.motion.heading import turn


@pytest.mark.parametrize("speed", [0.0, 1.4])
@pytest.mark.parametrize("angle", [0.0, 2.0])
def test_the_amplitude_is_that_of_a_sine(speed: float, angle: float) -> None:
    """Ankles at +a and -a times a sine over ten whole cycles: their distance has a deviation of 2 a / sqrt(2)."""
    positions = walker(10.0, 20.0, amplitude_m=0.3, cadence_hz=1.0, speed_mps=speed)[:200]
    turned = turn(positions, np.full(200, angle))
    assert gait_amplitude(turned, BODY) == pytest.approx(0.6 / np.sqrt(2))
    assert ankle_distance(turned, BODY)[5] == pytest.approx(0.6), "the left foot is ahead"


def test_a_body_that_glides_has_none() -> None:
    assert gait_amplitude(walker(2.0, 20.0, amplitude_m=0.0), BODY) == pytest.approx(0.0, abs=1e-12)


def test_steps_are_more_than_half_of_a_real_one() -> None:
    found = steps(np.array([0.05, 0.22, 0.24, 0.5]), np.array([0.4, 0.5]))
    assert found.tolist() == [False, False, True, True]


def test_real_walks_and_runs_step_by_half_a_metre(shared: Path) -> None:
    clips = [some for split in recordings(shared).values() for some in split]
    for label in ("walking", "running"):
        windows = [window for some in clips if some.label == label for window in cut(some, 2.0, 1.0)]
        amplitudes = np.array([gait_amplitude(prepare(window).positions, BODY) for window in windows])
        assert 0.42 <= amplitudes.mean() <= 0.52
        assert steps(amplitudes, amplitudes).mean() >= 0.95
