"""Objectives against their formulas, on every path and for every prediction."""

import dataclasses
from typing import get_args

import pytest
import torch

from tests.vla.test_policy import CONFIG, CONTRACT, batch, build, redrawn
from vla.diffusion import coefficients, min_snr
from vla.objectives import Denoise, MinSnr, objective_of
from vla.settings import DiffusionConfig, ObjectiveConfig, PathName, PredictionName

PATHS, PREDICTIONS = get_args(PathName), get_args(PredictionName)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_min_snr_weighs_the_error_of_the_clean_chunk(path: PathName, kind: PredictionName) -> None:
    """By definition the loss is min(SNR, gamma) |x0 - x0^|^2, whatever the network predicts."""
    policy = build(dataclasses.replace(CONFIG, diffusion=DiffusionConfig(path=path, prediction=kind)))
    policy.set_mode(training=False)
    times = torch.tensor([0.05, 0.3, 0.6, 0.9])
    data = redrawn(batch(), time=times)
    gamma = 2.0
    found = MinSnr(gamma=gamma)(policy, data)["diffusion"]
    with torch.no_grad():
        x0 = policy.normalize("actions", data.actions)
        context = policy.context(data.observation)
        said = policy.predict(context, x0, data.action_valid, times, data.draws.noise)
        snr = (said.coefficients.alpha.double() / said.coefficients.sigma.double()).square()
        error = (said.x0.double() - x0.double()).square()
    expected = [snr[row].clamp(max=gamma) * error[row][data.action_valid[row]].mean() for row in range(4)]
    assert snr.min() < gamma < snr.max()
    torch.testing.assert_close(found.double(), torch.stack(expected), rtol=1e-4, atol=1e-6)
    alpha, sigma = said.coefficients.alpha[:, None, None], said.coefficients.sigma[:, None, None]
    assert torch.allclose(alpha * said.x0 + sigma * said.eps, said.x_t, atol=1e-4)


@pytest.mark.parametrize("path", ["cosine", "linear"])
def test_the_weights_are_those_of_the_paper(path: PathName) -> None:
    """Hang et al. (2023): min(SNR, g), min(SNR, g) / SNR and min(SNR, g) / (SNR + 1) for x0, noise and v."""
    c = coefficients(path, torch.linspace(0.02, 0.98, 49))
    snr = (c.alpha.double() / c.sigma.double()).square()
    clipped = snr.clamp(max=5.0)
    for kind, expected in (("data", clipped), ("noise", clipped / snr), ("velocity", clipped / (snr + 1))):
        torch.testing.assert_close(min_snr(kind, c, 5.0).double(), expected, rtol=1e-4, atol=1e-7)


def test_on_the_straight_path_a_velocity_is_weighed_by_the_square_of_the_time() -> None:
    """x0 - x0^ = t (v^ - v), and SNR = ((1 - t) / t)^2."""
    t = torch.tensor([0.1, 0.25, 0.5, 0.9])
    expected = torch.tensor([5 * 0.01, 5 * 0.0625, 0.25, 0.01])
    torch.testing.assert_close(min_snr("velocity", coefficients("straight", t), 5.0), expected)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_weights_are_finite_at_both_ends(path: PathName, kind: PredictionName) -> None:
    weights = min_snr(kind, coefficients(path, torch.tensor([0.0, 1.0])), 5.0)
    assert weights.isfinite().all()
    assert (weights >= 0).all()


def test_several_draws_of_min_snr_are_the_mean_of_each_alone() -> None:
    policy = build()
    policy.set_mode(training=False)
    data = batch()
    alone = []
    for k in range(2):
        times = (data.draws.time + k / 2).remainder(1.0)
        noise = data.draws.noise * (1 - 2 * k)
        alone.append(MinSnr()(policy, redrawn(data, time=times, noise=noise))["diffusion"])
    assert torch.allclose(MinSnr(draws=2)(policy, data)["diffusion"], torch.stack(alone).mean(dim=0), atol=1e-6)


def test_a_configuration_names_its_objective() -> None:
    assert objective_of(ObjectiveConfig(), CONTRACT) == Denoise()
    assert objective_of(ObjectiveConfig(draws=3), CONTRACT) == Denoise(draws=3)
    assert objective_of(ObjectiveConfig(kind="min-snr", gamma=2.0, draws=2), CONTRACT) == MinSnr(gamma=2.0, draws=2)
    with pytest.raises(ValueError, match=r"objective.draws is 0"):
        ObjectiveConfig(draws=0)
    with pytest.raises(ValueError, match=r"objective.gamma is 0"):
        ObjectiveConfig(gamma=0.0)
