"""The critic of motions: real clips, corrupted ones, closed forms, and what it does not know."""

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.clips import poses
from tests.corruptions import CORRUPTIONS
from tests.real_clips import clips, motion_of
from vla.critic.critic import Critic
from vla.critic.measures import Measures, measure, turning_back
from vla.critic.quality import quality_of
from vla.critic.repetition import doubled, repetition
from vla.critic.verdict import SEVERITY
from vla.critic_settings import CriticConfig
from vla.motion.body import Body
from vla.motion.moves import Moves
from vla.motion.representation import encode_positions

FOLDERS = ("cmu_walks", "cmu_actions", "deepmimic_motions")
BODY = Body(
    kind="positions",
    joints=("pelvis", "left_hip", "right_hip", "left_ankle", "right_ankle", "head"),
    parents=(-1, 0, 0, 1, 2, 0),
)
UPRIGHT = np.array([(0, 0.9, 0), (0.1, 0.9, 0), (-0.1, 0.9, 0), (0.1, 0.1, 0), (-0.1, 0.1, 0), (0, 1.6, 0)])


def moves(places: np.ndarray, rate_hz: float = 20.0, text: str = "a person moves") -> Moves:
    """Joints over time as a policy gives them."""
    import torch

    rows = encode_positions(BODY.joints, torch.from_numpy(places), rate_hz).numpy().astype(np.float32)
    return Moves(rows=rows, body=BODY, offsets=None, rate_hz=rate_hz, text=text)


def walk(seconds: float = 4.0, rate_hz: float = 20.0, speed_mps: float = 1.2, **sizes: float) -> np.ndarray:
    """Feet that swing as sines of a cadence that drifts, as no loop's does, under a body that goes on."""
    time = np.arange(round(seconds * rate_hz) + 1) / rate_hz
    places = np.tile(UPRIGHT, (len(time), 1, 1))
    phase = 2 * np.pi * (0.8 * time + 0.05 * time**2)
    for joint, sign in ((3, 1.0), (4, -1.0)):
        places[:, joint, 2] += sizes.get("step_m", 0.3) * sign * np.sin(phase)
    places[..., 2] += speed_mps * time[:, None]
    return places


def checks(motion: Moves, critic: Critic | None = None, **asked: Any) -> set[str]:
    return {issue.check for issue in (critic or Critic()).judge(motion, **asked).issues}


def test_real_clips_pass_and_corrupted_ones_do_not(shared: Path) -> None:
    """Every fifth clip; tests/benchmarks/critic.py judges all, with the curve of each corruption."""
    some = [(clip, folder) for folder in FOLDERS for clip in clips(shared, folder)][::5]
    if not some:
        pytest.skip("needs real data: no clips in ../shared/data")
    critic = Critic()
    flagged = {clip.name for clip, folder in some if checks(motion_of(clip, folder), critic)}
    assert flagged <= {"humanoid3d_backflip"}, "its 16 frames a second are too few for its acceleration"
    missed = Counter(
        name
        for name, corrupt in CORRUPTIONS.items()
        for clip, folder in some
        if not checks(motion_of(clip, folder, corrupt), critic)
    )
    assert max(missed.values(), default=0) <= 0.1 * len(some), f"of all clips 2.3 % of the loops are missed: {missed}"


def test_walks_are_never_repetitive(shared: Path) -> None:
    some = clips(shared, "cmu_walks")
    if not some:
        pytest.skip("needs real data: no clips in ../shared/data/cmu_walks")
    assert not [clip.name for clip in some if "repetitive" in checks(motion_of(clip, "cmu_walks"))]


def test_a_person_who_stands_is_safe_where_stillness_is_asked_for() -> None:
    stands = np.tile(UPRIGHT, (80, 1, 1)) + 0.0002 * np.random.default_rng(0).standard_normal((80, 6, 3))
    for text, found in {
        "a person stands still": set(), "a man is waiting": set(), "she holds a pose": set(),
        "a person walks": {"frozen"}, "a person understands": {"frozen"},
    }.items():  # fmt: skip
        verdict = Critic().judge(moves(stands, text=text))
        assert {issue.check for issue in verdict.issues} == found, text
        assert verdict.is_safe == (not found)
    assert Critic().judge(moves(stands), "somebody sits").is_safe, "a text goes before the motion's own"


def test_a_body_that_glides_is_frozen() -> None:
    glides = np.tile(UPRIGHT, (80, 1, 1))
    glides[..., 2] += 1.2 * np.arange(80)[:, None] / 20
    assert checks(moves(glides)) == {"frozen"}
    assert checks(moves(walk())) == set()


def test_limits_of_the_root_are_those_of_a_closed_form() -> None:
    """Those of a sine, of which the difference of two frames tells a little less."""
    time = np.arange(200) / 20
    for amplitude, hertz in ((0.5, 0.5), (0.5, 1.0)):
        swings = walk(seconds=199 / 20, speed_mps=0.0)[:200]
        swings[..., 0] += amplitude * np.sin(2 * np.pi * hertz * time)[:, None]
        found = measure(moves(swings), still_mps=0.05, jitter_mps2=7.5)
        pace = 2 * np.pi * hertz
        step = math.sin(pace / 40) / (pace / 40)
        assert found.speed_mps == pytest.approx(amplitude * pace * step, rel=0.03)
        assert found.acceleration_mps2 == pytest.approx(amplitude * pace**2 * step**2, rel=0.05)
    assert checks(moves(walk(speed_mps=16.0))) == {"speed"}
    assert checks(moves(walk(speed_mps=14.0))) == set()


def test_how_deep_a_joint_is_counts_from_the_floor_at_zero() -> None:
    assert checks(moves(walk() - np.array([0, 0.19, 0]))) == set()
    assert checks(moves(walk() - np.array([0, 0.21, 0]))) == {"ground"}


def test_what_turns_back_is_the_smaller_of_two_opposed_accelerations() -> None:
    accelerations = np.array([[3.0, 0, 0], [-4.0, 0, 0], [0, 5.0, 0], [0, 5.0, 1.0]])[:, None]
    assert turning_back(accelerations).tolist() == [3.0, 0.0, 0.0]


@given(period=st.floats(0.3, 1.2), shift=st.floats(0, 1), rate_hz=st.sampled_from((20.0, 25.0)))
@settings(max_examples=25)
def test_a_motion_that_goes_round_is_a_loop_whatever_its_period(period: float, shift: float, rate_hz: float) -> None:
    """Also where that is no whole number of frames; one that grows while it goes round is none.

    Rounds are looked for at quarters of a frame, so a turn may be an eighth of one off where it ends.
    """
    time = np.arange(round(4 * rate_hz)) / rate_hz
    angle = 2 * np.pi * (time / period + shift)
    circle = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=1)[:, None] * np.array([[0.1], [0.2]])
    assert repetition(circle, rate_hz) < 0.005 + 2 * np.pi / (8 * rate_hz * period)
    drifting = circle * 2.0 ** time[:, None, None]
    assert repetition(drifting, rate_hz) > 0.1


def test_what_does_not_move_goes_nowhere_round() -> None:
    assert repetition(np.zeros((80, 3, 3)), 20.0) == math.inf
    assert repetition(np.random.default_rng(0).standard_normal((6, 3, 3)), 20.0) == math.inf, "too short for three"


def test_frames_between_are_those_of_a_polynomial() -> None:
    time = np.arange(12.0)
    values = np.stack([time**2, 3 - time], axis=1)
    between = np.arange(23) / 2
    assert doubled(values)[4:-4] == pytest.approx(np.stack([between**2, 3 - between], axis=1)[4:-4])


def test_a_drawing_has_the_height_of_a_person() -> None:
    """Whatever its unit; its ground and its clock are said not to be judged."""
    figure = walk()[:, :, [2, 1]]
    body = replace(BODY, kind="plane")
    for scale in (1.0, 100.0):
        rows = (scale * figure).reshape(len(figure), -1).astype(np.float32)
        motion = Moves(rows=rows, body=body, offsets=None, rate_hz=20.0)
        verdict = Critic().judge(motion)
        assert verdict.issues == ()
        assert verdict.values["speed_mps"] == pytest.approx(1.2 * 1.7 / 1.5, rel=0.01)
        assert "lowest_m" not in verdict.values
        assert [said.split(":")[0] for said in verdict.unjudged] == ["speed and acceleration", "ground"]


def test_below_twenty_frames_a_second_jitter_is_not_judged() -> None:
    shaken = walk(rate_hz=10.0) + 0.03 * np.random.default_rng(0).standard_normal((41, 6, 3))
    verdict = Critic().judge(moves(shaken, rate_hz=10.0))
    assert "jitter" not in verdict.values
    assert "10 frames a second do not show it" in verdict.unjudged[0]
    assert checks(moves(walk() + 0.03 * np.random.default_rng(0).standard_normal((81, 6, 3)))) == {"jitter"}


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(ValueError, match="4 frames at 20 Hz, and is judged from 5 on; make it longer"):
        Critic().judge(moves(walk()[:4]))
    broken = moves(walk())
    broken.rows[7, 5] = np.nan
    with pytest.raises(ValueError, match="frame 7 of the motion is not finite"):
        Critic().judge(broken)
    coordinates = Body(kind="coordinates", joints=("hip_flexion_r",), parents=())
    with pytest.raises(ValueError, match="coordinates do not say where joints are"):
        Critic().judge(Moves(rows=np.zeros((30, 1), np.float32), body=coordinates, offsets=None, rate_hz=20.0))


def test_severities_decide_what_is_rejected() -> None:
    shaken = moves(walk() + 0.03 * np.random.default_rng(0).standard_normal((81, 6, 3)))
    lenient, strict = Critic().judge(shaken), Critic(config=CriticConfig(unsafe_severity=0.6)).judge(shaken)
    assert lenient.is_safe
    assert lenient.get_rejection_reasons() == []
    assert lenient.score == pytest.approx(1 - 0.6 / 3)
    assert not strict.is_safe
    (reason,) = strict.get_rejection_reasons()
    assert reason.startswith("jitter: accelerations turn back at once in ")
    json.dumps(strict.to_json(), allow_nan=False)
    assert [SEVERITY[check] for check in ("frozen", "repetitive", "jitter", "speed", "acceleration", "ground")] == [
        0.9, 0.7, 0.6, 0.8, 0.7, 0.6,
    ]  # fmt: skip
    assert SEVERITY["quality"] == 0.5


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("unsafe_severity", 1.1, "--critic.unsafe-severity is 1.1; give 0 to 1"),
        ("speed_mps", -1.0, "--critic.speed-mps is -1.0; give 0 or more"),
        ("ground_m", math.nan, "--critic.ground-m is nan; give a number"),
        ("step", 0.0, "--critic.step is 0.0; give a number above 0"),
    ],
)
def test_a_threshold_out_of_range_is_refused(name: str, value: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CriticConfig(**{name: value})


FAULTS = ("still", "jitter", "speed_mps", "acceleration_mps2", "bursts", "jerk_mps3", "skating")
SHARES = ("still", "jitter", "bursts", "skating")


@given(data=st.data())
def test_no_score_rises_as_a_fault_grows(data: st.DataObject) -> None:
    """Nor as a loop comes nearer, or a body varies less."""
    draw = {
        name: data.draw(st.floats(0, 1 if name in SHARES else 200), name)
        for name in (*FAULTS, "repetition", "variety_m")
    }
    fault = data.draw(st.sampled_from((*FAULTS, "repetition", "variety_m")))
    worse = draw[fault] + (-1 if fault in ("repetition", "variety_m") else 1) * data.draw(st.floats(0, 1), "more")
    before, after = (
        quality_of(Measures(seconds=2.0, lowest_m=0.0, **(draw | {fault: max(0.0, value)})), CriticConfig())
        for value in (draw[fault], worse)
    )
    for name in ("smoothness", "physics", "variety", "realism", "combined"):
        assert getattr(after, name) <= getattr(before, name) + 1e-12
    assert after.artifact >= before.artifact - 1e-12
    assert all(0 <= value <= 1 for value in after.to_json().values())


def test_quality_knows_sources_and_cameras() -> None:
    good = Measures(
        seconds=2.0, still=0.0, repetition=1.0, jitter=0.0, speed_mps=1.0, acceleration_mps2=5.0, lowest_m=0.0,
        bursts=0.0, jerk_mps3=0.0, variety_m=10.0, skating=0.0,
    )  # fmt: skip
    combined = {source: quality_of(good, CriticConfig(), source=source).combined for source in ("KIT", "", "synthetic")}
    assert combined == pytest.approx({"KIT": 1.0, "": 0.5 + 0.3 * 0.7 + 0.2, "synthetic": 0.5 + 0.3 * 0.6 + 0.2 - 0.1})
    assert quality_of(good, CriticConfig(), source="KIT", camera_stability=0.4).combined == pytest.approx(
        0.5 * 2.4 / 3 + 0.5
    )


def test_clips_of_the_tests_are_judged_as_rotations() -> None:
    """A walk of a formula is a loop: made of sines of one period, it is the same three times over."""
    import torch

    from vla.motion.representation import encode_rotations, feet_of
    from vla.motion.rotations import matrices

    made = poses(80, 20.0, 1.0)
    names = tuple(made["node_names"].tolist())
    body = Body(kind="rotations", joints=names, parents=tuple(made["parent_indices"].tolist()), feet=feet_of(names))
    turns = matrices(torch.from_numpy(made["rotation_xyzw"].astype(np.float64)))
    contacts = torch.zeros(80, len(body.feet), dtype=torch.bool)
    rows = encode_rotations(torch.from_numpy(made["root_translation"].astype(np.float64)), turns, contacts, 20.0)
    motion = Moves(
        rows=rows.numpy().astype(np.float32), body=body, offsets=made["local_translation"], rate_hz=20.0, text="walks"
    )
    assert checks(motion) == {"repetitive"}
    assert checks(motion, text="he walks again and again") == set()
