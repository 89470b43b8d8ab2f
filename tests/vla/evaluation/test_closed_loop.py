"""Closed-loop evaluation in a world of which everything is known."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.policies import build_policy
from tests.vla.evaluation.world import Line
from tests.vla.test_policy import BARE, CONFIG, CONTRACT, statistics
from vla.__main__ import main
from vla.batch import Observation
from vla.contract import DataContract
from vla.critic.critic import Critic
from vla.critic.robot import Limits
from vla.environment import check_observed, observe
from vla.evaluation.alteration import Alteration
from vla.evaluation.arena import Arena, processes, run
from vla.evaluation.closed_loop import Rollout, RolloutConfig, Unsafe, episode_seed, roll_out, summarize
from vla.evaluation.environments import open_environment, parse_settings
from vla.evaluation.recording import Recorder
from vla.policy import Policy
from vla.policy_folder import save_policy
from vla.rejection import Guard

LINE = dataclasses.replace(BARE, state_dim=2)
"""What a policy looks at that must come to a goal: the state alone."""
WORLD = "tests.vla.evaluation.world:Line"


@pytest.fixture(scope="module")
def policy() -> Policy:
    config = dataclasses.replace(CONFIG, lora=None)
    return build_policy(config, LINE, statistics(LINE), torch.float32, seed=0)


@pytest.fixture
def chunks(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> list[Observation]:
    """What the policy was asked; it answers half the way to the goal, then 1/10, 2/10, ... of a step."""
    seen: list[Observation] = []

    def act(observation: Observation, noise: Tensor, *_: object, **__: object) -> Tensor:
        seen.append(observation)
        answer = torch.zeros_like(noise)
        answer[:, 0, 0] = (observation.state[:, 1] - observation.state[:, 0]) / 2
        answer[:, 1:, 0] = torch.arange(1, noise.shape[1]) / 10
        return answer

    monkeypatch.setattr(policy, "act", act)
    return seen


def worlds(count: int, contract: DataContract = LINE, **settings: str) -> list[Line]:
    return [Line(contract, **settings) for _ in range(count)]


class Changing(Line):
    """A world that asks for something else from its third step on."""

    def observed(self) -> dict[str, Any]:
        return super().observed() | {"task": "come to the goal" if len(self.taken) < 3 else "stay there"}


def test_what_an_episode_is_told_may_change(policy: Policy, chunks: list[Observation]) -> None:
    config = RolloutConfig(episodes=2, max_steps=5)
    both = roll_out(policy, [Changing(LINE, goal="1000"), Line(LINE, goal="1000")], [0, 1], config)
    assert [rollout.instruction for rollout in both] == ["come to the goal; stay there", "come to the goal"]
    told = [observation.instructions[0] for observation in chunks]
    assert told == ["come to the goal"] * 3 + ["stay there"] * 2


def test_an_episode_ends_with_success_and_the_others_go_on(policy: Policy, chunks: list[Observation]) -> None:
    environments = [Line(LINE, goal="3"), Line(LINE, goal="100"), Line(LINE, goal="-1", longest="2")]
    config = RolloutConfig(episodes=3, max_steps=6)
    near, far, slow = roll_out(policy, environments, [0, 1, 2], config)
    starts = [episode_seed(0, episode) % 1000 / 1000 for episode in range(3)]
    assert near.success
    assert near.steps == next(n for n in range(9) if abs(3 - starts[0]) / 2**n < 0.5)
    assert near.failure is None
    assert not far.success
    expected = [n for n in range(7) if abs(100 - starts[1]) / 2**n < 0.5]
    assert (far.steps, far.failure) == (6, "timed out")
    assert not expected
    assert slow.success == (abs(-1 - starts[2]) / 4 < 0.5)
    assert slow.steps <= 2
    assert len(chunks) == 6
    under_way = [
        [goal for goal, rollout in ((3, near), (100, far), (-1, slow)) if rollout.steps > step] for step in range(6)
    ]
    assert [observation.state[:, 1].tolist() for observation in chunks] == under_way, "nothing is computed for the rest"
    assert [len(observation.instructions) for observation in chunks] == [len(goals) for goals in under_way]
    assert near.metrics["place"] == pytest.approx(3 - (3 - starts[0]) / 2**near.steps, abs=1e-5)


@pytest.mark.parametrize("execute", [1, 2, 5])
def test_so_many_actions_of_a_chunk_are_carried_out(policy: Policy, chunks: list[Observation], execute: int) -> None:
    (world,) = worlds(1, goal="1000")
    roll_out(policy, [world], [0], RolloutConfig(episodes=1, execute=execute, max_steps=10))
    assert len(chunks) == 10 // execute
    later = [action[0] for step, action in enumerate(world.taken) if step % execute]
    assert later == pytest.approx([place / 10 for place in range(1, execute)] * (10 // execute))


@pytest.mark.parametrize("unsafe", ["execute", "stop"])
def test_a_critic_counts_what_is_unsafe_or_ends_the_episode(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, unsafe: Unsafe
) -> None:
    """The first world's third action jumps, in every try; the second's only where it is not drawn again."""
    tries: list[int] = []

    def act(observation: Observation, noise: Tensor, *_: object, guard: Guard | None = None) -> Tensor:
        assert guard is not None
        third = observation.state[:, 0] > 1.5
        answer = torch.full_like(noise, 0.6, dtype=torch.float64)
        answer[third & (observation.state[:, 1] == 50)] = 9.0
        again = answer.clone()
        answer[third & (observation.state[:, 1] == 60)] = 9.0

        def draw(_: Tensor) -> Tensor:
            tries.append(1)
            return again

        return guard.choose(observation, answer, draw)

    monkeypatch.setattr(policy, "act", act)
    width = LINE.action_dim
    limits = Limits(fps=10.0, step=(1.0,) * width, speed=(100.0,) * width)
    config = RolloutConfig(max_steps=4, critic=Critic(limits=limits), tries=3, unsafe=unsafe)
    steady, mended = roll_out(policy, [Line(LINE, goal="50"), Line(LINE, goal="60")], [0, 1], config)
    assert mended.metrics["chunks_drawn_again"] >= 1
    assert (mended.metrics["chunks_unsafe"], mended.steps, mended.failure) == (0, 4, "timed out")
    assert steady.metrics["chunks_unsafe"] >= 1
    assert steady.metrics["unsafe_step"] == steady.metrics["chunks_unsafe"]
    if unsafe == "stop":
        assert steady.failure == "stopped: step"
        assert steady.steps < 4
        assert steady.metrics["place"] < 3
    else:
        assert steady.metrics["place"] > 9


def test_what_is_seen_can_be_changed_and_every_step_is_told(policy: Policy, chunks: list[Observation]) -> None:
    places: list[list[float]] = []

    def blind(observation: Observation) -> Observation:
        places.append(observation.state[:, 0].tolist())
        return dataclasses.replace(observation, state=torch.zeros_like(observation.state))

    environments = worlds(2, goal="50")
    roll_out(policy, environments, [4, 5], RolloutConfig(max_steps=4, execute=2), alter=blind)
    assert len(places) == 4
    assert places[0] == pytest.approx([episode_seed(0, episode) % 1000 / 1000 for episode in (4, 5)])
    assert all(not observation.state.any() for observation in chunks)
    assert [action[0] for action in environments[0].taken] == pytest.approx([0, 0.1, 0, 0.1])


def test_success_is_counted_within_steps() -> None:
    def rollout(success: bool, steps: int, failure: str | None = None) -> Rollout:
        return Rollout(
            episode=0, seed=0, instruction="go", success=success, steps=steps, failure=failure,
            metrics={"peak_force_n": float(steps)},
        )  # fmt: skip

    rollouts = [rollout(True, 30), rollout(True, 40), rollout(True, 41), rollout(False, 60, "lost")]
    settings = ("goal=3", "api_key=not-for-anyone-0815")
    result = summarize(
        rollouts, RolloutConfig(), within=(40, 60), environment="line", settings=settings, policy="policy"
    )
    assert result.settings == {"goal": "3", "api_key": "HIDDEN"}
    assert [(entry.successes, entry.rate) for entry in result.success] == [(2, 0.5), (3, 0.75)]
    # Newcombe (1998), table 1 has the method; 2 of 4 gives 0.1500 to 0.8500.
    assert (result.success[0].low, result.success[0].high) == pytest.approx((0.1500, 0.8500), abs=1e-4)
    assert result.failures == {"lost": 1}
    assert result.metrics["peak_force_n"]["median"] == 40.5
    assert max(map(len, result.lines())) <= 80
    assert json.loads(json.dumps(result.to_json()))["rollouts"][3]["failure"] == "lost"


def test_a_metric_of_some_episodes_is_told_of_those() -> None:
    rollout = Rollout(
        episode=0, seed=0, instruction="go", success=True, steps=3, failure=None, metrics={"depth_m": 2.0}
    )
    others = [dataclasses.replace(rollout, metrics=metrics) for metrics in ({}, {"depth_m": 4.0, "late_s": 1.0})]
    result = summarize(
        [rollout, *others], RolloutConfig(), within=(40,), environment="line", settings=(), policy="policy"
    )
    assert [(name, value["median"], value["max"]) for name, value in result.metrics.items()] == [
        ("depth_m", 3.0, 4.0),
        ("late_s", 1.0, 1.0),
    ]


@pytest.mark.deep
def test_the_result_depends_on_no_number_of_processes(policy: Policy, tmp_path: Path) -> None:
    save_policy(policy, tmp_path / "policy")
    arena = Arena(
        policy=tmp_path / "policy",
        backbone=None,
        device="cpu",
        environment=WORLD,
        settings=("goal=1",),
        config=RolloutConfig(episodes=5, group=2, max_steps=3, record=3, sampling_steps=2),
        out=tmp_path / "one",
        threads=1,
    )
    done: list[int] = []
    frozen = Alteration(input="state", kind="frozen")
    altered = run(dataclasses.replace(arena, alteration=frozen), map)
    alone = run(arena, map, done.append)
    for start in (0, 2):  # each group is altered by a function of its own, which remembers nothing of another group
        within = roll_out(policy, worlds(2, goal="1"), [start, start + 1], arena.config, alter=frozen.begin(policy))
        assert within == altered[start : start + 2]
    assert altered != alone
    with processes(2) as spread:
        together = run(dataclasses.replace(arena, out=tmp_path / "two"), spread, done.append)
        assert run(dataclasses.replace(arena, alteration=frozen), spread) == altered
    assert alone == together
    assert [rollout.episode for rollout in alone] == [0, 1, 2, 3, 4]
    assert done == [2, 2, 1] * 2
    written = sorted(path.relative_to(tmp_path / "two") for path in (tmp_path / "two").rglob("*.*"))
    assert [str(path) for path in written] == [
        *(f"rollouts/episode-0000{episode}.npz" for episode in range(3)),
        *(f"videos/episode-0000{episode}.mp4" for episode in range(3)),
    ]


@pytest.mark.parametrize(("workers", "most"), [(1, 2), pytest.param(2, 4, marks=pytest.mark.deep)])
def test_every_world_is_closed_when_the_episodes_are_over(
    policy: Policy, tmp_path: Path, workers: int, most: int
) -> None:
    save_policy(policy, tmp_path / "policy")
    arena = Arena(
        policy=tmp_path / "policy",
        backbone=None,
        device="cpu",
        environment=WORLD,
        settings=(f"diary={tmp_path / 'diary'}",),
        config=RolloutConfig(episodes=4, group=2, max_steps=2, sampling_steps=1),
        out=tmp_path,
        threads=1,
    )
    with processes(workers) as spread:
        first = run(arena, spread)
        assert run(arena, spread) == first
        opened = (tmp_path / "diary").read_text().splitlines()
    assert set(opened) == {"opened"} and 2 <= len(opened) <= most
    assert sorted((tmp_path / "diary").read_text().splitlines()) == ["closed"] * len(opened) + opened
    with processes(1) as spread:
        assert run(arena, spread) == first, "they are opened again"
    scarce = dataclasses.replace(arena, settings=(*arena.settings, "most=1"))
    with pytest.raises(ValueError, match="no further world"), processes(1) as spread:
        run(scarce, spread)
    lines = (tmp_path / "diary").read_text().splitlines()
    assert lines.count("closed") == lines.count("opened") == len(opened) + 3


def test_a_recording_holds_every_sensor_sample_once(policy: Policy, tmp_path: Path) -> None:
    contract = CONTRACT  # windows of 0.1 s at 200 Hz, one action every 0.1 s
    recorder, world = Recorder(contract), Line(contract)
    recorder.begin(world.reset(seed=0)[0], world)
    for _ in range(6):
        action = np.zeros(contract.action_dim, dtype=np.float32)
        recorder.add(action, world.step(action)[0], world)
    recorder.write(tmp_path, 7)
    with np.load(tmp_path / "rollouts" / "episode-00007.npz", allow_pickle=False) as arrays:
        assert arrays["actions"].shape == (6, contract.action_dim)
        assert arrays["state"].shape == (6, contract.state_dim)
        assert np.diff(arrays["sensor_times_s"]) == pytest.approx(1 / 200, abs=1e-6)
        assert arrays["sensor"][:, 0] == pytest.approx(arrays["sensor_times_s"], abs=1e-5)
        assert arrays["sensor_times_s"][[0, -1]] == pytest.approx([-19 / 200, 0.6])
        assert arrays["frames.observation.images.front"][:, 0, 0, 0].tolist() == [0, 4]
        assert arrays["frame_times_s"].tolist() == [0.0, 0.4]
    with av.open(str(tmp_path / "videos" / "episode-00007.mp4")) as video:
        shown = [picture.to_ndarray(format="rgb24") for picture in video.decode(video=0)]
    assert [picture.shape for picture in shown] == [(32, 32, 3)] * 7
    assert [int(picture.mean()) for picture in shown] == pytest.approx([10 * step for step in range(7)], abs=4)


def test_a_recording_keeps_a_clock_that_does_not_divide_the_steps() -> None:
    stream = dataclasses.replace(CONTRACT.streams["sensor"], rate_hz=650.0, samples=40)  # 32.5 samples a step
    contract = dataclasses.replace(CONTRACT, fps=20.0, streams={"sensor": stream})
    recorder, world = Recorder(contract), Line(contract)
    world.fps = 20.0
    first = world.reset(seed=0)[0]
    recorder.begin(first | {"observation.wrench_valid": np.arange(40) >= 7}, world)
    for _ in range(40):
        action = np.zeros(contract.action_dim, dtype=np.float32)
        recorder.add(action, world.step(action)[0], world)
    traces = recorder.traces()
    assert traces["sensor_times_s"] == pytest.approx(np.arange(-32, 1301) / 650, abs=1e-9)
    assert traces["sensor"][:, 0] == pytest.approx(traces["sensor_times_s"], abs=1e-6)


def test_an_observation_is_what_the_contract_says() -> None:
    world = Line(CONTRACT)
    first, second = world.reset(seed=0)[0], dict(world.reset(seed=1)[0])
    second["observation.wrench_valid"] = np.arange(CONTRACT.streams["sensor"].samples) >= 5
    observation = observe([first, second], CONTRACT)
    assert [[image.shape for image in row] for row in observation.images] == [[(3, 32, 32)] * 2] * 2
    readings = observation.streams["sensor"]
    assert readings.valid.sum(dim=1).tolist() == [20, 15]
    assert torch.equal(readings.values[0], torch.from_numpy(first["observation.wrench"]))
    assert observation.state.shape == (2, CONTRACT.state_dim)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("observation.images.wrist", None, "the policy looks at observation.images.wrist, but the environment shows"),
        ("task", None, "the policy looks at task"),
        ("observation.state", np.zeros(3), r"of shape \[4\], but the environment shows \[3\]"),
        ("observation.wrench", np.zeros((20, 3)), r"of shape \[20, 6\]"),
        ("observation.wrench", np.full((20, 6), np.nan), "observation.wrench with values that are no finite numbers"),
        ("observation.wrench", np.full((20, 6), "1"), "observation.wrench with values that are no finite numbers"),
        ("observation.state", np.full(4, np.inf), "observation.state with values that are no finite numbers"),
        ("observation.wrench_valid", True, r"observation.wrench_valid of shape \[20\], .* shows \[\]"),
        ("observation.wrench_valid", np.ones((20, 1), bool), r"_valid of shape \[20\], .* shows \[20, 1\]"),
    ],
)
def test_an_environment_without_an_input_is_refused(key: str, value: Any, message: str) -> None:
    row = dict(Line(CONTRACT).reset(seed=0)[0])
    row.pop(key, None)
    with pytest.raises(ValueError, match=message):
        check_observed(row if value is None else row | {key: value}, CONTRACT)


def test_what_was_not_measured_need_be_no_number() -> None:
    row = dict(Line(CONTRACT).reset(seed=0)[0])
    values, valid = np.array(row["observation.wrench"]), np.arange(20) >= 5
    values[:5] = np.nan
    check_observed(row | {"observation.wrench": values, "observation.wrench_valid": valid}, CONTRACT)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("pegs", (), "there is no environment 'pegs'"),
        ("tests.no.such:make", (), "cannot be imported"),
        ("tests.vla.evaluation.world:nothing", (), "cannot be imported"),
        ("tests.vla.evaluation.world:wrong", (), "lacks part of"),
        ("tests.vla.evaluation.world:slow", (), "takes 5 actions a second, but the policy was trained on 10"),
        ("tests.vla.evaluation.world:slow", ("goal=1",), r"does not take these settings \(got an unexpected .*'goal'"),
        ("tests.vla.evaluation.world:SENSOR", (), "is a str, not something that makes an environment"),
        (WORLD, ("goal",), "no NAME=VALUE"),
        (WORLD, ("goal=1", "goal=2"), "given twice"),
    ],
)
def test_an_environment_that_does_not_suit_is_refused(name: str, settings: Sequence[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_environment(name, LINE, settings)


def test_an_environment_of_the_working_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The console script `vla` has its own folder on the path, not the one it is called in."""
    code = ["from tests.vla.evaluation.world import Line", "def make(contract, goal): return Line(contract, goal=goal)"]
    (tmp_path / "robot_of_this_folder.py").write_text("\n".join(code))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    environment = open_environment("robot_of_this_folder:make", LINE, ("goal=7",))
    assert environment.reset(seed=0)[0]["observation.state"][1] == 7
    with pytest.raises(ValueError, match=r"missing a required argument: 'goal'\); it is make\(contract, goal"):
        open_environment("robot_of_this_folder:make", LINE, ())


def test_settings_are_pairs() -> None:
    assert parse_settings(("goal=1", "words=a=b")) == {"goal": "1", "words": "a=b"}


def test_a_robot_that_cannot_be_closed_loses_no_result(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def jammed() -> None:
        raise RuntimeError("the gripper is jammed")

    monkeypatch.setattr("vla.evaluation.arena.close_arenas", jammed)
    save_policy(policy, tmp_path / "policy")
    command = ["evaluate", str(tmp_path / "policy"), "--env", WORLD, "--episodes", "1", "--within", "1", "--steps", "2"]
    with pytest.raises(RuntimeError, match="the gripper is jammed"):
        main([*command, "--workers", "1", "--record", "0"])
    assert json.loads((tmp_path / "policy-evaluation" / "closed_loop.json").read_text())["episodes"] == 1


def test_evaluate_in_an_environment(policy: Policy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_policy(policy, tmp_path / "policy")
    command = ["evaluate", str(tmp_path / "policy"), "--env", WORLD, "--episodes", "2", "--within", "1", "2"]
    settings = ["--workers", "1", "--record", "1", "--steps", "2", "--seed", "5"]
    assert main([*command, *settings, "--env-settings", "goal=2", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    out = tmp_path / "policy-evaluation"
    assert printed == json.loads((out / "closed_loop.json").read_text())
    assert (printed["episodes"], printed["max_steps"], printed["seed"]) == (2, 2, 5)
    assert [entry["steps"] for entry in printed["success"]] == [1, 2]
    assert (printed["latency"]["calls"], printed["latency"]["rows"]) == (2, 1.5), "one of them ends a step earlier"
    assert printed["latency"]["milliseconds"]["expert"] > 0
    assert "calls" not in printed["rollouts"][0]
    assert (out / "videos" / "episode-00000.mp4").exists()
    (out / "videos" / "mine.mp4").touch()
    assert main([*command, *settings, "--record", "0", "--episodes", "1"]) == 0
    assert [path.name for path in (*(out / "rollouts").iterdir(), *(out / "videos").iterdir())] == ["mine.mp4"]
    assert json.loads((out / "closed_loop.json").read_text())["episodes"] == 1
    capsys.readouterr()
    assert main([*command, "--execute", "9"]) == 78
    assert "a chunk of the policy has 5 actions" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "policy")]) == 2
    assert "--env needle" in capsys.readouterr().err
