"""The nearest training motion, by brute force, in any blocks; copies are found."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.evaluation.motion import nearest as module
from vla.evaluation.motion.nearest import memorised, nearest


@given(st.integers(1, 30), st.integers(1, 40), st.lists(st.integers(0, 40), max_size=4), st.integers(1, 60))
def test_blocks_change_nothing(count: int, trained: int, cuts: list[int], held: int) -> None:
    draw = np.random.default_rng(count)
    motions, training = draw.standard_normal((count, 5)) + 100, draw.standard_normal((trained, 5)) + 100
    distances = np.sqrt(((motions[:, None] - training) ** 2).mean(axis=-1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", held)
        found = nearest(motions, np.split(training, sorted(min(cut, trained) for cut in cuts)))
    assert found.distances == pytest.approx(distances.min(axis=1), abs=1e-12)
    assert found.places.tolist() == distances.argmin(axis=1).tolist()


def test_blocks_are_asked_for_one_after_the_other() -> None:
    asked: list[int] = []

    def blocks():  # type: ignore[no-untyped-def]
        for place in range(3):
            asked.append(place)
            yield np.full((2, 4), float(place))

    assert nearest(np.full((1, 4), 1.1), blocks()).places.tolist() == [2]
    assert asked == [0, 1, 2]


def test_a_copy_is_at_no_distance_in_single_precision_too() -> None:
    training = (np.random.default_rng(0).standard_normal((500, 300)) + 50).astype(np.float32)
    found = nearest(training[::7], [training])
    assert not found.distances.any()
    assert found.places.tolist() == list(range(0, 500, 7))


def test_without_training_motions_it_is_refused() -> None:
    with pytest.raises(ValueError, match="no training motions"):
        nearest(np.zeros((2, 3)), [])
    with pytest.raises(ValueError, match="no training motions"):
        nearest(np.zeros((2, 3)), [np.zeros((0, 3))])


def test_copies_are_found_and_new_motions_are_none() -> None:
    draw = np.random.default_rng(0)
    training, held_out, new = draw.standard_normal((3, 600, 6))
    of = {name: nearest(motions, [training]).distances for name, motions in (("real", held_out), ("new", new))}
    sources = [str(place) for place in range(600)]
    fair = memorised(of["new"], of["real"], sources)
    assert fair.share.value == pytest.approx(0.05, abs=0.02)
    assert not fair.copies
    part = np.where(np.arange(600) % 5 == 0, 1e-3, of["new"])
    found = memorised(part, of["real"], sources)
    assert found.share.value == pytest.approx(0.2 + 0.8 * 0.05, abs=0.02)
    assert found.copies
    assert found.threshold == pytest.approx(np.quantile(of["real"], 0.05))


def test_copies_are_not_told_without_held_out_motions() -> None:
    with pytest.raises(ValueError, match="hold some out"):
        memorised(np.zeros(3), np.zeros(0), ["a", "b", "c"])
