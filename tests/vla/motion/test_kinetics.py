"""What carries a body, against closed forms of a pelvis that falls, stands and swings."""

import numpy as np
import pytest

from vla.motion.body import Body
from vla.motion.kinetics import GRAVITY, believed, carrying, weight_of

RATE, WEIGHT = 100.0, 700.0
BODY = Body(kind="coordinates", joints=("pelvis_tx", "pelvis_ty", "pelvis_tz", "knee_angle_r"), parents=())
TIMES = np.arange(200) / RATE
INSIDE = slice(30, -30)
"""Away from the ends, where a filter has nothing to go on."""


def rows_of(height: np.ndarray, speed: float = 0.0) -> np.ndarray:
    """A pelvis at some height that moves ahead."""
    still = np.zeros_like(height)
    return np.stack([still + speed, height, still, still], axis=1)


def test_who_falls_is_carried_by_nothing() -> None:
    force = carrying(BODY, rows_of(10 - GRAVITY * TIMES**2 / 2), RATE, WEIGHT)
    np.testing.assert_allclose(force[INSIDE], 0, atol=1e-6)


@pytest.mark.parametrize("speed", [0.0, 1.3])
def test_who_stands_or_goes_evenly_is_carried_by_the_weight(speed: float) -> None:
    force = carrying(BODY, rows_of(np.full(200, 0.9), speed), RATE, WEIGHT)
    np.testing.assert_allclose(force, np.broadcast_to([0, WEIGHT, 0], force.shape), atol=1e-8)


def test_who_swings_is_carried_by_the_mass_times_what_is_felt() -> None:
    """2 Hz pass the filter but for a part that its kernel says, and the difference quotient's sinc."""
    turn = 2 * np.pi * 2.0
    force = carrying(BODY, rows_of(0.9 + 0.02 * np.sin(turn * TIMES)), RATE, WEIGHT)
    expected = WEIGHT * (1 - 0.02 * turn**2 * np.sin(turn * TIMES) / GRAVITY)
    assert np.abs(force[INSIDE, 1] - expected[INSIDE]).max() < 0.02 * np.ptp(expected)


def test_frames_that_carry_nobody_are_not_believed() -> None:
    """No force is one that is missing where the body stands, and right where it falls."""
    none, full = np.zeros((200, 3)), np.broadcast_to([0.0, WEIGHT, 0.0], (200, 3))
    stands, falls = rows_of(np.full(200, 0.9)), rows_of(10 - GRAVITY * TIMES**2 / 2)
    assert not believed(none, BODY, stands, RATE, WEIGHT).any()
    assert believed(full, BODY, stands, RATE, WEIGHT).all()
    assert believed(none, BODY, falls, RATE, WEIGHT)[INSIDE].all()
    holes = np.where((np.arange(200) % 7 == 0)[:, None], np.nan, full)
    np.testing.assert_array_equal(believed(holes, BODY, stands, RATE, WEIGHT), np.arange(200) % 7 != 0)


def test_who_stands_still_is_weighed_and_who_walks_by_what_is_felt() -> None:
    turn = 2 * np.pi * 2.0
    walk = rows_of(0.9 + 0.02 * np.sin(turn * TIMES), 1.3)
    up = WEIGHT * (1 - 0.02 * turn**2 * np.sin(turn * TIMES) / GRAVITY)
    walked = (BODY, walk, np.stack([0 * up, up, 0 * up], axis=1))
    stood = (BODY, rows_of(np.full(200, 0.9)), np.broadcast_to([0.0, 640.0, 0.0], (200, 3)))
    assert weight_of([walked, stood], RATE) == (640.0, True)
    weight, still = weight_of([walked], RATE) or (0.0, True)
    assert (round(weight / WEIGHT, 2), still) == (1.0, False)
    assert weight_of([(BODY, walk, np.zeros((200, 3)))], RATE) is None
