"""Labels of frames in a training: two actions are told apart, and the run goes where its labels are."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from tests.fakes import FakeReader
from tests.vla.data.test_labels import BODY, motion_root
from training import loop, opening, recipes
from training.checkpoints.beginning import check_origin, read_origin
from training.feeding.packing import pack, unpack
from training.flags import parse
from vla.batch import collate
from vla.data.dataset import open_dataset
from vla.data.episode import Stream
from vla.policy_folder import load_policy
from vla.settings import DataConfig

STEPS = 60
FLAGS = ["--backbone.path", "hash", "--batch-size", "16", "--micro-batch", "16", "--stage.steps", str(STEPS)]
FLAGS += ["--tracker", "jsonl", "--data.workers", "0", "--validation-samples", "8", "--dropout", "0"]
FLAGS += ["--expert.width", "32", "--expert.depth", "1", "--stage.lr.expert", "1e-2", "--data.horizon", "8"]
LABELLED = ["--data.labels", "action", "physics"]
WEIGHTS = ["--stage.objective.motion.action", "1", "--stage.objective.motion.physics", "0.1"]


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def two_actions(name: str) -> FakeReader:
    """Within each episode the motion changes at a place that nothing tells, and with it the action."""
    root, rng, episodes = motion_root(name), np.random.default_rng(0), []
    for episode in root.episodes:
        count = len(episode.timestamps)
        action = (np.arange(count) >= rng.integers(5, count - 5)).astype(np.float32)[:, None]
        action = action if rng.random() < 0.5 else 1 - action
        rows = 2 * action - 1 + 0.3 * rng.normal(size=(count, len(BODY.names)))
        columns = {"action": action, "physics": np.repeat(3 * action, 6, axis=1) + 0.1 * rng.normal(size=(count, 6))}
        actions = Stream(timestamps=episode.timestamps, values=rows.astype(np.float32))
        columns = {key: values.astype(np.float32) for key, values in columns.items()}
        episodes.append(replace(episode, actions=actions, columns=columns))
    return replace(root, episodes=episodes)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeReader:
    (tmp_path / "walks").mkdir()
    reader = two_actions(str(tmp_path / "walks"))
    monkeypatch.setattr(opening, "open_dataset", partial(open_dataset, open_reader=lambda *_: reader))
    return reader


def test_two_actions_are_told_apart(data: FakeReader, tmp_path: Path) -> None:
    run = tmp_path / "run"
    loop.train(
        parse(recipes.stage1(), ["--data.roots", data.layout.root, "--out", str(run), *FLAGS, *LABELLED, *WEIGHTS])
    )
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["losses"] for line in lines]
    assert all(loss.keys() == {"diffusion", "action", "physics"} for loss in losses)
    chance = np.log(2)
    assert losses[0]["action"] == pytest.approx(chance, abs=0.3)
    assert np.mean([loss["action"] for loss in losses[-10:]]) < 0.5 * chance
    assert np.mean([loss["physics"] for loss in losses[-10:]]) < 0.5 * losses[0]["physics"]
    checks = [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]
    assert checks[-1]["losses"].keys() == losses[0].keys()
    policy = load_policy(run / "policy")
    assert policy.contract.labels == {"action": 2, "physics": 6}
    samples = open_dataset(
        DataConfig(roots=(data.layout.root,), horizon=8, labels=("action", "physics")), 0, lambda *_: data
    ).everything
    batch = collate([samples[index] for index in range(0, len(samples), 3)], 0, "validation")
    found = policy.label(batch.observation, batch.actions, batch.action_valid)
    right = (found["action"] == batch.labels["action"][..., 0])[batch.action_valid]
    assert right.float().mean() > 0.95
    error = (found["physics"] - batch.labels["physics"])[batch.action_valid]
    assert error.abs().mean() < 0.5, "of values that are 0 or 3"


def test_labels_and_weights_that_do_not_go_together_end_before_a_step(data: FakeReader, tmp_path: Path) -> None:
    argv = ["--data.roots", data.layout.root, "--out", str(tmp_path / "run"), *FLAGS]
    with pytest.raises(ValueError, match="--data.labels action is chosen but not trained"):
        loop.train(parse(recipes.stage1(), [*argv, *LABELLED]))
    with pytest.raises(ValueError, match="motion.action needs what the data say of it: give --data.labels action"):
        loop.train(parse(recipes.stage1(), [*argv, *WEIGHTS]))
    first = [flag.replace("--stage.", "--stage1.") for flag in WEIGHTS]
    with pytest.raises(ValueError, match="--data.labels action is chosen but not trained"):
        loop.train(parse(recipes.two_stage(), [*argv, *LABELLED, *first]))
    assert not [*(tmp_path / "run").glob("**/metrics.jsonl")], "no stage has begun"


def test_weights_of_other_labels_are_refused(data: FakeReader, tmp_path: Path) -> None:
    run = tmp_path / "run"
    argv = ["--data.roots", data.layout.root, "--out", str(run), *FLAGS, "--stage.steps", "2"]
    loop.train(parse(recipes.stage1(), [*argv, *LABELLED, *WEIGHTS]))
    origin = read_origin(str(run / "policy"), "hash", Accelerator(cpu=True))
    config = DataConfig(roots=(data.layout.root,), horizon=8)
    contract = open_dataset(config, 0, lambda *_: data).contract
    with pytest.raises(ValueError, match=r"with --data.labels action \(2\) physics \(6\), these data have none: give"):
        check_origin(origin, "run", config, contract, origin.fingerprint)


def test_a_batch_with_labels_travels_whole() -> None:
    config = DataConfig(roots=("walks",), horizon=8, labels=("action", "physics"))
    samples = open_dataset(config, 0, lambda *_: two_actions("walks")).everything
    batch = collate([samples[index] for index in range(5)], 0, "noise")
    again = unpack(*pack(batch, lambda size: torch.empty(size, dtype=torch.uint8)))
    assert again.labels.keys() == {"action", "physics"}
    assert all(torch.equal(again.labels[name], rows) for name, rows in batch.labels.items())
    assert torch.equal(again.positions, batch.positions)
