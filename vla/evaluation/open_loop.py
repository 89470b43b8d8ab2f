"""Open-loop evaluation: what a policy would have done at each frame of a recording, against what was done."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from vla.batch import Sample, collate
from vla.contract import DataContract
from vla.evaluation.latency import Latency, Seconds, Stopwatch
from vla.evaluation.loading import batches, chunked
from vla.evaluation.phases import PhaseError, Phases
from vla.evaluation.standing import Standing
from vla.policy import Policy
from vla.randomness import derive, torch_seed
from vla.units import size_of, units_of

Progress = Callable[[int], object]
"""Told the number of samples done since the last call."""


@runtime_checkable
class Samples(Protocol):
    """Frames of whole episodes, in order."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample:
        """The sample at an index, with a time and noise of its own."""
        ...

    def locate(self, index: int, /) -> tuple[str, int]:
        """Name of the episode and index of the frame."""
        ...

    def instruction(self, index: int, /) -> str:
        """The instruction of a sample, without reading the rest of it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Error:
    """How far predicted actions are from the recorded ones, in SI where the name of the dimension tells its unit."""

    name: str
    unit: str
    """Of the errors, in SI; empty: the data's, which nothing tells."""
    factor: float
    """What 1 in the data is in that unit."""
    mae: float
    """Mean absolute error over all valid steps."""
    rmse: float
    """Root of the mean squared error over all valid steps."""
    first_mae: float
    """Mean absolute error of the first action of the chunk."""
    constant_mae: float
    """Mean absolute error of always answering the mean of the recorded actions: what a useful policy must beat."""
    correlation: float | None
    """Of the predicted and the recorded first action over the samples; None where either is constant."""
    mae_by_step: list[float]
    """One number a step of the horizon."""


def titled(error: Error) -> str:
    """The name of the dimension, and the unit of its errors."""
    return f"{error.name} [{error.unit}]" if error.unit else error.name


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of an open-loop evaluation."""

    samples: int
    episodes: int
    loss: float
    """Mean over the samples of the training loss, each at its fixed diffusion time and noise."""
    mae: float
    """Mean over the dimensions, in the data's units, as the other numbers of all dimensions."""
    rmse: float
    """Root of the mean over the dimensions of the squared error."""
    first_mae: float
    constant_mae: float
    mae_by_step: list[float]
    dimensions: list[Error]
    phases: list[PhaseError]
    """Empty where no column tells phases apart."""
    denoising: list[float] | None = None
    """Share of the way to the answer that is left after each sampling step, the mean over some samples."""
    standings: list[Standing] = field(default_factory=list)
    verdict: str = ""
    """Of the standings, in one sentence."""
    latency: Latency | None = field(default=None, compare=False)
    """Of the policy, its look included, a batch at once."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for json.dump."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The report as a person reads it, in 80 columns."""
        head = f"{'action':<24}{'MAE':>11}{'first':>11}{'RMSE':>11}{'constant':>11}{'correlation':>12}"
        rows = [
            f"{titled(entry)[:23]:<24}{entry.mae:>11.4g}{entry.first_mae:>11.4g}{entry.rmse:>11.4g}"
            f"{entry.constant_mae:>11.4g}{'-' if entry.correlation is None else f'{entry.correlation:.3f}':>12}"
            for entry in self.dimensions
        ]
        totals = (self.mae, self.first_mae, self.rmse, self.constant_mae)
        total = f"{'all, in data units':<24}" + "".join(f"{value:>11.4g}" for value in totals)
        steps = " ".join(f"{value:.3g}" for value in self.mae_by_step)
        phases = [
            f"{entry.phase[:23]:<24}{entry.mae:>11.4g}{entry.first_mae:>11.4g}{'':>11}{entry.constant_mae:>11.4g}"
            f"{f'n = {entry.samples:,}':>12}"
            for entry in self.phases
        ]
        return [
            f"{self.samples:,} samples of {self.episodes} episodes, loss {self.loss:.4f}",
            "",
            head,
            *rows,
            total,
            *phases,
            "",
            f"MAE by step of the horizon, in data units: {steps}",
            *textwrap.wrap(self.verdict, 80),
            "Without a unit, errors are in that of the data; `constant`: of the mean action.",
            *(() if self.latency is None else textwrap.wrap(self.latency.line(), 80)),
        ]


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Predicted and recorded chunks, one row a sample."""

    contract: DataContract
    episodes: list[str]
    frames: list[int]
    predicted: Float[np.ndarray, "N H A"]
    recorded: Float[np.ndarray, "N H A"]
    valid: Bool[np.ndarray, "N H"]
    losses: Float[np.ndarray, " N"]
    last: Float[np.ndarray, "N A"] | None = None
    """The action recorded one frame before each, NaN where there is none; None where nobody asked."""
    calls: Sequence[Seconds] = ()
    """What the calls of the policy took."""

    def differences(self, values: Float[np.ndarray, "N H A"] | Float[np.ndarray, " A"]) -> Float[np.ndarray, "N H A"]:
        """`values` less the recorded actions; around the circle where an action is an angle."""
        period = np.asarray(self.contract.action_periods or (0.0,) * self.contract.action_dim)
        difference = values - self.recorded
        turns = np.round(difference / np.where(period > 0, period, 1.0))
        wrapped: np.ndarray = difference - np.where(period > 0, turns * period, 0.0)
        return wrapped

    def mean(self) -> Float[np.ndarray, " A"]:
        """The mean recorded action; of angles, the circular one."""
        period = np.asarray(self.contract.action_periods or (0.0,) * self.contract.action_dim)
        recorded = self.recorded[self.valid].astype(np.float64)
        radians = recorded / np.where(period > 0, period, 1.0) * 2 * np.pi
        circular = np.arctan2(np.sin(radians).mean(axis=0), np.cos(radians).mean(axis=0)) / (2 * np.pi) * period
        mean: np.ndarray = np.where(period > 0, circular, recorded.mean(axis=0))
        return mean

    def constant_differences(self) -> Float[np.ndarray, "N H A"]:
        """The mean recorded action less the recorded ones; exactly 0 in a dimension that never varies.

        The circular mean of one and the same angle is off by rounding, which would pass for variation. Recorded angles
        are float32: what differs by less than its resolution at a whole period is the same angle.
        """
        period = np.asarray(self.contract.action_periods or (0.0,) * self.contract.action_dim)
        difference = self.differences(self.mean())
        largest = np.abs(difference[self.valid]).max(axis=0, initial=0.0)
        varying: np.ndarray = np.where(largest < np.finfo(np.float32).eps * period, 0.0, difference)
        return varying


def check_contract(policy: DataContract, data: DataContract) -> None:
    """Refuse data of another shape than the policy's.

    Raises:
        ValueError: naming the differences.
    """
    # Whether the policy reads instructions is its own affair: the data may have them.
    if differences := policy.differences(replace(data, instructed=policy.instructed)):
        raise ValueError(
            f"the policy expects {'; '.join(differences)}; "
            "evaluate on data recorded like that which the policy was trained on"
        )


def spread(count: int, limit: int) -> list[int]:
    """At most `limit` of `count` indices, evenly spread; all of them when the limit is 0."""
    if limit == 0 or limit >= count:
        return list(range(count))
    return [index * count // limit for index in range(limit)]


def predict(
    policy: Policy,
    samples: Samples,
    indices: Sequence[int],
    *,
    seed: int = 0,
    batch_size: int = 8,
    workers: int = 0,
    device: torch.device | None = None,
    steps: int | None = None,
    progress: Progress | None = None,
) -> Predictions:
    """The policy's chunks for some samples. Noise follows from the seed and the sample's index alone."""
    device = torch.device("cpu") if device is None else device
    predicted, recorded, valid, losses = [], [], [], []
    policy.to(device).set_mode(training=False)
    watch = Stopwatch(policy)
    stack = partial(collate, seed=seed, stream="validation")
    read = batches(samples.__getitem__, indices, stack, batch_size=batch_size, workers=workers)
    for batch, rows in zip(read, chunked(indices, batch_size), strict=True):
        noise, generator = randomness(seed, rows, policy.contract)
        there = batch.to(device)
        with torch.no_grad(), watch.call(len(rows)):
            looked = policy.look(there.observation)
            with watch.aside():
                losses.append(sum(policy(there, looked).values()).cpu().numpy())
            actions = policy.act(there.observation, noise.to(device), steps, generator, looked=looked)
        predicted.append(actions.cpu().numpy())
        recorded.append(batch.actions.numpy())
        valid.append(batch.action_valid.numpy())
        if progress is not None:
            progress(len(rows))
    places = [samples.locate(index) for index in indices]
    return Predictions(
        contract=policy.contract,
        episodes=[name for name, _ in places],
        frames=[frame for _, frame in places],
        predicted=np.concatenate(predicted),
        recorded=np.concatenate(recorded),
        valid=np.concatenate(valid),
        losses=np.concatenate(losses),
        calls=watch.calls,
    )


def randomness(
    seed: int, rows: Sequence[int], contract: DataContract
) -> tuple[Float32[Tensor, "B H A"], torch.Generator]:
    """The noise that chunks of these samples start from, and what a sampler draws more; the same at every call."""
    shape = (contract.horizon, contract.action_dim)
    noise = np.stack([derive(seed, "evaluation", row).standard_normal(shape, dtype=np.float32) for row in rows])
    return torch.from_numpy(noise), torch.Generator().manual_seed(torch_seed(seed, "evaluation", rows[0]))


def measure(predictions: Predictions, phases: Phases | None = None) -> Report:
    """The numbers of some predictions, by phase too where phases are given; padded steps count nowhere."""
    valid = predictions.valid
    error = np.where(valid[..., None], predictions.differences(predictions.predicted), 0.0).astype(np.float64)
    constant = np.where(valid[..., None], predictions.constant_differences(), 0.0)
    steps = np.maximum(valid.sum(axis=0), 1)[:, None]
    mae_by_step = np.abs(error).sum(axis=0) / steps
    mae, squares = np.abs(error).sum(axis=(0, 1)) / valid.sum(), np.square(error).sum(axis=(0, 1)) / valid.sum()
    constant_mae = np.abs(constant).sum(axis=(0, 1)) / valid.sum()
    # The names of a policy that knows no units may tell them.
    names = dimension_names(predictions.contract)
    units = units_of(names, predictions.contract.action_units) or ("",) * len(names)
    dimensions = [
        Error(
            name=name,
            unit=unit.symbol,
            factor=unit.factor,
            mae=float(mae[axis] * unit.factor),
            rmse=float(np.sqrt(squares[axis]) * unit.factor),
            first_mae=float(mae_by_step[0, axis] * unit.factor),
            constant_mae=float(constant_mae[axis] * unit.factor),
            correlation=correlation(predictions.predicted[:, 0, axis], predictions.recorded[:, 0, axis]),
            mae_by_step=(mae_by_step[:, axis] * unit.factor).tolist(),
        )
        for axis, name in enumerate(names)
        for unit in (size_of(units[axis]),)
    ]
    return Report(
        samples=len(valid),
        episodes=len(set(predictions.episodes)),
        loss=float(predictions.losses.mean(dtype=np.float64)),
        mae=float(mae.mean()),
        rmse=float(np.sqrt(squares.mean())),
        first_mae=float(mae_by_step[0].mean()),
        constant_mae=float(constant_mae.mean()),
        mae_by_step=mae_by_step.mean(axis=1).tolist(),
        dimensions=dimensions,
        phases=[] if phases is None else phase_errors(np.abs(error), np.abs(constant), predictions, phases),
        latency=Latency.of(predictions.calls),
    )


def phase_errors(
    error: Float[np.ndarray, "N H A"], constant: Float[np.ndarray, "N H A"], predictions: Predictions, phases: Phases
) -> list[PhaseError]:
    """The errors of each phase that occurs; a sample belongs to the phase of its own frame."""
    labels = np.asarray(phases.of(predictions.episodes, predictions.frames))
    found = []
    for name in phases.names:
        rows = labels == name
        valid = predictions.valid[rows]
        if not valid.any():
            continue
        found.append(
            PhaseError(
                phase=name,
                samples=int(rows.sum()),
                mae=float(error[rows].sum() / valid.sum() / error.shape[2]),
                first_mae=float(error[rows, 0].sum() / max(int(valid[:, 0].sum()), 1) / error.shape[2]),
                constant_mae=float(constant[rows].sum() / valid.sum() / error.shape[2]),
            )
        )
    return found


def correlation(one: Float[np.ndarray, " N"], other: Float[np.ndarray, " N"]) -> float | None:
    """Pearson's, or None where one of them does not vary."""
    if min(np.ptp(one), np.ptp(other)) == 0:
        return None
    return float(np.corrcoef(one.astype(np.float64), other.astype(np.float64))[0, 1])


def dimension_names(contract: DataContract) -> list[str]:
    """The names of the action dimensions, or their numbers."""
    return list(contract.action_names) or [f"action {axis}" for axis in range(contract.action_dim)]


def episode_indices(samples: Samples, limit: int = 600) -> list[int]:
    """The frames of the first episode, at most `limit` from its start."""
    name = samples.locate(0)[0]
    indices = []
    for index in range(min(limit, len(samples))):
        if samples.locate(index)[0] != name:
            break
        indices.append(index)
    return indices
