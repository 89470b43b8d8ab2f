"""Adapters on a module: closed forms, blends, what is switched off, and what cannot be put on."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.vla.test_policy import batch, build
from vla.adapter_settings import AdapterConfig
from vla.adapters.host import Adapters, linears
from vla.adapters.layer import Adapted, Blend
from vla.policy import Policy

EVERY = r".*"
ATTENTION = r"expert\..*attention\.(query|key_value|out)"
X = torch.randn(5, 6, generator=torch.Generator().manual_seed(3))


class Tower(nn.Module):
    """Two linear layers, of which the second has no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(torch.tanh(self.first(x)))
        return out


def tower() -> Tower:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Tower().requires_grad_(requires_grad=False)


def hosted(module: nn.Module, *names: str, **settings: object) -> Adapters:
    """Adapters of these names, disturbed as training would."""
    adapters = Adapters(module, Blend())
    for seed, name in enumerate(names):
        chosen = {"rank": 2, "alpha": 6, "dropout": 0.0, "targets": (EVERY,), **settings}
        adapters.add(AdapterConfig(name=name, **chosen), seed)  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(seed)
        for parameter in adapters.parameters(name).values():
            parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return adapters


def by_hand(module: Tower, adapters: Adapters, weights: dict[str, float]) -> np.ndarray:
    """The tower in numpy, float64: W + sum of w (alpha / r) B A."""
    x = X.double().numpy()
    for path, layer in (("first", module.first), ("second", module.second)):
        weight = layer.weight.double().numpy()
        for name, share in weights.items():
            own = adapters.updates(name)[path]
            factor = adapters.blend.loaded[name].alpha / adapters.blend.loaded[name].rank
            weight = weight + share * factor * own.up.weight.detach().double().numpy() @ (
                own.down.weight.detach().double().numpy()
            )
        x = x @ weight.T + (0 if layer.bias is None else layer.bias.double().numpy())
        x = np.tanh(x) if path == "first" else x
    return x


@pytest.mark.parametrize("weights", [{"a": 1.0}, {"a": 0.3, "b": -0.7}, {"b": 2.0, "c": 0.1}, {}])
def test_a_blend_is_the_weighted_sum_of_the_updates_folded_or_not(weights: dict[str, float]) -> None:
    module = tower()
    adapters = hosted(module, "a", "b", "c")
    adapters.set(weights)
    expected = by_hand(module, adapters, weights)
    np.testing.assert_allclose(module(X).detach().numpy(), expected, atol=1e-6)
    adapters.fold()
    np.testing.assert_allclose(module(X).detach().numpy(), expected, atol=1e-6)


def test_a_fresh_adapter_adds_nothing_and_follows_from_seed_and_name() -> None:
    module, again = tower(), tower()
    before = module(X)
    for one in (module, again):
        torch.rand(3)  # whatever the global random state is
        Adapters(one, Blend()).add(AdapterConfig(name="a", rank=2, targets=(EVERY,)), 7)
    adapters = Adapters(module, layer_of(module).blend)
    adapters.set({"a": 1.0})
    assert torch.equal(module(X), before)
    for (name, first), (_, second) in zip(module.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(first, second), name
    assert adapters.updates("a")["first"].down.weight.abs().max() > 0.1


def layer_of(module: Tower) -> Adapted:
    assert isinstance(module.first, Adapted)
    return module.first


def test_what_is_off_unfolded_or_taken_off_is_the_base_bit_by_bit() -> None:
    module = tower()
    before, weights = module(X), {name: weight.clone() for name, weight in module.named_parameters()}
    adapters = hosted(module, "a", "b")
    adapters.set({"a": 0.9, "b": 0.4})
    with adapters.off():
        assert torch.equal(module(X), before)
    assert not torch.equal(module(X), before)
    for _ in range(20):
        adapters.fold()
        adapters.set({"b": 1.7})
    adapters.fold()
    adapters.set({})
    assert torch.equal(module(X), before)
    adapters.remove("a")
    adapters.remove("b")
    assert torch.equal(module(X), before)
    assert {type(layer) for layer in module.children()} == {nn.Linear}
    assert {name: weight.tolist() for name, weight in module.named_parameters()} == {
        name: weight.tolist() for name, weight in weights.items()
    }


def test_a_teacher_pass_leaves_what_is_trainable_as_it_is() -> None:
    policy = build()
    policy.requires_grad_(requires_grad=False)
    policy.adapters.add(AdapterConfig(name="a", rank=2, targets=(ATTENTION,)))
    policy.adapters.set({"a": 1.0})
    for parameter in policy.adapters.parameters("a").values():
        parameter.requires_grad_()
    before = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    with policy.base():
        policy(batch())
    assert {name for name, parameter in policy.named_parameters() if parameter.requires_grad} == before
    sum(loss.sum() for loss in policy(batch()).values()).backward()
    assert {name for name, parameter in policy.named_parameters() if parameter.grad is not None} == before


def test_where_an_adapter_alone_is_trained_the_frozen_layers_have_no_dropout() -> None:
    policy = adapted_policy(dropout=0.0)
    policy.set_mode(training=True)
    training = policy(batch())
    policy.set_mode(training=False)
    evaluated = policy(batch())
    assert {name: loss.tolist() for name, loss in training.items()} == {
        name: loss.tolist() for name, loss in evaluated.items()
    }
    noisy = adapted_policy(dropout=0.5)
    noisy.set_mode(training=True)
    assert not torch.equal(noisy(batch())["diffusion"], evaluated["diffusion"])


def adapted_policy(dropout: float) -> Policy:
    policy = build()
    policy.requires_grad_(requires_grad=False)
    policy.adapters.add(AdapterConfig(name="a", rank=2, dropout=dropout, targets=(ATTENTION,)))
    policy.adapters.set({"a": 1.0})
    generator = torch.Generator().manual_seed(0)
    for parameter in policy.adapters.parameters("a").values():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        parameter.requires_grad_()
    return policy


def gradients(*, recomputed: bool, context: bool) -> dict[str, Tensor]:
    """Of a loss in which two adapters answer in turn, each alone, before one backward."""
    module = tower()
    adapters = hosted(module, "a", "b")
    for name in adapters.names:
        for parameter in adapters.parameters(name).values():
            parameter.requires_grad_()
    loss = torch.zeros(())
    for name in adapters.names:
        adapters.set({name: 1.0})
        if not recomputed:
            said = module(X)
        elif context:
            said = checkpoint(module, X, use_reentrant=False, context_fn=adapters.blend.bound)
        else:
            said = checkpoint(module, X, use_reentrant=False)
        loss = loss + said.square().sum()
    loss.backward()  # type: ignore[no-untyped-call]
    return {key: value.grad for name in adapters.names for key, value in adapters.parameters(name).items()}  # type: ignore[misc]


def test_what_is_recomputed_counts_the_adapters_of_its_forward() -> None:
    expected = gradients(recomputed=False, context=True)
    found = gradients(recomputed=True, context=True)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=0)


def test_a_copy_of_a_policy_has_a_blend_of_its_own() -> None:
    policy = adapted_policy(dropout=0.0)
    other = copy.deepcopy(policy)
    other.adapters.set({})
    assert policy.blend.weights == {"a": 1.0}
    assert all(layer.blend is other.blend for _, layer in other.adapters.layers())


REFUSED = [
    (AdapterConfig(name="a", targets=("first",)), "an adapter called 'a' is loaded already"),
    (AdapterConfig(name="b", targets=("firs",)), "--adapter.targets firs matches the whole name of none of the 2"),
    (AdapterConfig(name="b", targets=("first", "third")), "third matches the whole name of none"),
    (AdapterConfig(name="train", targets=("first",)), "cannot be called 'train'"),
]


@pytest.mark.parametrize(("config", "reason"), REFUSED)
def test_what_cannot_be_put_on_is_refused_and_nothing_changes(config: AdapterConfig, reason: str) -> None:
    module = tower()
    adapters = hosted(module, "a")
    before = [name for name, _ in module.named_parameters()]
    with pytest.raises(ValueError, match=reason):
        adapters.add(config)
    assert [name for name, _ in module.named_parameters()] == before
    assert adapters.names == ("a",)


def test_what_is_not_loaded_cannot_count() -> None:
    adapters = hosted(tower(), "zombie")
    with pytest.raises(ValueError, match="no adapter called 'zombi' is loaded: did you mean zombie"):
        adapters.set({"zombi": 1.0})
    with pytest.raises(ValueError, match="no adapter called 'b' is loaded"):
        adapters.remove("b")


@pytest.mark.parametrize("settings", [{"name": "a/b"}, {"targets": ("(",)}, {"targets": ()}, {"rank": 0}])
def test_settings_that_cannot_be_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="adapter|regular expression|LoRA"):
        AdapterConfig(**settings)  # type: ignore[arg-type]


def test_adapters_are_no_layers_to_be_adapted() -> None:
    module = tower()
    hosted(module, "a")
    assert list(linears(module)) == ["first", "second"]
