"""The action expert: steps have places, masks hold, gradients reach everything."""

import pytest
import torch

from vla.attention import Attention
from vla.expert import LARGE, ActionExpert, ExpertConfig, Time

H, A, P, L, D, N, E = 6, 3, 4, 5, 20, 2, 12


Noised = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Chunks, times, and which steps are valid."""


def expert(state_dim: int = P, sensor_width: int = E, dropout: float = 0.0) -> ActionExpert:
    torch.manual_seed(0)
    return ActionExpert(
        horizon=H,
        action_dim=A,
        state_dim=state_dim,
        backbone_width=D,
        sensor_width=sensor_width,
        config=ExpertConfig(width=32, depth=2, heads=4, dropout=dropout),
    )


def trained(**sizes: int) -> ActionExpert:
    """An expert whose gates are open, as after some training."""
    model = expert(**sizes)
    for block in model.blocks:
        torch.nn.init.normal_(block.get_parameter("modulation.weight"), std=0.1)
    return model


def context(model: ActionExpert, batch: int = 2, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    backbone = torch.randn(batch, L, D, generator=generator), torch.ones(batch, L, dtype=bool)
    sensor = torch.randn(batch, N, E, generator=generator), torch.ones(batch, N, dtype=bool)
    return model.context(backbone, sensor, torch.randn(batch, P, generator=generator))


def answer(model: ActionExpert, noised: Noised, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = model(*noised, model.look(tokens), mask)
    return out


def chunk(batch: int = 2, seed: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x_t, t = torch.randn(batch, H, A, generator=generator), torch.rand(batch, generator=generator)
    return x_t, t, torch.ones(batch, H, dtype=bool)


def test_steps_of_the_chunk_have_places() -> None:
    """Without positions the answer to permuted steps would be the permuted answer."""
    model, order = expert(), torch.tensor([3, 1, 5, 0, 2, 4])
    x_t, t, valid = chunk()
    straight = answer(model, (x_t, t, valid), *context(model))
    permuted = answer(model, (x_t[:, order], t, valid), *context(model))
    assert not torch.allclose(straight[:, order], permuted, atol=1e-3)


def test_steps_see_each_other() -> None:
    model = trained()
    x_t, t, valid = chunk()
    other = x_t.clone()
    other[:, 0] += 1
    before, after = (answer(model, (x, t, valid), *context(model)) for x in (x_t, other))
    assert ((after - before).abs().amax((0, 2)) > 1e-5).all()


def test_padded_steps_reach_no_valid_step() -> None:
    model = trained()
    x_t, t, valid = chunk()
    valid[0, 4:] = False
    other = x_t.clone()
    other[0, 4:] = 100.0
    one, two = (answer(model, (x, t, valid), *context(model)) for x in (x_t, other))
    assert torch.equal(one[valid], two[valid])
    assert not torch.equal(one, two)


def test_masked_context_reaches_nothing_and_padding_changes_nothing() -> None:
    model = trained()
    x_t, t, valid = chunk()
    tokens, mask = context(model)
    plain = answer(model, (x_t, t, valid), tokens, mask)
    padded = torch.cat([tokens, 50 * torch.randn(2, 7, 32)], dim=1)
    padded_mask = torch.cat([mask, torch.zeros(2, 7, dtype=bool)], dim=1)
    assert torch.allclose(answer(model, (x_t, t, valid), padded, padded_mask), plain, atol=1e-6)
    hidden = mask.clone()
    hidden[:, 2] = False
    assert not torch.allclose(answer(model, (x_t, t, valid), tokens, hidden), plain, atol=1e-5)


@pytest.mark.parametrize("part", ["backbone", "sensor", "state", "time"])
def test_every_source_is_heard(part: str) -> None:
    model = trained()
    x_t, t, valid = chunk()
    backbone = [torch.randn(2, L, D), torch.ones(2, L, dtype=bool)]
    sensor = [torch.randn(2, N, E), torch.ones(2, N, dtype=bool)]
    state = torch.randn(2, P)
    before = answer(model, (x_t, t, valid), *model.context(tuple(backbone), tuple(sensor), state))
    match part:
        case "backbone":
            backbone[0] = torch.randn(2, L, D)
        case "sensor":
            sensor[0] = torch.randn(2, N, E)
        case "state":
            state = torch.randn(2, P)
        case "time":
            t = 1 - t
    after = answer(model, (x_t, t, valid), *model.context(tuple(backbone), tuple(sensor), state))
    assert (after - before).abs().max() > 1e-4


@pytest.mark.parametrize(("state_dim", "sensor_width"), [(P, E), (0, E), (P, 0), (0, 0)])
def test_every_parameter_learns_within_two_steps(state_dim: int, sensor_width: int) -> None:
    model = expert(state_dim, sensor_width)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    x_t, t, valid = chunk()
    backbone = (torch.randn(2, L, D, requires_grad=True), torch.ones(2, L, dtype=bool))
    sensor = (torch.randn(2, N, E, requires_grad=True), torch.ones(2, N, dtype=bool)) if sensor_width else None
    for step in range(2):
        optimizer.zero_grad()
        tokens = model.context(backbone, sensor, torch.randn(2, state_dim))
        answer(model, (x_t, t, valid), *tokens).square().sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert step == 0 or parameter.grad.any(), name
        # What feeds the context learns from the first step on.
        assert backbone[0].grad is not None
        assert backbone[0].grad.any()
        assert sensor is None or (sensor[0].grad is not None and sensor[0].grad.any())
        optimizer.step()


def test_a_row_with_nothing_to_look_at_is_no_nan() -> None:
    model = trained()
    x_t, t, valid = chunk()
    tokens, mask = context(model)
    mask[0], valid[1] = False, False
    out = answer(model, (x_t, t, valid), tokens, mask)
    out[0].sum().backward()
    assert out.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


def test_attention_equals_torchs() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(32, 4), torch.nn.MultiheadAttention(32, 4, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    x, tokens, mask = torch.randn(2, H, 32), torch.randn(2, L, 32), torch.rand(2, L) < 0.6
    mask[:, 0] = True
    assert torch.allclose(ours(x, tokens, mask), theirs(x, tokens, tokens, key_padding_mask=~mask)[0], atol=1e-6)


def test_times_are_told_apart() -> None:
    torch.manual_seed(0)
    features = Time(64)(torch.linspace(0, 1, 101))
    assert torch.cdist(features, features).fill_diagonal_(torch.inf).min() > 1e-3


def test_sizes() -> None:
    def count(config: ExpertConfig, backbone_width: int) -> int:
        with torch.device("meta"):
            model = ActionExpert(
                horizon=8, action_dim=7, state_dim=7, backbone_width=backbone_width, sensor_width=512, config=config
            )
        return sum(parameter.numel() for parameter in model.parameters())

    assert count(ExpertConfig(), 64) == 1_217_927
    assert count(LARGE, 2048) == 144_356_359
    with pytest.raises(ValueError, match="depth is 0"):
        ExpertConfig(depth=0)
