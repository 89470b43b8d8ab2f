"""The sensor encoder: any window, nothing leaks from invalid samples, every parameter is used."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.parts.sensor import SensorEncoder
from vla.settings import SensorConfig

SMALL = SensorConfig(width=16, depth=1, heads=2, dropout=0.0)


def encoder(samples: int = 50, channels: int = 6, config: SensorConfig = SMALL) -> SensorEncoder:
    torch.manual_seed(0)
    return SensorEncoder(samples, channels, config)


WRENCH = 50, 6, SensorConfig(width=128, depth=1, heads=4)
FORCE_AND_ASCAN = 650, 1026, SensorConfig(width=512, depth=2, heads=8)
"""Samples, channels and encoder of the last 50 ms of a wrench, and of a second of the insertion recorder."""


@pytest.mark.parametrize(
    ("sensor", "num_tokens", "num_parameters"), [(WRENCH, 13, 300_416), (FORCE_AND_ASCAN, 11, 11_565_056)]
)
def test_known_sensors(sensor: tuple[int, int, SensorConfig], num_tokens: int, num_parameters: int) -> None:
    samples, channels, config = sensor
    model = encoder(samples, channels, config)
    tokens, mask = model(torch.randn(2, samples, channels), torch.ones(2, samples, dtype=bool))
    assert tokens.shape == (2, num_tokens, config.width)
    assert mask.all()
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters


@settings(max_examples=30, deadline=None)
@given(samples=st.integers(1, 700), channels=st.integers(1, 9))
def test_any_window_becomes_few_tokens(samples: int, channels: int) -> None:
    model = encoder(samples, channels)
    tokens, mask = model(torch.randn(2, samples, channels), torch.ones(2, samples, dtype=bool))
    assert tokens.shape == (2, model.num_tokens, 16)
    assert mask.all()
    assert tokens.isfinite().all()
    assert min(samples, 8) < model.num_tokens + 1 <= 17


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000))
def test_invalid_samples_reach_nothing(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = encoder()
    sensor = torch.randn(3, 50, 6, generator=generator)
    valid = torch.rand(3, 50, generator=generator) < torch.tensor([[0.5], [0.05], [0.0]])
    other = torch.where(valid[..., None], sensor, 1e6 * torch.randn(3, 50, 6, generator=generator))
    other[~valid] = torch.nan if seed % 2 else 7.0
    for one, two in zip(model(sensor, valid), model(other, valid), strict=True):
        assert torch.equal(one, two)


def test_an_invalid_sample_differs_from_a_zero() -> None:
    model, valid = encoder(), torch.ones(1, 50, dtype=bool)
    gap = valid.clone()
    gap[:, 20:30] = False
    assert not torch.allclose(model(torch.zeros(1, 50, 6), valid)[0], model(torch.zeros(1, 50, 6), gap)[0], atol=1e-3)


def test_mask_tells_which_tokens_saw_a_sample() -> None:
    model = encoder(64, 2)
    valid = torch.zeros(1, 64, dtype=bool)
    valid[0, -1] = True
    _, mask = model(torch.randn(1, 64, 2), valid)
    assert mask[0, -1]
    assert not mask[0, : model.num_tokens // 2].any()


def test_no_valid_sample_gives_the_learned_token_alone() -> None:
    model = encoder()
    valid = torch.tensor([False, True])[:, None].expand(2, 50)
    tokens, mask = model(torch.randn(2, 50, 6), valid)
    assert torch.equal(tokens[0, 0], model.no_sensor)
    assert not tokens[0, 1:].any()
    assert mask[0].tolist() == [True] + [False] * (model.num_tokens - 1)
    assert mask[1].all()


def test_rows_do_not_depend_on_each_other() -> None:
    model, sensor = encoder(), torch.randn(3, 50, 6)
    valid = torch.rand(3, 50) < 0.7
    valid[1] = False
    together = model(sensor, valid)[0]
    assert torch.allclose(together[2:], model(sensor[2:], valid[2:])[0], atol=1e-6)


def test_order_in_time_matters() -> None:
    model, sensor, valid = encoder(8, 2), torch.randn(1, 8, 2), torch.ones(1, 8, dtype=bool)
    assert not torch.allclose(model(sensor, valid)[0].flip(1), model(sensor.flip(1), valid)[0], atol=1e-3)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_every_parameter_has_a_gradient_whatever_is_valid(share: float) -> None:
    model = encoder()
    tokens, mask = model(torch.randn(4, 50, 6), torch.rand(4, 50) < share)
    tokens[mask].square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if 0 < share < 1 and name != "no_sensor":
            assert parameter.grad.any(), name
    assert model.no_sensor.grad is not None
    assert bool(model.no_sensor.grad.any()) == (share == 0)


def test_wrong_windows_and_sizes_are_refused() -> None:
    with pytest.raises(AssertionError, match="50 x 6"):
        encoder()(torch.zeros(1, 40, 6), torch.ones(1, 40, dtype=bool))
    with pytest.raises(ValueError, match="multiple of 8"):
        SensorConfig(width=20, heads=4)
    with pytest.raises(ValueError, match="give a rate"):
        SensorConfig(dropout=1.0)
    with pytest.raises(ValueError, match="max_tokens is 0"):
        SensorConfig(max_tokens=0)
