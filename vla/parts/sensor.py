"""The sensor encoder: a window of samples of any rate and width -> a few tokens."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from vla.parts.attention import Attention, FeedForward
from vla.settings import SensorConfig


class Halve(nn.Module):
    """A strided convolution over time, normalised over channels, so that no sample's scale reaches another's."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(width, width, kernel_size=3, stride=2, padding=1)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B half D"]:
        """Half as many tokens, rounded up."""
        x = self.convolution(x.transpose(1, 2)).transpose(1, 2)
        out: Tensor = self.dropout(functional.gelu(self.norm(x)))
        return out


class Block(nn.Module):
    """Pre-norm self-attention and feed-forward over the tokens that are valid."""

    def __init__(self, config: SensorConfig) -> None:
        super().__init__()
        width = config.sizes.width
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, config.sizes.heads)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = FeedForward(width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        """Invalid tokens reach no valid one."""
        normed = self.norm(x)
        x = x + self.dropout(self.attention(normed, normed, mask))
        fed: Tensor = self.feed(self.feed_norm(x))
        out: Tensor = x + self.dropout(fed)
        return out


class SensorEncoder(nn.Module):
    """Normalised windows of S samples -> at most `max_tokens` tokens, newest last.

    Invalid samples are replaced by zeros and told apart by a channel of their own. A window without one valid sample
    becomes a single learned token. Every parameter takes part in every forward, so that no rank waits for a gradient.
    """

    def __init__(self, samples: int, channels: int, config: SensorConfig) -> None:
        super().__init__()
        assert min(samples, channels) > 0, f"a sensor window has samples and channels, not {samples} x {channels}"
        self.samples, self.channels, self.width = samples, channels, config.sizes.width
        halvings = max(0, math.ceil(math.log2(samples / config.max_tokens)))
        self.num_tokens = math.ceil(samples / 2**halvings)
        self.embed = nn.Linear(channels + 1, self.width)
        self.embed_norm = nn.LayerNorm(self.width)
        self.halve = nn.ModuleList(Halve(self.width, config.dropout) for _ in range(halvings))
        self.positions = nn.Parameter(0.02 * torch.randn(self.num_tokens, self.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.sizes.depth))
        self.norm = nn.LayerNorm(self.width)
        self.no_sensor = nn.Parameter(torch.randn(self.width))

    def forward(
        self, sensor: Float[Tensor, "B S C"], valid: Bool[Tensor, "B S"]
    ) -> tuple[Float[Tensor, "B N D"], Bool[Tensor, "B N"]]:
        """Tokens, and which of them saw a valid sample."""
        assert sensor.shape[1:] == (self.samples, self.channels), (
            f"the encoder is built for windows of {self.samples} x {self.channels}, not {tuple(sensor.shape[1:])}"
        )
        marks = valid[..., None].to(sensor.dtype)
        x = self.embed_norm(self.embed(torch.cat([sensor.masked_fill(~valid[..., None], 0), marks], dim=-1)))
        seen = marks.transpose(1, 2)
        for halve in self.halve:
            x = halve(x)
            seen = functional.max_pool1d(seen, kernel_size=3, stride=2, padding=1)
        mask = seen[:, 0] > 0
        x = x + self.positions
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)
        absent = ~valid.any(dim=1)
        first = torch.arange(self.num_tokens, device=valid.device) == 0
        x = torch.where(absent[:, None, None], self.no_sensor.to(x.dtype) * first[:, None], x)
        return x, mask | (absent[:, None] & first)
