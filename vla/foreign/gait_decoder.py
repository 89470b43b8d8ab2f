"""The network of GaitDynamics, a transformer that predicts clean frames from noised ones, in plain linear layers.

Its attention turns what queries and keys are made of (not these themselves) by the place of each frame, over the whole
width and not by heads, and every block's result is scaled and shifted by the diffusion step (FiLM; Perez et al. 2018).
There, each layer has a second attention that is never called: here it is left out, as is the dropout of 0.1.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn
from torch.nn import functional

from vla.settings import check_heads

WAVELENGTHS = 10_000.0
"""Of the slowest to the fastest, of the rotary places and of the diffusion steps."""
TIME_WIDENS = 4


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of a decoder."""

    columns: int
    width: int
    feed_forward: int
    layers: int
    heads: int

    def __post_init__(self) -> None:
        check_heads(self.width, self.heads)
        if min(self.columns, self.feed_forward, self.layers) < 1 or self.width < 4:
            raise ValueError(f"{self} is no decoder: give sizes of at least 1, and a width of at least 4")


class RotaryAttention(nn.Module):
    """Each frame of all frames."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "B T D"], angles: Float[Tensor, "T half"]) -> Float[Tensor, "B T D"]:
        """`angles` are those of each frame's place, of each pair of neighbouring numbers of the width."""
        placed = turned(x, angles)
        query, key, value = (
            made.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for made in (self.q_proj(placed), self.k_proj(placed), self.v_proj(x))
        )
        seen = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.out_proj(seen.transpose(1, 2).flatten(2))
        return out


def turned(x: Float[Tensor, "B T D"], angles: Float[Tensor, "T half"]) -> Float[Tensor, "B T D"]:
    """Each pair of neighbouring numbers, turned as a point of a plane (Su et al. 2021)."""
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1).flatten(-2)


class Film(nn.Module):
    """A scale around 1 and a shift of every number of the width, from the diffusion step."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * width)

    def forward(self, x: Float[Tensor, "B T D"], step: Float[Tensor, "B D"]) -> Float[Tensor, "B T D"]:
        """`step` is what the diffusion step became."""
        scale, shift = self.linear(functional.mish(step))[:, None].chunk(2, dim=-1)
        modulated: Tensor = (scale + 1) * x + shift
        return modulated


class GaitLayer(nn.Module):
    """Attention, then a feed-forward block, each of what is normalised before, and added as the step has it."""

    def __init__(self, width: int, feed_forward: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = RotaryAttention(width, heads)
        self.attention_film = Film(width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, feed_forward)
        self.linear2 = nn.Linear(feed_forward, width)
        self.feed_forward_film = Film(width)

    def forward(
        self, x: Float[Tensor, "B T D"], angles: Float[Tensor, "T half"], step: Float[Tensor, "B D"]
    ) -> Float[Tensor, "B T D"]:
        """Of the same shape."""
        x = x + self.attention_film(self.attention(self.attention_norm(x), angles), step)
        between = self.linear2(functional.gelu(self.linear1(self.feed_forward_norm(x))))
        made: Tensor = x + self.feed_forward_film(between, step)
        return made


class GaitDecoder(nn.Module):
    """Clean frames from noised ones. A LoRA adapter finds every layer as an nn.Linear that is called."""

    rotary_frequencies: Float32[Tensor, " half"]

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.width
        self.sizes = sizes
        places = torch.arange(0, width, 2, dtype=torch.float32) / width
        self.register_buffer("rotary_frequencies", WAVELENGTHS**-places)
        self.input_projection = nn.Linear(sizes.columns, width)
        self.time_widen = nn.Linear(width, TIME_WIDENS * width)
        self.time_narrow = nn.Linear(TIME_WIDENS * width, width)
        self.layers = nn.ModuleList(GaitLayer(width, sizes.feed_forward, sizes.heads) for _ in range(sizes.layers))
        self.final_layer = nn.Linear(width, sizes.columns)

    def forward(self, x_t: Float[Tensor, "B T C"], step: Int[Tensor, " B"]) -> Float[Tensor, "B T C"]:
        """The clean frames that it takes noised ones for, normalised both; steps count from 0, of the least noise."""
        places = torch.arange(x_t.shape[1], dtype=torch.float32, device=x_t.device)
        angles = places[:, None] * self.rotary_frequencies
        x = self.input_projection(x_t)
        told = self.time_widen(step_waves(step, self.sizes.width).to(x.dtype))
        told = self.time_narrow(functional.mish(told))
        for layer in self.layers:
            x = layer(x, angles, told)
        out: Tensor = self.final_layer(x)
        return out


def step_waves(step: Int[Tensor, " B"], width: int) -> Float32[Tensor, "B D"]:
    """Sines, then cosines, of a diffusion step."""
    half = width // 2
    rates = torch.exp(torch.arange(half, device=step.device) * -(math.log(WAVELENGTHS) / (half - 1)))
    waves = step[:, None].float() * rates
    return torch.cat((waves.sin(), waves.cos()), dim=-1)
