"""Samplers against those of diffusers, and against flows whose end is known.

diffusers' schedulers stand on grids of their own, so they are given ours: its DDIM the alphas at our times, its
DPM-Solver++ 2M our times in place of its sigmas, and our path in place of the one that it makes of them. So it visits
t = 1 and need not put a small number in the place of alpha there. Each of its steps begins where ours does.
"""

import functools
import math
from dataclasses import dataclass
from typing import get_args

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

from vla.diffusion import Coefficients, coefficients, column, sample
from vla.settings import DiffusionConfig, PathName, PredictionName, Sampler

PATHS, PREDICTIONS = get_args(PathName), get_args(PredictionName)
CLIP = 1.0
STEPS = [2, 3, 5, 10, 20]
Step = tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]
"""Its number, x_t, what the network says of it, and x_s."""


def noise(size: int = 64) -> torch.Tensor:
    return torch.randn(size, 3, 2, generator=torch.Generator().manual_seed(0))


def network(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """No denoiser at all: whatever it says, two samplers must make the same of it. Some of that is clipped."""
    return (2 * x_t + 3 * column(t)).sin() + 0.5 * x_t


def walk(config: DiffusionConfig) -> tuple[list[Step], torch.Tensor]:
    """The steps of a sampler, and the first x0 that it predicts."""
    x, x0 = [], []

    def watch(x_t: torch.Tensor, predicted: torch.Tensor) -> None:
        x.append(x_t.clone())
        x0.append(predicted)

    x.append(sample(network, noise(), config, watch=watch))
    times = torch.linspace(1, 0, len(x)).tolist()
    said = [network(x_t, torch.full((len(x_t),), t)) for x_t, t in zip(x, times, strict=True)]
    return [(number, x[number], said[number], x[number + 1]) for number in range(len(x0))], x0[0]


def comparable(steps: list[Step], kind: PredictionName) -> list[Step]:
    """Where alpha is 0 or nearly so, diffusers divides by it, and ours says nothing of the data."""
    return steps[1:] if kind == "noise" else steps


@pytest.mark.parametrize("path", ["cosine", "linear"])
@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("count", STEPS)
def test_every_step_of_ddim_is_that_of_diffusers(path: PathName, kind: PredictionName, count: int) -> None:
    steps, _ = walk(DiffusionConfig(path=path, prediction=kind, sampler="ddim", sampling_steps=count, clip=CLIP))
    theirs = DDIMScheduler(
        num_train_timesteps=count,
        timestep_spacing="trailing",  # by default it never visits t = 1
        clip_sample_range=CLIP,
        prediction_type={"noise": "epsilon", "data": "sample", "velocity": "v_prediction"}[kind],
    )
    theirs.alphas_cumprod = coefficients(path, torch.linspace(1, 0, count + 1)).alpha[:-1].flip(0).square()
    theirs.set_timesteps(count)
    for number, x_t, out, x_s in comparable(steps, kind):
        made = theirs.step(out, int(theirs.timesteps[number]), x_t, use_clipped_model_output=True).prev_sample
        torch.testing.assert_close(x_s, made, rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", STEPS)
def test_every_step_of_ddim_on_the_straight_path_is_that_of_diffusers(count: int) -> None:
    """Which calls it Euler's of flow matching, predicts velocities and clips nothing."""
    steps, _ = walk(DiffusionConfig(path="straight", sampler="ddim", sampling_steps=count, clip=math.inf))
    theirs = FlowMatchEulerDiscreteScheduler()
    theirs.set_timesteps(sigmas=torch.linspace(1, 0, count + 1)[:-1].tolist())
    for number, x_t, out, x_s in steps:
        made = theirs.step(out, theirs.timesteps[number], x_t).prev_sample
        torch.testing.assert_close(x_s, made, rtol=0, atol=1e-5)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("count", STEPS)
# 2026-11-30: diffusers 0.42 makes arrays of tensors in a way that numpy 2 is going to give up.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
def test_every_step_of_dpm_is_that_of_diffusers(path: PathName, kind: PredictionName, count: int) -> None:
    """Its thresholds are clips where they may not be greater than 1."""
    steps, x0 = walk(DiffusionConfig(path=path, prediction=kind, sampler="dpm++", sampling_steps=count, clip=CLIP))
    velocity = "flow_prediction" if path == "straight" else "v_prediction"
    theirs = DPMSolverMultistepScheduler(
        num_train_timesteps=count,
        thresholding=True,
        sample_max_value=CLIP,
        prediction_type={"noise": "epsilon", "data": "sample", "velocity": velocity}[kind],
    )
    theirs.set_timesteps(timesteps=list(range(count, 0, -1)))
    theirs.sigmas = torch.linspace(1, 0, count + 1)
    theirs._sigma_to_alpha_sigma_t = lambda t: (at(path, t).alpha[0], at(path, t).sigma[0])
    chosen = comparable(steps, kind)
    if len(chosen) < count:
        theirs.set_begin_index(1)
        theirs.model_outputs, theirs.lower_order_nums = [None, x0], 1
    for number, x_t, out, x_s in chosen:
        made = theirs.step(out, theirs.timesteps[number], x_t).prev_sample
        torch.testing.assert_close(x_s, made, rtol=0, atol=1e-5)


def at(path: PathName, t: torch.Tensor) -> Coefficients:
    return coefficients(path, t.reshape(1))


@dataclass(frozen=True)
class Mixture:
    """Numbers drawn from several Gaussians: their best denoiser is known, so the flow from noise to them is, too."""

    means: tuple[float, ...]
    deviations: tuple[float, ...]
    weights: tuple[float, ...]

    def clean(self, alpha: torch.Tensor | float, sigma: torch.Tensor | float, x: torch.Tensor) -> torch.Tensor:
        """E[x0 | alpha x0 + sigma eps = x], in float64."""
        means, deviations, weights = (
            torch.tensor(values, dtype=torch.float64) for values in (self.means, self.deviations, self.weights)
        )
        x, alpha, sigma = (torch.as_tensor(value).double()[..., None] for value in (x, alpha, sigma))
        variance = (alpha * deviations).square() + sigma.square()
        away = x - alpha * means
        share = (weights.log() - variance.log() / 2 - away.square() / variance / 2).softmax(dim=-1)
        return (share * (means + alpha * deviations.square() / variance * away)).sum(dim=-1)

    def network(self, path: PathName):
        """A network that predicts the data, without an error."""

        def predict(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            c = coefficients(path, t)
            return self.clean(column(c.alpha), column(c.sigma), x_t).float()

        return predict

    def flow(self, path: PathName, x: torch.Tensor, end: float) -> torch.Tensor:
        """Where the exact flow takes x from t = 1 to a time, by Runge and Kutta.

        x / sigma moves by E[x0] for each unit of alpha / sigma, which is at most 1 up to the middle of the path, and
        from there x / alpha moves by E[eps] for each unit of sigma / alpha.
        """
        first, last = (coefficients(path, torch.tensor([t], dtype=torch.float64)) for t in (1.0, end))
        begin, goal = (float(c.alpha.double() / c.sigma.double()) for c in (first, last))
        z = x.double() / float(first.sigma)
        z = runge_kutta(lambda ratio, z: self.clean(ratio, 1.0, z), z, begin, min(goal, 1.0))
        if goal <= 1:
            return z * float(last.sigma)

        def noise_in(ratio: float, y: torch.Tensor) -> torch.Tensor:
            return (y - self.clean(1.0, ratio, y)) / ratio if ratio else torch.zeros_like(y)

        return runge_kutta(noise_in, z, 1.0, 1 / goal) * float(last.alpha)


def runge_kutta(speed, x: torch.Tensor, begin: float, end: float, steps: int = 200) -> torch.Tensor:
    """Of fourth order."""
    width = (end - begin) / steps
    for number in range(steps):
        now, after = begin + number * width, end if number == steps - 1 else begin + (number + 1) * width
        first = speed(now, x)
        second = speed(now + width / 2, x + width / 2 * first)
        third = speed(now + width / 2, x + width / 2 * second)
        x = x + width / 6 * (first + 2 * second + 2 * third + speed(after, x + width * third))
    return x


SEVERAL = Mixture((-1.0, 0.2, 1.2), (0.3, 0.2, 0.4), (0.3, 0.3, 0.4))


@functools.cache
def reached(path: PathName, end: float) -> torch.Tensor:
    """Where the flow to them takes the noise."""
    return SEVERAL.flow(path, noise(16), end)


@pytest.mark.parametrize("path", PATHS)
def test_the_flow_to_one_gaussian_is_the_known_one(path: PathName) -> None:
    """It keeps how many deviations a number is away from the mean."""
    c = coefficients(path, torch.ones(1))
    alpha, sigma = float(c.alpha), float(c.sigma)
    x = noise().double()
    expected = 0.6 + 0.3 * (x - alpha * 0.6) / math.hypot(0.3 * alpha, sigma)
    assert torch.allclose(Mixture((0.6,), (0.3,), (1.0,)).flow(path, x, 0.0), expected, atol=1e-8)


def error(path: PathName, sampler: Sampler, steps: int, end: float = 0.0) -> float:
    """The root of the mean squared distance from the exact flow, at a time that the sampler stops at."""
    config = DiffusionConfig(path=path, prediction="data", sampler=sampler, sampling_steps=steps)
    stops: list[torch.Tensor] = []
    stops.append(sample(SEVERAL.network(path), noise(16), config, watch=lambda x_t, _: stops.append(x_t)))
    at_end = stops[round((1 - end) * steps)].double()
    return float((at_end - reached(path, end)).square().mean().sqrt())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("steps", [10, 20])
def test_dpm_ends_nearer_to_the_exact_flow_than_ddim_with_twice_as_many_steps(path: PathName, steps: int) -> None:
    """Where the data are as wide as such steps can follow: with deviations of 0.1 the two are alike at 10 steps."""
    assert error(path, "dpm++", steps) < error(path, "ddim", 2 * steps) < error(path, "ddim", steps)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("steps", [2, 3, 5, 10])
def test_ab2_ends_nearer_to_the_exact_flow_than_ddim_with_twice_as_many_steps(path: PathName, steps: int) -> None:
    """From two steps on, where dpm++ is still ddim."""
    assert error(path, "ab2", steps) < error(path, "ddim", 2 * steps)


@pytest.mark.parametrize("path", PATHS)
def test_second_order_samplers_are_of_second_order_and_ddim_of_first(path: PathName) -> None:
    """Up to t = 0.4. Where alpha(1) = 0 dpm's first steps make it N^-2 log(N), which here is an order of 1.8.

    At the end of the path all take x0 as predicted from a time of 1 / N, of which the error is sigma^2.
    """
    orders = {}
    for sampler in ("ddim", "dpm++", "ab2"):
        coarse, fine = (error(path, sampler, steps, end=0.4) for steps in (40, 160))
        orders[sampler] = math.log(coarse / fine, 4)
    assert orders["ddim"] == pytest.approx(1, abs=0.05)
    assert orders["dpm++"] == pytest.approx(2 if path == "linear" else 1.85, abs=0.1)
    assert orders["ab2"] == pytest.approx(2, abs=0.07)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("count", STEPS)
def test_every_step_of_ab2_is_that_of_the_textbook(path: PathName, kind: PredictionName, count: int) -> None:
    """In float64: y = x / sigma moves by x0 for each unit of alpha / sigma, and x0 goes on by the clock as it went."""
    config = DiffusionConfig(path=path, prediction=kind, sampler="ab2", sampling_steps=count, clip=CLIP)
    stops: list[tuple[torch.Tensor, torch.Tensor]] = []
    end = sample(network, noise(), config, watch=lambda x_t, x0: stops.append((x_t.double(), x0.double())))
    c = coefficients(path, torch.linspace(1, 0, count + 1))
    alpha, sigma = c.alpha.double(), c.sigma.double()
    clock = sigma if path == "straight" else torch.acos(alpha)
    after = [*(x_t for x_t, _ in stops[1:]), end.double()]
    for step, ((x_t, x0), x_s) in enumerate(zip(stops, after, strict=True)):
        before = stops[step - 1][1] if step else x0
        speechless = kind == "noise" and step == 1  # of pure noise a noise prediction says nothing of the data
        h, k = clock[step + 1] - clock[step], clock[step] - clock[max(step - 1, 0)]
        through = x0 if step == 0 or speechless else (x0 + h / (2 * k) * (x0 - before)).clamp(-CLIP, CLIP)
        expected = sigma[step + 1] / sigma[step] * (x_t - alpha[step] * through) + alpha[step + 1] * through
        torch.testing.assert_close(x_s, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("path", ["cosine", "straight"])
def test_a_line_from_where_alpha_is_zero_is_level(path: PathName) -> None:
    """So the second step is one of ddim's, to the last bit; and so are the first and the last."""
    for steps in (1, 2, 3, 4):
        ends = [
            sample(network, noise(), DiffusionConfig(path=path, sampler=sampler, sampling_steps=steps))
            for sampler in ("ddim", "dpm++")
        ]
        assert ends[1].isfinite().all()
        assert torch.equal(*ends) == (steps < 4)
