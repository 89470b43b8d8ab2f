"""Of an adapter, how a quantity of what it makes goes with its weight: measured once, and asked for by its value."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

MONOTONE = 0.9
"""Size of the rank correlation from which on a quantity goes with the weight."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A quantity of motions of one text over the weight of an adapter that is on alone."""

    unit: str
    text: str
    """What was asked for."""
    weights: tuple[float, ...]
    """Rising."""
    values: tuple[float, ...]
    """Means over motions, one a weight."""
    low: tuple[float, ...]
    high: tuple[float, ...]
    """Of their 95 % intervals, which resample motions."""
    correlation: float
    """Spearman's, of the values with the weights."""
    motions: int
    """At each weight, of the same noise."""
    seed: int
    steps: int
    """Network calls for a chunk."""
    base: str
    """SHA-256 of the base's weights, by name."""
    adapter: str
    """SHA-256 of the adapter's weights, by name."""

    def __post_init__(self) -> None:
        """Refuse points of which no line can be drawn (ValueError)."""
        lists = (self.weights, self.values, self.low, self.high)
        if not all(math.isfinite(value) for values in lists for value in values):
            raise ValueError("a curve has a number that is not finite")
        rising = len(self.weights) > 1 and all(a < b for a, b in itertools.pairwise(self.weights))
        if not rising or len({*map(len, lists)}) != 1:
            raise ValueError("a curve has not one value for each of its weights, which rise")

    def reach(self) -> tuple[float, float]:
        """The least and the most of the quantity that can be asked for, to the fourth decimal place."""
        rising = isotonic(np.sign(self.correlation) * np.asarray(self.values))
        low, high = sorted(float(np.sign(self.correlation) * end) for end in (rising[0], rising[-1]))
        return math.ceil(1e4 * low) / 1e4, math.floor(1e4 * high) / 1e4


def words_of(quantity: str) -> str:
    """The name of a quantity as a command line has it: `pelvis_height`."""
    return quantity.replace(" ", "_")


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """The rank correlation of two lists, equal values sharing their rank; NaN where one of them does not vary."""
    one, other = (ranks(np.asarray(values, dtype=np.float64)) for values in (first, second))
    one, other = one - one.mean(), other - other.mean()
    size = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / size if size else float("nan")


def ranks(values: Float[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
    """From 1 on, equal values sharing the mean of theirs."""
    below = (values[None] < values[:, None]).sum(axis=1)
    equal = (values[None] == values[:, None]).sum(axis=1)
    found: Float64[np.ndarray, " N"] = below + (equal + 1) / 2
    return found


def weight_for(weights: Sequence[float], values: Sequence[float], wanted: float) -> float:
    """The weight at which a quantity is what is wanted: by straight lines between the points that were measured.

    Points that do not go the way of the others share the mean of those they cross (isotonic regression by pooling
    adjacent violators; Ayer et al. 1955).

    Raises:
        ValueError: the quantity does not go with the weight, or is nowhere what is wanted; says where it is.
    """
    correlation = spearman(weights, values)
    if not abs(correlation) >= MONOTONE:
        raise ValueError(
            f"the quantity does not go with the weight: their rank correlation is {correlation:.2f}, and {MONOTONE:g} "
            "is asked for; take another quantity, or weights of a smaller range"
        )
    order = np.argsort(np.asarray(weights))
    at, rising = np.asarray(weights, dtype=np.float64)[order], np.sign(correlation) * np.asarray(values)[order]
    pooled = isotonic(rising)
    if not pooled[0] <= np.sign(correlation) * wanted <= pooled[-1]:
        ends = sorted((float(np.sign(correlation) * pooled[0]), float(np.sign(correlation) * pooled[-1])))
        raise ValueError(f"{wanted:g} is out of reach: the quantity is {ends[0]:.3g} to {ends[1]:.3g}; ask for that")
    middle = {value: float(at[pooled == value].mean()) for value in np.unique(pooled)}
    ends_at = {float(pooled[0]): float(at[0]), float(pooled[-1]): float(at[-1])}
    places = [ends_at.get(float(value), place) for value, place in middle.items()]
    return float(np.interp(np.sign(correlation) * wanted, list(middle), places))


def isotonic(values: Float[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
    """The nearest values, in squares, that never fall."""
    blocks: list[list[float]] = []
    for value in values:
        blocks.append([float(value), 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, count = blocks.pop()
            before, more = blocks.pop()
            blocks.append([(before * more + mean * count) / (more + count), more + count])
    return np.concatenate([np.full(int(count), mean) for mean, count in blocks])
