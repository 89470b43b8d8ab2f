"""Clips: cut, varied, side by side, and prepared with the floor at 0."""

import numpy as np
import pytest

from tests.vla.evaluation.motion.bodies import BODY, NAMES, clip, standing, walker
from vla.evaluation.motion.clips import cut, floor_height, prepare, speeds, stack, varied


def test_the_floor_lies_below_the_lowest_joint_of_nearly_all_frames() -> None:
    positions = standing(2.0, 60.0) + np.array((0.0, 0.3, 0.0))
    assert floor_height(positions) == pytest.approx(0.35), "an ankle at rest is at 5 cm above"
    positions[:100, :, 1] += 1.0
    assert floor_height(positions) == pytest.approx(0.35), "in the air for five of six frames"
    positions[7, :, 1] -= 9.0
    assert floor_height(positions) == pytest.approx(0.35), "one wrong frame"


def test_a_prepared_clip_has_one_rate_and_stands_on_the_floor() -> None:
    prepared = prepare(clip(standing(2.0, 60.0) + np.array((5.0, 0.3, 0.0)), 60.0))
    assert prepared.positions.shape == (41, 15, 3)
    assert prepared.rate_hz == 20.0
    assert prepared.positions[..., 1].min() == pytest.approx(0.0, abs=1e-9)
    given = prepare(clip(standing(2.0, 60.0) + np.array((5.0, 0.3, 0.0)), 60.0), rate_hz=30.0, floor_m=0.3)
    assert given.positions.shape == (61, 15, 3)
    assert given.positions[..., 1].min() == pytest.approx(0.05)


def test_a_clip_of_three_frames_is_refused_by_its_source() -> None:
    with pytest.raises(ValueError, match=r"a clip of take 3 has 3 frames at 20 Hz, .* from 4 on; leave it out"):
        prepare(clip(standing(0.1, 60.0), 60.0, "take 3"))


def test_windows_cover_a_clip_to_its_end() -> None:
    whole = clip(walker(5.0, 60.0), 60.0)
    windows = cut(whole, 1.5, 1.0)
    assert [len(window.positions) for window in windows] == [91] * 5
    starts = [round(window.positions[0, 0, 2] / 1.2, 6) for window in windows]
    assert starts == [0.0, 1.0, 2.0, 3.0, 3.5]
    assert cut(whole, 5.0, 1.0) == [whole]
    assert cut(whole, 7.0, 1.0) == [whole]


def test_variations_are_slower_and_faster_and_mirrored() -> None:
    whole = clip(walker(2.0, 60.0), 60.0)
    found = varied(whole, BODY, (0.5, 1.0))
    assert [made.rate_hz for made in found] == [30.0, 30.0, 60.0, 60.0]
    left, right = NAMES.index("left ankle"), NAMES.index("right ankle")
    assert found[1].positions[:, left] == pytest.approx(whole.positions[:, right] * (-1, 1, 1))
    assert found[1].positions[:, 0] == pytest.approx(whole.positions[:, 0] * (-1, 1, 1))
    assert found[2].positions is whole.positions


def test_clips_of_several_lengths_stand_side_by_side() -> None:
    windows = stack([clip(walker(1.0, 20.0), 20.0), clip(standing(0.5, 20.0), 20.0)], frames=25)
    assert windows.positions.shape == (2, 25, 15, 3)
    assert windows.valid.sum(axis=1).tolist() == [21, 11]
    assert windows.positions[0, 21:] == pytest.approx(np.tile(windows.positions[0, 20], (4, 1, 1)))
    with pytest.raises(ValueError, match=r"clips at \[20.0, 30.0\] Hz do not go together"):
        stack([clip(walker(1.0, 20.0), 20.0), clip(walker(1.0, 30.0), 30.0)])
    with pytest.raises(ValueError, match="a clip has 21 frames, more than 20; cut it first"):
        stack([clip(walker(1.0, 20.0), 20.0)], frames=20)


def test_speed_is_distance_by_time() -> None:
    assert speeds(walker(1.0, 25.0, speed_mps=1.5)[:, 0], 25.0) == pytest.approx(np.full(25, 1.5))
