"""Rows of numbers as bytes, in a precision that is chosen: what the prefix cache keeps of a token."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vla.prefix_settings import Precision

SCALE_BYTES = 4
"""Of the float32 scale before the numbers of an int8 row."""
LARGEST = 127
"""Of an int8 number that has one of opposite sign."""
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How a row of numbers becomes bytes."""

    precision: Precision
    """int8: each row is divided by its largest magnitude over 127."""
    width: int
    """Numbers of a row."""

    @property
    def row_bytes(self) -> int:
        """Of a row."""
        if self.precision == "int8":
            return SCALE_BYTES + self.width
        return self.width * TYPES[self.precision].itemsize

    def pack(self, rows: Float[Tensor, "*batch D"]) -> UInt8[Tensor, "*batch _"]:
        """Rows as bytes."""
        assert rows.shape[-1] == self.width, f"rows of {rows.shape[-1]} numbers, not of {self.width}"
        if self.precision != "int8":
            return rows.to(TYPES[self.precision]).contiguous().view(torch.uint8)
        scale = rows.float().abs().amax(-1, keepdim=True) / LARGEST
        near = (rows.float() / scale.clamp(min=torch.finfo(torch.float32).tiny)).round()
        return torch.cat([scale.view(torch.uint8), near.to(torch.int8).view(torch.uint8)], dim=-1)

    def unpack(self, packed: UInt8[Tensor, "*batch _"], dtype: torch.dtype) -> Float[Tensor, "*batch D"]:
        """The rows again, in a type to compute with."""
        if self.precision != "int8":
            return packed.view(TYPES[self.precision]).to(dtype)
        scale = packed[..., :SCALE_BYTES].contiguous().view(torch.float32)
        return (packed[..., SCALE_BYTES:].view(torch.int8) * scale).to(dtype)
