"""Feet that slide, stand, fly and sink by known amounts."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vla.evaluation.motion.bodies import BODY, NAMES, TOED, recordings, standing, walker
from vla.evaluation.motion import feet
from vla.evaluation.motion.clips import cut, prepare

LEFT, RIGHT = NAMES.index("left ankle"), NAMES.index("right ankle")
RATE = 20.0


def grounded(seconds: float = 2.0) -> np.ndarray:
    """A body that stands with its ankles at 0."""
    return standing(seconds, RATE) - (0.0, 0.05, 0.0)


def sliding(speed_mps: float, seconds: float = 2.0) -> np.ndarray:
    positions = grounded(seconds)
    positions[..., 2] += speed_mps * np.arange(len(positions))[:, None] / RATE
    return positions


def test_a_foot_that_slides_at_1_mps_slides_and_one_that_stands_does_not() -> None:
    assert feet.skating_ratio(sliding(1.0), BODY, RATE) == 1.0
    assert feet.contact_speed(sliding(1.0), BODY, RATE) == pytest.approx(1.0)
    assert feet.ground_speed(sliding(1.0), BODY, RATE) == pytest.approx(1.0)
    assert feet.skating_ratio(grounded(), BODY, RATE) == 0.0
    assert feet.contact_speed(grounded(), BODY, RATE) == 0.0


@pytest.mark.parametrize(("speed", "ratio"), [(0.49, 0.0), (0.51, 36 / 40), (0.7, 38 / 40), (0.9, 1.0)])
def test_the_mean_of_five_steps_counts_none_beyond_the_ends(speed: float, ratio: float) -> None:
    """At the first and the last step it is 3/5 of the speed, at the next ones 4/5."""
    assert feet.skating_ratio(sliding(speed), BODY, RATE) == pytest.approx(ratio)


def test_one_sliding_foot_is_enough_and_must_be_low_before_and_after() -> None:
    positions = grounded()
    positions[:, LEFT] = sliding(1.0)[:, LEFT]
    assert feet.skating_ratio(positions, BODY, RATE) == 1.0
    positions[10:20, LEFT, 1] = 0.06
    assert feet.skating_ratio(positions, BODY, RATE) == pytest.approx(29 / 40), "11 of 40 steps begin or end above"


def test_a_foot_that_is_never_low_has_no_speed_near_the_ground() -> None:
    positions = grounded() + np.array((0.0, 0.2, 0.0))
    assert math.isnan(feet.ground_speed(positions, BODY, RATE))
    assert math.isnan(feet.contact_speed(positions, BODY, RATE))
    assert feet.skating_ratio(positions, BODY, RATE) == 0.0


def test_speeds_near_the_ground_differ_in_what_they_look_at() -> None:
    """Of one foot that rises at 1 m/s from the floor, 5 cm a step: 0, 5, 10, 15 cm; the other stands."""
    positions = grounded(0.15)
    positions[:, LEFT, 1] = 0.05 * np.arange(4)
    rising, still = 1.0, 0.0
    assert feet.contact_speed(positions, BODY, RATE) == pytest.approx((rising + 3 * still) / 4), "one step begins below"
    assert feet.ground_speed(positions, BODY, RATE) == 0.0, "nothing moves along the ground"


def test_toes_are_looked_at_where_there_are_some() -> None:
    still = grounded()
    positions = np.concatenate([still, still[:, [RIGHT, LEFT]]], axis=1)
    positions[:, 15:, 2] += np.arange(len(still))[:, None] / RATE
    assert feet.contact_speed(positions, TOED, RATE) == pytest.approx(1.0)
    assert feet.contact_speed(positions, BODY, RATE) == 0.0
    positions[:, 15:, 1] = 0.2
    assert feet.airborne_share(positions, TOED) == 0.0, "the ankles are not"


@given(st.integers(0, 41))
def test_airborne_is_who_has_both_feet_up(frames: int) -> None:
    positions = grounded()
    positions[:frames, LEFT, 1] = 0.3
    assert feet.airborne_share(positions, BODY) == 0.0
    positions[:frames, RIGHT, 1] = 0.11
    assert feet.airborne_share(positions, BODY) == pytest.approx(frames / 41)
    assert feet.airborne_share(positions, BODY, 0.12) == 0.0


def test_penetration_and_floating_are_means_over_frames() -> None:
    positions = grounded(1.0)
    positions[:7, RIGHT, 1] = -0.03
    positions[14:, :, 1] += 0.06
    assert feet.penetration(positions) == pytest.approx(0.03 / 3)
    assert feet.floating(positions) == pytest.approx(0.06 / 3)


def test_the_contact_score_of_steady_acceleration_is_the_product_of_the_steps() -> None:
    """Pelvis a constantly, ankles by 3 cm and 2 cm a frame: 1e4 x 0.03 x 0.02 x 1."""
    positions, frames = grounded(), np.arange(41)
    positions[:, 0, 2] += 0.001 * frames**2
    positions[:, LEFT, 0] += 0.03 * frames
    positions[:, RIGHT, 2] += 0.02 * frames
    assert feet.contact_score(positions, BODY, RATE) == pytest.approx(6.0)
    positions[:, RIGHT, 2] = 0.0
    assert feet.contact_score(positions, BODY, RATE) == pytest.approx(0.0, abs=1e-9), "one foot stands"


def test_the_contact_score_is_weighted_by_acceleration_and_knows_no_falling() -> None:
    """One push of the pelvis among 39 second differences."""
    positions, frames = grounded(), np.arange(41)
    positions[:, [LEFT, RIGHT], 2] += 0.02 * frames[:, None]
    positions[21:, 0, 0] += 0.01 * (frames[21:] - 20)
    assert feet.contact_score(positions, BODY, RATE) == pytest.approx(1e4 * 0.02**2 / 39)
    falling = grounded()
    falling[:, [LEFT, RIGHT], 2] += 0.02 * frames[:, None]
    falling[:, 0, 1] -= 0.5 * 9.81 * (frames / RATE) ** 2
    assert feet.contact_score(falling, BODY, RATE) == 0.0


def test_a_body_with_still_pelvis_has_no_contact_score() -> None:
    assert feet.contact_score(walker(1.0, RATE, speed_mps=0.0), BODY, RATE) == 0.0


def test_real_jumps_fly_and_real_walks_do_not(shared: Path) -> None:
    clips = [some for split in recordings(shared).values() for some in split]
    shares = {
        label: np.mean(
            [
                feet.airborne_share(prepare(window).positions, BODY)
                for some in clips
                if some.label == label
                for window in cut(some, 2.0, 1.0)
            ]
        )
        for label in ("walking", "jumping", "running")
    }
    assert shares["walking"] <= 0.01
    assert 0.15 <= shares["jumping"] <= 0.45
    assert 0.02 <= shares["running"] <= 0.3
