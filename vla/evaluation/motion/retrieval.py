"""Whether motions fit their texts, and how much they vary: on feature vectors of both in one space."""

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from vla.evaluation.motion.figure import Figure, mean, share
from vla.randomness import derive

CANDIDATES = 32
"""The right text, and those it must be told from."""
TOPS = (1, 2, 3)
ALIKE = 0.95
"""Texts whose embeddings have a larger cosine say the same."""
PAIRS = 300
TEXTS, SAMPLES_PAIRED = 20, 10


def r_precision(
    motions: Float[np.ndarray, "N F"],
    texts: Float[np.ndarray, "N F"],
    embeddings: Float[np.ndarray, "N E"],
    *,
    candidates: int = CANDIDATES,
    seed: int = 0,
) -> dict[int, Figure]:
    """How often the text of a motion is the nearest, among the two and the three nearest of 32, by Euclidean distance.

    Of each motion the others are texts that do not say the same, by the embeddings of a text encoder (the protocol with
    a threshold of Petrovich et al., "TMR", 2023), drawn once from the seed. As near counts as nearer, so that features
    that are all alike find nothing.

    Raises:
        ValueError: a motion has too few texts to be told from.
    """
    mismatched = _mismatched(embeddings, candidates - 1, seed)
    own = np.linalg.norm(motions.astype(np.float64) - texts, axis=-1)
    ranks = np.array(
        [
            int((np.linalg.norm(motions[place] - texts[others].astype(np.float64), axis=-1) <= own[place]).sum())
            for place, others in enumerate(mismatched)
        ]
    )
    sources = _each(len(motions))
    return {top: share(ranks < top, sources) for top in TOPS}


def _mismatched(embeddings: Float[np.ndarray, "N E"], count: int, seed: int) -> Int64[np.ndarray, "N count"]:
    """Of each text, so many places of texts that say something else."""
    unit = embeddings.astype(np.float64) / np.linalg.norm(embeddings, axis=1, keepdims=True)
    chosen = np.empty((len(embeddings), count), dtype=np.int64)
    for place, text in enumerate(unit):
        other: Bool[np.ndarray, " N"] = unit @ text <= ALIKE
        other[place] = False
        if other.sum() < count:
            raise ValueError(
                f"text {place} can be told from {other.sum()} others, and {count} are needed; the rest say nearly the "
                "same: measure more different texts, or fewer candidates"
            )
        draw = derive(seed, "retrieval/mismatched", place)
        chosen[place] = draw.choice(np.flatnonzero(other), count, replace=False)
    return chosen


def multimodal_distance(motions: Float[np.ndarray, "N F"], texts: Float[np.ndarray, "N F"]) -> Figure:
    """The mean Euclidean distance of a motion from its text."""
    return mean(np.linalg.norm(motions.astype(np.float64) - texts, axis=-1), _each(len(motions)))


def diversity(motions: Float[np.ndarray, "N F"], *, pairs: int = PAIRS, seed: int = 0) -> Figure:
    """The mean distance of random pairs of motions, none paired with itself; the interval resamples pairs."""
    distances = _distances(motions, pairs, derive(seed, "retrieval/diversity"))
    return mean(distances, _each(pairs))


def multimodality(
    motions: Float[np.ndarray, "texts samples F"],
    *,
    texts: int = TEXTS,
    pairs: int = SAMPLES_PAIRED,
    seed: int = 0,
) -> Figure:
    """The mean distance of pairs of samples of one text, over texts drawn from the seed; the interval resamples texts.

    As published with 20 texts, 30 samples each and 10 pairs of these (Guo et al., "Action2Motion", 2020).

    Raises:
        ValueError: there are fewer texts.
    """
    if len(motions) < texts:
        raise ValueError(f"there are samples of {len(motions)} texts, and {texts} are to be drawn; draw fewer")
    drawn = derive(seed, "retrieval/texts").permutation(len(motions))[:texts]
    found = [
        _distances(motions[text], pairs, derive(seed, "retrieval/multimodality", int(text))).mean() for text in drawn
    ]
    return mean(np.array(found), _each(texts))


def _distances(
    vectors: Float[np.ndarray, "N F"], pairs: int, draw: np.random.Generator
) -> Float64[np.ndarray, " pairs"]:
    """The distances of random pairs of different vectors."""
    first = draw.integers(len(vectors), size=pairs)
    second = (first + draw.integers(1, len(vectors), size=pairs)) % len(vectors)
    apart = vectors[first].astype(np.float64) - vectors[second]
    distances: Float64[np.ndarray, " pairs"] = np.linalg.norm(apart, axis=-1)
    return distances


def _each(count: int) -> list[str]:
    """A source of its own for each."""
    return [str(place) for place in range(count)]
