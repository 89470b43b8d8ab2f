"""What a policy is trained for: an objective makes losses, by part, of a policy and a batch.

Each asks the policy for its prediction and knows neither its parts nor the optimizer. What a part of the loss is summed
over is a sample's valid steps and the action dimensions; the loop weighs the samples.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, Float32
from torch import Tensor

from vla import diffusion
from vla.batch import Batch, Losses, Observation
from vla.diffusion import Chunk, Coefficients
from vla.parts.expert import ContextCache
from vla.settings import ObjectiveConfig, PredictionName


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The expert's output for noised chunks, and what it says of them; N rows, a whole number for each observation."""

    kind: PredictionName
    """What the output means."""
    coefficients: Coefficients
    """Of the path, at the times of the rows."""
    x_t: Chunk
    out: Chunk
    target: Chunk
    """What the output should have been."""
    valid: Bool[Tensor, "N H"]
    """Steps that are no padding."""

    @property
    def x0(self) -> Chunk:
        """The clean chunk that the output says, unitless."""
        return diffusion.split(self.kind, self.coefficients, self.x_t, self.out)[0]

    @property
    def eps(self) -> Chunk:
        """The noise that the output says."""
        return diffusion.split(self.kind, self.coefficients, self.x_t, self.out)[1]


@runtime_checkable
class Predictor(Protocol):
    """What an objective asks of a policy."""

    def normalize(self, stream: str, values: Float[Tensor, "*batch D"]) -> Float32[Tensor, "*batch D"]:
        """Data units to unitless."""

    def context(self, observation: Observation) -> ContextCache:
        """What is computed of B observations alone."""

    def predict(
        self, context: ContextCache, x0: Chunk, valid: Bool[Tensor, "N H"], time: Float[Tensor, " N"], noise: Chunk
    ) -> Prediction:
        """What the policy says of clean chunks once they are noised."""


Objective = Callable[[Predictor, Batch], Losses]


@dataclass(frozen=True, kw_only=True)
class Denoise:
    """The squared error of the expert's output: Ho et al. (2020), equation 14, for each kind of prediction."""

    draws: int = 1
    """Times and noises of each sample, in one look at its observation."""

    def __call__(self, policy: Predictor, batch: Batch) -> Losses:
        """The mean over valid steps, action dimensions and draws."""
        prediction = noised(policy, batch, self.draws)
        return {"diffusion": mean_error(prediction).view(-1, self.draws).mean(dim=1)}


@dataclass(frozen=True, kw_only=True)
class MinSnr:
    """The same, each time weighed so that the error of the clean chunk counts min(SNR, gamma): Hang et al. (2023)."""

    gamma: float = 5.0
    """Signal-to-noise ratio from which on times count alike, > 0."""
    draws: int = 1
    """As of `Denoise`."""

    def __call__(self, policy: Predictor, batch: Batch) -> Losses:
        """The weighted mean over valid steps, action dimensions and draws."""
        prediction = noised(policy, batch, self.draws)
        weight = diffusion.min_snr(prediction.kind, prediction.coefficients, self.gamma)
        return {"diffusion": (weight * mean_error(prediction)).view(-1, self.draws).mean(dim=1)}


def objective_of(config: ObjectiveConfig) -> Objective:
    """The objective that a configuration names."""
    match config.kind:
        case "denoise":
            return Denoise(draws=config.draws)
        case "min-snr":
            return MinSnr(gamma=config.gamma, draws=config.draws)


def noised(policy: Predictor, batch: Batch, draws: int) -> Prediction:
    """The policy's prediction for the chunks of a batch, each at several times and noises."""
    time, noise = diffusion.multiply(batch.draws.time, batch.draws.noise.float(), draws)
    x0 = policy.normalize("actions", batch.actions).repeat_interleave(draws, dim=0)
    valid = batch.action_valid.repeat_interleave(draws, dim=0)
    return policy.predict(policy.context(batch.observation), x0, valid, time, noise)


def mean_error(prediction: Prediction) -> Float[Tensor, " N"]:
    """The squared error of the output, averaged over the valid steps and the action dimensions."""
    error = (prediction.out - prediction.target).square()
    count = prediction.valid.sum(dim=1).clamp(min=1) * error.shape[-1]
    return error.masked_fill(~prediction.valid[..., None], 0).sum(dim=(1, 2)) / count
