"""The needle as a policy's environment: it shows what the policy's contract says, and refuses one that does not fit."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.policies import build_policy
from tests.vla.test_policy import CONFIG as POLICY
from tests.vla.test_policy import statistics
from vla.__main__ import main
from vla.benchmarks.needle.config import NeedleConfig
from vla.benchmarks.needle.demonstrations import Disturbance, Recordings, describe, record_attempt
from vla.benchmarks.needle.expert import APPROACH
from vla.data.mixture import agree
from vla.data.window import Window
from vla.environment import observe
from vla.evaluation.environments import open_environment
from vla.policy_folder import save_policy
from vla.randomness import derive
from vla.settings import DataConfig

CONFIG = NeedleConfig(cameras=())
TRAINED = agree([describe(CONFIG, "demonstrations")], DataConfig(horizon=4))
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
    contract = dataclasses.replace(TRAINED, streams={})
    config = dataclasses.replace(POLICY, lora=None)
    save_policy(build_policy(config, contract, statistics(contract), torch.float32, seed=0), tmp_path / "policy")
    command = ["evaluate", str(tmp_path / "policy"), "--env", "needle", "--episodes", "2", "--within", "2", "3"]
    command += ["--workers", "1", "--record", "0", "--steps", "1", "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["failures"] == {"no contact": 2}
    assert main([*command, "--env-settings", "max-steps=2"]) == 78
    assert "max-steps of the needle is 2, but an episode ends after 3 steps" in capsys.readouterr().err


def trained_and_let_loose(
    config: NeedleConfig, data: DataConfig, settings: tuple[str, ...], folder: Path
) -> tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]:
    """The sensor's windows, and which of them is valid, of a demonstration as training cuts them and as shown again."""
    assert record_attempt(config, 0, folder, 1) is not None
    recordings = Recordings(config, "demonstrations", [folder / "000001"])
    contract = agree([recordings.layout], data)
    (episode,) = recordings.episodes
    periods_s = {key: 1 / stream.rate_hz for key, stream in recordings.layout.streams.items()}
    window = Window(contract=contract, periods_s=periods_s, sensor_weight=1.0, frame_sizes={})
    needle = open_environment("needle", contract, settings)
    disturbance = Disturbance(derive(0, "needle demonstration noise", 1))
    observed, _ = needle.reset(seed=int(derive(0, "needle demonstration", 1).integers(2**63)))
    cut, shown = [], []
    for index, (action, (phase,)) in enumerate(zip(episode.actions.values, episode.columns["phase"], strict=True)):
        sample = window.cut(episode, index, 0)
        reading = sample.streams["sensor"]
        cut.append((torch.from_numpy(reading.values), torch.from_numpy(reading.valid)))
        observation = observe([observed], contract)
        readings = observation.streams["sensor"]
        shown.append((readings.values[0], readings.valid[0]))
        assert torch.equal(observation.state[0], torch.from_numpy(sample.state))
        observed = needle.step(action + disturbance(touching=bool(phase != APPROACH)))[0]
    return cut, shown


@pytest.mark.parametrize(
    ("changes", "data", "settings", "measured"),
    [
        ({}, {}, (), 50),
        ({}, {"sensor_samples": ("1",)}, (), 1),
        ({}, {"sensor_samples": ("130",)}, (), 50),
        ({"sensor_rate_hz": 650.0}, {"sensor_samples": ("40",)}, (), 33),
        (
            {"sensor_rate_hz": 333.0},
            {"sensor_samples": ("20",), "sensor_rate_hz": ("1000",)},
            ("sensor-rate-hz=333",),
            20,
        ),
        ({}, {"sensor_rate_hz": ("100",)}, ("sensor-rate-hz=1000",), 5),
        ({}, {"sensor_rate_hz": ("330",), "sensor_samples": ("12",)}, ("sensor-rate-hz=1000",), 12),
        ({}, {"sensor_rate_hz": ("10",), "sensor_samples": ("3",)}, (), 1),
        ({"sensor": "ascan", "sensor_rate_hz": 650.0}, {"sensor_samples": ("32",)}, (), 32),
        ({"sensor": "ascan", "sensor_rate_hz": 650.0}, {}, (), 33),
    ],
)
def test_the_sensors_window_is_that_of_training(
    changes: dict[str, Any], data: dict[str, Any], settings: tuple[str, ...], measured: int, tmp_path: Path
) -> None:
    """To the last bit, noise included; `measured` of its samples lie in the demonstration at its start."""
    config = dataclasses.replace(CONFIG, **changes)
    cut, shown = trained_and_let_loose(config, DataConfig(horizon=4, **data), settings, tmp_path)
    for (trained, valid), (seen, seen_valid) in zip(cut, shown, strict=True):
        assert torch.equal(valid, seen_valid)
        assert torch.equal(trained, seen)
    assert cut[0][1].sum() == measured
    assert not all(torch.equal(window, cut[0][0]) for window, _ in cut)


def test_a_slower_window_has_a_sensor_of_its_rate(tmp_path: Path) -> None:
    """A sensor of 100 Hz measures what every tenth sample of one of 1000 Hz does, but for the noise."""
    config = dataclasses.replace(CONFIG, force_noise_n=0.0, torque_noise_nm=0.0)
    still = ("force-noise-n=0", "torque-noise-nm=0")
    cut, shown = trained_and_let_loose(config, DataConfig(horizon=4, sensor_rate_hz=("100",)), still, tmp_path)
    for (trained, valid), (seen, seen_valid) in zip(cut, shown, strict=True):
        assert torch.equal(valid, seen_valid)
        torch.testing.assert_close(seen, trained, rtol=0, atol=1e-4)
    assert cut[-1][0].abs().max() > 5
