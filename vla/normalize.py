"""Normalisation: statistics of the training data, and the module that applies and undoes them inside the policy."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64
from torch import Tensor, nn

from vla.settings import Normalization

EXACT_VALUES = 2**26
"""Values (rows times dimensions) up to which quantiles are exact; 256 MiB of float32."""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Per-dimension statistics of one stream, in the data's units.

    An angle is first unwrapped about its circular mean: its values then lie within half a period of `center`; a
    companded value is replaced by its signed square root. All other fields speak of these.
    """

    count: int
    """Rows seen."""
    mean: Float64[np.ndarray, " D"]
    std: Float64[np.ndarray, " D"]
    """Population standard deviation."""
    minimum: Float64[np.ndarray, " D"]
    maximum: Float64[np.ndarray, " D"]
    q01: Float64[np.ndarray, " D"]
    q99: Float64[np.ndarray, " D"]
    period: Float64[np.ndarray, " D"]
    """The period of an angle that wraps, 0 for everything else."""
    center: Float64[np.ndarray, " D"]
    """Circular mean of an angle; 0 for everything else."""
    low: Float64[np.ndarray, " D"]
    """Start of the range [low, low + period) into which an angle is put, off the data; 0 for everything else."""
    companded: Bool[np.ndarray, " D"]
    """Whether values are companded; never those of an angle or a constant."""


def fit(
    values: Float[np.ndarray, "N D"], periods: Sequence[float], limit: int = EXACT_VALUES, *, compand: bool = False
) -> Statistics:
    """Statistics of rows held in memory."""
    return fit_chunks(lambda: [values], len(values), periods, limit, compand=compand)


def fit_chunks(
    chunks: Callable[[], Iterable[Float[np.ndarray, "_ D"]]],
    rows: int,
    periods: Sequence[float],
    limit: int = EXACT_VALUES,
    *,
    compand: bool = False,
) -> Statistics:
    """Statistics of rows that come in chunks, in bounded memory; each call of `chunks` starts anew.

    With `compand` they are those of x -> sign(x) sqrt(|x|), but for angles and constants. A value a tenth as large then
    keeps a third of its weight, about 0: it is for changes, rates and forces, whose 0 means something, not positions.

    Count, mean, deviation, minimum and maximum are of all rows. The quantiles are too, up to `limit` values (rows times
    dimensions); of more, they are those of a uniform sub-sample of `limit // D` rows, always the same one for the same
    number of rows. A dimension with a period whose values span more than one period counts turns: it does not wrap.
    """
    width = len(periods)
    period, center, low, companded = np.zeros(width), np.zeros(width), np.zeros(width), np.zeros(width, dtype=np.bool_)
    if compand or any(periods):  # what is done to the values depends on all of them
        ends = _ends(chunks, np.asarray(periods, dtype=np.float64))
        period, center, low = _angles(ends, np.asarray(periods, dtype=np.float64))
        companded = (period == 0) & (ends.minimum < ends.maximum) & compand
    kept = min(rows, limit // max(width, 1))
    picks = np.arange(rows) if kept == rows else np.sort(_generator().choice(rows, kept, replace=False, shuffle=False))
    sample = np.empty((kept, width), dtype=np.float32)
    count, mean, squares = 0, np.zeros(width), np.zeros(width)
    minimum, maximum = np.full(width, np.inf), np.full(width, -np.inf)
    for chunk in chunks():
        values = signed_root(unwrap(chunk.astype(np.float64), period, center), companded)
        if not len(values):
            continue
        first, last = np.searchsorted(picks, (count, count + len(values)))
        sample[first:last] = values[picks[first:last] - count]
        minimum, maximum = np.minimum(minimum, values.min(axis=0)), np.maximum(maximum, values.max(axis=0))
        # Chan, Golub, LeVeque (1979): merging means and squared deviations keeps float64 precision at any offset.
        shift, total = values.mean(axis=0) - mean, count + len(values)
        squares += ((values - values.mean(axis=0)) ** 2).sum(axis=0) + shift**2 * count * len(values) / total
        mean, count = mean + shift * len(values) / total, total
    assert count == rows, f"{count} rows came, {rows} were announced"
    if not count:
        minimum, maximum = np.zeros(width), np.zeros(width)
    quantiles = np.zeros((width, 2))
    for dimension in range(width if count else 0):  # one column at a time: numpy copies what it partitions
        quantiles[dimension] = np.quantile(sample[:, dimension].astype(np.float64), (0.01, 0.99))
    return Statistics(
        count=count,
        mean=np.clip(mean, minimum, maximum),
        std=np.sqrt(squares / max(count, 1)),
        minimum=minimum,
        maximum=maximum,
        q01=quantiles[:, 0],
        q99=quantiles[:, 1],
        period=period,
        center=center,
        low=low,
        companded=companded,
    )


def unwrap(
    values: Float64[np.ndarray, "N D"], period: Float64[np.ndarray, " D"], center: Float64[np.ndarray, " D"]
) -> Float64[np.ndarray, "N D"]:
    """Angles moved by whole periods to within half a period of the center; other dimensions unchanged, bit for bit."""
    turns = np.round((values - center) / np.where(period > 0, period, 1.0))
    return values - np.where(period > 0, turns * period, 0.0)


def signed_root(values: Float64[np.ndarray, "N D"], companded: Bool[np.ndarray, " D"]) -> Float64[np.ndarray, "N D"]:
    """The signed square roots of the companded dimensions; other dimensions unchanged, bit for bit."""
    return np.where(companded, np.copysign(np.sqrt(np.abs(values)), values), values)


@dataclass(frozen=True, kw_only=True)
class _Ends:
    """Per dimension: the smallest and the largest value, and the sums of the sines and cosines of its angles."""

    minimum: Float64[np.ndarray, " D"]
    maximum: Float64[np.ndarray, " D"]
    sine: Float64[np.ndarray, " D"]
    cosine: Float64[np.ndarray, " D"]


def _ends(chunks: Callable[[], Iterable[Float[np.ndarray, "_ D"]]], periods: Float64[np.ndarray, " D"]) -> _Ends:
    """Of all rows; sines and cosines only where a dimension has a period."""
    sine, cosine = np.zeros_like(periods), np.zeros_like(periods)
    minimum, maximum = np.full_like(periods, np.inf), np.full_like(periods, -np.inf)
    for chunk in chunks():
        if len(chunk):
            minimum, maximum = np.minimum(minimum, chunk.min(axis=0)), np.maximum(maximum, chunk.max(axis=0))
            if periods.any():
                radians = chunk.astype(np.float64) / np.where(periods > 0, periods, 1.0) * 2 * np.pi
                sine, cosine = sine + np.sin(radians).sum(axis=0), cosine + np.cos(radians).sum(axis=0)
    return _Ends(minimum=minimum, maximum=maximum, sine=sine, cosine=cosine)


def _angles(
    ends: _Ends, periods: Float64[np.ndarray, " D"]
) -> tuple[Float64[np.ndarray, " D"], Float64[np.ndarray, " D"], Float64[np.ndarray, " D"]]:
    """Of each dimension: the period (0 where it does not wrap), the circular mean, and where its range starts.

    It starts in the gap that the data leave, never at their edge: at -half a period or 0, as the data are written,
    where that lies in the middle half of the gap, else opposite to the data.
    """
    minimum, maximum = ends.minimum, ends.maximum
    slack = 1e-3 * periods  # float32 pi lies outside [-pi, pi]
    period = np.where(maximum - minimum <= periods + slack, periods, 0.0)
    angle = (period > 0) & np.isfinite(minimum)
    middle = np.arctan2(ends.sine, ends.cosine) / (2 * np.pi) * period
    signed = (minimum >= -period / 2 - slack) & (maximum <= period / 2 + slack)
    positive = (minimum >= -slack) & (maximum <= period + slack)
    gap = np.where(angle, period - (maximum - minimum), 0.0)
    opposite = np.where(angle, minimum, 0.0) - gap / 2
    usual = np.where(signed, -period / 2, np.where(positive, 0.0, opposite))
    low = np.where(np.abs(usual - opposite) <= gap / 4, usual, opposite)
    center = np.where(
        minimum == maximum, minimum, middle - np.floor((middle - low) / np.where(angle, period, 1.0)) * period
    )
    return period, np.where(angle, center, 0.0), np.where(angle, low, 0.0)


def _generator() -> np.random.Generator:
    """The same for every run: statistics depend on the data alone, not on the seed."""
    return np.random.Generator(np.random.Philox(0))


class Normalizer(nn.Module):
    """Data units to unitless and back, a linear map a dimension, in float32; of signed square roots where companded.

    `quantile` takes the 1 % and 99 % quantiles to -1 and 1, `min-max` the extremes, `z-score` mean and deviation to 0
    and 1; nothing is clipped. A constant dimension becomes 0 and is undone to exactly its constant, whatever comes in.
    No scale is smaller than 1e-4 of a dimension's largest magnitude, so the noise of a nearly constant one stays noise.
    A dimension whose quantiles span less than 1/1000 of its range (a contact force, mostly zero) is scaled by its
    extremes. An angle is unwrapped about its circular mean before, and put back into the range of the data after.
    """

    offset: Float32[Tensor, " D"]
    scale: Float32[Tensor, " D"]
    constant: Bool[Tensor, " D"]
    period: Float32[Tensor, " D"]
    center: Float32[Tensor, " D"]
    low: Float32[Tensor, " D"]
    companded: Bool[Tensor, " D"]

    def __init__(self, width: int) -> None:
        """The identity; `of` or load_state_dict give it values."""
        super().__init__()
        self.register_buffer("offset", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.register_buffer("constant", torch.zeros(width, dtype=torch.bool))
        self.register_buffer("period", torch.zeros(width))
        self.register_buffer("center", torch.zeros(width))
        self.register_buffer("low", torch.zeros(width))
        self.register_buffer("companded", torch.zeros(width, dtype=torch.bool))

    @staticmethod
    def of(statistics: Statistics, mode: Normalization) -> "Normalizer":
        """The normaliser that these statistics give."""
        minimum, maximum = statistics.minimum, statistics.maximum
        spread = maximum - minimum
        constant = spread == 0
        offset, scale = (minimum + maximum) / 2, spread / 2
        match mode:
            case "z-score":
                offset, scale = statistics.mean, statistics.std
            case "quantile":
                degenerate = statistics.q99 - statistics.q01 <= 1e-3 * spread
                offset = np.where(degenerate, offset, (statistics.q01 + statistics.q99) / 2)
                scale = np.where(degenerate, scale, (statistics.q99 - statistics.q01) / 2)
            case "min-max":
                pass
        floor = np.maximum(1e-4 * np.maximum(np.abs(minimum), np.abs(maximum)), 1e-30)  # float32 has no 1 / 1e-40
        normalizer = Normalizer(len(offset))
        buffers = {
            "offset": np.where(constant, minimum, offset),
            "scale": np.where(constant, 1.0, np.maximum(scale, floor)),
            "constant": constant,
            "period": statistics.period,
            "center": statistics.center,
            "low": statistics.low,
            "companded": statistics.companded,
        }
        normalizer.load_state_dict({name: torch.from_numpy(np.asarray(value)) for name, value in buffers.items()})
        return normalizer

    @overload
    def apply(self, values: Float[Tensor, "*batch D"]) -> Float32[Tensor, "*batch D"]: ...

    @overload
    def apply(self, values: Callable[[nn.Module], None]) -> "Normalizer": ...

    def apply(self, values: Tensor | Callable[[nn.Module], None]) -> "Tensor | Normalizer":
        """Data units to unitless; given a function, what nn.Module.apply does when it walks a model with this in it."""
        if not isinstance(values, Tensor):
            return super().apply(values)
        values = values.float()
        values = self._turn(values, (values - self.center) / self._divisor(), torch.round)
        values = torch.where(self.companded, values.abs().sqrt().copysign(values), values)
        return torch.where(self.constant, 0.0, (values - self.offset) / self.scale)

    def undo(self, values: Float[Tensor, "*batch D"]) -> Float32[Tensor, "*batch D"]:
        """Unitless to data units."""
        values = torch.where(self.constant, self.offset, values.float() * self.scale + self.offset)
        values = torch.where(self.companded, values * values.abs(), values)
        turned = self._turn(values, (values - self.low) / self._divisor(), torch.floor)
        return torch.where(self.constant, self.offset, turned)

    def _divisor(self) -> Float32[Tensor, " D"]:
        return torch.where(self.period > 0, self.period, 1.0)

    def _turn(
        self,
        values: Float32[Tensor, "*batch D"],
        periods: Float32[Tensor, "*batch D"],
        whole: Callable[[Tensor], Tensor],
    ) -> Float32[Tensor, "*batch D"]:
        """The values less the whole part of their number of periods; those without a period unchanged, bit for bit."""
        return torch.where(self.period > 0, values - whole(periods) * self.period, values)
