"""What a policy is trained for: an objective makes losses, by part, of a policy and a batch.

Each asks the policy for its prediction and knows neither its parts nor the optimizer. What a part of the loss is summed
over is a sample's valid steps and the action dimensions; the loop weighs the samples.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from vla import diffusion
from vla.batch import Batch, Losses, Observation
from vla.contract import CLASSED, DataContract
from vla.diffusion import Chunk, Coefficients
from vla.motion.body import Body
from vla.motion.losses import TERMS, Pair, cross_entropy, squared_error
from vla.motion.representation import Motion, decode
from vla.parts.expert import ContextCache, Labels
from vla.settings import ObjectiveConfig, PredictionName
from vla.weighing import check_labelled, check_motion, switched_off

Looked = tuple[Observation, tuple[Float[Tensor, "_ _ _"], Bool[Tensor, "_ _"]]]
"""Observations in unitless numbers, and what a backbone says of them: `Tokens`, of as many rows."""


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
    labels: Labels
    """What it says of each step beside its motion."""
    known: Bool[Tensor, "N H A"] | None = None
    """Which numbers there is something to learn of; None: all of the valid steps."""

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

    def open_undo(self, stream: str, values: Float[Tensor, "*batch D"]) -> Float64[Tensor, "*batch D"]:
        """Unitless to data units, within no limits."""

    def shared(self, observation: Observation, looked: Looked | None = None) -> Looked | None:
        """What the backbone says of B observations, or has said, where adapters change nothing of it; else None."""

    def context(
        self, observation: Observation, coin: Float[Tensor, " B"] | None = None, looked: Looked | None = None
    ) -> ContextCache:
        """What is computed of B observations alone; `coin` says which go without the instruction, None: none does.

        `looked` is what the backbone said of them, where that is known.
        """

    def base(self) -> AbstractContextManager[None]:
        """Within it, what the policy says without its adapters; nothing learns."""

    def given(self, shown: Float[Tensor, " N"]) -> Bool[Tensor, "N 1 A"] | None:
        """Which numbers samples of these draws show as they are; None: none of any."""

    def predict(
        self,
        context: ContextCache,
        x0: Chunk,
        valid: Bool[Tensor, "N H"],
        time: Float[Tensor, " N"],
        noise: Chunk,
        *,
        given: Bool[Tensor, "N H A"] | None = None,
    ) -> Prediction:
        """What the policy says of clean chunks once they are noised, but for what is given."""


@runtime_checkable
class Objective(Protocol):
    """Makes losses of a policy and a batch."""

    def __call__(self, policy: Predictor, batch: Batch, looked: Looked | None = None, /) -> Losses:
        """Of a batch; `looked` is what the policy's backbone says of it, where that is known."""
        ...


@runtime_checkable
class Learning(Objective, Protocol):
    """An objective that makes its losses of one prediction."""

    @property
    def draws(self) -> int:
        """Times and noises of each sample."""
        ...

    def losses(self, policy: Predictor, prediction: Prediction, batch: Batch, /) -> Losses:
        """Of a prediction that has been made."""
        ...


@dataclass(frozen=True, kw_only=True)
class Denoise:
    """The squared error of the expert's output: Ho et al. (2020), equation 14, for each kind of prediction."""

    draws: int = 1
    """Times and noises of each sample, in one look at its observation."""

    def __call__(self, policy: Predictor, batch: Batch, looked: Looked | None = None) -> Losses:
        """The mean over valid steps, action dimensions and draws."""
        return self.losses(policy, noised(policy, batch, self.draws, looked), batch)

    def losses(self, _: Predictor, prediction: Prediction, __: Batch) -> Losses:
        """Of a prediction that has been made."""
        return {"diffusion": by_sample(self.error(prediction), self.draws)}

    def error(self, prediction: Prediction) -> Float[Tensor, " N"]:
        """Of each prediction."""
        return mean_error(prediction)


@dataclass(frozen=True, kw_only=True)
class MinSnr:
    """The same, each time weighed so that the error of the clean chunk counts min(SNR, gamma): Hang et al. (2023)."""

    gamma: float = 5.0
    """Signal-to-noise ratio from which on times count alike, > 0."""
    draws: int = 1
    """As of `Denoise`."""

    def __call__(self, policy: Predictor, batch: Batch, looked: Looked | None = None) -> Losses:
        """The weighted mean over valid steps, action dimensions and draws."""
        return self.losses(policy, noised(policy, batch, self.draws, looked), batch)

    def losses(self, _: Predictor, prediction: Prediction, __: Batch) -> Losses:
        """Of a prediction that has been made."""
        return {"diffusion": by_sample(self.error(prediction), self.draws)}

    def error(self, prediction: Prediction) -> Float[Tensor, " N"]:
        """Of each prediction, weighed."""
        return diffusion.min_snr(prediction.kind, prediction.coefficients, self.gamma) * mean_error(prediction)


@dataclass(frozen=True, kw_only=True)
class Kinematic:
    """An error of the expert's output, how far the motion is that its clean chunk says, and its labels.

    The terms of a motion (vla/motion/losses.py) count its time's signal, alpha^2: at pure noise a clean chunk is a
    guess, and the one that a noise prediction says is as wrong as its noise is, times sigma / alpha. Those of labels
    count alike at all times: a guess of a label is as good as what is known, and costs no more than it should.
    """

    base: Denoise | MinSnr
    weights: Mapping[str, float]
    """By the name of a term, above 0: a term without one is not computed."""
    body: Body
    rate_hz: float
    labels: Mapping[str, float] = field(default_factory=dict)
    """Weights of labels by name, above 0; of all that the policy has."""

    def __call__(self, policy: Predictor, batch: Batch, looked: Looked | None = None) -> Losses:
        """The weighted terms beside the error, each the mean over draws."""
        return self.losses(policy, noised(policy, batch, self.draws, looked), batch)

    @property
    def draws(self) -> int:
        """As of `Denoise`."""
        return self.base.draws

    def losses(self, policy: Predictor, prediction: Prediction, batch: Batch) -> Losses:
        """Of a prediction that has been made."""
        losses = {"diffusion": by_sample(self.base.error(prediction), self.base.draws)}
        if self.weights:
            losses |= self.of_motion(policy, prediction, batch)
        return losses | self.of_labels(policy, prediction, batch)

    def of_motion(self, policy: Predictor, prediction: Prediction, batch: Batch) -> Losses:
        """The weighted terms of the motion."""
        draws = self.base.draws
        true = self.motion(batch.actions.float(), batch, 1)
        pair = Pair(
            body=self.body,
            rate_hz=self.rate_hz,
            said=self.motion(policy.open_undo("actions", prediction.x0).float(), batch, draws),
            true=true.repeated(draws),
            valid=prediction.valid,
        )
        signal = prediction.coefficients.alpha.square()
        return {name: weight * by_sample(signal * TERMS[name](pair), draws) for name, weight in self.weights.items()}

    def of_labels(self, policy: Predictor, prediction: Prediction, batch: Batch) -> Losses:
        """The weighted terms of the labels: of classes the cross entropy, of quantities the squared error, unitless."""
        losses = Losses()
        for name, weight in self.labels.items():
            true = batch.labels[name] if name in CLASSED else policy.normalize(name, batch.labels[name])
            error = cross_entropy if name in CLASSED else squared_error
            true = true.repeat_interleave(self.base.draws, dim=0)
            found = error(prediction.labels[name], true, prediction.valid)
            losses[name] = weight * by_sample(found, self.base.draws)
        return losses

    def motion(self, rows: Float[Tensor, "N H A"], batch: Batch, draws: int) -> Motion:
        """The joints in space of chunks in the data's units; the state of each sample is its skeleton."""
        if self.body.kind != "rotations":
            return decode(self.body, rows, None, self.rate_hz)
        offsets = batch.observation.state.float().unflatten(-1, (-1, 3))
        offsets = torch.nn.functional.pad(offsets, (0, 0, 1, 0)).repeat_interleave(draws, dim=0)
        return decode(self.body, rows, offsets, self.rate_hz)


def objective_of(config: ObjectiveConfig, contract: DataContract) -> Learning:
    """The objective that a configuration names, for what a policy is trained on.

    Raises:
        ValueError: it weighs what these data do not have.
    """
    base = MinSnr(gamma=config.gamma, draws=config.draws) if config.kind == "min-snr" else Denoise(draws=config.draws)
    weights = {name: weight for name, weight in vars(config.motion).items() if weight > 0}
    check_labelled(weights, contract.labels)
    if not weights:
        return base
    if contract.body is None:
        first, off = f"--stage.objective.motion.{next(iter(weights))}", switched_off(weights)
        raise ValueError(f"{first} is of human motion, which these data are not: give {off}")
    labels = {name: weights.pop(name) for name in contract.labels}
    check_motion(weights, contract.body)
    return Kinematic(base=base, weights=weights, body=contract.body, rate_hz=contract.fps, labels=labels)


def by_sample(errors: Float[Tensor, " N"], draws: int) -> Float[Tensor, " B"]:
    """The mean over the draws of each sample."""
    return errors.view(-1, draws).mean(dim=1)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Chunks that a policy is to say something of, and how each is noised; N rows."""

    x0: Chunk
    """Unitless; numbers that are not known are 0, the middle of the data: what stands in their place is not seen."""
    valid: Bool[Tensor, "N H"]
    known: Bool[Tensor, "N H A"] | None
    given: Bool[Tensor, "N H A"] | None
    time: Float[Tensor, " N"]
    noise: Chunk

    @staticmethod
    def of(policy: Predictor, batch: Batch, draws: int) -> "Rows":
        """Those of a batch, each chunk at several times and noises, one behind the other."""
        time, noise = diffusion.multiply(batch.draws.time, batch.draws.noise.float(), draws)
        x0 = policy.normalize("actions", batch.actions).repeat_interleave(draws, dim=0)
        known = None if batch.action_known is None else batch.action_known.repeat_interleave(draws, dim=0)
        given = policy.given(batch.draws.shown.repeat_interleave(draws, dim=0))
        return Rows(
            x0=x0 if known is None else x0.masked_fill(~known, 0),
            valid=batch.action_valid.repeat_interleave(draws, dim=0),
            known=known,
            given=None if given is None else given.expand(x0.shape),
            time=time,
            noise=noise,
        )

    def only(self, where: Int64[Tensor, " M"]) -> "Rows":
        """Some of them."""
        known, given = (None if mask is None else mask[where] for mask in (self.known, self.given))
        return Rows(
            x0=self.x0[where],
            valid=self.valid[where],
            known=known,
            given=given,
            time=self.time[where],
            noise=self.noise[where],
        )

    def said(self, policy: Predictor, context: ContextCache) -> Prediction:
        """What a policy says of them."""
        said = policy.predict(context, self.x0, self.valid, self.time, self.noise, given=self.given)
        if self.known is None:
            return said
        return replace(said, known=self.known if said.known is None else self.known & said.known)


def noised(policy: Predictor, batch: Batch, draws: int, looked: Looked | None = None) -> Prediction:
    """The policy's prediction for the chunks of a batch, each at several times and noises; `looked` as of `context`."""
    context = policy.context(batch.observation, batch.draws.coin, looked)
    return Rows.of(policy, batch, draws).said(policy, context)


def mean_error(prediction: Prediction) -> Float[Tensor, " N"]:
    """The squared error of the output, averaged over the known numbers of the valid steps."""
    error = (prediction.out - prediction.target).square()
    if prediction.known is not None:
        counted = prediction.valid[..., None] & prediction.known
        return error.masked_fill(~counted, 0).sum(dim=(1, 2)) / counted.sum(dim=(1, 2)).clamp(min=1)
    count = prediction.valid.sum(dim=1).clamp(min=1) * error.shape[-1]
    return error.masked_fill(~prediction.valid[..., None], 0).sum(dim=(1, 2)) / count
