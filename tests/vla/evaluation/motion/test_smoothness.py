"""Accelerations, jerks and bones of which the formula is known, and what a rate does to real ones."""

from pathlib import Path

import numpy as np
import pytest

from tests.vla.evaluation.motion.bodies import BODY, NAMES, clip, recordings, standing
from vla.evaluation.motion.clips import prepare
from vla.evaluation.motion.smoothness import acceleration, bone_variation, jerk


@pytest.mark.parametrize("rate_hz", [20.0, 50.0])
def test_a_parabola_has_one_acceleration_and_a_cubic_one_jerk(rate_hz: float) -> None:
    positions = standing(2.0, rate_hz)
    time = np.arange(len(positions))[:, None] / rate_hz
    thrown = positions.copy()
    thrown[..., 1] -= 0.5 * 9.81 * time**2
    assert acceleration(thrown, rate_hz) == pytest.approx(9.81)
    assert jerk(thrown, rate_hz) == pytest.approx(0.0, abs=1e-6)
    positions[:, :3, 0] += 2.0 * time**3
    assert jerk(positions, rate_hz) == pytest.approx(12.0 * 3 / 15), "three of 15 joints"


def test_a_prepared_parabola_keeps_its_acceleration_but_at_its_ends() -> None:
    positions = standing(6.0, 60.0)
    positions[..., 1] -= 0.5 * 2.0 * (np.arange(len(positions))[:, None] / 60.0) ** 2
    assert acceleration(prepare(clip(positions, 60.0)).positions, 20.0) == pytest.approx(2.0, rel=0.02)


def test_bones_that_breathe_by_a_tenth() -> None:
    positions = standing(1.0, 20.0)
    assert bone_variation(positions, BODY) == pytest.approx(0.0, abs=1e-12)
    head = NAMES.index("head")
    positions[:20:2, head] += 0.1 * (positions[:20:2, head] - positions[:20:2, 1])
    positions[1:20:2, head] -= 0.1 * (positions[1:20:2, head] - positions[1:20:2, 1])
    assert bone_variation(positions[:20], BODY) == pytest.approx(0.1 / 14), "one of 14 bones"


def test_a_bone_of_no_length_does_not_count() -> None:
    positions = standing(1.0, 20.0)
    positions[:, NAMES.index("head")] = positions[:, NAMES.index("chest")]
    assert bone_variation(positions, BODY) == pytest.approx(0.0, abs=1e-12)


def test_what_a_rate_does_to_real_motions_is_undone(shared: Path) -> None:
    """Every other frame of a clip of 60 Hz: as they come, their figures differ; prepared, they are the same."""
    clips = [some for some in recordings(shared)["test"] if some.label in ("walking", "running", "jumping")]
    assert len(clips) >= 10
    raw, same = [], []
    for some in clips:
        halved = clip(some.positions[::2], some.rate_hz / 2)
        raw.append([of(some.positions, 60.0) / of(halved.positions, 30.0) for of in (acceleration, jerk)])
        both = prepare(some).positions, prepare(halved).positions
        frames = min(map(len, both))
        same.append([of(both[0][:frames], 20.0) / of(both[1][:frames], 20.0) for of in (acceleration, jerk)])
    assert np.mean(raw, axis=0)[1] > 1.5
    assert np.abs(np.mean(same, axis=0) - 1).max() <= 0.02
