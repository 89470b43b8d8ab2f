"""Tensors on their way to a device: many in one buffer, by one copy that nobody waits for.

A copy from memory that is not pinned may wait for all work on the device, and each copy costs its launch.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

ALIGNMENT = 64
"""Bytes; every tensor in a buffer starts at a multiple."""


def room(tensor: Tensor) -> int:
    """Bytes of a tensor in a buffer."""
    return -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT


def fill(tensors: Sequence[Tensor], allocate: Callable[[int], Tensor]) -> UInt8[Tensor, " _"]:
    """One buffer with the bytes of some tensors, which `allocate` makes for so many."""
    buffer = allocate(sum(map(room, tensors)))
    end = 0
    for tensor in tensors:
        buffer[end : end + tensor.nbytes] = tensor.contiguous().view(-1).view(torch.uint8)
        end += room(tensor)
    return buffer


def cut(buffer: UInt8[Tensor, " _"], start: int, tensor: Tensor) -> Tensor:
    """The view of a buffer that begins at a byte and is otherwise as a tensor."""
    return buffer[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)


def moved(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Tensors of the host on a device."""
    if device.type == "cpu":
        return list(tensors)
    buffer = fill(tensors, pinned).to(device, non_blocking=True)
    starts = [sum(map(room, tensors[:place])) for place in range(len(tensors))]
    return [cut(buffer, start, tensor) for start, tensor in zip(starts, tensors, strict=True)]


def pinned(size: int) -> UInt8[Tensor, " _"]:
    """So many bytes that a device reads by itself; torch keeps those that are free for the next who asks."""
    return torch.empty(size, dtype=torch.uint8, pin_memory=True)


def within(moved: UInt8[Tensor, " _"], buffer: UInt8[Tensor, " _"], tensor: Tensor) -> Tensor:
    """The view of a moved buffer that a tensor is of the buffer; of another tensor a copy."""
    if tensor.untyped_storage().data_ptr() != buffer.untyped_storage().data_ptr():
        return tensor.to(moved.device, non_blocking=True)
    return cut(moved, tensor.data_ptr() - buffer.data_ptr(), tensor)
