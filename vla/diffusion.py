"""Gaussian paths from data to noise: x_t = alpha * x0 + sigma * eps, with t in [0, 1], data at 0, noise at 1.

Every path is run by a clock that makes alpha * d_sigma - sigma * d_alpha = 1, where d is the derivative by that clock:
time itself on the straight path, the angle from data to noise on the variance-preserving ones. Then the velocity
v = d_alpha * x0 + d_sigma * eps is the flow-matching target on the straight path and the v-prediction target of
Salimans & Ho (2022) on the others, and both are undone without a division. All of it is elementwise and in float32,
which autocast leaves alone.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from vla.settings import DiffusionConfig, PathName, PredictionName, check_steps

Chunk = Float32[Tensor, "B H A"]
Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x_t "B H A", t " B") -> the network's output "B H A"."""
Watch = Callable[[Tensor, Tensor], None]
"""Told x_t "B H A" and the predicted x0 "B H A" of each sampling step in turn."""

NEARLY = 0.1
"""Noise of what training shows of a clean chunk, unitless: a few trials that are seen exactly are learned by heart."""
SMALLEST_DIVISOR = 1e-2
"""Below this alpha (or sigma) a noise (or data) prediction says nothing of the other part, which then fades to zero."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """Parts of clean chunks that are given, and not to be sampled."""

    values: Float[Tensor, "B H A"]
    where: Bool[Tensor, "H *A"]
    """Steps that are, or which numbers of which steps; what the others hold counts nothing."""
    clean: bool = False
    """Whether the network is shown them as they are at all times, which it must have learned from; else noised."""

    def put(self, chunk: Chunk) -> Chunk:
        """A chunk with what is known in its place."""
        return torch.where(self.where if self.where.ndim == 2 else self.where[:, None], self.values, chunk)


@dataclass(frozen=True, kw_only=True)
class Draft:
    """Clean chunks to begin with, in place of noise alone (SDEdit; Meng et al. 2022)."""

    values: Float[Tensor, "B H A"]
    strength: float
    """The time to which they are noised, and from which on the path is walked, in (0, 1]; 1 leaves nothing of them."""

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise ValueError(f"a draft is to be noised to {self.strength:g}; give a time above 0, at most 1")

    def begin(self, path: PathName, noise: Chunk) -> Chunk:
        """Where the path is entered; at 1 with the noise itself, also of a path that ends beside it."""
        if self.strength == 1:
            return noise
        t = torch.full((len(noise),), self.strength, dtype=torch.float32, device=noise.device)
        return mix(coefficients(path, t), self.values.float(), noise)


def calls_of(strength: float, steps: int) -> int:
    """Network calls from a time down to 0, of steps that are no wider than so many from 1 on; at least 1."""
    return max(1, math.ceil(round(strength * steps, 9)))


@dataclass(frozen=True)
class Coefficients:
    """A path at some times: the weights of data and noise, their derivatives by the clock, and the clock."""

    alpha: Float32[Tensor, " B"]
    sigma: Float32[Tensor, " B"]
    d_alpha: Float32[Tensor, " B"]
    d_sigma: Float32[Tensor, " B"]
    clock: Float32[Tensor, " B"]


Predicted = tuple[Coefficients, Chunk]
"""The path at a time, and the clean chunk that was predicted there."""


def straight(t: Float32[Tensor, " B"]) -> Coefficients:
    """Flow matching: a straight line at constant speed."""
    one = torch.ones_like(t)
    return Coefficients(1 - t, t, -one, one, t)


def circle(alpha: Float32[Tensor, " B"], sigma: Float32[Tensor, " B"]) -> Coefficients:
    """A variance-preserving point, alpha^2 + sigma^2 = 1; its clock is the angle."""
    return Coefficients(alpha, sigma, -sigma, alpha, torch.atan2(sigma, alpha))


def cosine(t: Float32[Tensor, " B"], offset: float = 0.008) -> Coefficients:
    """Nichol & Dhariwal (2021): alpha = cos(u) / cos(u0), with u = (t + offset) / (1 + offset) * pi / 2.

    Written with sines of small angles, so that both ends are exact in float32: alpha(1) = 0 and sigma(0) = 0.
    """
    scale = math.pi / 2 / (1 + offset)
    start = offset * scale
    alpha = torch.sin((1 - t) * scale) / math.cos(start)
    # cos^2(u0) - cos^2(u) = sin(u - u0) * sin(u + u0)
    sigma = (torch.sin(t * scale) * torch.sin((t + 2 * offset) * scale)).clamp(min=0).sqrt() / math.cos(start)
    return circle(alpha, sigma)


def linear(t: Float32[Tensor, " B"], first: float = 0.1, last: float = 20.0) -> Coefficients:
    """Ho et al. (2020) without steps: the limit of beta from 1e-4 to 0.02 in 1000 steps; alpha(1) is 0.0066.

    d log(alpha^2) / dt = -(first + (last - first) * t), as in Song et al. (2021), equation 33.
    """
    log_variance = -(first * t + 0.5 * (last - first) * t.square())
    return circle((0.5 * log_variance).exp(), (-torch.expm1(log_variance)).sqrt())


PATHS: dict[PathName, Callable[[Float32[Tensor, " B"]], Coefficients]] = {
    "cosine": cosine,
    "linear": linear,
    "straight": straight,
}


def coefficients(path: PathName, t: Float[Tensor, " B"]) -> Coefficients:
    """The path at these times."""
    return PATHS[path](t.float())


def column(c: Float32[Tensor, " B"]) -> Float32[Tensor, "B 1 1"]:
    """One number a sample, to be multiplied with chunks."""
    return c[:, None, None]


def multiply(
    t: Float[Tensor, " B"], eps: Float[Tensor, "B H A"], draws: int
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N H A"]]:
    """Several times and noises a sample out of its one; row b * draws + k is the k-th of sample b.

    The times are t + k / draws, modulo 1: together they cover the path evenly. The noises are the same numbers moved on
    through the chunk, every other one negated. Each is standard normal and each time uniform, so the mean of the losses
    keeps its expectation; that the draws depend on one another only changes its variance.
    """
    if draws == 1:
        return t, eps
    k = torch.arange(draws, device=t.device)
    flat = eps.flatten(1)
    moved = [flat.roll(number // 2, dims=1) * (1 - 2 * (number % 2)) for number in range(draws)]
    times = (t[:, None] + k / draws).remainder(1.0)
    return times.flatten(), torch.stack(moved, dim=1).reshape(-1, *eps.shape[1:])


def mix(c: Coefficients, x0: Chunk, eps: Chunk) -> Chunk:
    """The noised chunk x_t."""
    return column(c.alpha) * x0 + column(c.sigma) * eps


def target(kind: PredictionName, c: Coefficients, x0: Chunk, eps: Chunk) -> Chunk:
    """What the network should have said."""
    match kind:
        case "noise":
            return eps
        case "data":
            return x0
        case "velocity":
            return column(c.d_alpha) * x0 + column(c.d_sigma) * eps


def min_snr(kind: PredictionName, c: Coefficients, gamma: float) -> Float32[Tensor, " B"]:
    """Weights of the squared error of the output that make the error of x0 count min(alpha^2 / sigma^2, gamma).

    Hang et al. (2023), section 3.4, on any path: alpha * d_sigma - sigma * d_alpha = 1 makes the error of x0 sigma /
    alpha times that of a noise prediction and sigma times that of a velocity. Finite at both ends of the path.
    """
    signal, noise = c.alpha.square(), c.sigma.square()
    match kind:
        case "noise":
            return (gamma * noise / signal).clamp(max=1.0)
        case "data":
            return (signal / noise).clamp(max=gamma)
        case "velocity":
            return torch.minimum(signal, gamma * noise)


def inverse(divisor: Float32[Tensor, "B 1 1"]) -> Float32[Tensor, "B 1 1"]:
    """1 / divisor, but falling to zero instead of rising to infinity where the divisor vanishes."""
    return divisor / divisor.clamp(min=SMALLEST_DIVISOR).square()


def split(kind: PredictionName, c: Coefficients, x_t: Chunk, out: Float[Tensor, "B H A"]) -> tuple[Chunk, Chunk]:
    """What a prediction says of (x0, eps)."""
    alpha, sigma, out = column(c.alpha), column(c.sigma), out.float()
    match kind:
        case "noise":
            return (x_t - sigma * out) * inverse(alpha), out
        case "data":
            return out, (x_t - alpha * out) * inverse(sigma)
        case "velocity":
            return column(c.d_sigma) * x_t - sigma * out, alpha * out - column(c.d_alpha) * x_t


def guide(out: Float[Tensor, "M H A"], guidance: float) -> Float[Tensor, "N H A"]:
    """What the outputs for M / 2 chunks with the instruction, then for the same without it, say together.

    Ho & Salimans (2022), equation 6, with guidance = 1 + w. It holds for outputs of any kind: at a given x_t the noise,
    the clean chunk and the velocity are affine functions of one another, and the weights of the two outputs add up to
    1, so that it does not matter which of them is combined.
    """
    given, without = out.chunk(2)
    return without + guidance * (given - without)


def explain(c: Coefficients, x_t: Chunk, x0: Chunk) -> Chunk:
    """The noise that makes x_t of a clean chunk; t is not 0."""
    return (x_t - column(c.alpha) * x0) / column(c.sigma)


def jump(c_t: Coefficients, c_s: Coefficients, x0: Chunk, eps: Chunk, *, eta: float, z: Chunk) -> Chunk:
    """From time t down to s on the path through (x0, eps). eta 0: DDIM; eta 1: the DDPM posterior, z its noise."""
    kept = c_t.alpha / c_s.alpha * c_s.sigma / c_t.sigma
    fresh = eta * c_s.sigma * (1 - kept.square()).clamp(min=0).sqrt()
    carried = (c_s.sigma.square() - fresh.square()).clamp(min=0).sqrt()
    return column(c_s.alpha) * x0 + column(carried) * eps + column(fresh) * z


def euler(c_t: Coefficients, c_s: Coefficients, x_t: Chunk, x0: Chunk, eps: Chunk) -> Chunk:
    """From time t down to s along the tangent; the same as DDIM on the straight path."""
    return x_t + column(c_s.clock - c_t.clock) * target("velocity", c_t, x0, eps)


def middle(c_r: Coefficients, x0_r: Chunk, c_t: Coefficients, x0_t: Chunk, c_s: Coefficients) -> Chunk:
    """The clean chunk halfway from time t down to s, on the line through those predicted at r, one step earlier, and t.

    Halfway by lambda = log(alpha / sigma): D of DPM-Solver++ 2M (Lu et al. 2022, algorithm 2). With h = lambda_s -
    lambda_t its step, sigma_s / sigma_t * x_t - alpha_s * (exp(-h) - 1) * D, is the `jump` through D, which needs no
    logarithm and so has its limits at both ends. s is not 0: there lambda is infinite, and so is every line but a
    level one.
    """
    lambda_r, lambda_t, lambda_s = (c.alpha.log() - c.sigma.log() for c in (c_r, c_t, c_s))
    # Where alpha(r) is 0 the step before was infinitely long: dividing by infinity gives 0, to which the slope tends.
    reach = (lambda_s - lambda_t) / (2 * (lambda_t - lambda_r))
    return x0_t + column(reach) * (x0_t - x0_r)


def halfway(c_r: Coefficients, x0_r: Chunk, c_t: Coefficients, x0_t: Chunk, c_s: Coefficients) -> Chunk:
    """The clean chunk halfway from time t down to s by the clock, on the line through those predicted at r and at t.

    For equal steps 3/2 x0_t - 1/2 x0_r, the two-step formula of Adams and Bashforth (Hairer, Norsett & Wanner 1993,
    equation III.1.7). x / sigma moves by -x0 / sigma^2 for each unit of the clock, on every path, so that a level x0
    makes the step a `jump` through it; of one that is not, what stands halfway is its mean over the step but for the
    square of the width. The clock is finite at both ends, so that only the first step has no line.
    """
    reach = (c_s.clock - c_t.clock) / (2 * (c_t.clock - c_r.clock))
    return x0_t + column(reach) * (x0_t - x0_r)


def ahead(
    config: DiffusionConfig, earlier: Predicted | None, now: Predicted, c_s: Coefficients, *, last: bool
) -> Chunk:
    """What a step of second order goes through: on the line from what was predicted earlier, within the clip.

    What is known may lie beyond the clip, and stays. A noise prediction says nothing of the clean chunk where alpha all
    but vanishes, so that ab2 draws no line from there.
    """
    c_t, x0 = now
    if earlier is None:
        return x0
    if config.sampler == "dpm++":
        return x0 if last else middle(*earlier, c_t, x0, c_s)
    c_r, x0_r = earlier
    if config.prediction == "noise":
        x0_r = x0_r.where(column(c_r.alpha) >= SMALLEST_DIVISOR, x0)
    limit = x0.abs().clamp(min=config.clip)
    return halfway(c_r, x0_r, c_t, x0, c_s).clamp(-limit, limit)


def sample(
    denoise: Denoise,
    noise: Chunk,
    config: DiffusionConfig,
    steps: int | None = None,
    generator: torch.Generator | None = None,
    *,
    watch: Watch | None = None,
    known: Known | None = None,
    draft: Draft | None = None,
) -> Chunk:
    """Walk from noise at t = 1, or from a noised draft at its t, to a clean chunk at t = 0.

    Each predicted x0 is clipped and eps is made to agree with it, so that both always explain the present x_t.
    What is `known` of the clean chunk takes the place of what is predicted, in every step (inpainting by replacement).
    `watch` is shown where every step starts and what it takes for the clean chunk, and changes nothing.
    A draft takes its share of the steps (`calls_of`): they are as wide as those of a whole walk, or narrower.
    `generator` gives ddpm its fresh noise, drawn on the generator's device; the global one is never used.

    Raises:
        ValueError: fewer than 1 step, or ddpm without a generator.
    """
    steps = config.sampling_steps if steps is None else steps
    check_steps(steps)
    if config.sampler == "ddpm" and generator is None:
        raise ValueError("the ddpm sampler draws fresh noise: give it a generator, or sample with ddim, dpm++ or ab2")
    x_t, start = noise.float(), 1.0
    if draft is not None:
        steps, start, x_t = calls_of(draft.strength, steps), draft.strength, draft.begin(config.path, x_t)
    grid = torch.linspace(start, 0, steps + 1, dtype=torch.float32, device=noise.device)
    earlier: Predicted | None = None
    stops = [(t := now.expand(len(noise)), coefficients(config.path, t)) for now in grid]
    for step, ((t, c_t), (_, c_s)) in enumerate(itertools.pairwise(stops), start=1):
        shown = known.put(x_t) if known is not None and known.clean else x_t
        x0, _ = split(config.prediction, c_t, x_t, denoise(shown, t))
        x0 = x0.clamp(-config.clip, config.clip)
        if known is not None:
            x0 = known.put(x0)
        eps = explain(c_t, x_t, x0)
        if watch is not None:
            watch(x_t, x0)
        match config.sampler:
            case "ddim":
                x_t = jump(c_t, c_s, x0, eps, eta=0.0, z=eps)
            case "ddpm":
                assert generator is not None
                z = torch.randn(noise.shape, generator=generator, device=generator.device).to(noise.device)
                x_t = jump(c_t, c_s, x0, eps, eta=1.0, z=z)
            case "euler":
                x_t = euler(c_t, c_s, x_t, x0, eps)
            case "dpm++" | "ab2":
                through = ahead(config, earlier, (c_t, x0), c_s, last=step == steps)
                x_t = jump(c_t, c_s, through, explain(c_t, x_t, through), eta=0.0, z=eps)
        earlier = c_t, x0
    # euler lands beside the clean chunk of its last step.
    return x_t if known is None else known.put(x_t)
