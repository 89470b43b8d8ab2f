"""Validation: one look at a batch gives the same bits as one for its losses and another for its actions."""

import pytest
import torch

from tests.vla.test_policy import batch, build, train_all
from training.validation import measure
from vla.adapter_settings import AdapterConfig
from vla.objectives import Denoise, Objective
from vla.policy import Policy
from vla.teaching import Erase, Preserve


def looks(policy: Policy) -> list[str]:
    """A list that gains an entry whenever the backbone looks."""
    seen: list[str] = []
    policy.backbone.register_forward_hook(lambda *_: seen.append("look"))
    return seen


def test_losses_and_actions_of_a_validation_are_of_one_look() -> None:
    policy, data = build(), batch()
    train_all(policy)
    policy.set_mode(training=False)
    real = torch.tensor([True, True, True, False])
    with torch.no_grad():
        losses = policy(data)["diffusion"]
        actions = policy.act(data.observation, data.draws.noise)
        seen = looks(policy)
        found = measure(policy, data, real, seed=0)
    assert seen == ["look"]
    assert torch.equal(found["loss/diffusion"], (losses * data.weight * real).sum().double())
    counted = (data.action_valid & real[:, None])[:, :, None]
    error = ((actions.double() - data.actions.double()).abs() * counted).sum(0)
    assert torch.equal(found["absolute error"], error)


@pytest.mark.parametrize("objective", [Denoise(), Preserve(learn=Denoise()), Erase()])
@pytest.mark.parametrize("targets", [r"expert\.blocks.*\.out", r"backbone\..*\.up_proj"])
def test_objectives_take_a_look_that_is_known(objective: Objective, targets: str) -> None:
    """A teacher without adapters looks for itself where those change what the backbone says."""
    policy, data = build(), batch()
    policy.requires_grad_(requires_grad=False)
    policy.adapters.add(AdapterConfig(name="one", rank=2, alpha=2, targets=(targets,)))
    with torch.no_grad():
        for parameter in policy.adapters.parameters("one").values():
            parameter.fill_(0.05)
    policy.adapters.set({"one": 1.0})
    policy.set_mode(training=False)
    with torch.no_grad():
        seen = looks(policy)
        anew = objective(policy, data)
        count = len(seen)
        known = objective(policy, data, policy.look(data.observation))
    assert all(torch.equal(loss, known[name]) for name, loss in anew.items())
    assert len(seen) == count + count  # one look for it, and one fewer in it
