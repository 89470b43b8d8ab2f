"""The layers that LoRA adapts, under peft's names and with peft's parameters, in fewer passes over memory.

    y = W x + b + B low,    low = s A dropout(x)

The projections that read one input share its dropout and are reduced by one product: what differs between them is
which rows of the joined A they own. Weights are float32; products are of the input's type, and the update is added
where the frozen product lies. A step of LoRA moves half of what peft's own layers do, and keeps a sixth
(tests/benchmarks/lora_traffic.py).
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

ADAPTER = "default"
"""The name peft gives an adapter; it stands in parameter names and not in files."""

Update = tuple[Float[Tensor, "T R"], Float[Tensor, "O R"]]
"""What is added to the output of a projection, as the factors of a product: the reduced input, and B."""


class Projection(PeftLinear):  # type: ignore[misc]  # peft has no types
    """A frozen projection and its update. The first of those that read one input reduces it for all of them."""

    reduction: "tuple[Reduction]"
    """In a tuple: it belongs to the attention, and would give this layer the weights of the others."""
    update: Update | None = None
    """Of the input that comes next."""

    def forward(self, x: Float[Tensor, "*batch I"], *_: Any, **__: Any) -> Float[Tensor, "*batch O"]:
        """The frozen output and the update; the former alone where the update is in its weight."""
        if self.merged:
            folded: Tensor = self.base_layer(x)
            return folded
        (reduction,) = self.reduction
        flat = x.flatten(0, -2)
        if self is reduction.projections[0]:
            reduction.hand_out(flat)
        assert self.update is not None, "the projections of one input are called in their order, each once"
        (low, up), self.update = self.update, None
        out: Tensor = self.base_layer(flat)
        # Autocast may have narrowed the frozen product of a wide input.
        added: Tensor = out.addmm_(low.to(out.dtype), up.T.to(out.dtype)).unflatten(0, x.shape[:-1])
        return added


class Reduction(nn.Module):
    """What the projections of one input have in common: it holds their factors, and its call reduces the input."""

    def __init__(self, *projections: Projection) -> None:
        super().__init__()
        self.projections = projections
        self.down = nn.ModuleList(projection.lora_A[ADAPTER] for projection in projections)
        self.up = nn.ModuleList(projection.lora_B[ADAPTER] for projection in projections)
        first = projections[0]
        dropout = first.lora_dropout[ADAPTER]
        self.rate = dropout.p if isinstance(dropout, nn.Dropout) else 0.0
        self.scale = first.scaling[ADAPTER]
        for projection in projections:
            projection.reduction = (self,)

    def forward(self, x: Float[Tensor, "T I"]) -> list[Update]:
        """The update of each projection."""
        factors = [layer.weight for layer in (*self.down, *self.up)]
        low, *ups = Reduce.apply(  # type: ignore[no-untyped-call]  # torch has no types here
            x, self.rate if self.training else 0.0, self.scale, *factors
        )
        return list(zip(low.split([up.shape[1] for up in ups], dim=1), ups, strict=True))

    def hand_out(self, x: Float[Tensor, "T I"]) -> None:
        """Give each projection the update of the input that it is called with next."""
        for projection, update in zip(self.projections, self(x), strict=True):
            projection.update = update


class Reduce(torch.autograd.Function):
    """The reduced input of some projections, s A dropout(x) with their A joined, and each B in the input's type.

    All factors are narrowed in one pass, and their gradients widened in one. Kept are the input and the mask: what
    was dropped from it is computed again, since the input is often kept elsewhere, and what comes of it never.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float, scale: float, *factors: Tensor) -> tuple[Tensor, ...]:
        """`factors`: A [r, I] of each projection, then B [O, r] of each; returns low [T, sum of r] and the narrow B."""
        half = len(factors) // 2
        ranks = [down.shape[0] for down in factors[:half]]
        joined = x.new_empty(sum(ranks), x.shape[1])
        ups = [x.new_empty(up.shape) for up in factors[half:]]
        torch._foreach_copy_([*joined.split(ranks), *ups], factors)
        dropped, mask = torch.native_dropout(x, rate, train=True) if rate else (x, None)
        ctx.save_for_backward(x, mask, joined)
        ctx.kept, ctx.scale, ctx.ranks = 1 - rate, scale, ranks
        ctx.wide = [(factor.shape, factor.dtype) for factor in factors]
        return scaled(dropped, joined.T, scale), *ups

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, low: Tensor, *ups: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients: those of the factors are products in the input's type, held in their own."""
        x, mask, joined = ctx.saved_tensors
        wanted = ctx.needs_input_grad[3:]
        factors: list[Tensor | None] = [None] * len(wanted)
        if any(wanted):
            downs = scaled(low.T, undropped(x, mask, ctx.kept), ctx.scale).split(ctx.ranks)
            found = [x.new_empty(shape, dtype=dtype) for shape, dtype in ctx.wide]
            torch._foreach_copy_(found, [*downs, *ups])
            factors = [*found]
        own = undropped(scaled(low, joined, ctx.scale), mask, ctx.kept) if ctx.needs_input_grad[0] else None
        return own, None, None, *factors


def scaled(a: Float[Tensor, "N K"], b: Float[Tensor, "K M"], scale: float) -> Float[Tensor, "N M"]:
    """scale * a b, without a pass for the factor."""
    out = a.new_empty(a.shape[0], b.shape[1])
    return torch.addmm(out, a, b, beta=0, alpha=scale, out=out)


def undropped(values: Float[Tensor, "T I"], mask: Bool[Tensor, "T I"] | None, kept: float) -> Float[Tensor, "T I"]:
    """Those that the mask keeps, as dropout scales them; its forward and its backward are the same."""
    return values if mask is None else torch.ops.aten.native_dropout_backward(values, mask, 1 / kept)
