"""Attention and the feed-forward layer shared by the sensor encoder and the action expert.

Written with plain linear layers: torch's MultiheadAttention reads its children's weights without calling them,
which a partitioned (ZeRO-3) parameter does not survive.
"""

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from vla.settings import check_heads

KeysValues = tuple[Float[Tensor, "B heads L d"], Float[Tensor, "B heads L d"]]
"""What an attention computes of its context alone."""


class Attention(nn.Module):
    """Multi-head attention of `x` to `context`, of which only the masked-in tokens are seen."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.query = nn.Linear(width, width)
        # A bias of the keys cancels in the softmax: it would learn rounding errors, of full size under Adam. One of the
        # values is a constant behind weights that add up to 1: `out` has it.
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "B N D"], context: Float[Tensor, "B L D"], mask: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B N D"]:
        """As `attend`, whatever is masked."""
        return self.attend(x, self.keys_values(context), opened(mask))

    def keys_values(self, context: Float[Tensor, "B L D"]) -> KeysValues:
        """For `attend`, as often as one context is asked."""
        key, value = self.key_value(context).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return key, value

    def attend(
        self, x: Float[Tensor, "B N D"], keys_values: KeysValues, mask: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B N D"]:
        """What `x` sees in the context that the keys and values are of; no row of the mask is empty."""
        key, value = keys_values
        query = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
        out: Tensor = self.out(seen.transpose(1, 2).flatten(2))
        return out


def opened(mask: Bool[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
    """The mask, but a row that is all masked sees everything instead: its result is unused, and is no NaN."""
    return mask | ~mask.any(dim=1, keepdim=True)


class FeedForward(nn.Sequential):
    """Two linear layers, four times as wide between them."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
