"""The stream's order against its definition."""

from collections import Counter
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.data.order import BLOCK, SampleOrder, apportion


def test_order_is_pinned() -> None:
    """A change of these numbers changes every run and breaks every resume."""
    order = SampleOrder([10, 20], (), 0)
    assert [order(position) for position in range(4)] == [(1, 11), (1, 18), (0, 3), (0, 2)]
    order = SampleOrder([10, 20], (3.0, 1.0), 0)
    assert [order(position) for position in range(4)] == [(1, 0), (0, 0), (1, 7), (1, 15)]


@settings(deadline=None, max_examples=30)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4), seed=st.integers(0, 2**63 - 1))
def test_every_sample_once_an_epoch(sizes: list[int], seed: int) -> None:
    order = SampleOrder(sizes, (), seed)
    total = sum(sizes)
    everything = [(root, index) for root, size in enumerate(sizes) for index in range(size)]
    for epoch in (0, 1, 5):
        assert sorted(order(epoch * total + place) for place in range(total)) == everything
    assert order.shares == pytest.approx([size / total for size in sizes])


def test_epochs_are_shuffled_differently() -> None:
    order = SampleOrder([50, 50], (), 0)
    first, second = ([order(epoch * 100 + place) for place in range(100)] for epoch in range(2))
    assert first != second
    assert first != sorted(first)
    assert SampleOrder([50, 50], (), 1)(0) != order(0) or SampleOrder([50, 50], (), 1)(1) != order(1)
    assert {root for root, _ in first[:20]} == {0, 1}  # one shuffle over both roots, not one after the other


@pytest.mark.parametrize("weights", [(3.0, 1.0), (3.0, 2.0, 1.0), (0.5, 0.25, 0.25), (1.0,)])
def test_weights_are_exact_in_each_block(weights: tuple[float, ...]) -> None:
    sizes = [37, 400, 11][: len(weights)]
    order = SampleOrder(sizes, weights, 4)
    for block in (0, 1, 7):
        drawn = Counter(order(block * BLOCK + place)[0] for place in range(BLOCK))
        for root, weight in enumerate(weights):
            assert abs(drawn[root] - BLOCK * weight / sum(weights)) < 1
    assert sum(order.shares) == pytest.approx(1)


def test_weighted_roots_are_drawn_without_replacement() -> None:
    order = SampleOrder([37, 400], (3.0, 1.0), 0)
    drawn: dict[int, list[int]] = {0: [], 1: []}
    for position in range(3 * BLOCK):
        root, index = order(position)
        drawn[root].append(index)
    for root, size in ((0, 37), (1, 400)):
        assert len(drawn[root]) >= size
        for start in range(0, len(drawn[root]) - size + 1, size):
            assert sorted(drawn[root][start : start + size]) == list(range(size))
    assert drawn[0][:37] != drawn[0][37:74]
    assert len(set(drawn[0][:20])) == 20


@pytest.mark.parametrize("weights", [(), (2.0, 1.0)])
def test_order_is_pure_and_travels_light(weights: tuple[float, ...]) -> None:
    order = SampleOrder([100_000, 50_000], weights, 9)
    positions = np.random.default_rng(0).integers(0, 10**6, 50).tolist()
    expected = [order(position) for position in sorted(positions)]
    content = ForkingPickler.dumps(order)
    assert len(content) < 1000
    copy = ForkingPickler.loads(content)
    assert {position: copy(position) for position in positions} == dict(zip(sorted(positions), expected, strict=True))


def test_apportion_is_hamiltons_method() -> None:
    assert apportion((3.0, 1.0), 1000) == (750, 250)
    assert apportion((1.0, 1.0, 1.0), 1000) == (334, 333, 333)
    assert apportion((0.3, 0.3, 0.4), 10) == (3, 3, 4)
    assert apportion((4.7, 1.6, 1.59, 1.2, 0.6, 0.31), 10) == (5, 2, 1, 1, 1, 0)


def test_a_share_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match=r"root number 2 .* --data.weights"):
        SampleOrder([10, 10], (10_000.0, 1.0), 0)
