"""One rate and one band: what rests, goes straight or swings slowly is kept; what shakes is not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.evaluation.motion.resampling import lowest_rate, resample

RATES = (15.0, 20.0, 24 / 1.001, 25.0, 30.0, 60 / 1.001, 60.0, 100.0, 119.88, 250.0)


@given(
    st.floats(15.0, 300.0),
    st.floats(15.0, 120.0),
    st.integers(1, 90),
    st.floats(-1000.0, 1000.0),
)
def test_what_rests_stays_at_rest_from_the_first_to_the_last_frame(
    from_hz: float, to_hz: float, frames: int, value: float
) -> None:
    resampled = resample(np.full((frames, 2, 3), value), from_hz, to_hz)
    assert np.abs(resampled - value).max() <= 1e-6


@pytest.mark.parametrize("rate_hz", RATES)
def test_a_steady_course_stays_steady_to_both_ends(rate_hz: float) -> None:
    time = np.arange(round(2 * rate_hz) + 1) / rate_hz
    resampled = resample(1.3 * time[:, None], rate_hz)[:, 0]
    assert np.abs(resampled - 1.3 * np.arange(len(resampled)) / 20).max() <= 5e-4


@pytest.mark.parametrize("rate_hz", RATES)
@pytest.mark.parametrize(("hz", "kept"), [(0.5, 1.0), (2.0, 1.0), (4.5, 1.0), (6.0, 0.5), (7.5, 0.0)])
def test_the_band_is_the_same_whatever_the_rate(rate_hz: float, hz: float, kept: float) -> None:
    """At 100 Hz, where nothing folds; away from the ends. Swings of 7.5 Hz are none at 15 Hz."""
    time = np.arange(round(12 * rate_hz) + 1) / rate_hz
    inner = resample(np.sin(2 * np.pi * hz * time + 0.3), rate_hz, 100.0)[100:-100]
    expected = kept * np.sin(2 * np.pi * hz * (1 + np.arange(len(inner)) / 100) + 0.3)
    if rate_hz > 2 * hz:
        assert np.abs(inner - expected).max() <= 3e-3


def test_frames_stand_where_they_should() -> None:
    assert len(resample(np.zeros(121), 60.0)) == 41
    assert len(resample(np.zeros(120), 60.0)) == 40
    assert len(resample(np.zeros(601), 60 / 1.001)) == 201, "10.01 s"
    assert len(resample(np.zeros(1), 60.0)) == 1
    # 2,997 steps of 59.94 Hz are 50 s but for rounding: the last frame is there.
    assert len(resample(np.zeros(2998), 59.94)) == 1001


@given(st.integers(2, 200), st.sampled_from(RATES), st.integers(0, 2**32 - 1))
def test_both_ends_keep_their_values(frames: int, rate_hz: float, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal((frames, 2))
    resampled = resample(values, rate_hz, rate_hz)
    assert len(resampled) == frames
    assert np.abs(resampled[[0, -1]] - values[[0, -1]]).max() <= 1e-9


def test_frames_that_are_missing_between_are_made() -> None:
    """From 15 to 100 Hz: no new frequencies."""
    time = np.arange(300) / 15
    made = resample(np.sin(2 * np.pi * 3 * time), 15.0, 100.0)[100:-100]
    assert np.abs(made - np.sin(2 * np.pi * 3 * (1 + np.arange(len(made)) / 100))).max() <= 2e-3


def test_a_rate_too_low_for_the_band_is_refused() -> None:
    assert lowest_rate() == 15.0
    with pytest.raises(ValueError, match="motion at 12 Hz does not hold the band of 6 Hz .* which takes 15 Hz"):
        resample(np.zeros((9, 1)), 12.0)
    with pytest.raises(ValueError, match="at 10 Hz"):
        resample(np.zeros((9, 1)), 60.0, 10.0)
    assert len(resample(np.zeros((9, 1)), 12.0, 12.0, cutoff_hz=4.0)) == 9


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_frame_that_is_no_number_is_refused(value: float) -> None:
    values = np.zeros((9, 2))
    values[4, 1] = value
    with pytest.raises(ValueError, match="frame 4 of a motion is not finite"):
        resample(values, 60.0)
