"""`vla evaluate --limits`: limits of demonstrations or of a file, what is counted by them, and what is refused."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.policies import build_policy
from tests.vla.test_policy import BARE, CONFIG, statistics
from tests.vla.test_sampling import policy_of
from vla.__main__ import main
from vla.commands.limits import learned, open_limits
from vla.contract import StreamContract
from vla.critic.robot import Limits
from vla.policy_folder import save_policy

LINE = dataclasses.replace(BARE, state_dim=2)
WORLD = "tests.vla.evaluation.world:Line"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of a world that is a line, one of motion, and limits that its first policy breaks at once, or never."""
    folder = tmp_path_factory.mktemp("limits")
    config = dataclasses.replace(CONFIG, lora=None)
    save_policy(build_policy(config, LINE, statistics(LINE), torch.float32, seed=0), folder / "policy")
    save_policy(policy_of("rotations"), folder / "body")
    width = LINE.action_dim
    for name, most in (("narrow", 0.0), ("wide", 1e9)):
        Limits(fps=LINE.fps, step=(most,) * width, speed=(most,) * width).save(folder / f"{name}.json")
    Limits(fps=LINE.fps, step=(1.0,), speed=(1.0,)).save(folder / "other.json")
    strange = Limits(fps=LINE.fps, step=(1.0,) * width, speed=(1.0,) * width, force={"other": (1.0,)})
    strange.save(folder / "strange.json")
    return folder


def test_limits_are_those_of_the_demonstrations(needle: Path) -> None:
    """Against the columns as they are stored."""
    sensor = StreamContract(key="observation.ft", channels=6, samples=50, rate_hz=1000.0)
    contract = dataclasses.replace(
        LINE, action_dim=7, state_dim=0, fps=20.0, streams={"sensor": sensor}, action_names=(), action_periods=()
    )
    limits = learned(needle, contract)
    table = pq.read_table(min((needle / "data").rglob("*.parquet")))
    episode = np.array(table["episode_index"])
    actions = np.stack(table["action"].to_pylist())
    forces = np.abs(np.array(table["observation.ft"].to_pylist(), dtype=float).reshape(-1, 6))
    steps = np.abs(np.diff(actions, axis=0))[np.diff(episode) == 0].max(axis=0)
    assert limits.step == pytest.approx(steps.tolist())
    assert limits.speed == pytest.approx((20 * steps).tolist())
    assert limits.force["sensor"] == pytest.approx(forces.max(axis=0).tolist())
    assert open_limits(needle, contract) == limits


@pytest.mark.parametrize("unsafe", ["execute", "stop"])
def test_unsafe_chunks_are_counted_or_end_their_episode(folder: Path, tmp_path: Path, unsafe: str) -> None:
    asked = ["evaluate", str(folder / "policy"), "--env", WORLD, "--env-settings", "goal=1000", "--episodes", "2"]
    asked += ["--within", "3", "--steps", "2", "--workers", "1", "--record", "0", "--out", str(tmp_path / "out")]
    assert main([*asked, "--limits", str(folder / "narrow.json"), "--tries", "2", "--unsafe", unsafe]) == 0
    told = json.loads((tmp_path / "out" / "closed_loop.json").read_text())
    steps = 0 if unsafe == "stop" else 3
    for rollout in told["rollouts"]:
        assert rollout["steps"] == steps
        assert rollout["failure"] == ("stopped: speed" if unsafe == "stop" else "timed out")
        chunks = max(1, steps)
        assert rollout["metrics"]["chunks_unsafe"] == rollout["metrics"]["chunks_drawn_again"] == chunks
    assert Limits.load(tmp_path / "out" / "limits.json") == Limits.load(folder / "narrow.json")
    if unsafe == "execute":
        assert main([*asked, "--limits", str(folder / "wide.json")]) == 0
        metrics = json.loads((tmp_path / "out" / "closed_loop.json").read_text())["metrics"]
        assert metrics["chunks_unsafe"]["max"] == metrics["chunks_drawn_again"]["max"] == 0


REFUSED = {
    "--tries and --unsafe would have no effect without limits": (
        ["--env", WORLD, "--tries", "2", "--unsafe", "stop"], 78,
    ),
    "--critic.force would have no effect without a robot's limits": (["--env", WORLD, "--critic.force", "2"], 78),
    "--critic.unsafe-severity would have no effect without prompt suites or a robot's limits": (
        ["--env", WORLD, "--critic.unsafe-severity", "0.5"], 78,
    ),
    "--limits judges what is executed": (["--data.roots", "x", "--limits", "FOLDER/wide.json"], 78),
    "nowhere is not there; give a folder of demonstrations": (["--env", WORLD, "--limits", "FOLDER/nowhere"], 78),
    "has limits of 1 actions": (["--env", WORLD, "--limits", "FOLDER/other.json"], 78),
    "has limits of the sensors other, the policy sees none": (
        ["--env", WORLD, "--limits", "FOLDER/strange.json"], 78,
    ),
    "config.json is damaged": (["--env", WORLD, "--limits", "FOLDER/policy/config.json"], 65),
    "--tries is 0; give 1 or more": (["--env", WORLD, "--limits", "FOLDER/wide.json", "--tries", "0"], 78),
}  # fmt: skip


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_cannot_be_judged_is_refused(
    sentence: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, code = REFUSED[sentence]
    words = [word.replace("FOLDER", str(folder)) for word in words]
    assert main(["evaluate", str(folder / "policy"), *words, "--out", str(tmp_path / "out")]) == code
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_a_body_has_no_limits_of_a_robot(folder: Path) -> None:
    contract = policy_of("rotations").contract
    with pytest.raises(ValueError, match="this policy moves a body, which the seven checks judge"):
        open_limits(folder / "wide.json", contract)
