"""How far two sets of feature vectors are apart, beside how far two halves of one set are."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from vla.evaluation.intervals import LEVEL
from vla.evaluation.motion.figure import Figure
from vla.randomness import derive

DRAWS = 200
"""Resamples of the bootstrap."""
UNBIASED = 10
"""From how many vectors a feature on the bias is small."""


@dataclass(frozen=True, kw_only=True)
class Apart:
    """Two sets, and two halves of the first one, all of as many vectors."""

    distance: Figure
    floor: Figure
    """Between two random halves of the real set: what a perfect generator has, and no less."""
    features: int

    @property
    def remark(self) -> str:
        """What there is to know of the distance; empty where nothing is."""
        n, enough = self.distance.n, UNBIASED * self.features
        if n >= enough:
            return ""
        return (
            f"the Frechet distance of {n} vectors of {self.features} features is too large by about its floor; "
            f"compare it with others of as many alone, or use {enough}"
        )


def frechet(first: Float[np.ndarray, "N F"], second: Float[np.ndarray, "M F"]) -> float:
    """The Frechet distance of two Gaussians with the sets' means and covariances, squared as in use.

    |m1 - m2|^2 + Tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2) (Dowson and Landau, 1982). The last trace is the sum of the
    singular values of S1^1/2 S2^1/2, with symmetric roots in double precision: no digits are lost where a covariance is
    nearly singular, as by a root of S1 S2.
    Of finite sets it is too large: two of N vectors from one distribution are F (F + 5) / 2N of its variance apart.
    """
    first, second = first.astype(np.float64), second.astype(np.float64)
    one, other = (np.atleast_2d(np.cov(vectors, rowvar=False)) for vectors in (first, second))
    cross = np.linalg.svd(_root(one) @ _root(other), compute_uv=False).sum()
    apart = first.mean(axis=0) - second.mean(axis=0)
    return max(float(apart @ apart + np.trace(one) + np.trace(other) - 2 * cross), 0.0)


def _root(matrix: Float64[np.ndarray, "F F"]) -> Float64[np.ndarray, "F F"]:
    """The symmetric square root of a covariance."""
    values, vectors = np.linalg.eigh(matrix)
    root: Float64[np.ndarray, "F F"] = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    return root


def compare(
    real: Float[np.ndarray, "N F"], others: Float[np.ndarray, "M F"], *, seed: int = 0, draws: int = DRAWS
) -> Apart:
    """Real vectors against others, and the floor, each with as many vectors as half of the real ones or the others are.

    Which of them take part follows from the seed. The interval is how the distance varies when both sets are drawn
    anew, by a bootstrap about the distance itself: resampled sets are farther apart than those they come from.

    Raises:
        ValueError: there are fewer vectors than features, which have no covariance to speak of.
    """
    count, features = min(len(real) // 2, len(others)), real.shape[1]
    if count < features:
        raise ValueError(
            f"a Frechet distance of {features} features takes as many vectors in each half of the real ones and in the "
            f"others; there are {len(real)} real ones and {len(others)} others; use more clips"
        )
    order = derive(seed, "frechet/real").permutation(len(real))
    half, rest = real[order[:count]], real[order[count : 2 * count]]
    chosen = others[derive(seed, "frechet/others").permutation(len(others))[:count]]
    return Apart(
        distance=_distance(half, chosen, seed, draws), floor=_distance(half, rest, seed, draws), features=features
    )


def _distance(first: Float[np.ndarray, "N F"], second: Float[np.ndarray, "N F"], seed: int, draws: int) -> Figure:
    """The distance of two sets, with its interval."""
    value, count = frechet(first, second), len(first)
    found = np.empty(draws)
    for draw in range(draws):
        one, other = derive(seed, "frechet/bootstrap", draw).integers(count, size=(2, count))
        found[draw] = frechet(first[one], second[other])
    low, high = value + np.quantile(found - found.mean(), ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Figure(value=value, low=max(float(low), 0.0), high=float(high), n=count)
