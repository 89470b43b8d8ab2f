"""A batch as one piece: its outline, which holds no values, and a single buffer.

Between processes 17 tensors on their own cost 17 files of shared memory, open descriptors and connections. For two
640 x 480 cameras and micro-batches of 4 that took three times the training process' time and twice the loader's.
"""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from vla.batch import Batch
from vla.moving import cut, fill, room

Packed = tuple[Batch, Tensor]
"""The outline of a batch and the bytes of its tensors."""


def pack(batch: Batch, allocate: Callable[[int], Tensor]) -> Packed:
    """The batch in one buffer, which `allocate` makes for so many bytes."""
    return batch.map(lambda tensor: tensor.to("meta")), fill(tensors_of(batch), allocate)


def unpack(outline: Batch, buffer: Tensor) -> Batch:
    """The batch again; its tensors are views of the buffer."""
    end = 0

    def next_of(tensor: Tensor) -> Tensor:
        nonlocal end
        start, end = end, end + room(tensor)
        return cut(buffer, start, tensor)

    return replace(outline.map(next_of), buffer=buffer)


def tensors_of(batch: Batch) -> list[Tensor]:
    """The tensors of a batch, in the order of `Batch.map`."""
    tensors: list[Tensor] = []

    def take(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor

    batch.map(take)
    return tensors
