"""The caps hold exactly on what is kept, and nothing more could be kept."""

import itertools
import random
from collections import Counter
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from vla.curation.caps import Balanced, Cell, balance

CELLS = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("xyz")), max_size=9)
CAPS = st.tuples(st.sampled_from([0.25, 0.29, 0.3, 0.5, 0.7, 1.0]), st.sampled_from([0.34, 0.4, 0.6, 1.0]))


def keep(kept: "frozenset[int] | tuple[int, ...]", cells: list[Cell], caps: tuple[float, float], which: str) -> bool:
    """Whether some clips keep the caps that `which` (`10`: of actions alone) applies."""
    for place in (0, 1):
        counts = Counter(cells[clip][place] for clip in kept).values()
        if which[place] == "1" and any(Fraction(count, len(kept)) > Fraction(str(caps[place])) for count in counts):
            return False
    return True


def applied(found: Balanced) -> str:
    return "".join(str(int(holds)) for holds in found.applied)


@settings(max_examples=60)
@given(CELLS, CAPS)
def test_caps_hold_exactly_and_nothing_more_could_be_kept(cells: list[Cell], caps: tuple[float, float]) -> None:
    """Against all subsets; a cap is left out just where even one clip of each group would be too much of it."""
    found = balance(cells, caps)
    for place in (0, 1):
        groups = len({cell[place] for cell in cells})
        assert found.applied[place] == (caps[place] < 1 and groups > 0 and Fraction(str(caps[place])) * groups >= 1)
    assert keep(found.kept, cells, caps, applied(found))
    sizes = (
        size
        for size in range(len(cells), -1, -1)
        if any(keep(some, cells, caps, applied(found)) for some in itertools.combinations(range(len(cells)), size))
    )
    assert len(found.kept) == next(sizes)
    assert found.kept | set(found.dropped) == set(range(len(cells))) and not found.kept & set(found.dropped)


@settings(max_examples=60)
@given(CELLS, CAPS)
def test_the_best_of_a_group_are_kept_and_the_reason_is_true(cells: list[Cell], caps: tuple[float, float]) -> None:
    found = balance(cells, caps)
    for clip, why in found.dropped.items():
        worse = [other for other in found.kept if other > clip and cells[other] == cells[clip]]
        assert not worse
        place = 0 if why == "balance" else 1
        full = sum(cells[other][place] == cells[clip][place] for other in found.kept)
        assert found.applied[place] and Fraction(full + 1) > Fraction(str(caps[place])) * len(found.kept)


def test_of_one_cap_the_worst_of_an_action_go_first() -> None:
    """Best first: 6 a, then b, c, d, e of one each; of a set of 5, 30 % is one clip."""
    cells = [("a", "s")] * 6 + [("b", "s"), ("c", "s"), ("d", "s"), ("e", "s")]
    found = balance(cells, (0.3, 0.4))
    assert found.applied == (True, False)
    assert found.kept == {0, 6, 7, 8, 9}
    assert set(found.dropped.values()) == {"balance"}


def test_caps_hold_on_ten_thousand_and_one() -> None:
    draw = random.Random(0)
    cells = [(draw.choice("aaaaaaaabcde"), draw.choice("xxxxyz")) for _ in range(10_001)]
    found = balance(cells, (0.3, 0.4))
    assert found.applied == (True, True) and keep(found.kept, cells, (0.3, 0.4), "11")
    counts = Counter(cells[clip][0] for clip in found.kept)
    assert counts["a"] == int(Fraction("0.3") * len(found.kept)), "the largest group has all that it may"


def test_where_actions_and_sources_go_together_nothing_keeps_both() -> None:
    """Source x has all actions but d, which may be no more than 0.3 of a set, as x no more than 0.4."""
    cells = [("a", "x"), ("b", "x"), ("c", "x"), ("d", "y"), ("d", "z")]
    assert balance(cells, (0.3, 0.4)).kept == frozenset()
