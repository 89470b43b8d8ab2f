"""Errors of joint angles that a policy makes: against numpy, by a policy that says what it is told."""

import dataclasses

import numpy as np
import pytest

from tests.vla.test_forces import BODY, HORIZON, policy_of
from vla.evaluation.motion.angles import apart, continued, from_forces, longest
from vla.forces import continue_motion, sample_motion


def test_angles_are_apart_in_degrees_and_lengths_do_not_count() -> None:
    body = dataclasses.replace(BODY, joints=("pelvis_ty", "hip_flexion_r", "knee_angle_r"))
    true = np.random.default_rng(0).standard_normal((50, 3))
    off = np.random.default_rng(1).normal(0, 0.1, (50, 3)) + np.array([5.0, 0.02, 0.0])
    found = apart(body, true + off, true)
    degrees = off[:, 1:] * 180 / np.pi
    assert found.rmse_deg == pytest.approx(float(np.linalg.norm(degrees) / np.sqrt(100)))
    assert list(found.joints) == ["hip_flexion_r", "knee_angle_r"] and found.frames == 50
    assert found.joints["hip_flexion_r"] == pytest.approx(float(np.linalg.norm(degrees[:, 0]) / np.sqrt(50)))


@pytest.mark.parametrize(
    ("known", "run"), [("..###.##", (2, 5)), ("........", (0, 0)), ("#.##", (2, 4)), ("####", (0, 4)), ("", (0, 0))]
)
def test_the_longest_run_of_known_frames(known: str, run: tuple[int, int]) -> None:
    found = longest(np.array([letter == "#" for letter in known], np.bool_))
    assert (found.start, found.stop) == run


def test_what_is_made_is_judged_beside_what_was_measured() -> None:
    """Of the knee, the one angle of this body: numpy on what the policy samples of the same frames."""
    policy = policy_of(given=0.5)
    rows = np.random.default_rng(0).standard_normal((21, 6))
    known = np.arange(21) >= 5
    found = from_forces(policy, rows, known, n=2, seed=3)
    assert found is not None and found.frames == 16
    knee = np.degrees(sample_motion(policy, rows[5:, 3:], n=2, seed=3).mean(axis=0)[:, 2] - rows[5:, 2])
    assert found.rmse_deg == pytest.approx(float(np.sqrt((knee**2).mean())))
    further = continued(policy, rows, n=2, seed=3)
    begins, made = continue_motion(policy, rows, n=2, seed=3)
    knees = np.stack([rows[begin : begin + HORIZON // 2, 2] for begin in begins])
    off = np.degrees(made.mean(axis=0)[..., 2] - knees)
    assert further is not None and further.rmse_deg == pytest.approx(float(np.sqrt((off**2).mean())))
    assert from_forces(policy, rows, np.zeros(21, np.bool_)) is None and from_forces(policy, rows[:, :3], known) is None
    assert continued(policy, rows[: HORIZON - 1]) is None
