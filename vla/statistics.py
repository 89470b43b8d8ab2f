"""Statistics of the training data: what the normalisers of a policy are made of."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

EXACT_VALUES = 2**25
"""Values (rows times dimensions) up to which quantiles are exact; 256 MiB of float64."""
STRAY = 5.0
"""A value is stray that lies further than this many inner ranges beyond the inner range of its dimension; those of a
contact do not, as a rule, and would move no quantile."""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Per-dimension statistics of one stream, in the data's units.

    An angle is first unwrapped about its circular mean: its values then lie within half a period of `center`; a
    companded value is replaced by its signed square root. All other fields speak of these.
    """

    count: int
    """Rows seen."""
    mean: Float64[np.ndarray, " D"]
    """Of the rows without a stray value, as the deviation and the quantiles are."""
    std: Float64[np.ndarray, " D"]
    """Population standard deviation."""
    q01: Float64[np.ndarray, " D"]
    q99: Float64[np.ndarray, " D"]
    minimum: Float64[np.ndarray, " D"]
    """Of all rows."""
    maximum: Float64[np.ndarray, " D"]
    period: Float64[np.ndarray, " D"]
    """The period of an angle that wraps, 0 for everything else."""
    center: Float64[np.ndarray, " D"]
    """Circular mean of an angle; 0 for everything else."""
    low: Float64[np.ndarray, " D"]
    """Start of the range [low, low + period) into which an angle is put, off the data; 0 for everything else."""
    companded: Bool[np.ndarray, " D"]
    """Whether values are companded; never those of an angle or a constant."""
    inner_minimum: Float64[np.ndarray, " D"]
    inner_maximum: Float64[np.ndarray, " D"]
    """Ends of the range of values that are neither stray nor among the few that might be (`inner_range`)."""
    strays: Int64[np.ndarray, " D"]
    """Rows with a stray value, of those that the quantiles are of."""
    stray_angles: Int64[np.ndarray, " D"]
    """Rows in which an angle was stray as it is written; unwrapped it is none, but any angle."""
    single: Bool[np.ndarray, " D"]
    """Whether float32 holds every value exactly; coordinates far from their origin need float64."""


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

    Count, minimum and maximum are of all rows. The others leave out values that are stray, such as glitches of a bus.
    Which are, and the quantiles, is found in all rows, up to `limit` values (rows times dimensions); of more, in a
    uniform sub-sample of `limit // D` rows, always the same one for the same number of rows. A dimension with a period
    whose values span more than one period counts turns: it does not wrap.
    """
    width = len(periods)
    period, center, low, companded = np.zeros(width), np.zeros(width), np.zeros(width), np.zeros(width, dtype=np.bool_)
    stray_angles = np.zeros(width, dtype=np.int64)
    if compand or any(periods):  # what is done to the values depends on all of them
        ends = _ends(chunks, np.asarray(periods, dtype=np.float64))
        period, center, low = _angles(ends, np.asarray(periods, dtype=np.float64))
        companded = (period == 0) & (ends.minimum < ends.maximum) & compand
        stray_angles = np.where(period > 0, ends.strays, 0)
    kept = min(rows, limit // max(width, 1))
    picks = np.arange(rows) if kept == rows else np.sort(_generator().choice(rows, kept, replace=False, shuffle=False))
    sample = np.empty((kept, width), dtype=np.float64)
    count, mean, squares, single = 0, np.zeros(width), np.zeros(width), np.ones(width, dtype=np.bool_)
    minimum, maximum = np.full(width, np.inf), np.full(width, -np.inf)
    for chunk in chunks():
        values = signed_root(unwrap(chunk.astype(np.float64), period, center), companded)
        if not len(values):
            continue
        if chunk.dtype == np.float64:
            single &= (chunk.astype(np.float32) == chunk).all(axis=0)
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
    return Statistics(
        count=count,
        minimum=minimum,
        maximum=maximum,
        period=period,
        center=center,
        low=low,
        companded=companded,
        single=single,
        stray_angles=stray_angles,
        **_without_strays(sample, np.clip(mean, minimum, maximum), np.sqrt(squares / max(count, 1))),
    )


def _without_strays(
    sample: Float64[np.ndarray, "N D"], mean: Float64[np.ndarray, " D"], std: Float64[np.ndarray, " D"]
) -> dict[str, np.ndarray]:
    """What is of the rows without a stray value; mean and deviation of all rows are given, for where there is none."""
    width = len(mean)
    quantiles, inner, strays = np.zeros((width, 2)), np.zeros((width, 2)), np.zeros(width, dtype=np.int64)
    for dimension in range(width if len(sample) else 0):  # one column at a time: numpy copies what it sorts
        column = np.sort(sample[:, dimension])
        sound = without_strays(column)
        strays[dimension] = len(column) - len(sound)
        if strays[dimension]:
            mean[dimension], std[dimension] = sound.mean(), sound.std()
        quantiles[dimension], inner[dimension] = np.quantile(sound, (0.01, 0.99)), inner_range(sound)
    return {
        "mean": mean,
        "std": std,
        "q01": quantiles[:, 0],
        "q99": quantiles[:, 1],
        "inner_minimum": inner[:, 0],
        "inner_maximum": inner[:, 1],
        "strays": strays,
    }


def few(count: int) -> int:
    """How many of some values may be stray at either end: less than 0.5 %, but one of 50 and two of more than 400."""
    return max(count // 400, 0 if count < 50 else 1 if count <= 400 else 2)


def inner_range(values: Float64[np.ndarray, " N"]) -> tuple[float, float]:
    """Ends of the range of sorted values without the `few` at either end.

    Where all others are equal, three values or more that differ to one side are no strays but rare, such as a contact
    force: the range then reaches to the last but one of them, or fewer.
    """
    low, high = (float(values[place]) for place in (few(len(values)), len(values) - 1 - few(len(values))))
    if low == high:
        below, above = values[values < low], values[values > high]
        low = float(below[max(1, few(len(below)))]) if len(below) > 2 else low
        high = float(above[-1 - max(1, few(len(above)))]) if len(above) > 2 else high
    return low, high


def without_strays(values: Float64[np.ndarray, " N"]) -> Float64[np.ndarray, " M"]:
    """Sorted values less those that lie more than STRAY inner ranges beyond the inner range."""
    low, high = beyond(*inner_range(values), STRAY)
    return values[np.searchsorted(values, low) : np.searchsorted(values, high, side="right")]


def span(columns: Sequence[Float[np.ndarray, " _"]]) -> float:
    """From the smallest to the largest of some numbers, but for strays and what is no number; infinite without any."""
    values = np.concatenate([np.asarray(column, dtype=np.float64) for column in columns])
    finite = np.sort(values[np.isfinite(values)])
    return float(np.ptp(without_strays(finite))) if len(finite) else np.inf


def beyond(
    low: Float64[np.ndarray, "*D"] | float, high: Float64[np.ndarray, "*D"] | float, share: float
) -> tuple[Float64[np.ndarray, "*D"] | float, Float64[np.ndarray, "*D"] | float]:
    """A range made wider by a share of itself at either end."""
    return low - share * (high - low), high + share * (high - low)


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
    strays: Int64[np.ndarray, " D"]
    """Of a dimension with a period: values that its smallest and its largest one leave out."""


def _ends(chunks: Callable[[], Iterable[Float[np.ndarray, "_ D"]]], periods: Float64[np.ndarray, " D"]) -> _Ends:
    """Of all rows; sines and cosines only where a dimension has a period."""
    sine, cosine = np.zeros_like(periods), np.zeros_like(periods)
    minimum, maximum = np.full_like(periods, np.inf), np.full_like(periods, -np.inf)
    angles, written, strays = np.flatnonzero(periods), list[np.ndarray](), np.zeros(len(periods), dtype=np.int64)
    for chunk in chunks():
        if len(chunk):
            minimum, maximum = np.minimum(minimum, chunk.min(axis=0)), np.maximum(maximum, chunk.max(axis=0))
            if len(angles):
                written.append(chunk[:, angles].astype(np.float64))
                radians = chunk.astype(np.float64) / np.where(periods > 0, periods, 1.0) * 2 * np.pi
                sine, cosine = sine + np.sin(radians).sum(axis=0), cosine + np.cos(radians).sum(axis=0)
    for place, column in zip(angles, np.concatenate(written).T if written else (), strict=False):
        sound = without_strays(np.sort(column))
        minimum[place], maximum[place], strays[place] = sound[0], sound[-1], len(column) - len(sound)
    return _Ends(minimum=minimum, maximum=maximum, sine=sine, cosine=cosine, strays=strays)


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
