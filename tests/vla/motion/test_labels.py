"""Labels of frames as targets of a policy: closed forms, what counts, what they may not change, and where they go."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.policies import build_policy
from tests.vla.motion.test_losses import BODY, of_body
from tests.vla.test_policy import CONFIG, batch, statistics
from vla.batch import Batch
from vla.contract import DataContract
from vla.motion.losses import cross_entropy, squared_error
from vla.objectives import Denoise, Kinematic, Objective, objective_of
from vla.policy import Policy
from vla.policy_folder import load_policy, save_policy
from vla.settings import MotionWeights, ObjectiveConfig
from vla.statistics import fit

CLASSES = 4
PLAIN = dataclasses.replace(of_body(BODY), cameras=(), streams={})
LABELLED = dataclasses.replace(PLAIN, labels={"action": CLASSES, "physics": 6})
WEIGHTS = {"action": 0.5, "physics": 2.0}
PHYSICS = np.random.default_rng(3).normal(size=(300, 6)) * [1, 2, 3, 10, 20, 0.1] + 7


def build(contract: DataContract = LABELLED) -> Policy:
    """A policy in eval mode, whose gates are open."""
    known = {**statistics(contract), "physics": fit(PHYSICS, [0.0] * 6)}
    config = dataclasses.replace(CONFIG, lora=None, normalization="z-score")
    policy = build_policy(config, contract, known, torch.float32, seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in policy.expert.named_parameters():
        if "modulation.weight" in name:
            torch.nn.init.normal_(parameter, std=0.05, generator=generator)
    policy.set_mode(training=False)
    return policy


def labelled(data: Batch, seed: int = 5) -> Batch:
    rng = np.random.default_rng(seed)
    shape = data.actions.shape[:2]
    labels = {
        "action": torch.from_numpy(rng.integers(0, CLASSES, (*shape, 1)).astype(np.float32)),
        "physics": torch.from_numpy(rng.normal(7, 5, (*shape, 6)).astype(np.float32)),
    }
    return dataclasses.replace(data, labels=labels)


def objective(draws: int = 1, contract: DataContract = LABELLED, **weights: float) -> Objective:
    return objective_of(ObjectiveConfig(draws=draws, motion=MotionWeights(**weights)), contract)


@given(st.integers(2, 9), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_cross_entropy_is_the_logarithm_of_a_share(classes: int, frames: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(classes), (3, frames)).clip(1e-6)
    shares /= shares.sum(axis=-1, keepdims=True)
    true = rng.integers(0, classes, (3, frames))
    expected = -np.log(np.take_along_axis(shares, true[..., None], axis=-1)).mean(axis=(1, 2))
    said = torch.from_numpy(np.log(shares) + 3.0)  # a constant changes nothing
    found = cross_entropy(said, torch.from_numpy(true[..., None].astype(np.float64)), torch.ones(3, frames).bool())
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_frames_that_are_padding_count_nothing() -> None:
    rng = torch.Generator().manual_seed(0)
    said, values = torch.randn(2, 7, 5, generator=rng), torch.randn(2, 7, 5, generator=rng)
    true = torch.randint(0, 5, (2, 7, 1), generator=rng).float()
    valid = torch.arange(7).expand(2, 7) < torch.tensor([[4], [0]])
    ones = torch.ones(1, 4, dtype=torch.bool)
    for error, goal in ((cross_entropy, true), (squared_error, values)):
        found = error(torch.where(valid[..., None], said, 1e6), goal, valid)
        torch.testing.assert_close(found[:1], error(said[:1, :4], goal[:1, :4], ones))
        assert found[1] == 0


@pytest.mark.parametrize("draws", [1, 3])
def test_terms_are_what_the_heads_say_against_the_labels(draws: int) -> None:
    """By hand, of the states that the expert ends with; physics in standard deviations of the training data."""
    policy, data = build(), labelled(batch(LABELLED))
    states: list[torch.Tensor] = []
    handle = policy.expert.norm.register_forward_hook(lambda _, __, out: states.append(out))
    with torch.no_grad():
        found = objective(draws, **WEIGHTS)(policy, data)
        handle.remove()
        assert found.keys() == {"diffusion", "action", "physics"}
        torch.testing.assert_close(found["diffusion"], Denoise(draws=draws)(policy, data)["diffusion"])
    (last,) = (state.double().numpy().reshape(4, draws, LABELLED.horizon, -1) for state in states)
    heads = {name: head.state_dict() for name, head in policy.expert.heads.items()}
    said = {
        name: last @ head["weight"].double().numpy().T + head["bias"].double().numpy() for name, head in heads.items()
    }
    nats = np.log(np.exp(said["action"]).sum(axis=-1))
    for row in range(4):
        valid = data.action_valid[row].numpy()
        true = data.labels["action"][row, :, 0].long().numpy()
        own = nats[row] - said["action"][row][:, np.arange(len(true)), true]
        assert found["action"][row].item() == pytest.approx(0.5 * own[:, valid].mean(), rel=1e-4)
        goal = (data.labels["physics"][row].numpy() - PHYSICS.mean(axis=0)) / PHYSICS.std(axis=0)
        error = (said["physics"][row] - goal) ** 2
        assert found["physics"][row].item() == pytest.approx(2.0 * error[:, valid].mean(), rel=1e-3)


def test_shuffled_labels_change_no_prediction() -> None:
    policy, data = build(), labelled(batch(LABELLED))
    shuffled = labelled(data, seed=6)
    with torch.no_grad():
        one, other = (objective(**WEIGHTS)(policy, given) for given in (data, shuffled))
        assert torch.equal(one["diffusion"], other["diffusion"])
        assert not torch.allclose(one["action"], other["action"])
        predictions = [
            policy.predict(
                policy.context(given.observation), policy.normalize("actions", given.actions), given.action_valid,
                given.draws.time, given.draws.noise,
            )
            for given in (data, shuffled)
        ]  # fmt: skip
    assert torch.equal(predictions[0].out, predictions[1].out)
    for name, said in predictions[0].labels.items():
        assert torch.equal(said, predictions[1].labels[name])
    assert predictions[0].labels.keys() == WEIGHTS.keys()


def test_labels_of_padding_change_no_loss() -> None:
    policy, data = build(), labelled(batch(LABELLED))
    assert not data.action_valid.all()
    other = {
        name: torch.where(data.action_valid[..., None], rows, CLASSES - 1 - rows.clamp(0, CLASSES - 1))
        for name, rows in data.labels.items()
    }
    with torch.no_grad():
        one, two = (objective(**WEIGHTS)(policy, given) for given in (data, dataclasses.replace(data, labels=other)))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_heads_change_no_other_weight_and_all_learn_at_once() -> None:
    """Also of a batch whose frames are all padding, so that no rank waits for a gradient."""
    policy, plain = build(), build(PLAIN)
    own = dict(policy.named_parameters())
    heads = {f"expert.heads.{name}.{kind}" for name in WEIGHTS for kind in ("weight", "bias")}
    assert own.keys() - dict(plain.named_parameters()).keys() == heads
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, own[name]), name
    alone = build(dataclasses.replace(PLAIN, labels={"physics": 6}))
    assert torch.equal(alone.expert.heads["physics"].weight, policy.expert.heads["physics"].weight)
    data = labelled(batch(LABELLED))
    for fed, learns in ((data, True), (dataclasses.replace(data, action_valid=data.action_valid & False), False)):
        policy.zero_grad()
        torch.stack([loss.sum() for loss in objective(**WEIGHTS)(policy, fed).values()]).sum().backward()
        for name in heads:
            gradient = own[name].grad
            assert gradient is not None, name
            assert gradient.any().item() is learns, name


def test_a_policy_tells_labels_of_clean_motions() -> None:
    policy, data = build(), labelled(batch(LABELLED))
    found = policy.label(data.observation, data.actions, data.action_valid)
    clean = torch.zeros(len(data))
    with torch.no_grad():
        said = policy.predict(
            policy.context(data.observation), policy.normalize("actions", data.actions), data.action_valid, clean,
            torch.full_like(data.actions, 1e3),
        ).labels  # fmt: skip
    assert found["action"].shape == data.actions.shape[:2]
    assert torch.equal(found["action"], said["action"].argmax(dim=-1)), "the noise does not matter"
    expected = said["physics"].double().numpy() * PHYSICS.std(axis=0) + PHYSICS.mean(axis=0)
    np.testing.assert_allclose(found["physics"], expected, rtol=1e-5)
    assert build(PLAIN).label(data.observation, data.actions, data.action_valid) == {}


def test_a_policy_folder_keeps_labels_and_older_ones_have_none(tmp_path: Path) -> None:
    data = batch(LABELLED)
    for name, policy in (("labelled", build()), ("plain", build(PLAIN))):
        save_policy(policy, tmp_path / name)
        again = load_policy(tmp_path / name)
        assert again.contract == policy.contract
        one, two = (each.label(data.observation, data.actions, data.action_valid) for each in (policy, again))
        assert one.keys() == two.keys() == policy.contract.labels.keys()
        assert all(torch.equal(one[label], two[label]) for label in one)
    config = tmp_path / "plain" / "config.json"
    described = json.loads(config.read_text())
    del described["contract"]["labels"]
    config.write_text(json.dumps(described))
    assert load_policy(tmp_path / "plain").contract == PLAIN


@pytest.mark.parametrize(
    ("weights", "labels", "sentence"),
    [
        ({}, {"action": 4}, "--data.labels action is chosen but not trained: give --stage.objective.motion.action 0.1"),
        ({"action": 0.1}, {"action": 4, "physics": 6}, "--data.labels physics is chosen but not trained"),
        ({"physics": 0.1}, {}, "motion.physics needs what the data say of it: give --data.labels physics, or leave it"),
        ({"action": 0.1, "joints": 1.0}, {}, "motion.action needs what the data say of it: give --data.labels action"),
    ],
)
def test_labels_and_weights_follow_from_one_another(
    weights: dict[str, float], labels: dict[str, int], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        objective(contract=dataclasses.replace(PLAIN, labels=labels), **weights)


def test_labels_stand_beside_the_terms_of_a_motion() -> None:
    made: Any = objective(action=0.5, physics=2.0, velocity=0.1)
    assert isinstance(made, Kinematic)
    assert (made.weights, made.labels) == ({"velocity": 0.1}, WEIGHTS)
    with torch.no_grad():
        found = made(build(), labelled(batch(LABELLED)))
    assert found.keys() == {"diffusion", "velocity", "action", "physics"}
