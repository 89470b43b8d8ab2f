"""A batch as one piece: its outline, which holds no values, and a single buffer.

Between processes 17 tensors on their own cost 17 files of shared memory, open descriptors and connections. For two
640 x 480 cameras and micro-batches of 4 that took three times the training process' time and twice the loader's.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from vla.batch import Batch

ALIGNMENT = 64
"""Bytes; every tensor in a buffer starts at a multiple."""

Packed = tuple[Batch, Tensor]
"""The outline of a batch and the bytes of its tensors."""


def pack(batch: Batch, allocate: Callable[[int], Tensor]) -> Packed:
    """The batch in one buffer, which `allocate` makes for so many bytes."""
    tensors = tensors_of(batch)
    buffer = allocate(sum(map(room, tensors)))
    end = 0
    for tensor in tensors:
        buffer[end : end + tensor.nbytes] = tensor.contiguous().view(-1).view(torch.uint8)
        end += room(tensor)
    return batch.map(lambda tensor: tensor.to("meta")), buffer


def unpack(outline: Batch, buffer: Tensor) -> Batch:
    """The batch again; its tensors are views of the buffer."""
    end = 0

    def cut(tensor: Tensor) -> Tensor:
        nonlocal end
        start, end = end, end + room(tensor)
        return buffer[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)

    return outline.map(cut)


def tensors_of(batch: Batch) -> list[Tensor]:
    """The tensors of a batch, in the order of `Batch.map`."""
    tensors: list[Tensor] = []

    def take(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor

    batch.map(take)
    return tensors


def room(tensor: Tensor) -> int:
    """Bytes of a tensor in a buffer."""
    return -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
