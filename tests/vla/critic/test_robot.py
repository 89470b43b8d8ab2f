"""The critic of a robot's actions: limits from demonstrations, what breaks them, and chunks that are drawn again."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vla.batch import Observation, Readings
from vla.critic.critic import Critic
from vla.critic.robot import Limits, differences, learn
from vla.critic_settings import CriticConfig
from vla.data.formats import open_folder
from vla.errors import CorruptData
from vla.rejection import Guard

LIMITS = Limits(fps=10.0, step=(1.0, 0.2), speed=(10.0, 2.0), force={"sensor": (5.0, 0.5)}, names=("x_m", "gripper"))
QUIET = {"sensor": (np.zeros((4, 2)), np.ones(4, bool))}


def found(critic: Critic, actions: object, last: object = None, **streams: object) -> list[str]:
    before = None if last is None else np.array(last, float)
    verdict = critic.judge_actions(np.array(actions, float), last=before, streams=streams or QUIET)  # type: ignore[arg-type]
    return [f"{issue.check}: {issue.detail}" for issue in verdict.issues]


def test_each_limit_is_the_demonstrations_own_with_a_margin() -> None:
    critic = Critic(limits=LIMITS, config=CriticConfig(step=1.0, force=2.0))
    assert found(critic, [[0, 0], [1, 0.2]], last=[0, 0.2]) == []
    assert found(critic, [[0, 0], [1.01, 0]], last=[0, 0]) == [
        "speed: x_m changes a second by 10.1, and at most 10 may be"
    ]
    assert found(critic, [[0, 0.3], [0, 0.3]], last=[0, 0]) == ["step: gripper changes by 0.3, and at most 0.2 may be"]
    assert found(critic, [[0, np.inf]]) == ["step: an action is not finite"]
    felt = np.array([[9.0, 0], [0, -1.1], [0, 0], [99, 0]])
    valid = np.array([True, True, True, False])
    assert found(critic, [[0, 0]], sensor=(felt, valid)) == [
        "force: channel 1 of sensor feels 1.1, and at most 1 may be"
    ]
    windows = {"sensor": (np.zeros((4, 2)), np.zeros(4, bool)), "skin": QUIET["sensor"]}
    assert critic.judge_actions(np.zeros((2, 2)), streams=windows).unjudged == (
        "step: nothing was executed before",
        "force: nothing was measured of sensor",
        "force: there is no limit for skin",
    )
    assert critic.judge_actions(np.zeros((2, 2)), last=np.zeros(2), streams=QUIET).unjudged == ()


def test_limits_are_the_largest_of_all_demonstrations_but_for_glitches() -> None:
    draw = np.random.default_rng(0)
    actions = [draw.uniform(-1, 1, (30, 2)).cumsum(axis=0) for _ in range(12)]
    forces = [draw.uniform(-3, 3, (40, 2)) for _ in range(12)]
    largest = np.stack([np.abs(np.diff(rows, axis=0)).max(axis=0) for rows in actions]).max(axis=0)
    remarks: list[str] = []
    limits = learn(actions, {"sensor": forces}, fps=20.0, remark=remarks.append)
    assert limits.step == pytest.approx(largest.tolist())
    assert limits.speed == pytest.approx((20 * largest).tolist())
    assert limits.force["sensor"] == pytest.approx(np.abs(np.concatenate(forces)).max(axis=0).tolist())
    assert not remarks
    glitched = [*actions[:-1], np.concatenate([actions[-1], [[1e6, 0.0]]])]
    again = learn(glitched, {}, fps=20.0, remark=remarks.append)
    assert again.step[0] <= largest[0]
    assert "1 of 12 demonstrations have actions more than 10 times as large" in remarks[0]
    with pytest.raises(ValueError, match="no demonstration has two actions"):
        learn([np.zeros((1, 2))], {}, fps=20.0)


def test_angles_go_the_short_way_round() -> None:
    degrees = np.array([[350.0, 350.0], [10.0, 10.0]])
    assert differences(degrees, (360.0, 0.0)).tolist() == [[20.0, -340.0]]
    assert differences(degrees, ()).tolist() == [[-340.0, -340.0]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"step": [-1.0, 1.0]}, "limits.json has -1 in step; give numbers of 0 or more"),
        ({"speed": [float("nan"), 1.0]}, "limits.json has nan in speed; give numbers of 0 or more"),
        ({"force": {"sensor": [float("inf")]}}, "limits.json has inf in force.sensor; give numbers of 0 or more"),
        ({"fps": 0.0}, "limits.json has fps 0; give the actions a second"),
        ({"speed": [1.0]}, "limits.json has 2 steps, 1 speeds, 0 periods and 2 names"),
        ({"foo": 1}, "limits.json has the unknown key 'foo'"),
    ],
)
def test_limits_come_back_from_their_file_and_nonsense_does_not(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    file = tmp_path / "limits.json"
    LIMITS.save(file)
    assert Limits.load(str(file)) == LIMITS
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=said):
        Limits.load(file)
    file.write_text(json.dumps({"fps": 10.0, "step": "fast"}))
    with pytest.raises(CorruptData, match=r"limits.json is damaged \(step"):
        Limits.load(file)


def windows(actions: np.ndarray, force: np.ndarray, samples: int, horizon: int, seed: int) -> dict[str, list[bool]]:
    """Whether each chunk of an episode is flagged: as it is, with a jump, with a peak of force."""
    draw, said = np.random.default_rng(seed), {"as it is": list[bool](), "jump": [], "peak": []}
    critic = Critic(limits=LEARNT[0])
    assert critic.limits is not None
    for frame in range(1, len(actions)):
        chunk = actions[frame : frame + horizon]
        now = round(frame / 20 * 1000)
        felt = force[max(0, now - samples) : now]
        if not len(felt):
            continue
        jumped, place = chunk.copy(), int(draw.integers(3))
        at = int(draw.integers(len(chunk)))
        jumped[at:, place] += draw.choice([-1, 1]) * draw.uniform(2.5, 4) * critic.limits.step[place]
        peak = felt.copy()
        start = int(draw.integers(max(1, len(felt) - 5)))
        peak[start : start + 5, 2] += draw.uniform(2.5, 4) * critic.limits.force["sensor"][2]
        for name, (moves, sensed) in {
            "as it is": (chunk, felt), "jump": (jumped, felt), "peak": (chunk, peak),
        }.items():  # fmt: skip
            streams = {"sensor": (sensed, np.ones(len(sensed), bool))}
            said[name].append(bool(critic.judge_actions(moves, last=actions[frame - 1], streams=streams).issues))
    return said


LEARNT: list[Limits] = []


def test_held_out_demonstrations_pass_and_jumps_and_peaks_do_not(needle: Path) -> None:
    """Limits of eight demonstrations, the other four judged; tests/benchmarks/guard.py does it with hundreds."""
    episodes = open_folder(needle).episodes
    actions = [np.asarray(episode.actions.values, float) for episode in episodes]
    forces = [np.asarray(next(iter(episode.streams.values())).values, float) for episode in episodes]
    LEARNT[:] = [learn(actions[:8], {"sensor": forces[:8]}, fps=20.0)]
    said = [windows(actions[place], forces[place], 50, 8, place) for place in range(8, 12)]
    rates = {name: np.mean([flag for one in said for flag in one[name]]) for name in said[0]}
    assert rates["as it is"] <= 0.02
    assert rates["jump"] >= 0.95
    assert rates["peak"] >= 0.95


def test_a_guard_takes_the_first_safe_chunk_and_else_the_best() -> None:
    """Row 0 is safe at once, row 1 at the third try, row 2 never: its best try has one issue less."""
    tries = {
        0: [[[0.0, 0], [0, 0]], [[0, 0], [9, 0]], [[0, 9], [9, 0]]],
        1: [[[5.0, 5], [5, 5]], [[0, 0], [0, 0]], [[0, 0], [9, 0]]],
        2: [[[5.0, 5], [5, 5]], [[0, 0], [0, 0]], [[0, 9], [9, 0]]],
        3: [[[6.0, 6], [6, 6]], [[0, 0], [0, 0]], [[0, 9], [9, 0]]],
    }
    chunks = {attempt: torch.tensor(rows, dtype=torch.float64) for attempt, rows in tries.items()}
    asked: list[int] = []

    def noise(attempt: int) -> np.ndarray:
        asked.append(attempt)
        return np.full((3, 2, 2), attempt, np.float32)

    guard = Guard(critic=Critic(limits=LIMITS), noise=noise, tries=4, last=np.array([[np.nan, 0], [0, 0], [0, 0]]))
    # The first try of row 1 is unsafe, its second is not.
    best = guard.choose(observation(3), chunks[0], lambda given: chunks[int(given[0, 0, 0])])
    assert best[0].tolist() == tries[0][0]
    assert best[1].tolist() == tries[1][1]
    assert best[2].tolist() == tries[1][2]
    assert guard.drawn == [1, 2, 4]
    assert [verdict.is_safe for verdict in guard.verdicts] == [True, True, False]
    assert asked == [1, 2, 3]
    assert guard.verdicts[2].get_rejection_reasons() == ["speed: x_m changes a second by 90, and at most 12.5 may be"]


def test_what_sensors_felt_is_not_changed_by_another_chunk() -> None:
    felt = observation(1, value=100.0)
    guard = Guard(critic=Critic(limits=LIMITS), noise=lambda _: pytest.fail("nothing is to be drawn"), tries=4)
    guard.choose(felt, torch.zeros(1, 2, 2, dtype=torch.float64), lambda given: given)
    assert [issue.check for issue in guard.verdicts[0].issues] == ["force"]
    assert guard.drawn == [1]


def observation(rows: int, value: float = 0.0) -> Observation:
    return Observation(
        images=((),) * rows,
        image_valid=torch.zeros(rows, 0, dtype=torch.bool),
        instructions=("go",) * rows,
        state=torch.zeros(rows, 2),
        streams={
            "sensor": Readings(values=torch.full((rows, 4, 2), value), valid=torch.ones(rows, 4, dtype=torch.bool))
        },
    )
