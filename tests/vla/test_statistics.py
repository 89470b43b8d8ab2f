"""What few values may decide of the scales: one glitch nothing, a rare mode its own magnitude."""

import numpy as np
import pytest
import torch

from vla.floats import floats
from vla.normalize import ANSWERS, INPUTS, Normalizer
from vla.settings import Normalization
from vla.statistics import fit, inner_range

ROBUST: tuple[Normalization, ...] = ("quantile", "z-score")
robust_mode = pytest.mark.parametrize("mode", ROBUST)


def normalizer(values: np.ndarray, mode: Normalization = "quantile", reach: float = ANSWERS) -> Normalizer:
    return Normalizer.of(fit(values, (0.0,) * values.shape[1]), mode, reach)


def movements(count: int, seed: int) -> np.ndarray:
    """A sine, a normal, a uniform and a heavy-tailed dimension."""
    draws = np.random.default_rng(seed)
    columns = [1.2 * np.sin(np.arange(count) / 7), draws.normal(3, 0.1, count), draws.uniform(-2, 9, count)]
    return np.stack([*columns, draws.laplace(0, 0.5, count)], axis=1).astype(np.float32)


@robust_mode
@pytest.mark.parametrize("glitch", [1e6, -1e6, 1e30, 100.0])
@pytest.mark.parametrize("count", [480, 5000])
def test_a_glitch_moves_the_gain_by_a_twentieth_at_most(mode: Normalization, glitch: float, count: int) -> None:
    for seed in range(20):
        clean = movements(count, seed)
        broken = clean.copy()
        broken[(seed * 50 + 17) % count] = glitch
        gains = 1 / normalizer(clean, mode).scale, 1 / normalizer(broken, mode).scale
        np.testing.assert_allclose(gains[1] / gains[0], 1, atol=0.05)
        assert fit(broken, (0.0,) * 4).strays.tolist() == [1, 1, 1, 1]


@robust_mode
def test_two_glitches_and_a_burst_of_few_move_it_as_little(mode: Normalization) -> None:
    clean = movements(5000, 0)
    broken = clean.copy()
    broken[[100, 3000], 0], broken[200:212, 1] = (1e6, -1e9), 7e4
    np.testing.assert_allclose(normalizer(broken, mode).scale / normalizer(clean, mode).scale, 1, atol=0.05)


@robust_mode
@pytest.mark.parametrize("count", [400, 480, 1000, 7777])
@pytest.mark.parametrize("share", [0.005, 0.007, 0.01, 0.03, 0.4, 0.993])
@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_every_mode_of_half_a_percent_is_within_reach(
    mode: Normalization, count: int, share: float, noise: float
) -> None:
    """A gripper that is open in a share of the frames; a policy answers up to 5."""
    draws = np.random.default_rng(0)
    values = draws.normal(0, noise, (count, 1))
    rare = draws.permutation(count)[: int(np.ceil(share * count))]
    values[rare] += 1
    values = values.astype(np.float32)
    made = normalizer(values, mode)
    unitless = made.apply(torch.from_numpy(values))
    assert unitless.abs().max() <= 5
    assert (made.undo(unitless) - torch.from_numpy(values)).abs().max() <= 1e-6 + 3 * noise


def test_values_that_differ_rarely_from_a_constant_are_no_strays() -> None:
    """A contact in 0.05 % of the rows is all that the dimension says."""
    values = np.zeros((20_000, 2), dtype=np.float32)
    values[5000:5010, 0] = np.linspace(10, 20, 10)
    values[100:102, 1] = 1e6
    made = normalizer(values)
    assert made.constant.tolist() == [False, True]
    assert made.apply(torch.from_numpy(values))[5000:5010, 0].min() > 2
    assert made.undo(torch.tensor([[-4.0, 4.0]]))[0].tolist() == pytest.approx([-1.89, 0.0], abs=0.01)


def test_the_inner_range_is_of_order_statistics() -> None:
    values = np.arange(10_000.0)
    assert inner_range(values) == (25, 9974)
    assert inner_range(values[:480]) == (2, 477)
    assert inner_range(values[:49]) == (0, 48)


def test_actions_stay_within_the_range_and_a_tenth() -> None:
    values = movements(480, 0)
    values[17, 1] = 1e6
    made, of = normalizer(values), fit(values, (0.0,) * 4)
    width = of.inner_maximum - of.inner_minimum
    far = made.undo(torch.full((1, 4), 1e4))[0].numpy()
    np.testing.assert_allclose(far, of.inner_maximum + 0.1 * width, rtol=1e-6)
    learnt = made.apply(torch.from_numpy(values))
    assert learnt.abs().max() < 5
    assert learnt[17, 1] == made.apply(torch.full((1, 4), 1e4))[0, 1]
    seen = normalizer(values, reach=INPUTS).apply(torch.from_numpy(values))
    assert 10 < seen[17, 1] < 40
    assert normalizer(values, reach=np.inf).apply(torch.from_numpy(values))[17, 1] > 1e6


def test_limits_of_roots_and_of_angles_are_in_their_own_terms() -> None:
    values = movements(480, 0)
    made = Normalizer.of(fit(values, (0.0,) * 4, compand=True), "quantile", ANSWERS)
    inner = np.stack([inner_range(np.sort(column)) for column in values.T.astype(np.float64)])
    far = made.undo(torch.tensor([[1e4] * 4, [-1e4] * 4])).numpy()
    np.testing.assert_allclose(far[0], inner[:, 1] + 0.1 * (inner[:, 1] - inner[:, 0]), rtol=1e-5)
    yaw = np.linspace(-170, 170, 480, dtype=np.float32)[:, None]
    assert not Normalizer.of(fit(yaw, (360.0,)), "quantile", ANSWERS).limited
    turning = Normalizer.of(fit(yaw / 4, (360.0,)), "quantile", ANSWERS)
    assert turning.undo(torch.tensor([[9.0]])).item() == pytest.approx(42.5 * 1.2, rel=0.02)


def test_what_moves_little_far_from_the_origin_keeps_its_motion() -> None:
    """Map coordinates: float32 has steps of half a metre there."""
    motion = np.stack([0.1 * np.sin(np.arange(500) / 6), 0.1 * np.cos(np.arange(500) / 6)], axis=1)
    values = motion + np.array([4649776.1, 691608.3])
    made = normalizer(values)
    low, high = np.quantile(values, (0.01, 0.99), axis=0)
    expected = (values - (low + high) / 2) / ((high - low) / 2)
    unitless = made.apply(torch.from_numpy(values))
    assert unitless.dtype == torch.float32
    np.testing.assert_allclose(unitless.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(made.undo(unitless).numpy(), values, rtol=0, atol=1e-7)
    assert fit(values, (0.0, 0.0)).single.tolist() == [False, False]
    assert fit(values.astype(np.float32).astype(np.float64), (0.0, 0.0)).single.all()


@pytest.mark.parametrize(
    ("kind", "kept"), [("f2", "f4"), ("f4", "f4"), ("f8", "f8"), ("u1", "f4"), ("i2", "f4"), ("i4", "f8"), ("?", "f4")]
)
def test_numbers_become_the_floats_that_hold_them(kind: str, kept: str) -> None:
    assert floats(np.ones(3, dtype=kind)).dtype == np.dtype(kept)


@pytest.mark.parametrize("period", [360.0, 2 * np.pi])
@pytest.mark.parametrize("glitch", [1e6, -400.0])
def test_a_glitch_does_not_stop_an_angle_from_wrapping(period: float, glitch: float) -> None:
    """Nor does it move the seam: everything else is scaled as without it."""
    clean = ((np.linspace(0.3, 0.6, 480) + 0.5) % 1 - 0.5)[:, None] * period
    broken = clean.copy()
    broken[77] = glitch * period
    made = [Normalizer.of(fit(values, (period,)), "quantile") for values in (clean, broken)]
    assert made[1].period.item() == pytest.approx(period)
    assert made[1].low.item() == pytest.approx(made[0].low.item(), abs=0.01 * period)
    unitless = [one.apply(torch.from_numpy(clean)).numpy() for one in made]
    np.testing.assert_allclose(unitless[1], unitless[0], atol=0.05)
    assert [fit(values, (period,)).stray_angles.tolist() for values in (clean, broken)] == [[0], [1]]
