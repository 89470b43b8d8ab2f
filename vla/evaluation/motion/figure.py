"""A figure with its interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from vla.evaluation.intervals import LEVEL, bootstrap, fewest, rate_change, wilson


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What was measured, with its 95 % interval."""

    value: float | None
    """None where nothing could be measured."""
    low: float | None
    """None where too few were measured for an interval."""
    high: float | None
    n: int
    """How many values it is of."""

    def __str__(self) -> str:
        """`0.462 [0.441 0.482]`."""
        if self.value is None:
            return "-"
        if self.low is None or self.high is None:
            return _short(self.value)
        return f"{_short(self.value)} [{_short(self.low)} {_short(self.high)}]"


def _short(value: float) -> str:
    """Three digits, none behind the fourth decimal place."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{round(value, 4) + 0.0:.3g}"


NOTHING = Figure(value=None, low=None, high=None, n=0)


def means(values: Float[np.ndarray, "N K"], sources: Sequence[str], *, seed: int = 0) -> list[Figure]:
    """The mean of each column, without its NaN; the interval resamples sources, of which six at least must count."""
    if not len(values):
        return [NOTHING] * values.shape[1]
    counted = ~np.isnan(values)
    intervals = bootstrap(values, counted, sources, seed=seed)
    figures = []
    for column, there, (low, high) in zip(values.T, counted.T, intervals.tolist(), strict=True):
        names = {name for name, counts in zip(sources, there, strict=True) if counts}
        bounds = (low, high) if len(names) >= fewest(LEVEL) else (None, None)
        mean = float(column[there].mean()) if names else None
        figures.append(Figure(value=mean, low=bounds[0], high=bounds[1], n=int(there.sum())))
    return figures


def mean(values: Float[np.ndarray, " N"], sources: Sequence[str], *, seed: int = 0) -> Figure:
    """The mean of some values, as in `means`."""
    return means(values[:, None], sources, seed=seed)[0]


def share(hits: Bool[np.ndarray, " N"], sources: Sequence[str], *, seed: int = 0) -> Figure:
    """How many of some there are: Wilson's interval where every one has a source of its own, else as in `means`.

    Also where all agree, of which a bootstrap knows no spread: Wilson's, of as many as there are sources.
    """
    if not len(hits):
        return NOTHING
    count, value = len(set(sources)), float(hits.mean())
    if count < len(hits) and 0 < value < 1:
        return mean(hits.astype(np.float64), sources, seed=seed)
    low, high = wilson(round(value * count), count)
    return Figure(value=value, low=low, high=high, n=len(hits))


def change(before: Bool[np.ndarray, " N"], after: Bool[np.ndarray, " N"], *, seed: int = 0) -> Figure:
    """By how much a share grew between two trials of the same cases; the interval resamples pairs.

    Where every pair changed alike, of which a bootstrap knows no spread: Newcombe's for paired shares.
    """
    if not len(before):
        return NOTHING
    differences = after.astype(np.float64) - before
    if (differences == differences[0]).all():
        low, high = rate_change(before.tolist(), after.tolist())
        return Figure(value=float(differences[0]), low=low, high=high, n=len(before))
    return mean(differences, [str(place) for place in range(len(before))], seed=seed)
