"""Motions that no human makes are what they are called."""

from dataclasses import replace

import numpy as np
import pytest

from tests.vla.evaluation.motion.bodies import BODY, NAMES, clip, standing, walker
from vla.evaluation.motion.clips import Clip, prepare
from vla.evaluation.motion.counterexamples import Counterexamples, counterexamples, with_bones
from vla.evaluation.motion.gait import gait_amplitude
from vla.evaluation.motion.heading import features, local, turn
from vla.evaluation.motion.smoothness import bone_variation

ONE = Counterexamples(
    speeds_mps=(0.8,), kept=(0.0,), poses=(None,), averages_s=(1.2,), blends=(0.5,), bones_kept=(False,)
)
ARMS = [NAMES.index(f"{side} {joint}") for side in ("left", "right") for joint in ("elbow", "wrist")]


def walks() -> list[Clip]:
    """Two walks, half a cycle apart, one of them along x."""
    first = walker(2.0, 20.0, cadence_hz=1.0)
    second = turn(walker(2.0, 20.0, cadence_hz=1.0, phase=np.pi), np.full(41, np.pi / 2))
    return [prepare(clip(first, 20.0)), prepare(clip(second, 20.0, "other", "running"))]


def test_in_a_glide_legs_hang_still_below_a_body_that_moves_at_one_speed() -> None:
    for real, made in zip(walks(), counterexamples(walks(), BODY, ONE)["glide"], strict=True):
        assert gait_amplitude(made.positions, BODY) == pytest.approx(0.0, abs=1e-9)
        velocities = features(made.positions, BODY, 20.0).reshape(41, 2, 15, 3)[:, 1]
        assert velocities[:, [0, 11, 14], 2] == pytest.approx(0.8)
        assert velocities[:, [0, 11, 14], 0] == pytest.approx(0.0, abs=1e-9)
        moved = local(made.positions, BODY)[:, ARMS] - local(real.positions, BODY)[:, ARMS]
        assert np.ptp(moved.reshape(-1, 3), axis=0) == pytest.approx(0.0, abs=1e-9), "but for the floor"
        assert made.label == real.label


def test_frozen_legs_leave_all_else_as_it_was() -> None:
    for real, made in zip(walks(), counterexamples(walks(), BODY, ONE)["frozen legs"], strict=True):
        assert gait_amplitude(made.positions, BODY) == pytest.approx(0.0, abs=1e-9)
        upper = [place for place in range(15) if place not in BODY.legs]
        moved = made.positions[:, upper] - real.positions[:, upper]
        assert np.ptp(moved.reshape(-1, 3), axis=0) == pytest.approx(0.0, abs=1e-9), "but for the floor"


def test_legs_may_keep_a_share_of_their_motion_and_hold_any_pose() -> None:
    kept = counterexamples(walks(), BODY, replace(ONE, kept=(0.25,)))["frozen legs"]
    assert gait_amplitude(kept[0].positions, BODY) == pytest.approx(
        0.25 * gait_amplitude(walks()[0].positions, BODY), rel=1e-6
    )
    posed = counterexamples(walks(), BODY, replace(ONE, poses=(0.5,)))["frozen legs"]
    ankles = [11, 14]
    held = local(posed[0].positions, BODY)[3, ankles][:, [0, 2]]
    assert held == pytest.approx(local(walks()[0].positions, BODY)[20, ankles][:, [0, 2]])


def test_an_average_over_a_cycle_has_lost_the_steps() -> None:
    real, made = walks()[0], counterexamples(walks(), BODY, replace(ONE, averages_s=(1.0,)))["averaged"][0]
    assert gait_amplitude(made.positions[11:-11], BODY) <= 0.1 * gait_amplitude(real.positions, BODY)
    assert made.positions[:, 0, 2] == pytest.approx(real.positions[:, 0, 2])


def test_a_blend_of_opposite_steps_has_none() -> None:
    others = walks()
    made = counterexamples(others, BODY, ONE, seed=0)["blend"]
    blended = [gait_amplitude(some.positions, BODY) for some in made]
    assert len(made) >= 1, "one that is blended with itself is left out"
    assert blended == pytest.approx([0.0] * len(made), abs=1e-6)


def test_what_is_hardly_changed_is_left_out() -> None:
    still = [prepare(clip(standing(2.0, 20.0), 20.0))]
    made = counterexamples(still, BODY, ONE)
    assert {kind: len(clips) for kind, clips in made.items()} == {
        "glide": 1, "frozen legs": 0, "averaged": 0, "blend": 0,
    }  # fmt: skip


def test_bones_get_back_their_lengths() -> None:
    positions = walker(1.0, 20.0)
    lengths = np.linspace(0.1, 0.5, 14)
    changed = with_bones(positions, BODY, lengths)
    assert BODY.bones(changed) == pytest.approx(np.tile(lengths, (21, 1)))
    assert changed[:, 0] == pytest.approx(positions[:, 0])
    kept = counterexamples(walks(), BODY, replace(ONE, bones_kept=(True,)))
    for clips in kept.values():
        assert all(bone_variation(made.positions, BODY) <= 1e-6 for made in clips)
    short = counterexamples(walks(), BODY, ONE)["averaged"][0]
    assert bone_variation(short.positions, BODY) > 1e-3


def test_they_follow_from_the_seed() -> None:
    first, again = (counterexamples(walks(), BODY, seed=3) for _ in range(2))
    for kind, clips in first.items():
        for one, other in zip(clips, again[kind], strict=True):
            assert (one.positions == other.positions).all()
    others = counterexamples(walks(), BODY, seed=4)
    assert any(
        (one.positions != other.positions).any() for one, other in zip(first["glide"], others["glide"], strict=True)
    )
