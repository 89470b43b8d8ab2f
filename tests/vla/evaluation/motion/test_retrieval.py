"""Texts and motions: chance, certainty, near-duplicates, and mean distances of which the formula is known."""

import math

import numpy as np
import pytest

from vla.evaluation.motion.retrieval import (
    _mismatched,
    diversity,
    multimodal_distance,
    multimodality,
    r_precision,
)

DIFFERENT = np.random.default_rng(9).standard_normal((400, 32))


def gaussian_distance(features: int) -> float:
    """The mean distance of two vectors of a standard Gaussian: sqrt(2) times a chi variable's mean."""
    return 2 * math.gamma((features + 1) / 2) / math.gamma(features / 2)


def test_unrelated_features_find_their_text_by_chance() -> None:
    draw = np.random.default_rng(0)
    found = r_precision(draw.standard_normal((400, 8)), draw.standard_normal((400, 8)), DIFFERENT)
    for top, figure in found.items():
        assert figure.n == 400
        assert float(figure.low or 0) <= top / 32 <= float(figure.high or 0)


def test_features_that_fit_find_it_always_and_features_all_alike_never() -> None:
    texts = np.random.default_rng(0).standard_normal((400, 8))
    assert r_precision(texts + 0.01, texts, DIFFERENT)[1].value == 1.0
    assert r_precision(np.ones((400, 8)), np.ones((400, 8)), DIFFERENT)[3].value == 0.0


def test_ranks_are_counted() -> None:
    """On a line, the text of motion i is the second nearest: the text of its neighbour is nearer."""
    places = np.arange(40.0)[:, None] * 100
    motions, texts = places + 60, places
    found = r_precision(motions, texts, DIFFERENT[:40], candidates=40)
    assert found[1].value == pytest.approx(1 / 40), "the last has no neighbour"
    assert found[2].value == 1.0


def test_what_says_the_same_is_no_mismatch() -> None:
    """Pairs of equal texts with equal features: never drawn against one another."""
    embeddings, features = DIFFERENT[:100].repeat(2, axis=0), np.random.default_rng(1).standard_normal((100, 8))
    texts = features.repeat(2, axis=0)
    assert r_precision(texts, texts, embeddings)[1].value == 1.0
    for place, others in enumerate(_mismatched(embeddings, 31, 0)):
        assert len(set(others.tolist())) == 31
        assert not {2 * (place // 2), 2 * (place // 2) + 1} & set(others.tolist())


def test_mismatches_are_drawn_once_from_the_seed() -> None:
    assert (_mismatched(DIFFERENT, 31, 5) == _mismatched(DIFFERENT, 31, 5)).all()
    assert (_mismatched(DIFFERENT, 31, 5) != _mismatched(DIFFERENT, 31, 6)).any()


def test_too_few_different_texts_are_refused() -> None:
    embeddings = DIFFERENT[:8].repeat(50, axis=0)
    with pytest.raises(ValueError, match="text 0 can be told from 350 others, and 399 are needed"):
        r_precision(DIFFERENT, DIFFERENT, embeddings, candidates=400)
    with pytest.raises(ValueError, match="text 0 can be told from 7 others, and 31 are needed"):
        r_precision(DIFFERENT[:8], DIFFERENT[:8], DIFFERENT[:8])


def test_the_multimodal_distance_is_a_mean() -> None:
    motions = np.zeros((9, 3))
    texts = np.zeros((9, 3))
    texts[:, 0] = np.arange(9)
    assert multimodal_distance(motions, texts).value == 4.0


@pytest.mark.parametrize("features", [1, 8])
def test_diversity_of_a_gaussian(features: int) -> None:
    vectors = np.random.default_rng(0).standard_normal((5000, features))
    found = diversity(vectors, pairs=900)
    assert found.value == pytest.approx(gaussian_distance(features), rel=0.08)
    assert diversity(vectors).n == 300


def test_no_motion_is_paired_with_itself() -> None:
    assert diversity(np.array([[0.0], [1.0]]), pairs=100).value == 1.0


def test_multimodality_looks_within_texts_alone() -> None:
    """Texts are 1,000 apart, their samples a standard Gaussian."""
    draw = np.random.default_rng(0)
    motions = draw.standard_normal((25, 30, 8)) + 1000 * np.arange(25)[:, None, None]
    found = multimodality(motions)
    assert found.n == 20
    assert found.value == pytest.approx(gaussian_distance(8), rel=0.06)
    assert multimodality(np.zeros((25, 30, 8))).value == 0.0
    with pytest.raises(ValueError, match="samples of 3 texts, and 20 are to be drawn"):
        multimodality(motions[:3])
