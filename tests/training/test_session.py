"""A run's session: errors of loader processes, loss weights over the global batch, dropout from the position alone."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

from training import loop, recipes
from training.config import RunConfig, parse
from training.session import Session
from vla.batch import Sample
from vla.data import TrainSamples
from vla.data.episode import CorruptData

FLAGS = ["--backbone.path", "tiny", "--stage.steps", "2", "--tracker", "jsonl", "--validation-samples", "2"]
FLAGS += ["--expert.width", "32", "--expert.depth", "1", "--sensor.width", "32"]


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def config(needle: Path, out: Path, *flags: str) -> RunConfig:
    return parse(recipes.stage1(), ["--data.roots", str(needle), "--out", str(out), *FLAGS, *flags])


@pytest.mark.parametrize("workers", ["0", "1"])
def test_damage_found_while_training_is_one_sentence(
    needle: Path, tmp_path: Path, workers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = TrainSamples.__getitem__

    def damaged(samples: TrainSamples, position: int) -> Sample:
        if position == 5:
            raise CorruptData("needle/episode_000003, frame 7: cannot be decoded")
        return read(samples, position)

    monkeypatch.setattr(TrainSamples, "__getitem__", damaged)
    with pytest.raises(CorruptData) as error:
        loop.train(
            config(needle, tmp_path / "run", "--batch-size", "4", "--micro-batch", "4", "--data.workers", workers)
        )
    assert str(error.value) == "needle/episode_000003, frame 7: cannot be decoded"


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_loss_is_the_weighted_mean_over_the_whole_batch(
    needle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Micro-batches of 1 give each sample's loss; any other size must give their mean by weight."""
    read = TrainSamples.__getitem__
    weights = [2.0, 1.0, 0.5, 2.0, 1.0, 1.0, 4.0, 0.25]

    def weighted(samples: TrainSamples, position: int) -> Sample:
        sample = read(samples, position)
        object.__setattr__(sample, "weight", weights[position % 8])
        return sample

    monkeypatch.setattr(TrainSamples, "__getitem__", weighted)
    common = ["--data.workers", "0", "--dropout", "0"]
    loop.train(config(needle, tmp_path / "whole", *common, "--batch-size", "8", "--micro-batch", "8"))
    AcceleratorState._reset_state(True)
    loop.train(config(needle, tmp_path / "split", *common, "--batch-size", "8", "--micro-batch", "2"))
    AcceleratorState._reset_state(True)
    assert losses(tmp_path / "split") == pytest.approx(losses(tmp_path / "whole"), rel=1e-6)
    session = Session(config(needle, tmp_path / "by-hand", *common, "--batch-size", "8", "--micro-batch", "8"))
    session.enter(session.rows[0])
    session.policy.set_mode(training=True)
    batch = next(session.batches(session.rows[0]))[0]
    with torch.no_grad():
        each = session.policy(batch)["diffusion"]
    expected = sum(float(loss) * weight for loss, weight in zip(each, weights, strict=True)) / sum(weights)
    assert losses(tmp_path / "whole")[0] == pytest.approx(expected, rel=1e-6)


def test_workers_change_nothing(needle: Path, tmp_path: Path) -> None:
    for workers in ("0", "2"):
        flags = ["--batch-size", "4", "--micro-batch", "2", "--dropout", "0.2", "--data.workers", workers]
        loop.train(config(needle, tmp_path / workers, *flags))
        AcceleratorState._reset_state(True)
    assert losses(tmp_path / "0") == losses(tmp_path / "2")


def test_a_finished_run_is_exported_again_and_trains_nothing(needle: Path, tmp_path: Path) -> None:
    import shutil

    flags = ["--batch-size", "2", "--micro-batch", "2", "--data.workers", "0"]
    loop.train(config(needle, tmp_path / "run", *flags))
    AcceleratorState._reset_state(True)
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    exported = {path.name: path.read_bytes() for path in (tmp_path / "run" / "policy").glob("*.safetensors")}
    shutil.rmtree(tmp_path / "run" / "policy")
    loop.train(config(needle, tmp_path / "run", *flags, "--resume-from", "auto"))
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before
    again = {path.name: path.read_bytes() for path in (tmp_path / "run" / "policy").glob("*.safetensors")}
    assert again == exported


def test_a_loss_that_is_not_finite_stops_before_the_step(
    needle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = TrainSamples.__getitem__

    def poisoned(samples: TrainSamples, position: int) -> Sample:
        sample = read(samples, position)
        if position == 2:
            sample.noise[:] = float("nan")
        return sample

    monkeypatch.setattr(TrainSamples, "__getitem__", poisoned)
    flags = ["--batch-size", "2", "--micro-batch", "2", "--data.workers", "0", "--save-every", "1"]
    with pytest.raises(FloatingPointError, match="step 2: loss nan"):
        loop.train(config(needle, tmp_path / "run", *flags))
    assert len(losses(tmp_path / "run")) == 1
    assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*")] == ["step-00000001"]
