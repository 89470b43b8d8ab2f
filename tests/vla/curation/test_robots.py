"""Each fault of an episode of a robot, alone, and what is no fault."""

from dataclasses import replace

import numpy as np
import pytest

from vla.curation.robots import clipped, frozen, largest_steps, not_finite, seen, succeeded, usual_steps
from vla.curation.scores import Scores
from vla.curation.thresholds import reasons
from vla.curation_settings import CurationConfig
from vla.data.episode import Episode, Layout, Stream
from vla.data.texts import Texts

FRAMES, FPS = 200, 20.0
LAYOUT = Layout(
    root="data",
    format="made up",
    fps=FPS,
    cameras=("front", "wrist"),
    state_dim=2,
    action_dim=3,
    state_names=(),
    action_names=("x", "gripper", "yaw"),
    action_periods=(0.0, 0.0, 360.0),
)


def episode() -> Episode:
    """A sound one: it moves, grips, turns past 360 degrees, and presses."""
    times = np.arange(FRAMES) / FPS
    grips = (times > 5).astype(np.float32)
    actions = np.stack([np.sin(times), grips, (350 + 3 * np.arange(FRAMES)) % 360], axis=1).astype(np.float32)
    state = np.stack([np.cos(times), np.sin(times)], axis=1).astype(np.float32)
    fast = np.arange(10 * FRAMES) / (10 * FPS)
    force = np.stack([10 * np.sin(3 * fast), (fast > 5).astype(float), np.zeros(len(fast))], axis=1)
    return Episode(
        name="data/episode_000000",
        index=0,
        timestamps=times,
        instructions=Texts.throughout("press", FRAMES),
        confidence=np.ones(FRAMES),
        actions=Stream(timestamps=times, values=actions),
        state=Stream(timestamps=times, values=state),
        streams={"force": Stream(timestamps=fast, values=force.astype(np.float32))},
        cameras={},
    )


def changed(stream: Stream, rows: slice, columns: int | slice, value: float) -> Stream:
    values = np.array(stream.values)
    values[rows, columns] = value
    return Stream(timestamps=stream.timestamps, values=values)


def test_a_step_counts_against_those_that_are_usual_and_angles_go_the_short_way() -> None:
    sound = episode()
    steps = largest_steps(sound, LAYOUT)
    assert steps["action yaw"] == pytest.approx(3.0, abs=1e-4), "357 degrees back are 3 ahead"
    assert steps["action gripper"] == 1.0
    glitch = replace(sound, actions=changed(sound.actions, slice(50, 51), 0, 5.0))
    usual = usual_steps([steps, steps, largest_steps(glitch, LAYOUT)])
    assert usual["action x"] == steps["action x"], "one of three does not make a glitch usual"
    assert usual_steps([{"a": 0.0}, {"a": 0.0}, {"a": 2.0}]) == {"a": 2.0}, "of those in which it moves"
    found, _ = reasons(Scores(seconds=10.0, steps=largest_steps(glitch, LAYOUT)), CurationConfig(), usual)
    assert [reason.check for reason in found] == ["jump"] and "action x changes by 4.44" in found[0].detail
    assert reasons(Scores(seconds=10.0, steps=steps), CurationConfig(), usual) == ([], [])


def test_a_stream_is_frozen_only_while_others_move() -> None:
    sound = episode()
    assert frozen(sound) == {"force": 0.0, "state": 0.0}
    assert sound.state is not None
    stuck = replace(sound, state=changed(sound.state, slice(60, 180), slice(None), 0.5))
    assert frozen(stuck)["state"] == pytest.approx(119 / 199, abs=1e-9), "120 rows have 119 steps, of 199"
    resting = replace(
        stuck,
        actions=changed(sound.actions, slice(60, 180), slice(None), 0.5),
        streams={"force": changed(sound.streams["force"], slice(600, 1800), slice(None), 0.5)},
    )
    assert frozen(resting)["state"] == 0.0, "all rests"


def test_a_sensor_at_its_end_is_clipped_and_a_switch_is_not() -> None:
    sound = episode()
    assert clipped(sound)["force"] < 0.05, "the second channel is a switch, the third never changes"
    force = sound.streams["force"]
    cut = Stream(timestamps=force.timestamps, values=force.values.clip(-8, 8))
    expected = max((cut.values[:, 0] == np.float32(end)).mean() for end in (-8, 8))
    share = clipped(replace(sound, streams={"force": cut}))["force"]
    assert 0.15 < share == pytest.approx(expected, abs=0.03)
    found, _ = reasons(Scores(seconds=10.0, clipped={"force": share}), CurationConfig(), {})
    assert [reason.check for reason in found] == ["clipped"]


def test_cameras_values_and_success_are_looked_at() -> None:
    sound = episode()
    assert seen(sound, LAYOUT) == {"front": 0.0, "wrist": 0.0}
    assert not_finite(sound) == ""
    damaged = replace(sound, streams={"force": changed(sound.streams["force"], slice(7, 8), 1, np.nan)})
    assert not_finite(damaged) == "force is not finite in row 7"
    assert succeeded(sound) is None
    ends = np.zeros((FRAMES, 1), np.float32)
    assert succeeded(replace(sound, columns={"next.success": ends})) is False
    ends[-1] = 1
    assert succeeded(replace(sound, columns={"next.success": ends})) is True
    told = Scores(seconds=10.0, seen={"front": 0.5}, succeeded=False)
    assert [reason.check for reason in reasons(told, CurationConfig(), {})[0]] == ["camera", "failed"]
