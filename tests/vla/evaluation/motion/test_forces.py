"""Figures of forces: against numpy on real trials, and closed forms of bodies that fall and stand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.vla.data.motion.test_opensim import independent
from tests.vla.motion.test_kinetics import BODY, INSIDE, RATE, TIMES, WEIGHT, rows_of
from vla.data.formats.motion.reader import open_motion
from vla.data.selection import Selection
from vla.evaluation.motion.forces import Trial, calibrate, coverage, distances, errors, interval, residual, told
from vla.motion.kinetics import GRAVITY
from vla.motion_settings import MotionConfig


def trial_of(samples: np.ndarray, measured: np.ndarray | None = None, height: np.ndarray | None = None) -> Trial:
    """Of a body that stands, or whose pelvis is at some heights."""
    frames = samples.shape[1]
    return Trial(
        name="walk",
        body=BODY,
        rate_hz=RATE,
        motion=rows_of(np.full(frames, 0.9) if height is None else height),
        samples=samples,
        measured=measured,
        known=np.ones(frames, np.bool_),
        weight_n=WEIGHT,
    )


def test_errors_of_a_real_trial_are_those_of_numpy(shared: Path) -> None:
    """In newtons and per cent of the weight, on frames that are believed; all is read anew from the plates' table."""
    folder = shared / "data/nimble_gait/Subject4"
    config = MotionConfig(rate_hz=100.0, forces="total")
    reader = open_motion(folder, Selection(motion=config))
    episode = next(own for own in reader.episodes if own.name.endswith("walkingTO1_ik"))
    body = reader.layout.body
    assert body is not None and episode.known is not None
    rows, known = np.asarray(episode.actions.values), episode.known[:, -1]
    samples = rows[None, :, -3:] + np.random.default_rng(0).normal(5.0, 20.0, (4, len(rows), 3))
    trial = Trial(
        name="walkingTO1", body=body, rate_hz=100.0, motion=rows[:, :-3], samples=samples, measured=rows[:, -3:],
        known=known, weight_n=588.92,
    )  # fmt: skip
    labels, table = independent(folder / "walkingTO1_grf.mot")
    plates = [[labels.index(f"ground_force_{plate}_v{axis}") + 1 for axis in "xyz"] for plate in (1, 2)]
    true, said = table[:, np.array(plates)].sum(axis=1)[known], samples.mean(axis=0)[known]
    found = errors(trial)
    assert found is not None
    rms = [float(np.linalg.norm(said[:, axis] - true[:, axis]) / np.sqrt(len(true))) for axis in range(3)]
    assert found.rmse_n == pytest.approx(rms, rel=1e-4)
    assert found.rmse_percent == pytest.approx([value / 588.92 * 100 for value in rms], rel=1e-4)
    assert found.peak_n == pytest.approx(max(said[:, 1]) - max(true[:, 1]), abs=0.01)
    whole = float(np.trapezoid(true[:, 1], dx=0.01) + (true[0, 1] + true[-1, 1]) * 0.005)
    assert found.impulse_ns[1] == pytest.approx(float((said - true)[:, 1].sum()) * 0.01, abs=0.01)
    assert found.impulse_percent == pytest.approx(100 * found.impulse_ns[1] / whole, rel=1e-4)
    left = residual(trial)
    assert left is not None and left.measured_n is not None
    assert 20 < left.measured_n[1] < 60 and found.frames == known.sum() < len(known)


@pytest.mark.parametrize("wrong", [1.0, 3.0])
def test_calibrated_intervals_hold_the_share_that_they_say(wrong: float) -> None:
    """Truths lie as normally as samples do, `wrong` times as far: the scale is the normal quantile times that."""
    random = np.random.default_rng(3)
    frames, spread = 4000, np.array([2.0, 10.0, 5.0])

    def drawn() -> Trial:
        middle = random.normal(0, 100, (frames, 3))
        samples = middle + random.standard_normal((64, frames, 3)) * spread
        return trial_of(samples, middle + wrong * random.standard_normal((frames, 3)) * spread)

    scale = calibrate([distances(drawn())])
    assert scale == pytest.approx(wrong * 1.645 * np.ones(3), rel=0.08)
    fresh = drawn()
    held = coverage(fresh, scale)
    assert held is not None
    assert held.share == pytest.approx([0.9] * 3, abs=0.025)
    assert held.width_n == pytest.approx(2 * scale * spread, rel=0.02)
    low, high = interval(fresh, scale)
    np.testing.assert_allclose((low + high) / 2, fresh.samples.mean(axis=0), atol=1e-9)
    with pytest.raises(ValueError, match="8 frames with a known force say nothing of intervals that hold 90%"):
        calibrate([distances(replace(fresh, known=np.arange(frames) < 8))])


def test_newton_leaves_nothing_of_bodies_that_fall_and_stand() -> None:
    none, weight = np.zeros((2, 200, 3)), np.broadcast_to([0.0, WEIGHT, 0.0], (2, 200, 3)).copy()
    stands = residual(trial_of(weight, weight[0]))
    assert stands is not None and stands.measured_n == pytest.approx([0, 0, 0], abs=1e-8)
    assert np.abs(stands.samples_n).max() < 1e-8
    held = residual(trial_of(none))
    assert held is not None and held.measured_n is None
    assert held.samples_n[1] == pytest.approx([0, WEIGHT, 0], abs=1e-8)
    assert held.percent(held.samples_n[1]) == pytest.approx([0, 100, 0])
    fall = 10 - GRAVITY * TIMES**2 / 2
    # At both ends the filter takes the body's fall for a straight line, which is what it would need no force for.
    inner = replace(trial_of(none, none[0], fall), known=np.isin(np.arange(200), np.arange(200)[INSIDE]))
    left = residual(inner)
    assert left is not None and left.measured_n == pytest.approx([0, 0, 0], abs=1e-6)


def test_what_was_not_measured_has_no_error(tmp_path: Path) -> None:
    bare = trial_of(np.zeros((3, 200, 3)))
    found = told(bare, np.ones(3))
    assert (found["errors"], found["coverage"]) == (None, None) and found["residual"] is not None
    nameless = told(replace(bare, weight_n=None), None)
    assert (nameless["errors"], nameless["residual"], nameless["frames"]) == (None, None, 200)
