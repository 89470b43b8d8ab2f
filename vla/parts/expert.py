"""The action expert: a transformer over the chunk that undoes noise, given context and the diffusion time."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vla.parts.attention import Attention, FeedForward, KeysValues, opened
from vla.randomness import seeded
from vla.settings import ExpertConfig

Tokens = tuple[Float[Tensor, "B _ _"], Bool[Tensor, "B _"]]
"""Tokens of a part of the policy, and which of them may be looked at."""
ContextTokens = tuple[Float[Tensor, "B L D"], Bool[Tensor, "B L"]]
"""Those of all parts at the width of the expert."""
Labels = Mapping[str, Float[Tensor, "N H _"]]
"""By name, what is said of each step: a number for each class, the larger the likelier, or the values of a quantity."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A part as the context knows it."""

    width: int
    """Width of its tokens."""
    normalize: bool = False
    """Whether they come in any scale, and are brought to one; otherwise their scale says something."""


@dataclass(frozen=True)
class ContextCache:
    """The context of B observations as each block of the expert attends to it."""

    keys_values: list[KeysValues]
    mask: Bool[Tensor, "B L"]
    """Which tokens may be looked at: some of each."""


class Time(nn.Module):
    """Diffusion times in [0, 1] -> vectors: sines and cosines with periods from 0.004 to 4, then two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, t: Float[Tensor, " B"]) -> Float[Tensor, "B D"]:
        """One vector a time."""
        share = torch.linspace(0, 1, self.width // 2, dtype=torch.float32, device=t.device)
        angle = t.float()[:, None] * (2 * math.pi / (0.004 * 1000.0**share))
        out: Tensor = self.layers(torch.cat([angle.sin(), angle.cos()], dim=-1))
        return out


def waves(steps: int, width: int) -> Float[Tensor, "H D"]:
    """Sines and cosines of the place of a step, with periods from 2 steps to 4 times as many as there are.

    As large as the numbers that they are added to: who begins with small ones mixes steps without their order, and has
    to learn the order of a long chunk first.
    """
    periods = 2.0 * torch.exp(math.log(2.0 * steps) * torch.linspace(0, 1, width // 2))
    # No arange: after DeepSpeed torch.device may pass it over (findings/deepspeed_zero_init_breaks_meta_device.sh).
    angle = torch.linspace(0, steps - 1, steps)[:, None] * (2 * math.pi / periods)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class Context(nn.Module):
    """What the expert looks at: the tokens of all parts in one sequence, told apart by a type embedding.

    Each part has a projection and a type of its own, whose fresh values follow from the seed and the part's name: a
    further part changes nothing of the others. Where samples may be `droppable`, a learned vector stands for what the
    backbone says of a dropped one.
    """

    def __init__(self, width: int, sources: Mapping[str, Source], seed: int, *, droppable: bool) -> None:
        super().__init__()
        self.parts = tuple(sources)
        self.projections, self.types = nn.ModuleDict(), nn.ParameterDict()
        for part, source in sources.items():
            with seeded(seed, f"context/{part}"):
                scaled = [nn.LayerNorm(source.width)] if source.normalize else []
                self.projections[child_of(part)] = nn.Sequential(*scaled, nn.Linear(source.width, width))
                self.types[child_of(part)] = nn.Parameter(0.02 * torch.randn(width))
        self.unconditional: nn.Parameter | None = None
        if droppable:
            with seeded(seed, "context/unconditional"):
                self.unconditional = nn.Parameter(torch.randn(width))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Mapping[str, Tokens], dropped: Bool[Tensor, " B"] | None = None) -> ContextTokens:
        """Put the tokens of the parts it is built for behind one another; None: no sample is dropped."""
        assert tokens.keys() == {*self.parts}, f"tokens of {[*tokens]}, built for {[*self.parts]}"
        seen = {
            part: self.projections[child_of(part)](tokens[part][0].float()) + self.types[child_of(part)]
            for part in self.parts
        }
        masks = {part: tokens[part][1] for part in self.parts}
        if dropped is not None:
            seen["backbone"], masks["backbone"] = self._instead(seen["backbone"], masks["backbone"], dropped)
        return self.norm(torch.cat([*seen.values()], dim=1)), torch.cat([*masks.values()], dim=1)

    def _instead(
        self, seen: Float[Tensor, "B L D"], mask: Bool[Tensor, "B L"], dropped: Bool[Tensor, " B"]
    ) -> ContextTokens:
        """The backbone's tokens; those of a dropped sample are the learned vector, once: their number would tell too.

        The vector takes part where nobody is dropped, so that no rank waits for its gradient.
        """
        assert self.unconditional is not None, "built for samples that are dropped"
        first = torch.arange(seen.shape[1], device=seen.device) == 0
        seen = torch.where(dropped[:, None, None], self.unconditional.to(seen.dtype), seen)
        return seen, torch.where(dropped[:, None], first, mask)


def child_of(part: str) -> str:
    """What the expert's own layers for a part are called: a weight named after the backbone is one of its own."""
    return "vision_language" if part == "backbone" else part


class Block(nn.Module):
    """Self-attention over the chunk, attention to the context, feed-forward.

    Time scales, shifts and gates the first and the last (AdaLN-zero, Peebles & Xie 2023). Attention to the context
    has no gate: so the backbone's adapters get a gradient from the first step on.
    """

    def __init__(self, config: ExpertConfig) -> None:
        super().__init__()
        width, heads = config.sizes.width, config.sizes.heads
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = Attention(width, heads)
        self.context_norm = nn.LayerNorm(width)
        self.context_attention = Attention(width, heads)
        self.feed = FeedForward(width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "N H D"],
        valid: Bool[Tensor, "N H"],
        time: Float[Tensor, "N D"],
        keys_values: KeysValues,
        mask: Bool[Tensor, "B L"],
    ) -> Float[Tensor, "N H D"]:
        """Steps that are not valid, and context tokens masked out, reach no valid step; no row of a mask is empty."""
        shift, scale, gate, feed_shift, feed_scale, feed_gate = self.modulation(time)[:, None].chunk(6, dim=-1)
        normed = self.norm(x) * (1 + scale) + shift
        x = x + gate * self.dropout(self.attention.attend(normed, self.attention.keys_values(normed), valid))
        # The chunks of one observation ask its context together.
        asked = self.context_norm(x).reshape(len(mask), -1, x.shape[-1])
        x = x + self.dropout(self.context_attention.attend(asked, keys_values, mask).reshape(x.shape))
        fed: Tensor = self.feed(self.norm(x) * (1 + feed_scale) + feed_shift)
        out: Tensor = x + feed_gate * self.dropout(fed)
        return out


class ActionExpert(nn.Module):
    """(x_t, t, context) -> prediction and labels, one token an action step.

    Call `context` and `cache` once for an observation, then this once for each diffusion time, or once for several: N
    is a multiple of B, and the chunks of an observation follow one another.
    """

    def __init__(
        self,
        *,
        horizon: int,
        action_dim: int,
        sources: Mapping[str, Source],
        config: ExpertConfig,
        seed: int,
        droppable: bool = False,
        labels: Mapping[str, int] | None = None,
    ) -> None:
        """`labels` says how many numbers each label has; fresh values of its head follow from the seed and its name."""
        super().__init__()
        self.horizon, self.action_dim = horizon, action_dim
        self.context = Context(config.sizes.width, sources, seed, droppable=droppable)
        with seeded(seed, "expert"):
            self._build(config)
        self.heads = nn.ModuleDict()
        for name, width in (labels or {}).items():
            with seeded(seed, f"expert/{name}"):
                self.heads[name] = nn.Linear(config.sizes.width, width)

    def _build(self, config: ExpertConfig) -> None:
        """What does not depend on the parts."""
        width = config.sizes.width
        self.time = Time(width)
        self.embed = nn.Linear(self.action_dim, width)
        # Drawn in any case: what is drawn after it stays the same.
        small = 0.02 * torch.randn(self.horizon, width)
        self.positions = nn.Parameter(small if config.positions == "small" else waves(self.horizon, width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.sizes.depth))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, self.action_dim)
        # Small, so that the first predictions are near zero; not zero, so that gradients pass it at once.
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)

    def cache(self, context: Float[Tensor, "B L D"], mask: Bool[Tensor, "B L"]) -> ContextCache:
        """What each block computes of the context alone, whatever the chunks and times."""
        cached: list[KeysValues] = []
        for block in self.blocks:
            assert isinstance(block, Block)
            cached.append(block.context_attention.keys_values(context))
        return ContextCache(keys_values=cached, mask=opened(mask))

    def forward(
        self,
        x_t: Float[Tensor, "N H A"],
        t: Float[Tensor, " N"],
        valid: Bool[Tensor, "N H"],
        context: ContextCache,
    ) -> tuple[Float[Tensor, "N H A"], Labels]:
        """`valid` hides the padded steps of a chunk; what they hold reaches no other step."""
        assert x_t.shape[1:] == (self.horizon, self.action_dim), f"chunks of shape {tuple(x_t.shape[1:])}"
        time = self.time(t)
        x, valid = self.embed(x_t) + self.positions, opened(valid)
        for block, keys_values in zip(self.blocks, context.keys_values, strict=True):
            x = block(x, valid, time, keys_values, context.mask)
        states = self.norm(x)
        return self.out(states), {name: head(states) for name, head in self.heads.items()}
