"""The needle as a policy's environment: it shows what the policy's contract says, and refuses one that does not fit."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.vla.test_policy import CONFIG as POLICY
from tests.vla.test_policy import statistics
from vla.__main__ import main
from vla.batch import DataContract
from vla.evaluation.environments import open_environment
from vla.needle.config import FPS, NeedleConfig
from vla.needle.demonstrations import describe
from vla.policy import build_policy
from vla.policy_folder import save_policy

CONFIG = NeedleConfig(cameras=())
LAYOUT = describe(CONFIG, "demonstrations")
TRAINED = DataContract(
    cameras=(),
    state_dim=LAYOUT.state_dim,
    action_dim=LAYOUT.action_dim,
    horizon=4,
    fps=FPS,
    sensor=LAYOUT.sensor,
    sensor_channels=LAYOUT.sensor_channels,
    sensor_samples=LAYOUT.sensor_samples,
    sensor_rate_hz=LAYOUT.sensor_rate_hz,
    state_names=LAYOUT.state_names,
    action_names=LAYOUT.action_names,
    action_periods=LAYOUT.action_periods,
    sensor_names=LAYOUT.sensor_names,
)
"""Of a policy that was trained on demonstrations, without a camera, which takes time to draw."""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action_dim": 1, "action_names": ()}, "the policy's actions have 1 numbers, but the environment takes 3"),
        ({"action_dim": 7, "action_names": ()}, "the policy's actions have 7 numbers, but the environment takes 3"),
        ({"action_names": ("vx", "vy", "vz")}, "actions are vx vy vz, but the environment's actions are dx_5mm dy_5mm"),
        ({"state_names": ("z_m", "y_m", "x_m")}, "state is z_m y_m x_m, but the environment's state is x_m y_m z_m"),
    ],
)
def test_a_policy_that_acts_or_sees_otherwise_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_environment("needle", dataclasses.replace(TRAINED, **changes), ())


@pytest.mark.parametrize(
    "changes",
    [{}, {"action_names": (), "state_names": ()}, {"state_dim": 0, "state_names": ()}],
    ids=["named", "without names", "without state"],
)
def test_a_policy_of_the_demonstrations_is_let_in(changes: dict[str, Any]) -> None:
    open_environment("needle", dataclasses.replace(TRAINED, **changes), ()).close()


@pytest.mark.parametrize("steps", [3, 120])
def test_an_episode_is_as_long_as_success_is_counted(steps: int) -> None:
    needle = open_environment("needle", TRAINED, (), steps)
    needle.reset(seed=0)
    ends = [needle.step(np.zeros(3, dtype=np.float32))[3:] for _ in range(steps)]
    assert [cut_off for cut_off, _ in ends] == [False] * (steps - 1) + [True]
    assert ends[-1][1]["failure"] == "no contact"


@pytest.mark.parametrize("given", ["100", "200"])
def test_another_length_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match=f"max-steps of the needle is {given}, but an episode ends after 120 steps"):
        open_environment("needle", TRAINED, (f"max-steps={given}",), 120)
    open_environment("needle", TRAINED, ("max-steps=120",), 120).close()


def test_failures_have_their_kind_within_any_number_of_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contract = dataclasses.replace(TRAINED, sensor=None, sensor_channels=0, sensor_samples=0, sensor_rate_hz=0.0)
    config = dataclasses.replace(POLICY, lora=None)
    save_policy(build_policy(config, contract, statistics(contract), torch.float32, seed=0), tmp_path / "policy")
    command = ["evaluate", str(tmp_path / "policy"), "--env", "needle", "--episodes", "2", "--within", "2", "3"]
    command += ["--workers", "1", "--record", "0", "--steps", "1", "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["failures"] == {"no contact": 2}
    assert main([*command, "--env-settings", "max-steps=2"]) == 78
    assert "max-steps of the needle is 2, but an episode ends after 3 steps" in capsys.readouterr().err
