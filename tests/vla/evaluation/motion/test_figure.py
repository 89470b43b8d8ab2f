"""A value with its interval: by sources where these have several, by Wilson where they have one."""

import numpy as np
import pytest

from vla.evaluation.intervals import wilson
from vla.evaluation.motion.figure import NOTHING, Figure, mean, means, share


def names(count: int) -> list[str]:
    return [str(place) for place in range(count)]


def test_a_mean_leaves_out_what_is_not_there_and_counts_it() -> None:
    values = np.array([[1.0, np.nan], [2.0, 4.0], [3.0, np.nan], [4.0, 8.0], [5.0, 6.0], [6.0, 2.0]])
    first, second = means(values, names(6))
    assert (first.value, first.n) == (3.5, 6)
    assert first.low is not None
    assert first.high is not None
    assert 1.0 < first.low < 3.5 < first.high < 6.0
    assert second == Figure(value=5.0, low=None, high=None, n=4), "four sources have no interval"


def test_windows_of_one_recording_are_not_independent() -> None:
    values = np.random.default_rng(0).standard_normal(12).repeat(50)
    apart, together = mean(values, names(600)), mean(values, np.arange(12).repeat(50).astype(str).tolist())
    widths = [float(figure.high) - float(figure.low) for figure in (apart, together) if figure.high and figure.low]
    assert widths[1] > 5 * widths[0]


def test_a_share_has_wilsons_interval_where_each_has_its_own_source() -> None:
    hits = np.array([True] * 15 + [False] * 5)
    low, high = wilson(15, 20)
    assert share(hits, names(20)) == Figure(value=0.75, low=low, high=high, n=20)
    assert share(hits, names(10) * 2).value == 0.75
    assert share(hits, names(10) * 2).low != low


@pytest.mark.parametrize("said", [False, True])
def test_windows_that_all_agree_are_as_sure_as_their_sources_are_many(said: bool) -> None:
    low, high = wilson(8 * said, 8)
    assert share(np.full(40, said), names(8) * 5) == Figure(value=float(said), low=low, high=high, n=40)


def test_of_nothing_there_is_nothing() -> None:
    assert means(np.empty((0, 2)), []) == [NOTHING, NOTHING]
    assert share(np.empty(0, dtype=bool), []) == NOTHING
    assert mean(np.full(7, np.nan), names(7)) == NOTHING
    assert str(NOTHING) == "-"


def test_it_reads_well() -> None:
    assert str(Figure(value=0.4567, low=0.4411, high=0.4821, n=182)) == "0.457 [0.441 0.482]"
    assert str(Figure(value=1234.5, low=12.345, high=-1e-17, n=3)) == "1234 [12.3 0]"
    assert str(Figure(value=2.0, low=None, high=None, n=3)) == "2"
    assert mean(np.full(3, 2.0), names(3)) == Figure(value=2.0, low=None, high=None, n=3)
    with pytest.raises(AttributeError):
        NOTHING.n = 3  # type: ignore[misc]
