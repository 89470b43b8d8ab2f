"""The Frechet distance against closed forms, its bias against theory, its interval against repetition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.evaluation.motion.frechet import compare, frechet


def vectors(mean: np.ndarray, covariance: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Vectors of exactly this mean and covariance."""
    drawn = np.random.default_rng(seed).standard_normal((count, len(mean)))
    drawn -= drawn.mean(axis=0)
    white = drawn @ np.linalg.inv(np.linalg.cholesky(np.atleast_2d(np.cov(drawn, rowvar=False)))).T
    return white @ np.linalg.cholesky(covariance).T + mean


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(0.1, 4), st.floats(0.1, 4)), min_size=1, max_size=6))
@settings(max_examples=40)
def test_of_gaussians_along_the_axes(axes: list[tuple[float, float, float]]) -> None:
    """sum of (m1 - m2)^2 + (s1 - s2)^2, turned by one rotation."""
    apart, one, other = (np.array(values) for values in zip(*axes, strict=True))
    turned, _ = np.linalg.qr(np.random.default_rng(len(axes)).standard_normal((len(axes), len(axes))))
    first = vectors(np.zeros(len(axes)), np.diag(one**2), 60, 0) @ turned
    second = vectors(apart, np.diag(other**2), 70, 1) @ turned
    assert frechet(first, second) == pytest.approx(float((apart**2).sum() + ((one - other) ** 2).sum()), abs=1e-8)


def test_of_two_covariances_in_the_plane() -> None:
    """Tr (S1 S2)^1/2 = sqrt(Tr S1 S2 + 2 sqrt(det S1 S2)) of two by two matrices."""
    one, other = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([[0.5, -0.3], [-0.3, 3.0]])
    product = one @ other
    cross = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    expected = np.trace(one) + np.trace(other) - 2 * cross + 5.0
    found = frechet(vectors(np.zeros(2), one, 50, 0), vectors(np.array([1.0, 2.0]), other, 50, 1))
    assert found == pytest.approx(expected, abs=1e-9)


def test_a_set_is_at_no_distance_from_itself_also_where_it_is_flat() -> None:
    flat = np.random.default_rng(0).standard_normal((40, 3)) @ np.ones((3, 20))
    assert frechet(flat, flat) == pytest.approx(0.0, abs=1e-9)
    assert frechet(flat, flat + 0.1) == pytest.approx(20 * 0.01, abs=1e-9)


@pytest.mark.parametrize(("features", "count"), [(4, 200), (16, 400)])
def test_the_bias_is_what_the_floor_says(features: int, count: int) -> None:
    """F (F + 5) / 2N of unit variance, as is said."""
    draw = np.random.default_rng(0)
    floors = [
        compare(draw.standard_normal((2 * count, features)), np.zeros((count, features)), draws=1).floor.value
        for _ in range(60)
    ]
    assert np.mean(np.array(floors, dtype=float)) == pytest.approx(features * (features + 5) / 2 / count, rel=0.08)


def test_the_interval_is_as_wide_as_repetitions_differ() -> None:
    """Far apart the distance is about that of the means, |m|^2, of which the deviation is 2 |m| sqrt(2 / N)."""
    draw = np.random.default_rng(1)
    found = [
        compare(draw.standard_normal((400, 4)), draw.standard_normal((200, 4)) + 1.0, draws=100, seed=place).distance
        for place in range(20)
    ]
    widths = [float(figure.high or 0) - float(figure.low or 0) for figure in found]
    assert np.mean(widths) == pytest.approx(2 * 1.96 * 2 * 2 * np.sqrt(2 / 200), rel=0.12)
    middles = [(float(figure.high or 0) + float(figure.low or 0)) / 2 - float(figure.value or 0) for figure in found]
    assert abs(np.mean(middles)) <= 0.1 * np.mean(widths), "about the distance itself"


def test_all_sets_are_of_as_many_and_few_are_told() -> None:
    draw = np.random.default_rng(0)
    found = compare(draw.standard_normal((130, 8)), draw.standard_normal((50, 8)), draws=2)
    assert (found.distance.n, found.floor.n) == (50, 50)
    assert "50 vectors of 8 features is too large by about its floor" in found.remark
    assert "or use 80" in found.remark
    assert compare(draw.standard_normal((160, 8)), draw.standard_normal((90, 8)), draws=2).remark == ""
    with pytest.raises(ValueError, match="takes as many vectors .* there are 15 real ones and 50 others"):
        compare(draw.standard_normal((15, 8)), draw.standard_normal((50, 8)))


def test_it_follows_from_the_seed() -> None:
    draw = np.random.default_rng(0)
    real, others = draw.standard_normal((100, 3)), draw.standard_normal((70, 3))
    assert compare(real, others, draws=5, seed=3) == compare(real, others, draws=5, seed=3)
    assert compare(real, others, draws=5, seed=3) != compare(real, others, draws=5, seed=4)
