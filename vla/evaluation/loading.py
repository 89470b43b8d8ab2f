"""Batches read by loader processes, whose errors arrive as they were raised."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from torch.utils.data import DataLoader, Dataset

Row = TypeVar("Row")
Made = TypeVar("Made")


class Caught(Dataset[Any]):
    """Rows, and in the place of one that cannot be read the error.

    torch's loader would raise an error of the same kind, whose text is the traceback in the loader process.
    """

    def __init__(self, read: Callable[[int], object], indices: Sequence[int]) -> None:
        self.read, self.indices = read, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> object:
        """The row, or why there is none."""
        try:
            return self.read(self.indices[place])
        except (ValueError, OSError) as error:
            return error


def collate_caught(collate: Callable[[Sequence[Any]], object], rows: Sequence[object]) -> object:
    """A batch, or the first error among its rows."""
    return next((row for row in rows if isinstance(row, Exception)), None) or collate(rows)


def batches(
    read: Callable[[int], Row],
    indices: Sequence[int],
    collate: Callable[[Sequence[Row]], Made],
    *,
    batch_size: int,
    workers: int,
) -> Iterator[Made]:
    """The batches of the rows that `read` gives for these indices, in order.

    Raises:
        CorruptData, StorageFault: a row cannot be read; as its reader raises it.
    """
    loader: DataLoader[Any] = DataLoader(
        Caught(read, indices),
        batch_size=batch_size,
        collate_fn=partial(collate_caught, collate),
        num_workers=workers,
    )
    for batch in loader:
        if isinstance(batch, Exception):
            raise batch
        yield batch


def chunked(indices: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Consecutive pieces of at most `size`."""
    return (indices[start : start + size] for start in range(0, len(indices), size))
