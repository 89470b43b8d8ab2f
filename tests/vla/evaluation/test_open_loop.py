"""Open-loop evaluation: numbers against hand-made ones, and real data end to end."""

import dataclasses
import errno
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.policies import build_policy
from tests.vla.test_policy import BARE, CONFIG, CONTRACT, batch, build
from vla.batch import Sample
from vla.contract import DataContract
from vla.data.dataset import open_dataset
from vla.errors import CorruptData, StorageFault
from vla.evaluation.figures import draw_episode, draw_horizon
from vla.evaluation.open_loop import Predictions, check_contract, episode_indices, measure, predict, spread
from vla.evaluation.phases import Phases, read_phases
from vla.randomness import derive
from vla.settings import DataConfig

H, A = CONTRACT.horizon, CONTRACT.action_dim


class Recorded:
    """Two episodes of seven frames."""

    def __len__(self) -> int:
        return 14

    def __getitem__(self, index: int, /) -> Sample:
        if index >= 14:
            raise IndexError
        generator = np.random.default_rng(index)
        return Sample(
            images=(),
            image_valid=np.zeros(0, dtype=bool),
            instruction="insert",
            state=np.zeros(0, dtype=np.float32),
            streams={},
            actions=generator.standard_normal((H, A)).astype(np.float32),
            action_valid=np.arange(H) < 7 - index % 7,
            weight=1.0,
            position=index,
        )

    def locate(self, index: int, /) -> tuple[str, int]:
        return f"root/episode_{index // 7}", index % 7

    def instruction(self, index: int, /) -> str:
        return "insert"


class Damaged(Recorded):
    """Frame 9 cannot be read."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getitem__(self, index: int, /) -> Sample:
        if index == 9:
            raise self.error
        return super().__getitem__(index)


def predictions(count: int = 40, contract: DataContract = CONTRACT, seed: int = 0) -> Predictions:
    generator = np.random.default_rng(seed)
    recorded = generator.standard_normal((count, H, A)).astype(np.float32)
    return Predictions(
        contract=contract,
        episodes=["root/episode_0"] * count,
        frames=list(range(count)),
        predicted=recorded + generator.standard_normal((count, H, A)).astype(np.float32),
        recorded=recorded,
        valid=np.arange(H)[None] < np.minimum(H, count - np.arange(count))[:, None],
        losses=generator.random(count),
    )


def test_numbers_are_those_of_the_definitions() -> None:
    data = predictions()
    report = measure(data)
    kept = data.valid.nonzero()
    error = (data.predicted - data.recorded)[kept].astype(np.float64)
    assert [entry.name for entry in report.dimensions] == ["x", "y", "gripper"]
    assert [entry.mae for entry in report.dimensions] == pytest.approx(np.abs(error).mean(0))
    assert [entry.rmse for entry in report.dimensions] == pytest.approx(np.sqrt((error**2).mean(0)))
    assert report.mae == pytest.approx(np.abs(error).mean())
    assert report.rmse == pytest.approx(np.sqrt((error**2).mean()))
    first = np.abs(data.predicted - data.recorded)[:, 0].astype(np.float64)
    assert report.first_mae == pytest.approx(first.mean())
    assert report.mae_by_step[0] == pytest.approx(first.mean())
    last = data.valid[:, -1]
    assert report.mae_by_step[-1] == pytest.approx(np.abs(data.predicted - data.recorded)[last, -1].mean(), rel=1e-5)
    assert report.dimensions[1].correlation == pytest.approx(
        np.corrcoef(data.predicted[:, 0, 1], data.recorded[:, 0, 1])[0, 1]
    )
    recorded = data.recorded[kept].astype(np.float64)
    assert report.constant_mae == pytest.approx(np.abs(recorded - recorded.mean(0)).mean(), rel=1e-5)
    assert report.loss == pytest.approx(data.losses.mean())
    assert json.loads(json.dumps(report.to_json()))["samples"] == 40
    assert max(map(len, report.lines())) <= 80


def test_perfect_predictions_have_no_error_and_padding_does_not_count() -> None:
    data = predictions()
    perfect = np.where(data.valid[..., None], data.recorded, np.float32(1e3))
    report = measure(dataclasses.replace(data, predicted=perfect))
    assert (report.mae, report.rmse, report.first_mae) == (0, 0, 0)
    assert all(entry.correlation == pytest.approx(1) for entry in report.dimensions)


def test_angles_are_compared_around_the_circle() -> None:
    contract = dataclasses.replace(CONTRACT, action_periods=(0.0, 2 * math.pi, 360.0))
    data = predictions(contract=contract)
    turned = data.recorded + np.array([0, 2 * np.pi, -720], dtype=np.float32)
    report = measure(dataclasses.replace(data, predicted=turned))
    assert report.mae == pytest.approx(0, abs=1e-4)
    # Angles on both sides of the seam have their mean there, and not on the other side of the circle.
    seam = np.full((40, H, A), 179.0, dtype=np.float32)
    seam[::2] = -179.0
    report = measure(dataclasses.replace(data, recorded=seam, predicted=seam))
    assert report.dimensions[2].constant_mae == pytest.approx(1, abs=1e-3)


def test_a_constant_dimension_has_no_correlation() -> None:
    data = predictions()
    data.recorded[..., 2] = 1.0
    report = measure(data)
    assert report.dimensions[2].correlation is None
    assert any(line.endswith(" -") for line in report.lines())


@pytest.mark.parametrize(("angle", "period"), [(0.7, 2 * math.pi), (30.0, 360.0), (math.pi, 2 * math.pi)])
def test_a_constant_angle_has_no_error_of_the_mean_action(angle: float, period: float) -> None:
    data = predictions(contract=dataclasses.replace(CONTRACT, action_periods=(0.0, 0.0, period)))
    data.recorded[..., 2] = angle
    if angle == math.pi:
        data.recorded[::3, :, 2] = -angle  # the same direction; float32 tells the two apart by 2e-7 of a radian
    assert measure(data).dimensions[2].constant_mae == 0
    assert measure(data).dimensions[1].constant_mae > 0.5
    # The smallest motion of an arm is still one.
    data.recorded[::2, :, 2] += 1e-5 * period
    assert measure(data).dimensions[2].constant_mae == pytest.approx(0.5e-5 * period, rel=0.1)


def test_noise_follows_from_seed_and_index_alone() -> None:
    policy = build(dataclasses.replace(CONFIG, lora=None), BARE)
    samples = Recorded()
    whole = predict(policy, samples, list(range(14)), batch_size=4)
    part = predict(policy, samples, [3, 9], batch_size=1)
    assert np.allclose(whole.predicted[[3, 9]], part.predicted, atol=1e-5)
    assert np.allclose(whole.losses[[3, 9]], part.losses, atol=1e-5)
    assert not np.allclose(part.predicted, predict(policy, samples, [3, 9], seed=1).predicted, atol=1e-3)
    noise = torch.from_numpy(derive(0, "evaluation", 3).standard_normal((H, A), dtype=np.float32))[None]
    alone = policy.act(batch(BARE, size=1).observation, noise)
    assert alone.shape == (1, H, A)
    assert whole.episodes[6:8] == ["root/episode_0", "root/episode_1"]
    assert np.array_equal(whole.recorded[5], samples[5].actions)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "error", [CorruptData("front.mp4 is damaged; copy it again"), StorageFault(errno.EIO, "front.mp4 is out of reach")]
)
def test_what_cannot_be_read_is_one_sentence_from_a_loader_process_too(error: Exception, workers: int) -> None:
    policy = build(dataclasses.replace(CONFIG, lora=None), BARE)
    with pytest.raises(type(error), match=f"^{error}$"):
        predict(policy, Damaged(error), [0, 9], batch_size=2, workers=workers)


def test_a_limit_spreads_the_samples() -> None:
    assert spread(10, 0) == list(range(10)) == spread(10, 20)
    assert spread(10, 4) == [0, 2, 5, 7]
    told: list[int] = []
    policy = build(dataclasses.replace(CONFIG, lora=None), BARE)
    samples = Recorded()
    report = measure(predict(policy, samples, spread(len(samples), 5), batch_size=2, progress=told.append))
    assert report.samples == 5
    assert report.episodes == 2
    assert told == [2, 2, 1]
    assert episode_indices(Recorded()) == list(range(7))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action_dim": 7}, "width of the actions to be 3, not 7"),
        ({"state_dim": 0}, "width of the state"),
        ({"cameras": ("top",)}, "cameras"),
        ({"streams": {}}, "the sensor streams to be observation.wrench, not none"),
        ({"fps": 30.0}, "frame rate"),
        ({"action_units": ("deg",) * 3}, "the unit of the actions to be m, not deg"),
    ],
)
def test_other_data_is_refused(changes: dict[str, object], message: str) -> None:
    policy = dataclasses.replace(CONTRACT, action_units=("m",) * 3)
    check_contract(policy, CONTRACT)
    check_contract(CONTRACT, dataclasses.replace(policy, action_units=("rad",) * 3))
    with pytest.raises(ValueError, match=message):
        check_contract(policy, dataclasses.replace(policy, **changes))


def test_pictures_are_drawn(tmp_path: Path) -> None:
    data = predictions()
    draw_episode(data, tmp_path / "pictures" / "actions.png")
    draw_horizon(measure(data), tmp_path / "horizon.png")
    for file in (tmp_path / "pictures" / "actions.png", tmp_path / "horizon.png"):
        with Image.open(file) as picture:
            assert picture.width > 800
            assert len(picture.convert("L").getcolors()) > 20


def test_the_demonstration_data_end_to_end(needle: Path) -> None:
    dataset = open_dataset(DataConfig(roots=(str(needle),), validation_share=0.2), seed=0)
    policy = build_policy(CONFIG, dataset.contract, dataset.statistics, torch.float32, seed=0)
    report = measure(predict(policy, dataset.validation, spread(len(dataset.validation), 6)))
    assert report.samples == 6
    assert report.episodes == 2
    assert math.isfinite(report.mae)
    assert [entry.name for entry in report.dimensions] == [
        f"action {axis}" for axis in range(dataset.contract.action_dim)
    ]


def test_everything_is_every_frame_once(needle: Path) -> None:
    config = DataConfig(roots=(str(needle),), validation_share=0.0, emphasis="action[2] == -1", emphasis_share=0.01)
    dataset = open_dataset(config, seed=0)
    samples = dataset.everything
    places = [samples.locate(index) for index in range(len(samples))]
    assert len(places) == dataset.train.num_samples == len(set(places))
    assert places == sorted(places)
    assert len(episode_indices(samples)) == sum(name == places[0][0] for name, _ in places)


def test_phases_share_the_error_among_them() -> None:
    data = predictions()
    names = tuple("approach" if frame < 15 else "insert" for frame in range(40))
    phases = Phases(names=("approach", "search", "insert"), by_episode={"root/episode_0": names})
    report = measure(data, phases)
    assert [(entry.phase, entry.samples) for entry in report.phases] == [("approach", 15), ("insert", 25)]
    error = np.abs(data.predicted - data.recorded).astype(np.float64)
    late = report.phases[1]
    assert late.mae == pytest.approx(error[15:][data.valid[15:]].mean())
    assert late.first_mae == pytest.approx(error[15:, 0].mean())
    counts = [int(data.valid[:15].sum()), int(data.valid[15:].sum())]
    assert np.average([entry.mae for entry in report.phases], weights=counts) == pytest.approx(report.mae)
    assert max(map(len, report.lines())) <= 80
    assert measure(data).phases == []


def test_phases_are_read_from_a_column(needle: Path) -> None:
    named = read_phases((str(needle),), "task_index", ("red", "green", "blue"))
    assert named.names == ("red", "green", "blue")
    assert len(named.by_episode) == 12
    assert set(named.of(["needle/episode_000000"] * 2, [0, 3])) == {named.by_episode["needle/episode_000000"][0]}
    assert read_phases((str(needle),), "task_index").names == ("task_index 0", "task_index 1", "task_index 2")
    for column, names, message in (
        ("task_index", ("red",), "1 names were given for the 3 phases"),
        ("frame_index", (), "phases are at most 12"),
        ("action", (), "a phase is one"),
        ("phase", (), "no column phase"),
    ):
        with pytest.raises(ValueError, match=message):
            read_phases((str(needle),), column, names)
