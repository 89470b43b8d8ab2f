"""A linear layer whose weight stays as it is, beside low-rank updates that a blend weighs (LoRA; Hu et al. 2022).

    y = W x + b + sum over k of  w_k (alpha_k / r_k) B_k A_k x

Nothing here ever writes to W, so that what is switched off is the base bit by bit. A folded blend is a copy of the
weight with the updates added, and a call costs what the base's costs.
"""

import contextlib
import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vla.adapter_settings import AdapterConfig, LowRank


@dataclass
class Blend:
    """Which adapters of a module are loaded, which of them count, and how much; one object for all its layers."""

    loaded: dict[str, AdapterConfig] = field(default_factory=dict)
    """By name, in the order in which they came."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """By name, of those that count; replaced as a whole, never changed."""
    folded: bool = False
    """Whether layers compute with copies of their weights that have the blend in them."""

    @contextlib.contextmanager
    def being(self, weights: Mapping[str, float]) -> Iterator[None]:
        """Count others for a while."""
        before, self.weights = self.weights, weights
        try:
            yield
        finally:
            self.weights = before

    def bound(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """For torch.utils.checkpoint's `context_fn`: what is computed again in backward counts what it counted then."""
        return contextlib.nullcontext(), self.being(self.weights)


class Update(nn.Module):
    """What one adapter adds to the output of a layer: (alpha / r) B A x, in float32.

    Both matrices are layers that are called: ZeRO-3 gathers a parameter when its own module is.
    """

    def __init__(self, inputs: int, outputs: int, config: LowRank) -> None:
        super().__init__()
        self.scale = config.alpha / config.rank
        self.dropout = nn.Dropout(config.dropout)
        self.down = nn.Linear(inputs, config.rank, bias=False, dtype=torch.float32)
        self.up = nn.Linear(config.rank, outputs, bias=False, dtype=torch.float32)

    def forward(self, x: Float[Tensor, "*batch I"]) -> Float[Tensor, "*batch O"]:
        """Of the layer's input."""
        out: Tensor = self.up(self.down(self.dropout(x)))
        return out * self.scale

    @torch.no_grad()
    def delta(self) -> Float[Tensor, "O I"]:
        """What it adds to the weight, in float64: two float32 factors multiply exactly."""
        return self.scale * self.up.weight.double() @ self.down.weight.double()

    @torch.no_grad()
    def begin(self, seed: int, key: str) -> None:
        """Fresh values, which add nothing: A uniform within 1 / sqrt(inputs) by the seed and the key alone, B zero."""
        self.down.weight.copy_(uniform(f"{seed}/{key}", self.down.weight.shape))
        self.up.weight.zero_()


class Adapted(nn.Linear):
    """A linear layer with updates by adapter; weight and bias are those of the layer in whose place it stands."""

    folded: Tensor | None

    def __init__(self, linear: nn.Linear, blend: Blend) -> None:
        nn.Module.__init__(self)  # that of nn.Linear would draw values which nobody needs
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.training = linear.training
        self.blend = blend
        self.updates = nn.ModuleDict()
        self.register_buffer("folded", None, persistent=False)

    def forward(self, x: Float[Tensor, "*batch I"]) -> Float[Tensor, "*batch O"]:
        """The layer's own output and the weighted updates."""
        if self.folded is not None:
            return functional.linear(x, self.folded, self.bias)
        out = functional.linear(x, self.weight, self.bias)
        for name, weight in self.blend.weights.items():
            if name in self.updates:
                update = self.updates[name](x)
                out = out + (update if weight == 1 else weight * update).to(out.dtype)
        return out

    @torch.no_grad()
    def blended(self, weights: Mapping[str, float]) -> Float[Tensor, "O I"]:
        """A copy of the weight with the weighted updates added, summed in float64."""
        total = self.weight.double()
        for name, weight in weights.items():
            if name in self.updates:
                total = total + weight * update_of(self, name).delta()
        return total.to(self.weight.dtype)


def update_of(layer: Adapted, name: str) -> Update:
    """The update of an adapter."""
    update = layer.updates[name]
    assert isinstance(update, Update)
    return update


def uniform(key: str, shape: torch.Size) -> Float[Tensor, "R I"]:
    """Uniform within 1 / sqrt(inputs), from the key alone: kaiming_uniform with a = sqrt(5), as peft begins."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little") >> 1
    bound = 1 / math.sqrt(shape[1])
    return torch.empty(shape).uniform_(-bound, bound, generator=torch.Generator().manual_seed(seed))
