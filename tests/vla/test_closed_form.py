"""Concept editing against its published formula, with the inverse written out, and what it leaves as it was."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.vla.test_policy import BARE, CONFIG, build
from training.editing import PROJECTION, Texts, computed
from training.recipes import unlearn
from vla.closed_form import factors
from vla.settings import BackboneConfig

FORGOTTEN = ["a person kicks", "a man does a kick", "a person does a spinning kick"]
PRESERVED = ["a person kicks a soccer ball", "a person walks forward", "a man is dancing", "a person jumps"]


def published(weight: np.ndarray, edited: np.ndarray, values: np.ndarray, kept: np.ndarray, ridge: float) -> np.ndarray:
    """W = (lambda W0 + sum v c^T + sum (W0 p) p^T) (lambda I + sum c c^T + sum p p^T)^-1, term by term."""
    left, right = ridge * weight.copy(), ridge * np.eye(weight.shape[1])
    for key, value in zip(edited, values, strict=True):
        left += np.outer(value, key)
        right += np.outer(key, key)
    for key in kept:
        left += np.outer(weight @ key, key)
        right += np.outer(key, key)
    return left @ np.linalg.inv(right)


@pytest.mark.parametrize("ridge", [0.5, 0.01, 10.0])
def test_the_change_is_that_of_the_published_formula(ridge: float) -> None:
    source = np.random.default_rng(2)
    weight, edited, kept = (source.standard_normal(shape) for shape in ((5, 12), (3, 12), (6, 12)))
    values = source.standard_normal((3, 5))
    down, up = factors(*map(torch.from_numpy, (weight, edited, values, kept)), ridge)
    assert (down.shape, up.shape) == ((3, 12), (5, 3))
    found = weight + (up @ down).numpy()
    np.testing.assert_allclose(found, published(weight, edited, values, kept, ridge), rtol=0, atol=1e-9)


def test_orthogonal_keys_move_by_what_the_formula_says() -> None:
    """Of keys of length 1 at right angles: W c_e = (lambda W0 c_e + v) / (lambda + 1), and W c_p = W0 c_p exactly."""
    weight, eye = (
        torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),
        torch.eye(6).double(),
    )
    value = torch.tensor([[1.0, 2.0, 3.0, 4.0]]).double()
    down, up = factors(weight, eye[:1], value, eye[1:3], 0.5)
    new = weight + up @ down
    torch.testing.assert_close(new @ eye[0], (0.5 * weight @ eye[0] + value[0]) / 1.5)
    torch.testing.assert_close(new @ eye[1:].T, weight @ eye[1:].T)


@pytest.mark.parametrize("anchor", ["a person stands", ""])
def test_a_policy_hears_what_the_formula_says(anchor: str) -> None:
    """Through its own projection and its adapter, to 1e-6; off, it hears bit by bit what it did."""
    policy = build(replace(CONFIG, backbone=BackboneConfig(path="hash"), lora=None), BARE)
    projection = policy.get_submodule(PROJECTION.removesuffix(".1"))
    every = [*FORGOTTEN, *PRESERVED, "a man is kicking", "a person stands"]
    heard = policy.backbone.embed(every, torch.device("cpu"))  # type: ignore[operator]
    with torch.no_grad():
        before = projection(heard)
        inputs = projection[0](heard).double().numpy()  # type: ignore[index]
    weight, bias = (getattr(projection[1], name).detach().double().numpy() for name in ("weight", "bias"))  # type: ignore[index]
    edited, kept = inputs[:3], inputs[3:7]
    aim = inputs[-1] if anchor else kept.mean(axis=0)
    expected = published(weight, edited, np.tile(weight @ aim, (3, 1)), kept, 0.5)
    config = unlearn(adapter={"name": "no-kick"})
    told = computed(policy, "no-kick", Texts(forgotten=FORGOTTEN, preserved=PRESERVED, anchor=anchor), config)
    with torch.no_grad():
        after = projection(heard)
        np.testing.assert_allclose(after.numpy(), inputs @ expected.T + bias, rtol=0, atol=2e-6)
        with policy.adapters.off():
            assert torch.equal(projection(heard), before)
    left, moved = (float(number) for number in re.findall(r"([\d.e-]+) of", told[1]))
    change = expected - weight
    share = np.linalg.norm((expected - weight) @ kept.T) / np.linalg.norm(weight @ kept.T)
    missed = weight @ aim - edited @ expected.T
    assert moved == pytest.approx(share, rel=0.06), "as it is printed: two digits"
    assert left == pytest.approx(np.linalg.norm(missed) / np.linalg.norm(weight @ aim - edited @ weight.T), rel=0.06)
    assert left < 0.05 and moved < 0.05
    assert np.linalg.matrix_rank(change, tol=1e-9) == 3
