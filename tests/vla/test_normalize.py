"""Statistics against numpy over all rows, and the normaliser's round trips."""

import copy
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vla.normalize import Normalizer
from vla.settings import Normalization
from vla.statistics import Statistics, fit, fit_chunks

MODES: tuple[Normalization, ...] = ("quantile", "z-score", "min-max")
mode_of = pytest.mark.parametrize("mode", MODES)


def rows(count: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def plain(values: np.ndarray) -> Statistics:
    return fit(values, (0.0,) * values.shape[1])


def test_statistics_are_those_of_numpy() -> None:
    values = rows(5000, 4) * np.float32([1, 1e-3, 1e5, 1]) + np.float32([0, 0, 1e6, -3])
    statistics = plain(values)
    exact = values.astype(np.float64)
    assert statistics.count == 5000
    np.testing.assert_allclose(statistics.mean, exact.mean(axis=0), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(statistics.std, exact.std(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(statistics.minimum, exact.min(axis=0))
    np.testing.assert_array_equal(statistics.maximum, exact.max(axis=0))
    np.testing.assert_array_equal(statistics.q01, np.quantile(exact, 0.01, axis=0))
    np.testing.assert_array_equal(statistics.q99, np.quantile(exact, 0.99, axis=0))


def test_chunks_give_the_same_as_all_at_once() -> None:
    values = rows(1003, 3) * 100 + 7

    def chunks() -> Iterator[np.ndarray]:
        for start in range(0, 1003, 100):
            yield values[start : start + 100]
            yield values[:0]

    whole, parts = fit(values, (0.0, 0.0, 360.0)), fit_chunks(chunks, 1003, (0.0, 0.0, 360.0))
    for name in ("mean", "std", "minimum", "maximum", "q01", "q99", "center", "low"):
        np.testing.assert_allclose(getattr(whole, name), getattr(parts, name), rtol=1e-12, err_msg=name)


def test_quantiles_are_not_averages_of_episodes() -> None:
    """lerobot#3801: a mean of per-episode quantiles is not a quantile."""
    values = np.concatenate([rows(900, 1), rows(100, 1) + 50])
    statistics = fit_chunks(lambda: [values[:900], values[900:]], 1000, (0.0,))
    assert statistics.q99[0] == np.quantile(values.astype(np.float64), 0.99)
    averaged = 0.9 * np.quantile(values[:900], 0.99) + 0.1 * np.quantile(values[900:], 0.99)
    assert abs(statistics.q99[0] - averaged) > 10


def test_large_data_is_sub_sampled_uniformly_and_repeatably() -> None:
    """Rows in order of time: a sub-sample of a part of them would be far off."""
    values = np.linspace(0, 1, 100_000, dtype=np.float32)[:, None].repeat(2, axis=1)
    first, second = fit(values, (0.0, 0.0), limit=20_000), fit(values, (0.0, 0.0), limit=20_000)
    np.testing.assert_allclose(first.q01, 0.01, atol=0.004)
    np.testing.assert_allclose(first.q99, 0.99, atol=0.004)
    np.testing.assert_array_equal(first.q01, second.q01)
    assert first.q01[0] != np.quantile(values[:, 0].astype(np.float64), 0.01)
    assert first.minimum[0] == 0
    assert first.maximum[0] == 1
    assert first.mean[0] == pytest.approx(0.5)


@mode_of
@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 1000),
    scale=st.floats(-20, 20).map(lambda exponent: 10.0**exponent),
    shift=st.floats(-1e3, 1e3),
    count=st.integers(1, 50),
)
def test_undo_reverses_apply(mode: Normalization, seed: int, scale: float, shift: float, count: int) -> None:
    values = ((rows(count, 3, seed) + shift) * scale).astype(np.float32)
    normalizer = Normalizer.of(plain(values), mode)
    tensor = torch.from_numpy(values)
    unitless = normalizer.apply(tensor)
    assert unitless.isfinite().all()
    error = (normalizer.undo(unitless) - tensor).abs().max()
    assert error <= 4e-7 * np.abs(values).max()  # a few roundings of float32


def test_modes_are_the_textbook_formulas() -> None:
    values = rows(1000, 2) * 5 + 3
    tensor = torch.from_numpy(values)
    z_score = Normalizer.of(plain(values), "z-score").apply(tensor)
    np.testing.assert_allclose(z_score.numpy(), (values - values.mean(0)) / values.std(0), atol=1e-5)
    unitless = Normalizer.of(plain(values), "min-max").apply(tensor)
    assert unitless.min() == pytest.approx(-1)
    assert unitless.max() == pytest.approx(1)
    unitless = Normalizer.of(plain(values), "quantile").apply(tensor)
    np.testing.assert_allclose(np.quantile(unitless.numpy(), (0.01, 0.99), axis=0), [[-1, -1], [1, 1]], atol=1e-5)
    assert unitless.abs().max() > 1.05  # not clipped: the round trip would be lost


@mode_of
@pytest.mark.parametrize("constant", [0.0, 1.0, -3.3, 1e-30, 1e30, float(np.float32(np.pi))])
@pytest.mark.parametrize("period", [0.0, 2 * np.pi])
def test_constant_dimensions_are_exact(mode: Normalization, constant: float, period: float) -> None:
    values = np.full((100, 2), constant, dtype=np.float32)
    values[:, 1] = rows(100, 1)[:, 0]
    normalizer = Normalizer.of(fit(values, (period, 0.0)), mode)
    assert (normalizer.apply(torch.from_numpy(values) + 5)[:, 0] == 0).all()
    anything = torch.tensor([[7.0, 0.0], [-1e30, 0.0], [float("nan"), 0.0], [float("inf"), 0.0]])
    assert (normalizer.undo(anything)[:, 0] == torch.tensor(constant)).all()


@mode_of
def test_nearly_constant_dimensions_do_not_explode(mode: Normalization) -> None:
    values = np.ones((1000, 1), dtype=np.float32)
    values[::2] = np.nextafter(np.float32(1), np.float32(2))
    normalizer = Normalizer.of(plain(values), mode)
    assert normalizer.apply(torch.from_numpy(values)).abs().max() < 0.01
    assert normalizer.apply(torch.tensor([[1.01]])).abs().max() < 200
    assert (normalizer.undo(torch.tensor([[1.0], [-1.0]])) - 1).abs().max() < 1e-3


@pytest.mark.parametrize("quiet", [0.0, 1e-7])
def test_a_contact_force_keeps_its_contacts(quiet: float) -> None:
    """Zero in 99.5 % of the rows."""
    values = (rows(1000, 1) * np.float32(quiet)).astype(np.float32)
    values[:5] = 10.0
    unitless = Normalizer.of(plain(values), "quantile").apply(torch.from_numpy(values))
    assert unitless[:5].numpy() == pytest.approx(4)
    assert unitless[5:].abs().max() < 1e-5


@mode_of
@pytest.mark.parametrize(
    ("period", "low", "center"),
    [
        (360.0, -180.0, 178.0),
        (360.0, -180.0, -5.0),
        (360.0, 0.0, 2.0),
        (2 * np.pi, -np.pi, np.pi),
        (2 * np.pi, 0.0, 0.1),
    ],
)
def test_angles_do_not_jump_at_the_seam(mode: Normalization, period: float, low: float, center: float) -> None:
    true = center + rows(2000, 1).astype(np.float64) * period / 100
    written = (low + (true - low) % period).astype(np.float32)
    normalizer = Normalizer.of(fit(written, (period,)), mode)
    tensor = torch.from_numpy(written)
    unitless = normalizer.apply(tensor)
    order = np.argsort(true[:, 0])
    assert (np.diff(unitless.numpy()[order, 0]) >= -1e-4).all()  # continuous where the written angle jumps
    assert unitless.abs().max() < 6
    back = normalizer.undo(unitless)
    around = (back - tensor + period / 2) % period - period / 2
    assert around.abs().max() < 1e-5 * period
    assert back.min() >= low - 1e-4 * period
    assert back.max() <= low + period * (1 + 1e-6)


@mode_of
@pytest.mark.parametrize("period", [360.0, 2 * math.pi])
@pytest.mark.parametrize(
    "turns", [(-0.64, -0.16), (-0.49, -0.4), (0.01, 0.2), (0.3, 0.99), (0.7, 1.3), (-0.2, 0.2), (2.0, 2.9)]
)
def test_an_answer_just_past_the_data_is_no_turn_away(
    mode: Normalization, period: float, turns: tuple[float, float]
) -> None:
    """Angles between two ends that never jump: a little beyond an end stays beyond it."""
    first, last = (turn * period for turn in turns)
    values = np.linspace(first, last, 200, dtype=np.float32)[:, None]
    normalizer = Normalizer.of(fit(values, (period,)), mode)
    assert normalizer.period == pytest.approx(period)
    beyond = (period - (last - first)) / 5
    asked = torch.linspace(first - beyond, last + beyond, 57)[:, None]
    unitless = normalizer.apply(asked)
    assert (unitless.diff(dim=0) > 0).all()
    torch.testing.assert_close(normalizer.undo(unitless).float(), asked, rtol=0, atol=1e-4 * period)


@pytest.mark.parametrize(
    ("turns", "start"), [((-0.25, 0.25), -0.5), ((-0.45, 0.45), -0.5), ((0.02, 0.99), 0.0), ((-0.499, 0.499), -0.5)]
)
def test_answers_are_written_as_the_data_are(turns: tuple[float, float], start: float) -> None:
    """The seam of a writer of -180 to 180, or 0 to 360 degrees, stays where the data leave it room."""
    values = np.linspace(360 * turns[0], 360 * turns[1], 200, dtype=np.float32)[:, None]
    assert fit(values, (360.0,)).low == pytest.approx(360 * start)


def test_an_angle_that_counts_turns_is_a_plain_number() -> None:
    values = np.linspace(0, 1000, 500, dtype=np.float32)[:, None]
    normalizer = Normalizer.of(fit(values, (360.0,)), "min-max")
    tensor = torch.from_numpy(values)
    torch.testing.assert_close(normalizer.undo(normalizer.apply(tensor)).float(), tensor, rtol=0, atol=1e-3)


def test_a_turn_more_makes_no_difference_to_an_angle() -> None:
    values = rows(500, 1) * 10 + 20
    normalizer = Normalizer.of(fit(values, (360.0,)), "z-score")
    tensor = torch.from_numpy(values)
    torch.testing.assert_close(normalizer.apply(tensor + 360), normalizer.apply(tensor), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(2,), (5, 2), (3, 4, 2), (0, 2)])
def test_leading_axes(shape: tuple[int, ...]) -> None:
    normalizer = Normalizer.of(plain(rows(100, 2)), "quantile")
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert normalizer.undo(normalizer.apply(tensor)).shape == shape
    torch.testing.assert_close(normalizer.undo(normalizer.apply(tensor)).float(), tensor)


def test_half_precision_comes_out_as_float32() -> None:
    normalizer = Normalizer.of(plain(rows(100, 2)), "quantile")
    assert normalizer.apply(torch.zeros(1, 2, dtype=torch.bfloat16)).dtype == torch.float32
    assert normalizer.undo(torch.zeros(1, 2, dtype=torch.bfloat16)).dtype == torch.float64


def test_gradients_reach_through_undo() -> None:
    normalizer = Normalizer.of(fit(rows(100, 2), (0.0, 2 * np.pi)), "z-score")
    unitless = torch.zeros(1, 2, requires_grad=True)
    normalizer.undo(unitless).sum().backward()
    torch.testing.assert_close(unitless.grad, normalizer.scale[None].float())


@mode_of
def test_its_tensors_are_all_there_is_to_save(mode: Normalization) -> None:
    values = rows(100, 3)
    values[:, 1] = 4
    normalizer = Normalizer.of(fit(values, (0.0, 0.0, 360.0)), mode)
    loaded = Normalizer(3)
    loaded.load_state_dict(copy.deepcopy(normalizer.state_dict()))
    tensor = torch.from_numpy(values)
    assert torch.equal(loaded.apply(tensor), normalizer.apply(tensor))
    assert torch.equal(loaded.undo(tensor), normalizer.undo(tensor))
    assert not list(normalizer.parameters())


def companding(values: np.ndarray, mode: Normalization = "quantile") -> Normalizer:
    return Normalizer.of(fit(values, (0.0,) * values.shape[1], compand=True), mode)


@mode_of
@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 1000),
    scale=st.floats(-20, 20).map(lambda exponent: 10.0**exponent),
    shift=st.floats(-30, 30),
    small=st.floats(0, 15).map(lambda exponent: 10.0**-exponent),
)
def test_undo_reverses_companding(mode: Normalization, seed: int, scale: float, shift: float, small: float) -> None:
    """The root comes back but for roundings of its size, `error`; a value x then but for 2 sqrt(x) error + error^2."""
    values = ((rows(50, 3, seed) + shift) * scale).astype(np.float32)
    values[::2] *= np.float32(small)
    values[0] = 0
    normalizer = companding(values, mode)
    tensor = torch.from_numpy(values)
    unitless = normalizer.apply(tensor)
    assert unitless.isfinite().all()
    root = tensor.double().abs().sqrt()
    error = 4e-7 * root.max(dim=0).values
    assert ((normalizer.undo(unitless).double() - tensor).abs() <= 2 * root * error + error**2 + 1e-45).all()


@mode_of
def test_companding_scales_signed_roots(mode: Normalization) -> None:
    values = (rows(1000, 3) ** 3 - 0.2).astype(np.float32)
    roots = np.sign(values) * np.sqrt(np.abs(values))
    ours = companding(values, mode).apply(torch.from_numpy(values))
    theirs = Normalizer.of(plain(roots), mode).apply(torch.from_numpy(roots))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    statistics, of_roots = fit(values, (0.0,) * 3, compand=True), plain(roots)
    for field in ("mean", "std", "minimum", "maximum", "q01", "q99"):
        np.testing.assert_allclose(vars(statistics)[field], vars(of_roots)[field], rtol=1e-5, atol=1e-6)


def test_motions_a_tenth_as_large_keep_a_third_of_the_weight() -> None:
    large = np.concatenate([rows(500, 1), -rows(500, 1)])
    unitless = companding(large).apply(torch.tensor([[0.1], [1.0], [-1.0], [0.0]]))
    assert unitless[0] / unitless[1] == pytest.approx(10**-0.5, rel=0.05)
    assert unitless[2] == pytest.approx(-unitless[1], rel=0.05)
    assert unitless[3] == pytest.approx(0, abs=0.02)


@mode_of
def test_angles_and_constants_are_not_companded(mode: Normalization) -> None:
    values = rows(200, 4)
    values[:, 1] = -7.3
    values[:, 2] = 170 + 5 * values[:, 2]
    statistics = fit(values, (0.0, 0.0, 360.0, 0.0), compand=True)
    assert statistics.companded.tolist() == [True, False, False, True]
    whole = Normalizer.of(fit(values, (0.0, 0.0, 360.0, 0.0)), mode)
    normalizer = Normalizer.of(statistics, mode)
    assert normalizer.companded.tolist() == [True, False, False, True]
    tensor = torch.from_numpy(values)
    assert torch.equal(normalizer.apply(tensor)[:, 1:3], whole.apply(tensor)[:, 1:3])
    assert (normalizer.undo(torch.zeros(1, 4))[:, 1] == torch.tensor(-7.3)).all()
    assert not torch.allclose(normalizer.apply(tensor)[:, 0], whole.apply(tensor)[:, 0])
    assert not fit(values[:0], (0.0,) * 4, compand=True).companded.any()


def test_companded_statistics_of_chunks_are_those_of_the_whole() -> None:
    values = rows(1003, 3)
    whole = fit(values, (0.0,) * 3, compand=True)
    parts = fit_chunks(lambda: [values[:0], values[:400], values[400:]], 1003, (0.0,) * 3, compand=True)
    for field, value in vars(whole).items():
        np.testing.assert_allclose(vars(parts)[field], value, rtol=1e-12, err_msg=field)


@pytest.mark.parametrize(("period", "compand", "passes"), [(0.0, False, 1), (360.0, False, 2), (360.0, True, 2)])
def test_the_rows_are_gone_over_twice_at_most(period: float, compand: bool, passes: int) -> None:
    values, begun = rows(100, 2), []
    fit_chunks(lambda: begun.append(1) or [values[:60], values[60:]], 100, (period, 0.0), compand=compand)
    assert len(begun) == passes


def test_width_zero_and_no_rows() -> None:
    normalizer = Normalizer.of(fit(np.zeros((5, 0), dtype=np.float32), ()), "quantile")
    assert normalizer.apply(torch.zeros(2, 0)).shape == (2, 0)
    assert fit(np.zeros((0, 2), dtype=np.float32), (0.0, 360.0)).count == 0


def test_a_model_can_still_be_walked() -> None:
    """nn.Module.apply(function) visits the normaliser like any module."""
    seen: list[nn.Module] = []
    model = nn.ModuleDict({"normalizer": Normalizer(2), "linear": nn.Linear(2, 2)})
    model.apply(seen.append)
    assert len(seen) == 3
