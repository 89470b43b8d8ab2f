"""The A-scan: depths, layers, speckle, and that it tells where the hole is."""

import itertools

import numpy as np
import pytest

from vla.benchmarks.needle import ascan
from vla.benchmarks.needle.config import SENSOR_CHANNELS, NeedleConfig
from vla.benchmarks.needle.environment import Needle

MOUTH = np.array([0.01, -0.02, 0.04])


def profile(x_m: float, height_m: float, y_m: float = 0.0, yaw: float = 0.0) -> np.ndarray:
    """The expected light for a tip beside the hole's axis and above its mouth."""
    return ascan.profile((MOUTH + np.array([x_m, y_m, height_m]))[None], MOUTH, yaw)[0]


@pytest.mark.parametrize("height_m", [0.0005, 0.002, 0.0057, 0.009])
def test_the_surface_stands_at_its_distance(height_m: float) -> None:
    depth = profile(0.012, height_m).argmax() * ascan.DEPTH_STEP_M
    assert abs(depth - height_m) <= 0.5 * ascan.DEPTH_STEP_M + 1e-12


def test_light_decays_as_the_layers_say() -> None:
    light = profile(0.012, 0.001)
    assert light[:80].max() < 1e-3 * light.max()
    edges = np.array([0.0, 0.0004 + ascan.THICKENING * 0.012, 0.0010 + ascan.THICKENING * 0.012])
    for number, (start, stop) in enumerate(itertools.pairwise(edges)):
        inside = np.arange(int((0.001 + start) * 1e5) + 20, int((0.001 + stop) * 1e5) - 1)
        slope = np.diff(np.log(light[inside])) / ascan.DEPTH_STEP_M
        np.testing.assert_allclose(slope, -2 * ascan.LAYERS_PER_M[number], rtol=1e-6)


def test_light_is_the_integral_of_what_lies_above() -> None:
    """A second path to the same number: mu exp(-2 integral of mu), integrated numerically."""
    light, grown = profile(0.012, 0.0), ascan.THICKENING * 0.012
    fine = np.arange(0, 0.004, 1e-7)
    coefficients = ascan.LAYERS_PER_M[np.searchsorted(ascan.BOUNDARIES_M[1:] + grown, fine, side="right")]
    expected = ascan.SCATTERED * coefficients * np.exp(-2 * np.cumsum(coefficients) * 1e-7)
    for depth_m in (0.0007, 0.00137, 0.0019, 0.003):
        assert light[round(depth_m * 1e5)] == pytest.approx(expected[round(depth_m * 1e7)], rel=2e-3)


def test_it_tells_where_the_hole_is() -> None:
    """Over the hole nothing comes back from near; the rim's share grows with the distance, also when it is turned."""
    near = [profile(x, 0.002)[:600].sum() for x in (0.0, 0.003, 0.0046, 0.006, 0.012)]
    assert near == sorted(near)
    assert near[0] < 1e-3 * near[-1]
    assert near[2] == pytest.approx(near[-1] / 2, rel=0.05)  # half of the beam at the edge
    first_layer = [profile(x, 0.0)[30:300] for x in (0.010, 0.012)]
    assert not np.allclose(*first_layer)
    turned = profile(0.0046 * np.cos(0.3), 0.002, 0.0046 * np.sin(0.3), yaw=0.3)
    np.testing.assert_allclose(turned, profile(0.0046, 0.002), rtol=1e-6, atol=1e-6)


def test_the_bottom_is_seen_from_deep_inside() -> None:
    assert profile(0.0, -0.037).argmax() * ascan.DEPTH_STEP_M == pytest.approx(0.003, abs=1e-5)
    assert profile(0.0, -0.02).max() < 5


def test_speckle_is_exponential() -> None:
    noise = np.random.default_rng(0)
    power = 10 ** (ascan.measure(np.full((2000, 3), 1e4), noise).astype(np.float64) / 10)
    assert power.mean() == pytest.approx(1e4 + 1, rel=0.05)
    assert power.std() == pytest.approx(1e4, rel=0.05)
    floor = 10 ** (ascan.measure(np.zeros((2000, 3)), noise).astype(np.float64) / 10)
    assert floor.mean() == pytest.approx(1.0, rel=0.05)


def test_the_window_is_a_second() -> None:
    config = NeedleConfig(cameras=(), sensor="ascan", sensor_rate_hz=650.0)
    needle = Needle(config)
    observation, _ = needle.reset(seed=0)
    assert observation["observation.ascan"].shape == (650, SENSOR_CHANNELS["ascan"])
    assert SENSOR_CHANNELS["ascan"] == 1 + ascan.DEPTHS
    before = observation["observation.ascan"]
    after = needle.step(np.array([0.0, 0.0, -1.0]))[0]["observation.ascan"]
    np.testing.assert_array_equal(after[:618], before[32:])
    assert np.isfinite(after).all()
