"""The action expert: steps have places, masks hold, gradients reach everything."""

from collections.abc import Sequence

import pytest
import torch

from vla.parts.attention import Attention
from vla.parts.expert import ActionExpert, Source, Time, Tokens
from vla.settings import ExpertConfig

H, A, P, L, D, N, E = 6, 3, 4, 5, 20, 2, 12


Noised = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Chunks, times, and which steps are valid."""


SOURCES = {"backbone": Source(width=D, normalize=True), "sensor": Source(width=E), "state": Source(width=P)}
SHAPES = {"backbone": (L, D), "sensor": (N, E), "state": (1, P)}
"""Tokens of each part, and their width."""


def expert(parts: Sequence[str] = tuple(SOURCES), dropout: float = 0.0) -> ActionExpert:
    return ActionExpert(
        horizon=H,
        action_dim=A,
        sources={part: SOURCES[part] for part in parts},
        config=ExpertConfig(width=32, depth=2, heads=4, dropout=dropout),
        seed=0,
    )


def trained() -> ActionExpert:
    """An expert whose gates are open, as after some training."""
    model = expert()
    torch.manual_seed(0)
    for block in model.blocks:
        torch.nn.init.normal_(block.get_parameter("modulation.weight"), std=0.1)
    return model


def sources(parts: Sequence[str] = tuple(SOURCES), batch: int = 2, seed: int = 1) -> dict[str, Tokens]:
    generator = torch.Generator().manual_seed(seed)
    return {
        part: (torch.randn(batch, *SHAPES[part], generator=generator), torch.ones(batch, SHAPES[part][0], dtype=bool))
        for part in parts
    }


def context(model: ActionExpert, batch: int = 2, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    return model.context(sources(batch=batch, seed=seed))


def answer(model: ActionExpert, noised: Noised, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = model(*noised, model.cache(tokens, mask))[0]
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
    model, seen = trained(), sources()
    x_t, t, valid = chunk()
    before = answer(model, (x_t, t, valid), *model.context(seen))
    if part == "time":
        t = 1 - t
    else:
        seen[part] = sources(seed=5)[part]
    after = answer(model, (x_t, t, valid), *model.context(seen))
    assert (after - before).abs().max() > 1e-4


def test_a_scale_is_kept_or_brought_to_one() -> None:
    model, seen = expert(), sources()
    for part, source in SOURCES.items():
        scaled = model.context(seen | {part: (3 * seen[part][0], seen[part][1])})[0]
        assert torch.allclose(scaled, model.context(seen)[0], atol=1e-4) == source.normalize, part


@pytest.mark.parametrize("parts", [SOURCES, ("backbone", "state"), ("backbone", "sensor"), ("backbone",)])
def test_every_parameter_learns_within_two_steps(parts: Sequence[str]) -> None:
    model, seen = expert(tuple(parts)), sources(tuple(parts))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for tokens, _ in seen.values():
        tokens.requires_grad_()
    for step in range(2):
        optimizer.zero_grad()
        answer(model, chunk(), *model.context(seen)).square().sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert step == 0 or parameter.grad.any(), name
        # What feeds the context learns from the first step on.
        assert all(tokens.grad is not None and tokens.grad.any() for tokens, _ in seen.values())
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
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, torch.zeros(64)]))
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
        parts = {"backbone": Source(width=backbone_width, normalize=True), "sensor": Source(width=512)}
        with torch.device("meta"):
            model = ActionExpert(horizon=8, action_dim=7, sources=parts, config=config, seed=0)
        return sum(parameter.numel() for parameter in model.parameters())

    assert count(ExpertConfig(width=128, depth=3, heads=4), 64) == 1_198_727
    assert count(ExpertConfig(width=1024, depth=6, heads=16), 2048) == 143_272_967
    with pytest.raises(ValueError, match="depth is 0"):
        ExpertConfig(depth=0)
