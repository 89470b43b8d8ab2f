"""Demonstrations: the same whatever the number of processes, what the needle showed, and what the expert would do."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tqdm import tqdm

from tests.vla.benchmarks.needle.test_environment import needs_drawing
from vla.__main__ import main
from vla.benchmarks.needle.config import NeedleConfig
from vla.benchmarks.needle.demonstrations import Disturbance, record_attempt, write_demonstrations
from vla.benchmarks.needle.environment import Needle
from vla.benchmarks.needle.expert import APPROACH, Expert
from vla.data.dataset import open_dataset
from vla.randomness import derive
from vla.settings import DataConfig

CONFIG = NeedleConfig(cameras=("front",), pixels=16)
SEED = 3


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three demonstrations, recorded by this process."""
    folder = tmp_path_factory.mktemp("needle") / "demos"
    bars: list[tqdm[None]] = []

    @contextmanager
    def bar(total: int, unit: str) -> Iterator["tqdm[None]"]:
        with tqdm(total=total, unit=unit, file=io.StringIO()) as shown:
            bars.append(shown)
            yield shown

    totals = write_demonstrations(CONFIG, folder, episodes=3, seed=SEED, workers=1, bar=bar)
    assert totals["episodes"] == 3
    assert totals["attempts"] >= 3
    images = len(CONFIG.cameras) * totals["frames"]
    assert [(shown.unit, shown.total, shown.n) for shown in bars] == [("episodes", 3, 3), ("images", images, images)]
    return folder


def columns(folder: Path) -> dict[str, np.ndarray]:
    """The numbers of a data set."""
    table = pq.read_table(folder / "data/chunk-000/file-000.parquet")
    return {name: np.array(table[name].to_pylist()) for name in table.column_names}


@needs_drawing
def test_the_number_of_processes_changes_no_byte(written: Path, tmp_path: Path) -> None:
    arguments = ["needle", "demos", "--out", str(tmp_path / "demos"), "--episodes", "3", "--seed", str(SEED)]
    assert main([*arguments, "--workers", "2", "--cameras", "front", "--pixels", "16"]) == 0
    one, two = columns(written), columns(tmp_path / "demos")
    assert one.keys() == two.keys() >= {"observation.state", "observation.wrench", "action", "phase"}
    for name, values in one.items():
        np.testing.assert_array_equal(values, two[name])


@needs_drawing
def test_it_holds_what_was_seen_and_what_the_expert_would_do(written: Path) -> None:
    """The attempt once more, by hand: windows as observed, actions without the noise that was executed."""
    needle = Needle(NeedleConfig(cameras=()))
    expert, disturbance = Expert(needle), Disturbance(derive(SEED, "needle demonstration noise", 0))
    observation, _ = needle.reset(seed=int(derive(SEED, "needle demonstration", 0).integers(2**63)))
    stored, row, success = columns(written), 0, False
    while not success:
        action, phase = expert.act()
        np.testing.assert_array_equal(stored["observation.wrench"][row], observation["observation.wrench"])
        np.testing.assert_array_equal(stored["observation.state"][row], observation["observation.state"])
        np.testing.assert_array_equal(stored["action"][row], action)
        assert stored["phase"][row] == phase and stored["observation.wrench_valid"][row].all()
        observation, _, success, _, _ = needle.step(action + disturbance(touching=phase != APPROACH))
        row += 1
    assert stored["episode_index"][row - 1] == 0 and stored["episode_index"][row] == 1


@needs_drawing
def test_our_reader_finds_everything(written: Path) -> None:
    dataset = open_dataset(DataConfig(roots=(str(written),), validation_share=0.0), seed=0)
    contract = dataset.contract
    stream = contract.streams["sensor"]
    assert (stream.key, stream.samples, stream.channels) == ("observation.wrench", 50, 6)
    assert stream.rate_hz == 1000.0
    assert stream.names == CONFIG.sensor_names
    assert stream.names[0] == "force_x_N"
    assert stream.names[5] == "torque_z_Nm"
    assert contract.cameras == ("observation.images.front",)
    assert (contract.state_dim, contract.action_dim) == (3, 3)
    assert dataset.train[0].streams["sensor"].valid.all()


@needs_drawing
def test_slow_sensors_keep_their_clock(tmp_path: Path) -> None:
    """650 Hz gives 32 or 33 samples a frame: none is lost, none stands twice."""
    config = NeedleConfig(cameras=("front",), pixels=16, sensor_rate_hz=650.0)
    write_demonstrations(config, tmp_path / "demos", episodes=1, seed=0, workers=1)
    stored = columns(tmp_path / "demos")
    times = stored["observation.wrench_timestamp"][stored["observation.wrench_valid"]]
    np.testing.assert_allclose(np.diff(times), 1 / 650, rtol=1e-6)
    assert sorted(set(stored["observation.wrench_valid"].sum(axis=1))) == [32, 33]


def test_noise_comes_in_bursts_and_singly() -> None:
    noise = Disturbance(derive(0, "test"))
    pushes = np.array([noise(touching=False) for _ in range(20000)])
    idle = (pushes == 0).all(axis=1).mean()
    repeated = (np.diff(pushes, axis=0) == 0).all(axis=1) & (pushes[1:] != 0).all(axis=1)
    # A burst begins in 0.06 of the free steps and lasts 3.5 steps on average: 2.5 of them repeat the one before.
    free = 1 / (1 + 0.06 * 2.5)
    assert idle == pytest.approx(free * 0.94 * 0.7, abs=0.02)
    assert repeated.mean() == pytest.approx(free * 0.06 * 2.5, abs=0.01)


def test_what_cannot_be_recorded_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["needle", "demos", "--out", str(tmp_path), "--episodes", "1"]) == 78
    assert "exists" in capsys.readouterr().err
    out = tmp_path / "demos"
    assert main(["needle", "demos", "--out", str(out), "--episodes", "0"]) == 78
    assert "episodes of the demonstrations is 0" in capsys.readouterr().err
    with pytest.raises(ValueError, match="without a camera"):
        write_demonstrations(NeedleConfig(cameras=()), out, episodes=1, seed=0)
    assert list(tmp_path.iterdir()) == []


@needs_drawing
def test_a_hopeless_task_ends(tmp_path: Path) -> None:
    config = NeedleConfig(cameras=("front",), pixels=16, max_steps=1)
    with pytest.raises(ValueError, match="0 of 100 attempts with error_mm 2 and max_steps 1"):
        write_demonstrations(config, tmp_path / "demos", episodes=1, seed=0, workers=1)
    assert list(tmp_path.iterdir()) == []


@needs_drawing
def test_a_failed_attempt_leaves_nothing(tmp_path: Path) -> None:
    config = NeedleConfig(cameras=("front",), pixels=16, max_steps=1)
    assert record_attempt(config, 0, tmp_path, 0) is None
    assert list(tmp_path.iterdir()) == []
