"""The endless shuffled stream of samples: a pure function of (seed, position).

What stands at a position depends neither on the number of ranks or workers, nor on where a run was stopped.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64, UInt32

from vla.randomness import derive

BLOCK = 1000
"""Positions of a block of a weighted mixture: within one, each pool has its exact share."""


def apportion(weights: Sequence[float], total: int) -> tuple[int, ...]:
    """Whole numbers in the ratio of the weights that add up to the total, by largest remainder (Hamilton's method)."""
    shares = np.asarray(weights, dtype=np.float64) / np.sum(weights) * total
    counts = np.floor(shares + 1e-9).astype(np.int64)  # 0.3 * 10 must not lose a whole unit to rounding
    by_remainder = np.argsort(counts - shares, kind="stable")
    counts[by_remainder[: total - counts.sum()]] += 1
    return tuple(int(count) for count in counts)


class SampleOrder:
    """Position -> (pool, index in the pool), for ever. A pool is a root, or some frames of one.

    Without weights, an epoch is one shuffle of all samples of all pools: each stands in it exactly once. With weights,
    each block of 1,000 positions holds every pool exactly its share of times, in shuffled order, and each pool is gone
    through in its own shuffled epochs, without replacement.

    ValueError when a weight's share is too small to be drawn in every block.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int) -> None:
        assert min(sizes, default=0) > 0, f"every pool must have samples, got sizes {list(sizes)}"
        assert len(weights) in (0, len(sizes)), f"{len(weights)} weights for {len(sizes)} pools"
        self.sizes = tuple(sizes)
        self.weights = tuple(weights)
        self.seed = seed
        self.ends = np.cumsum(np.asarray(sizes, dtype=np.int64))
        self.counts = apportion(weights, BLOCK) if weights else ()
        if 0 in self.counts:
            raise ValueError(
                f"weight {weights[self.counts.index(0)]:g} of root number {self.counts.index(0) + 1} is less than one "
                f"sample in {BLOCK:,}: give a larger --data.weights, or leave the root out"
            )
        # Two places a pool, for even and odd epochs: the workers of a loader are never further apart than that.
        self._permutations: dict[tuple[int, int], tuple[int, UInt32[np.ndarray, " N"] | Int64[np.ndarray, " N"]]] = {}
        self._block: tuple[int, Int64[np.ndarray, " N"], Int64[np.ndarray, " N"]] | None = None

    def __reduce__(self) -> tuple[type["SampleOrder"], tuple[tuple[int, ...], tuple[float, ...], int]]:
        return SampleOrder, (self.sizes, self.weights, self.seed)  # a worker makes its own permutations

    @property
    def shares(self) -> tuple[float, ...]:
        """The part of the stream that comes from each pool; they add up to 1."""
        counts = self.counts or self.sizes
        return tuple(count / sum(counts) for count in counts)

    def __call__(self, position: int) -> tuple[int, int]:
        """The pool and the index in it of the sample at a position."""
        if self.weights:
            return self._weighted(position)
        total = int(self.ends[-1])
        index = self._shuffled(0, total, *divmod(position, total))
        pool = int(np.searchsorted(self.ends, index, side="right"))
        return pool, index - int(self.ends[pool]) + self.sizes[pool]

    def _weighted(self, position: int) -> tuple[int, int]:
        number, place = divmod(position, BLOCK)
        block = self._block
        if block is None or block[0] != number:
            self._block = block = (number, *self._lay_out(number))
        pool = int(block[1][place])
        return pool, self._shuffled(pool, self.sizes[pool], *divmod(int(block[2][place]), self.sizes[pool]))

    def _lay_out(self, number: int) -> tuple[Int64[np.ndarray, " N"], Int64[np.ndarray, " N"]]:
        """The pool at each place of a block, and how many samples of that pool came before it since position 0."""
        pools = np.repeat(np.arange(len(self.counts), dtype=np.int64), self.counts)
        derive(self.seed, "order.block", number).shuffle(pools)
        drawn = np.empty_like(pools)
        for pool, count in enumerate(self.counts):
            drawn[pools == pool] = number * count + np.arange(count)
        return pools, drawn

    def _shuffled(self, pool: int, size: int, epoch: int, place: int) -> int:
        """The sample at a place of a pool's epoch."""
        slot = (pool, epoch % 2)
        held = self._permutations.get(slot)
        if held is None or held[0] != epoch:
            permutation = derive(self.seed, f"order.root.{pool}", epoch).permutation(size)
            held = (epoch, permutation.astype(np.uint32) if size < 2**32 else permutation)
            self._permutations[slot] = held
        return int(held[1][place])
