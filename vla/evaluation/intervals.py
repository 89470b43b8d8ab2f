"""Intervals round what was measured: a success rate, its change, and a mean over frames that come in episodes."""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Float, Float64

from vla.randomness import derive

LEVEL = 0.95
"""Share of experiments whose interval contains the truth."""
DRAWS = 4000
"""Resamples of a bootstrap."""


def wilson(successes: int, count: int, level: float = LEVEL) -> tuple[float, float]:
    """The score interval of a rate, (low, high); (0, 1) of nothing.

    Wilson (1927): (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n). It stays within 0 and 1 and
    keeps its level near them, where p -+ z sqrt(p (1 - p) / n) shrinks to a point.
    """
    assert 0 <= successes <= count, f"{successes} successes of {count}"
    if not count:
        return 0.0, 1.0
    rate, z = successes / count, -NormalDist().inv_cdf((1 - level) / 2)
    middle = rate + z**2 / (2 * count)
    half = z * math.sqrt(rate * (1 - rate) / count + z**2 / (4 * count**2))
    low, high = ((middle + sign * half) / (1 + z**2 / count) for sign in (-1, 1))
    return (low if successes else 0.0), (high if successes < count else 1.0)


def rate_difference(
    successes: int, count: int, others: int, count_of_others: int, level: float = LEVEL
) -> tuple[float, float]:
    """The interval of a rate less that of other trials, (low, high); (-1, 1) where there are none of either.

    Newcombe (1998, "Interval estimation for the difference between independent proportions: comparison of eleven
    methods", Statistics in Medicine 17, 873-890), method 10: the Wilson intervals of both rates, combined.
    """
    if not count or not count_of_others:
        return -1.0, 1.0
    rate, other = successes / count, others / count_of_others
    (low, high), (low_other, high_other) = wilson(successes, count, level), wilson(others, count_of_others, level)
    difference = rate - other
    return difference - math.hypot(rate - low, high_other - other), difference + math.hypot(
        high - rate, other - low_other
    )


def rate_change(before: Sequence[bool], after: Sequence[bool], level: float = LEVEL) -> tuple[float, float]:
    """The interval of the change of a rate between two trials of the same episodes, (low, high).

    Newcombe (1998, "Improved confidence intervals for the difference between binomial proportions based on paired
    data", Statistics in Medicine 17, 2635-2650), method 10: the Wilson intervals of both rates, combined with the
    correlation of the outcomes, which is corrected for continuity where it is positive.
    """
    assert len(before) == len(after) > 0, f"{len(before)} and {len(after)} episodes"
    count, first, second = len(before), sum(before), sum(after)
    (low, high), (low_after, high_after) = wilson(first, count, level), wilson(second, count, level)
    both = sum(one and other for one, other in zip(before, after, strict=True))
    product = float(both * (count - first - second + both) - (first - both) * (second - both))
    if product > 0:
        product = max(product - count / 2, 0.0)
    spread = math.sqrt(first * (count - first) * second * (count - second))
    correlation = product / spread if spread else 0.0

    def reach(one: float, other: float) -> float:
        return math.sqrt(max(one**2 - 2 * correlation * one * other + other**2, 0.0))

    rate, rate_after = first / count, second / count
    change = rate_after - rate
    return change - reach(rate_after - low_after, high - rate), change + reach(high_after - rate_after, rate - low)


def bootstrap(
    values: Float[np.ndarray, "N K"],
    counted: Bool[np.ndarray, "N K"],
    episodes: Sequence[str],
    *,
    level: float = LEVEL,
    seed: int = 0,
    draws: int = DRAWS,
) -> Float64[np.ndarray, "K 2"]:
    """Of each column, the interval of the mean of its counted values; NaN where no resample has one.

    Whole episodes are resampled, not frames: the frames of an episode resemble one another, and counted one by one
    they would make intervals several times too narrow. The interval is the percentile one, because it has no use for
    symmetry and never leaves the range of the episodes. Alone it is too narrow for few episodes; it is widened as
    Hesterberg (2015, "What teachers should know about the bootstrap", section 5.2) does, to the level at which the
    percentile interval of a normal mean equals Student's. With less than the `fewest` episodes no width is enough. It
    follows from the seed and the episodes alone, so that two calls on the same frames resample alike.
    """
    names, rows = np.unique(np.asarray(episodes), return_inverse=True)
    sums, counts = np.zeros((2, len(names), values.shape[1]))
    np.add.at(sums, rows, np.where(counted, values, 0.0))
    np.add.at(counts, rows, counted)
    picks = derive(seed, "bootstrap", len(names)).multinomial(len(names), np.full(len(names), 1 / len(names)), draws)
    total = picks @ counts
    means = np.where(total > 0, picks @ sums / np.maximum(total, 1), np.nan)
    intervals = np.full((values.shape[1], 2), np.nan)
    for column in range(values.shape[1]):
        seen = means[:, column][~np.isnan(means[:, column])]
        if len(seen):
            tail = widened(level, int((counts[:, column] > 0).sum()))
            intervals[column] = np.quantile(seen, (tail, 1 - tail))
    return intervals


def fewest(level: float) -> int:
    """Episodes that a bootstrap of this level needs: 2^(1 - n) <= 1 - level.

    Its interval stays within their range, and about a median of 0 all of n lie on one side with chance 2^(1 - n).
    """
    return math.ceil(1 - math.log2(1 - level))


def widened(level: float, count: int) -> float:
    """The share to cut off each end of a percentile bootstrap of `count` episodes for an interval of this level.

    Phi(-sqrt(n / (n - 1)) t), with Student's quantile from the normal one (Abramowitz & Stegun, 26.7.5).
    """
    z, freedom = -NormalDist().inv_cdf((1 - level) / 2), count - 1
    if freedom < 1:
        return 0.0
    terms = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    student = z + sum(term / freedom**power for power, term in enumerate(terms, start=1))
    return NormalDist().cdf(-math.sqrt(count / freedom) * student)
