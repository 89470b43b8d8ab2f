"""A slow rank is named; noise never is."""

import math
import random
from collections.abc import Sequence

import pytest

from training.run.stragglers import REPEAT_STEPS, Stragglers


def noisy(random_: random.Random, base_s: Sequence[float], spread: float, pause: float = 0.01) -> list[float]:
    """A step's seconds: log-normal jitter, and now and then a rank that waits long for something."""
    return [base * math.exp(random_.gauss(0, spread)) * (10 if random_.random() < pause else 1) for base in base_s]


@pytest.mark.parametrize("ranks", [2, 3, 8])
@pytest.mark.parametrize(("base_s", "spread"), [(0.12, 0.1), (0.12, 0.3), (0.003, 0.5), (2.0, 0.02)])
def test_noise_names_nobody(ranks: int, base_s: float, spread: float) -> None:
    random_ = random.Random(0)
    watch = Stragglers(["host"] * ranks)
    assert [watch.add(noisy(random_, [base_s] * ranks, spread)) for _ in range(10_000)] == [None] * 10_000


@pytest.mark.parametrize("ranks", [2, 3, 8])
@pytest.mark.parametrize("spread", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("seed", range(5))
def test_a_slow_rank_is_named_within_one_window(ranks: int, spread: float, seed: int) -> None:
    random_ = random.Random(seed)
    watch = Stragglers(["host"] * ranks)
    usual = [0.12] * ranks
    for _ in range(100):
        assert watch.add(noisy(random_, usual, spread)) is None
    slow = [0.12, 0.36, *usual[2:]]
    said = [watch.add(noisy(random_, slow, spread)) for _ in range(watch.window)]
    sentences = [sentence for sentence in said if sentence]
    assert len(sentences) == 1
    assert sentences[0].startswith("rank 1 is slow: ")


def test_the_sentence() -> None:
    watch = Stragglers(["a", "a"])
    said = [watch.add([0.12, 0.35]) for _ in range(20)]
    assert said[:-1] == [None] * 19
    assert said[-1] == "rank 1 is slow: 0.35 s of its own work a step, the others 0.12 s (median of 20 steps)"


def test_hosts_are_named_where_there_are_several() -> None:
    watch = Stragglers(["a", "a", "b", "b", "b"], window=2)
    watch.add([1, 1, 2, 1, 3])
    said = watch.add([1, 1, 2, 1, 3])
    assert said is not None
    assert said.startswith("rank 2 (b) is slow: 2 s and rank 4 (b) is slow: 3 s of its own work a step, the others 1 s")


def test_it_is_said_once_and_again_after_a_while() -> None:
    watch = Stragglers(["a", "a"], window=10)
    said = [step for step in range(350) if watch.add([0.1, 0.3])]
    assert said == [9, 9 + REPEAT_STEPS, 9 + 2 * REPEAT_STEPS, 9 + 3 * REPEAT_STEPS]


def test_recovery_is_silent_and_a_short_relapse_too() -> None:
    watch = Stragglers(["a", "a"], window=10)
    assert sum(watch.add([0.1, 0.3]) is not None for _ in range(20)) == 1
    assert not any(watch.add([0.1, 0.1]) for _ in range(40))
    assert not any(watch.add([0.1, 0.3]) for _ in range(20))
    assert not any(watch.add([0.1, 0.1]) for _ in range(20))
    assert sum(watch.add([0.1, 0.3]) is not None for _ in range(20)) == 1


def test_differences_below_the_noise_floor_are_none() -> None:
    watch = Stragglers(["a", "a"])
    assert not any(watch.add([0.001, 0.005]) for _ in range(50))


def test_one_rank_has_nobody_to_be_slower_than() -> None:
    watch = Stragglers(["a"])
    assert not any(watch.add([float(step)]) for step in range(50))
