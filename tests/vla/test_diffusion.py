"""The page of diffusion against textbook formulas and against distributions whose best denoiser is known."""

import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.diffusion import Coefficients, coefficients, column, euler, jump, mix, multiply, sample, split, target
from vla.settings import DiffusionConfig, PathName, PredictionName, Sampler

PATHS = get_args(PathName)
PREDICTIONS = get_args(PredictionName)
SAMPLERS = get_args(Sampler)


def chunks(count: int, seed: int = 0, size: int = 64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 3, 2, generator=generator) for _ in range(count)]


def at(path: PathName, *times: float) -> Coefficients:
    return coefficients(path, torch.tensor(times))


@pytest.mark.parametrize("path", PATHS)
def test_path_runs_from_data_to_noise_with_unit_determinant(path: PathName) -> None:
    c = coefficients(path, torch.linspace(0, 1, 1001))
    assert torch.allclose(c.alpha * c.d_sigma - c.sigma * c.d_alpha, torch.ones(1001), atol=1e-6)
    assert (c.sigma.diff() > 0).all()
    assert (c.alpha.diff() < 0).all()
    assert (c.clock.diff() > 0).all()
    assert c.alpha[0] == 1
    assert c.sigma[0] == 0
    assert c.sigma[-1] == pytest.approx(1, abs=3e-5)
    assert c.alpha[-1] == pytest.approx({"cosine": 0, "straight": 0, "linear": math.exp(-5.025)}[path], abs=1e-9)


@pytest.mark.parametrize("path", PATHS)
def test_derivatives_are_those_of_the_path_by_its_clock(path: PathName) -> None:
    t = torch.linspace(0.01, 0.99, 99)
    lower, c, upper = (coefficients(path, t + shift) for shift in (-2e-3, 0.0, 2e-3))
    run = upper.clock - lower.clock
    assert torch.allclose((upper.alpha - lower.alpha) / run, c.d_alpha, atol=1e-3)
    assert torch.allclose((upper.sigma - lower.sigma) / run, c.d_sigma, atol=1e-3)


def test_cosine_path_is_the_schedule_of_nichol_and_dhariwal() -> None:
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    f = torch.cos((t + 0.008) / 1.008 * math.pi / 2).square()
    c = coefficients("cosine", t)
    assert torch.allclose(c.alpha.double().square(), f / f[0], atol=1e-6)
    assert torch.allclose(c.sigma.double().square(), 1 - f / f[0], atol=1e-6)


def test_linear_path_is_the_limit_of_the_ddpm_schedule() -> None:
    errors = []
    for steps in (1000, 10_000, 100_000):
        beta = torch.linspace(1e-4, 0.02, steps, dtype=torch.float64) * 1000 / steps
        alpha_bar = torch.cumprod(1 - beta, 0)
        times = torch.arange(1, steps + 1, dtype=torch.float64) / steps
        keep = torch.linspace(0, steps - 1, 50).long()
        c = coefficients("linear", times[keep])
        errors.append((c.alpha.double() - alpha_bar[keep].sqrt()).abs().max().item())
    assert errors[0] < 1e-2
    assert errors[1] < 1e-3
    assert errors[2] < 1e-4


@pytest.mark.parametrize("path", ["cosine", "linear"])
def test_velocity_is_that_of_salimans_and_ho(path: PathName) -> None:
    x0, eps = chunks(2)
    c = coefficients(path, torch.linspace(0, 1, 64))
    assert torch.equal(target("velocity", c, x0, eps), column(c.alpha) * eps - column(c.sigma) * x0)


def test_velocity_on_the_straight_path_is_flow_matching() -> None:
    x0, eps = chunks(2)
    assert torch.equal(target("velocity", coefficients("straight", torch.linspace(0, 1, 64)), x0, eps), eps - x0)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", PREDICTIONS)
@settings(max_examples=20, deadline=None)
@given(time=st.floats(0.02, 0.95), seed=st.integers(0, 100))
def test_split_inverts_target(path: PathName, kind: PredictionName, time: float, seed: int) -> None:
    x0, eps = chunks(2, seed)
    c = at(path, *[time] * 64)
    back_x0, back_eps = split(kind, c, mix(c, x0, eps), target(kind, c, x0, eps))
    assert torch.allclose(back_x0, x0, atol=1e-3)
    assert torch.allclose(back_eps, eps, atol=1e-3)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("time", [0.0, 1.0])
def test_split_is_finite_at_both_ends(path: PathName, kind: PredictionName, time: float) -> None:
    x_t, out = chunks(2)
    x0, eps = split(kind, at(path, *[time] * 64), x_t, out)
    assert x0.isfinite().all()
    assert eps.isfinite().all()
    assert x0.abs().max() < 1000
    assert eps.abs().max() < 1000


def test_a_wrong_noise_prediction_at_the_last_step_says_nothing_of_the_data() -> None:
    x_t, out = chunks(2)
    x0, _ = split("noise", at("cosine", *[1.0] * 64), x_t, out)
    assert torch.equal(x0, torch.zeros_like(x0))


@pytest.mark.parametrize(("now", "after"), [(1000, 900), (700, 650), (301, 300), (100, 1)])
def test_jump_is_the_ddpm_posterior(now: int, after: int) -> None:
    """Ho et al. (2020), equations 6 and 7, with alpha_bar of the two times."""
    x0, eps, z = chunks(3)
    c_t, c_s = at("linear", *[now / 1000] * 64), at("linear", *[after / 1000] * 64)
    bar_t, bar_s = c_t.alpha[0].double() ** 2, c_s.alpha[0].double() ** 2
    beta = 1 - bar_t / bar_s
    x_t = mix(c_t, x0, eps)
    mean = bar_s.sqrt() * beta / (1 - bar_t) * x0 + (bar_t / bar_s).sqrt() * (1 - bar_s) / (1 - bar_t) * x_t
    variance = (1 - bar_s) / (1 - bar_t) * beta
    expected = mean + variance.sqrt() * z.double()
    assert torch.allclose(jump(c_t, c_s, x0, eps, eta=1.0, z=z).double(), expected.double(), atol=2e-5)


@pytest.mark.parametrize("path", ["cosine", "linear"])
def test_jump_without_fresh_noise_is_ddim(path: PathName) -> None:
    """Song, Meng & Ermon (2021), equation 12 with sigma = 0, from a noise prediction."""
    x_t, out = chunks(2)
    c_t, c_s = at(path, *[0.7] * 64), at(path, *[0.5] * 64)
    bar_t, bar_s = column(c_t.alpha).square(), column(c_s.alpha).square()
    expected = bar_s.sqrt() * (x_t - (1 - bar_t).sqrt() * out) / bar_t.sqrt() + (1 - bar_s).sqrt() * out
    assert torch.allclose(jump(c_t, c_s, *split("noise", c_t, x_t, out), eta=0.0, z=out), expected, atol=1e-5)


def test_straight_steps_are_eulers() -> None:
    x_t, velocity = chunks(2)
    c_t, c_s = at("straight", *[0.8] * 64), at("straight", *[0.7] * 64)
    x0, eps = split("velocity", c_t, x_t, velocity)
    assert torch.allclose(jump(c_t, c_s, x0, eps, eta=0.0, z=eps), x_t - 0.1 * velocity, atol=1e-6)
    assert torch.allclose(euler(c_t, c_s, x_t, x0, eps), x_t - 0.1 * velocity, atol=1e-6)


@pytest.mark.parametrize("path", PATHS)
def test_euler_is_a_first_order_step_of_the_flow(path: PathName) -> None:
    x0, eps = chunks(2)
    errors = []
    for width in (0.02, 0.01):
        c_t, c_s = at(path, *[0.5] * 64), at(path, *[0.5 - width] * 64)
        errors.append((euler(c_t, c_s, mix(c_t, x0, eps), x0, eps) - mix(c_s, x0, eps)).abs().max().item())
    assert errors[1] < max(0.3 * errors[0], 1e-6)


def best_of_gaussian(path: PathName, kind: PredictionName, mean: float, std: float):
    """The closed-form best prediction for data that is normal with this mean and standard deviation."""

    def denoise(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        c = coefficients(path, t)
        alpha, sigma = column(c.alpha).double(), column(c.sigma).double()
        gain = std**2 * alpha / (alpha.square() * std**2 + sigma.square())
        x0 = mean + gain * (x_t - alpha * mean)
        eps = (x_t - alpha * x0) / sigma
        return target(kind, c, x0.float(), eps.float())

    return denoise


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampling_recovers_a_gaussian(path: PathName, kind: PredictionName, sampler: Sampler) -> None:
    """20,000 numbers: the standard error of the mean is 0.002, of the deviation 0.0015; the rest is discretisation."""
    config = DiffusionConfig(
        path=path, prediction=kind, sampler=sampler, sampling_steps=250 if sampler == "ddpm" else 120
    )
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(1000, 4, 5, generator=generator)
    drawn = sample(best_of_gaussian(path, kind, 0.6, 0.3), noise, config, generator=generator)
    assert drawn.mean().item() == pytest.approx(0.6, abs=0.02)
    assert drawn.std().item() == pytest.approx(0.3, abs=0.015)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampling_recovers_two_modes(path: PathName, sampler: Sampler) -> None:
    """Actions are +0.8 or -0.8 with equal odds: a regression would answer 0, a sample must be one of the two."""

    def denoise(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        c = coefficients(path, t)
        return 0.8 * torch.tanh(0.8 * column(c.alpha) * x_t / column(c.sigma).square())

    config = DiffusionConfig(path=path, prediction="data", sampler=sampler, sampling_steps=50)
    generator = torch.Generator().manual_seed(0)
    drawn = sample(denoise, torch.randn(500, 2, 2, generator=generator), config, generator=generator)
    assert ((drawn.abs() - 0.8).abs() < 0.05).float().mean() > 0.98
    assert (drawn > 0).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_the_grid_starts_at_pure_noise_and_ends_at_the_data() -> None:
    times: list[float] = []

    def denoise(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        times.append(t[0].item())
        return torch.full_like(x_t, 0.25)

    config = DiffusionConfig(prediction="data", sampling_steps=4)
    drawn = sample(denoise, chunks(1)[0], config)
    assert times == [1.0, 0.75, 0.5, 0.25]
    assert torch.equal(drawn, torch.full_like(drawn, 0.25))
    times.clear()
    sample(denoise, chunks(1)[0], config, steps=2)
    assert times == [1.0, 0.5]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_wrong_noise_predictor_stays_within_the_clip(path: PathName, sampler: Sampler) -> None:
    config = DiffusionConfig(path=path, prediction="noise", sampler=sampler, clip=2.0)
    drawn = sample(lambda x_t, t: 3 - x_t, chunks(1)[0], config, generator=torch.Generator().manual_seed(0))
    assert drawn.isfinite().all()
    if sampler != "euler":
        assert drawn.abs().max() <= 2


def test_sampling_never_touches_the_global_generator() -> None:
    before = torch.get_rng_state()
    config = DiffusionConfig(sampler="ddpm")
    noise = chunks(1)[0]
    first, again = (
        sample(lambda x_t, t: 0.1 * x_t, noise, config, generator=torch.Generator().manual_seed(5)) for _ in range(2)
    )
    assert torch.equal(first, again)
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(ValueError, match="generator"):
        sample(lambda x_t, t: x_t, noise, config)


def test_autocast_changes_nothing() -> None:
    x0, eps = chunks(2)
    c = coefficients("cosine", torch.linspace(0, 1, 64))
    plain = split("velocity", c, mix(c, x0, eps), target("velocity", c, x0, eps))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        c = coefficients("cosine", torch.linspace(0, 1, 64))
        cast = split("velocity", c, mix(c, x0, eps), target("velocity", c, x0, eps))
    assert all(torch.equal(one, other) and other.dtype == torch.float32 for one, other in zip(plain, cast, strict=True))
    assert split("velocity", c, x0, eps.bfloat16())[0].dtype == torch.float32


@pytest.mark.parametrize("wrong", [{"sampling_steps": 0}, {"clip": 0.0}])
def test_bad_configuration_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="give"):
        DiffusionConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        sample(lambda x_t, t: x_t, chunks(1)[0], DiffusionConfig(), steps=0)


def test_one_draw_is_what_came() -> None:
    t, eps = torch.rand(5), torch.randn(5, 4, 3)
    times, noises = multiply(t, eps, 1)
    assert times is t
    assert noises is eps


@pytest.mark.parametrize("draws", [2, 4, 5])
def test_draws_cover_the_path_and_are_standard_normal(draws: int) -> None:
    generator = torch.Generator().manual_seed(0)
    t, eps = torch.rand(4000, generator=generator), torch.randn(4000, 4, 3, generator=generator)
    times, noises = multiply(t, eps, draws)
    grouped = times.view(-1, draws)
    assert torch.equal(grouped[:, 0], t)
    assert ((times >= 0) & (times < 1)).all()
    assert torch.allclose((grouped.sort(dim=1).values * draws).diff(dim=1), torch.ones(()), atol=1e-4)
    of_sample = noises.view(-1, draws, 12)
    assert torch.equal(of_sample[:, 0], eps.flatten(1))
    for k in range(draws):
        assert torch.equal(of_sample[:, k].abs().sort(dim=1).values, eps.flatten(1).abs().sort(dim=1).values)
        assert torch.allclose(of_sample[:, k].mean(dim=0), torch.zeros(12), atol=0.07)
        assert torch.allclose(of_sample[:, k].var(dim=0), torch.ones(12), atol=0.15)
        for other in range(k):
            assert not torch.equal(of_sample[:, k], of_sample[:, other]), "no draw is another's copy"
