"""The needle as a policy's environment: it shows what the policy's contract says, and refuses one that does not fit."""

import dataclasses
from typing import Any

import pytest

from vla.batch import DataContract
from vla.evaluation.environments import open_environment
from vla.needle.config import FPS, NeedleConfig
from vla.needle.demonstrations import describe

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
