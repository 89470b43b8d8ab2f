"""Intervals: published values, coverage on data whose truth is known, episodes instead of frames."""

import itertools
from statistics import NormalDist

import numpy as np
import pytest

from vla.evaluation.intervals import bootstrap, fewest, rate_change, rate_difference, widened, wilson


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_is_that_of_the_literature(successes: int, count: int, low: float, high: float) -> None:
    """Newcombe (1998), Statistics in Medicine 17, 857-872, table I, method 3."""
    assert wilson(successes, count) == pytest.approx((low, high), abs=5e-5)
    failures = wilson(count - successes, count)
    assert failures == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_wilson_at_the_ends() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 7)[0] == 0.0
    assert wilson(7, 7)[1] == 1.0
    wide, narrow = wilson(5, 10, 0.99), wilson(5, 10, 0.9)
    assert wide[0] < narrow[0] < 0.5 < narrow[1] < wide[1]


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        ((56, 70, 48, 80), 0.0524, 0.3339),
        ((9, 10, 3, 10), 0.1705, 0.8090),
        ((6, 7, 2, 7), 0.0582, 0.8062),
        ((5, 56, 0, 29), -0.0381, 0.1926),
    ],
)
def test_the_difference_of_two_rates_is_that_of_the_literature(
    counts: tuple[int, int, int, int], low: float, high: float
) -> None:
    """Newcombe (1998), Statistics in Medicine 17, 873-890, table II, method 10."""
    assert rate_difference(*counts) == pytest.approx((low, high), abs=5e-5)
    assert rate_difference(*counts[2:], *counts[:2]) == pytest.approx((-high, -low), abs=5e-5)


def test_the_difference_from_nothing_may_be_any() -> None:
    assert rate_difference(3, 4, 0, 0) == (-1.0, 1.0) == rate_difference(0, 0, 3, 4)


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [((59, 6, 16, 80), -0.1186, -0.0046), ((1, 1, 7, 12), -0.5069, -0.0256), ((36, 12, 2, 0), 0.0569, 0.3404)],
)
def test_the_change_of_a_rate_is_that_of_the_literature(
    table: tuple[int, int, int, int], low: float, high: float
) -> None:
    """The first: complete response of Cavo et al. in Fagerland, Lydersen and Laake (2017), chapter 8.

    The others: by hand from Newcombe (1998), Statistics in Medicine 17, 2635-2650, method 10; in both the correction
    for continuity takes the whole correlation, or it is negative.
    """
    pairs = [(True, True), (True, False), (False, True), (False, False)]
    outcomes = [pair for pair, count in zip(pairs, table, strict=True) for _ in range(count)]
    first, second = ([pair[place] for pair in outcomes] for place in (0, 1))
    assert rate_change(second, first) == pytest.approx((low, high), abs=6e-5)
    assert rate_change(first, second) == pytest.approx((-high, -low), abs=6e-5)


def test_the_same_episodes_tell_a_change_better_than_others() -> None:
    before = [episode < 90 for episode in range(100)]
    low, high = rate_change(before, [episode < 87 for episode in range(100)])
    crossed = rate_change(before, [episode >= 13 for episode in range(100)])
    assert crossed[0] < low < -0.03 < high < crossed[1]
    assert rate_change([True] * 50, [True] * 50) == pytest.approx((wilson(50, 50)[0] - 1, 1 - wilson(50, 50)[0]))


@pytest.mark.parametrize(("count", "student"), [(6, 2.5706), (11, 2.2281), (31, 2.0423), (101, 1.9840)])
def test_the_level_is_widened_to_that_of_student(count: int, student: float) -> None:
    """Against the table of Student's quantiles at 97.5 %."""
    quantile = -NormalDist().inv_cdf(widened(0.95, count)) * np.sqrt((count - 1) / count)
    assert quantile == pytest.approx(student, rel=0.002)


@pytest.mark.parametrize("level", [0.75, 0.9, 0.95, 1 - 0.05 / 3])
def test_fewer_episodes_than_needed_miss_the_truth_too_often(level: float) -> None:
    """All outcomes of a fair coin an episode: the interval of those that are all alike misses the mean."""
    needed = fewest(level)
    for count, enough in ((needed - 1, False), (needed, True)):
        outcomes = np.array(list(itertools.product((-1.0, 1.0), repeat=count))).T
        names = [str(episode) for episode in range(count)]
        intervals = bootstrap(outcomes, np.ones(outcomes.shape, dtype=bool), names, level=level, draws=300)
        missed = float(((intervals[:, 0] > 0) | (intervals[:, 1] < 0)).mean())
        assert (missed <= 1 - level + 1e-9) == enough, (count, missed)


def test_resampling_episodes_covers_the_truth_and_resampling_frames_does_not() -> None:
    generator = np.random.default_rng(0)
    trials, episodes, frames = 400, 12, 30
    covered, naive = 0, 0
    names = [f"episode_{row // frames}" for row in range(episodes * frames)]
    alone = [str(row) for row in range(episodes * frames)]
    counted = np.ones((episodes * frames, 1), dtype=bool)
    for _ in range(trials):
        shared = np.repeat(generator.standard_normal(episodes), frames)
        values = (1.0 + shared + 0.3 * generator.standard_normal(episodes * frames))[:, None]
        low, high = bootstrap(values, counted, names, draws=300)[0]
        covered += low <= 1.0 <= high
        low, high = bootstrap(values, counted, alone, draws=40)[0]
        naive += low <= 1.0 <= high
    assert 0.91 <= covered / trials <= 0.98
    assert naive / trials < 0.5


def test_columns_count_their_own_values_and_the_same_resamples_serve_all() -> None:
    generator = np.random.default_rng(1)
    names = [f"episode_{row // 5}" for row in range(100)]
    values = generator.standard_normal((100, 3)) + 2
    counted = np.ones((100, 3), dtype=bool)
    counted[:50, 1], counted[:, 2] = False, False
    intervals = bootstrap(values, counted, names)
    assert np.array_equal(intervals, bootstrap(values, counted, names), equal_nan=True)
    assert intervals[:1] == pytest.approx(bootstrap(values[:, :1], counted[:, :1], names), rel=1e-12)
    assert intervals[1, 0] < values[50:, 1].mean() < intervals[1, 1]
    assert np.isnan(intervals[2]).all()
    shifted = bootstrap(values + 1, counted, names)
    assert shifted[:2] == pytest.approx(intervals[:2] + 1)
    assert not np.array_equal(intervals[0], bootstrap(values, counted, names, seed=1)[0])
