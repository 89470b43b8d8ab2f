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

    Pools that are drawn as one are a stack. Without weights, all pools are one: an epoch is one shuffle of all samples,
    each stands in it exactly once. With weights, each block of 1,000 positions holds every stack exactly its share of
    times, in shuffled order, and each stack is gone through in its own shuffled epochs, without replacement.

    With trials, it is the episodes of a stack that are gone through in shuffled epochs, and each time that its turn
    comes an episode gives the next of its own samples, in shuffled epochs of its own.

    ValueError when a weight's share is too small to be drawn in every block.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        weights: Sequence[float],
        seed: int,
        stacks: Sequence[int] = (),
        trials: Sequence[Sequence[int]] = (),
    ) -> None:
        """Samples of each pool, and the weight of each stack; none where there is but one.

        `stacks` are numbers of pools, one after the other; none: each pool is one, or all are where nothing is
        weighted. `trials` are the samples of each episode of each pool; none: samples are drawn alike.
        """
        assert min(sizes, default=0) > 0, f"every pool must have samples, got sizes {list(sizes)}"
        self.sizes, self.weights, self.seed = tuple(sizes), tuple(weights), seed
        self.stacks = tuple(stacks) or ((1,) * len(sizes) if weights else (len(sizes),))
        self.trials = tuple(map(tuple, trials))
        assert sum(self.stacks) == len(sizes), f"{sum(self.stacks)} pools are in stacks, of {len(sizes)}"
        assert len(weights) in (0, len(self.stacks)), f"{len(weights)} weights for {len(self.stacks)} stacks"
        assert not self.trials or tuple(map(sum, self.trials)) == self.sizes, "the trials of each pool make it up"
        self.counts = apportion(weights, BLOCK) if weights else ()
        if 0 in self.counts:
            raise ValueError(
                f"weight {weights[self.counts.index(0)]:g} of root number {self.counts.index(0) + 1} is less than one "
                f"sample in {BLOCK:,}: give a larger --data.weights, or leave the root out"
            )
        lasts = np.cumsum(self.stacks)
        self._firsts = [int(last) - pools for last, pools in zip(lasts, self.stacks, strict=True)]
        self._ends = [
            np.cumsum(np.asarray(sizes[first : first + pools], dtype=np.int64))
            for first, pools in zip(self._firsts, self.stacks, strict=True)
        ]
        self._lengths = [
            np.array([length for own in self.trials[first : first + pools] for length in own], dtype=np.int64)
            for first, pools in zip(self._firsts, self.stacks, strict=True)
        ]
        self._starts = [np.cumsum(lengths) - lengths for lengths in self._lengths]
        # Two places a stack, for even and odd epochs: the workers of a loader are never further apart than that.
        self._permutations: dict[tuple[int, int], tuple[int, UInt32[np.ndarray, " N"] | Int64[np.ndarray, " N"]]] = {}
        self._block: tuple[int, Int64[np.ndarray, " N"], Int64[np.ndarray, " N"]] | None = None

    def __reduce__(self) -> tuple[type["SampleOrder"], tuple[object, ...]]:
        # A worker makes its own permutations.
        return SampleOrder, (self.sizes, self.weights, self.seed, self.stacks, self.trials)

    @property
    def shares(self) -> tuple[float, ...]:
        """The part of the stream that comes from each pool; they add up to 1."""
        units = tuple(map(len, self.trials)) or self.sizes
        shares: list[float] = []
        for stack, (first, pools) in enumerate(zip(self._firsts, self.stacks, strict=True)):
            own = units[first : first + pools]
            share = self.counts[stack] / BLOCK if self.counts else 1.0
            shares += [share * unit / sum(own) for unit in own]
        return tuple(shares)

    def __call__(self, position: int) -> tuple[int, int]:
        """The pool and the index in it of the sample at a position."""
        stack, drawn = self._weighted(position) if self.weights else (0, position)
        ends = self._ends[stack]
        index = self._of_trial(stack, drawn) if self.trials else self._of_all(stack, drawn)
        pool = int(np.searchsorted(ends, index, side="right"))
        first = self._firsts[stack]
        return first + pool, index - int(ends[pool]) + self.sizes[first + pool]

    def _weighted(self, position: int) -> tuple[int, int]:
        """The stack at a position, and how many samples of it came before."""
        number, place = divmod(position, BLOCK)
        block = self._block
        if block is None or block[0] != number:
            self._block = block = (number, *self._lay_out(number))
        return int(block[1][place]), int(block[2][place])

    def _lay_out(self, number: int) -> tuple[Int64[np.ndarray, " N"], Int64[np.ndarray, " N"]]:
        """The stack at each place of a block, and how many samples of it came before it since position 0."""
        stacks = np.repeat(np.arange(len(self.counts), dtype=np.int64), self.counts)
        derive(self.seed, "order.block", number).shuffle(stacks)
        drawn = np.empty_like(stacks)
        for stack, count in enumerate(self.counts):
            drawn[stacks == stack] = number * count + np.arange(count)
        return stacks, drawn

    def _of_all(self, stack: int, drawn: int) -> int:
        """The sample of a stack that is drawn after so many others of it."""
        size = int(self._ends[stack][-1])
        return self._shuffled(stack, size, *divmod(drawn, size))

    def _of_trial(self, stack: int, drawn: int) -> int:
        """The same where its episodes take turns."""
        turn, place = divmod(drawn, len(self._lengths[stack]))
        trial = self._shuffled(stack, len(self._lengths[stack]), turn, place)
        length = int(self._lengths[stack][trial])
        epoch, step = divmod(turn, length)
        own = derive(self.seed, f"order.trial.{stack}.{trial}", epoch).permutation(length)
        return int(self._starts[stack][trial]) + int(own[step])

    def _shuffled(self, stack: int, size: int, epoch: int, place: int) -> int:
        """The sample, or episode, at a place of a stack's epoch."""
        slot = (stack, epoch % 2)
        held = self._permutations.get(slot)
        if held is None or held[0] != epoch:
            permutation = derive(self.seed, f"order.root.{stack}", epoch).permutation(size)
            held = (epoch, permutation.astype(np.uint32) if size < 2**32 else permutation)
            self._permutations[slot] = held
        return int(held[1][place])
