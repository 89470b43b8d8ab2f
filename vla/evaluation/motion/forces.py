"""How far sampled forces are from measured ones, how sure they are, and how far both are from Newton's law."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64

from vla.motion import kinetics
from vla.motion.body import Body

AXES = ("fore-aft", "vertical", "lateral")
"""x, y and z of a laboratory, as OpenSim's models stand in it."""
LEVEL = 0.9
"""Share of frames that an interval should hold."""
LEAST_SPREAD_N = 1.0
"""Spread of samples that agree: below this, what plates tell apart is less."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Sampled forces of a trial, and what was measured of it; the sums of all that carries the body."""

    name: str
    body: Body
    rate_hz: float
    motion: Float[np.ndarray, "T C"]
    """The rows of its coordinates."""
    samples: Float64[np.ndarray, "n T 3"]
    """N."""
    measured: Float[np.ndarray, "T 3"] | None
    """N; None where nothing was."""
    known: Bool[np.ndarray, " T"]
    """Frames whose measured force can be trusted."""
    weight_n: float | None

    @property
    def mean(self) -> Float64[np.ndarray, "T 3"]:
        """What is said of the forces: averaged, the samples' own noise does not count as an error."""
        middle: Float64[np.ndarray, "T 3"] = self.samples.mean(axis=0)
        return middle

    @property
    def spread(self) -> Float64[np.ndarray, "T 3"]:
        """The standard deviation of the samples, at least 1 N."""
        apart: Float64[np.ndarray, "T 3"] = np.maximum(self.samples.std(axis=0), LEAST_SPREAD_N)
        return apart


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Those of a trial on the frames whose force is known, one an axis."""

    rmse_n: tuple[float, ...]
    rmse_percent: tuple[float, ...]
    """Of the body weight."""
    peak_n: float
    """The highest vertical force that is said less the highest that was measured."""
    impulse_ns: tuple[float, ...]
    """What is said less what was measured, summed over time."""
    impulse_percent: float
    """The vertical one, of the impulse that was measured."""
    frames: int


@dataclass(frozen=True, kw_only=True)
class Residual:
    """What is left of Newton's law, the sum of forces less m (a + g) of the pelvis: root mean squares, one an axis."""

    samples_n: tuple[tuple[float, ...], ...]
    """Of each sample."""
    measured_n: tuple[float, ...] | None
    """Of the measured force: what the pelvis misses of the centre of mass, and the plates of the truth."""
    weight_n: float

    def percent(self, newtons: Sequence[float]) -> tuple[float, ...]:
        """Of the body weight."""
        return tuple(100 * value / self.weight_n for value in newtons)


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How many known frames an interval holds, and how wide it is, one an axis."""

    share: tuple[float, ...]
    width_n: tuple[float, ...]
    """Mean."""
    frames: int


def errors(trial: Trial) -> Errors | None:
    """How far what is said is from what was measured; None where nothing was, or the weight is not known."""
    if trial.measured is None or trial.weight_n is None or not trial.known.any():
        return None
    said, true = trial.mean[trial.known], np.asarray(trial.measured, np.float64)[trial.known]
    rmse = np.sqrt(((said - true) ** 2).mean(axis=0))
    impulse = (said - true).sum(axis=0) / trial.rate_hz
    return Errors(
        rmse_n=tuple(rmse.tolist()),
        rmse_percent=tuple((100 * rmse / trial.weight_n).tolist()),
        peak_n=float(said[:, 1].max() - true[:, 1].max()),
        impulse_ns=tuple(impulse.tolist()),
        impulse_percent=float(100 * impulse[1] / (true[:, 1].sum() / trial.rate_hz)),
        frames=int(trial.known.sum()),
    )


def residual(trial: Trial) -> Residual | None:
    """What Newton's law leaves of each sample; None where the weight is not known. Measured: on the known frames."""
    if trial.weight_n is None:
        return None
    asked = kinetics.carrying(trial.body, trial.motion, trial.rate_hz, trial.weight_n)
    measured = None
    if trial.measured is not None and trial.known.any():
        measured = tuple(np.sqrt(((trial.measured - asked)[trial.known] ** 2).mean(axis=0)).tolist())
    each = np.sqrt(((trial.samples - asked) ** 2).mean(axis=1))
    return Residual(samples_n=tuple(map(tuple, each.tolist())), measured_n=measured, weight_n=trial.weight_n)


def distances(trial: Trial) -> Float64[np.ndarray, "K 3"]:
    """How far the known frames of a trial are off, in spreads of its samples; no row where nothing was measured."""
    if trial.measured is None:
        return np.zeros((0, 3))
    far: Float64[np.ndarray, "K 3"] = (np.abs(trial.mean - trial.measured) / trial.spread)[trial.known]
    return far


def calibrate(trials: Sequence[Float64[np.ndarray, "_ 3"]], level: float = LEVEL) -> Float64[np.ndarray, " 3"]:
    """By how many spreads of the samples a force may be off, one an axis, that a share of the known frames is within.

    Split-conformal (Lei et al. 2018, section 5.2): of n `distances` the ceil((n + 1) level)-th smallest, of trials that
    whoever said their forces was not fitted to. It holds for frames that are like these. A style of walking that nobody
    showed the policy is like styles that nobody showed other policies, of which each says the one that it lacks: pooled
    over them, an interval holds that share in the mean over styles (Dunn et al. 2023, pooled distributions).

    Raises:
        ValueError: too few frames are known for that share.
    """
    far = np.concatenate([np.zeros((0, 3)), *trials])
    rank = math.ceil((len(far) + 1) * level)
    if rank > len(far):
        raise ValueError(
            f"{len(far)} frames with a known force say nothing of intervals that hold {level:.0%}: give trials with at "
            f"least {math.ceil(level / (1 - level))} such frames"
        )
    scale: Float64[np.ndarray, " 3"] = np.sort(far, axis=0)[rank - 1]
    return scale


def interval(
    trial: Trial, scale: Float64[np.ndarray, " 3"]
) -> tuple[Float64[np.ndarray, "T 3"], Float64[np.ndarray, "T 3"]]:
    """Its ends at each frame, N."""
    return trial.mean - scale * trial.spread, trial.mean + scale * trial.spread


def coverage(trial: Trial, scale: Float64[np.ndarray, " 3"]) -> Coverage | None:
    """What the intervals of a trial hold of what was measured; None where nothing was."""
    if trial.measured is None or not trial.known.any():
        return None
    low, high = interval(trial, scale)
    within = ((trial.measured >= low) & (trial.measured <= high))[trial.known]
    return Coverage(
        share=tuple(within.mean(axis=0).tolist()),
        width_n=tuple((high - low)[trial.known].mean(axis=0).tolist()),
        frames=int(trial.known.sum()),
    )


def told(trial: Trial, scale: Float64[np.ndarray, " 3"] | None) -> dict[str, Any]:
    """All figures of a trial, as JSON; None in the place of what cannot be told."""
    found, left = errors(trial), residual(trial)
    held = None if scale is None else coverage(trial, scale)
    return {
        "trial": trial.name,
        "frames": len(trial.motion),
        "weight_n": trial.weight_n,
        "errors": found and asdict(found),
        "residual": left and asdict(left),
        "coverage": held and asdict(held),
        "distances": distances(trial).round(4).tolist(),
    }
