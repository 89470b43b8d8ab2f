"""How far motions are from the nearest one that was trained on, and whether they are copies of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

from vla.evaluation.motion.figure import Figure, share

BLOCK = 2**22
"""Distances that are held at once, at most: 32 MB."""
COPIED = 0.05
"""The share of real motions that are nearer than a copy may be."""


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """Of each motion, the nearest training motion."""

    distances: Float64[np.ndarray, " N"]
    """Root mean square over features, in the features' unit."""
    places: Int64[np.ndarray, " N"]
    """In the order in which the training motions came."""


@dataclass(frozen=True, kw_only=True)
class Memorised:
    """How many motions are nearer to the training set than real ones of others are."""

    threshold: float
    """Nearer are 5 % of the held-out real motions."""
    share: Figure
    """About 5 % of a generator that copies nothing."""

    @property
    def copies(self) -> bool:
        """Whether there are more of them than among real motions, by the low end of the interval."""
        return (self.share.low or 0.0) > COPIED


def nearest(motions: Float[np.ndarray, "N F"], training: Iterable[Float[np.ndarray, "_ F"]]) -> Nearest:
    """The nearest of training motions that come in blocks, which need never be in memory together.

    Features are compared as they are: normalise both sides alike before. The nearest is found by |a|^2 + |b|^2 - 2 ab
    and its distance then taken from the difference itself, so that a copy is at 0. ValueError without training motions.
    """
    own = motions.astype(np.float64)
    best = np.full(len(own), np.inf)
    found = Nearest(distances=np.full(len(own), np.inf), places=np.full(len(own), -1, dtype=np.int64))
    seen = 0
    for block in training:
        others = block.astype(np.float64)
        sizes = (others**2).sum(axis=1)
        stride = max(1, BLOCK // max(1, len(others)))
        for start in range(0, len(own) if len(others) else 0, stride):
            rows = slice(start, start + stride)
            squares = sizes - 2 * own[rows] @ others.T
            places = squares.argmin(axis=1)
            closest = squares[np.arange(len(places)), places]
            distances = np.sqrt(((own[rows] - others[places]) ** 2).mean(axis=1))
            nearer = closest < best[rows]
            best[rows][nearer] = closest[nearer]
            found.distances[rows][nearer] = distances[nearer]
            found.places[rows][nearer] = seen + places[nearer]
        seen += len(others)
    if not seen:
        raise ValueError("there are no training motions to compare with; give those that the policy was trained on")
    return found


def memorised(
    distances: Float[np.ndarray, " N"], held_out: Float[np.ndarray, " M"], sources: Sequence[str], *, seed: int = 0
) -> Memorised:
    """How many distances are below the 5th percentile of what real motions have that nothing was trained on.

    ValueError without such motions.
    """
    if not len(held_out):
        raise ValueError("copies are told by held-out real motions, and there are none; hold some out")
    threshold = float(np.quantile(held_out, COPIED))
    return Memorised(threshold=threshold, share=share(distances < threshold, sources, seed=seed))
