"""No action and no source is more than its share of what is kept: exactly, and with as many clips as that allows.

The limits follow from the size of the final set and the size from the limits. Of a size N, a group may have the whole
number below its share of N; how many clips these limits let pass is a flow from actions through clips to sources, and
its maximum F(N) falls with N. N, F(N), F(F(N)), ... falls to the largest N that is its own maximum (Tarski 1955), which
is the largest set that keeps both caps.
"""

import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

Capped = Literal["balance", "source"]
"""By which cap a clip is left out: that of its action, or that of its source."""
Cell = tuple[str, str]
"""An action and a source."""


@dataclass(frozen=True, kw_only=True)
class Balanced:
    """What the caps leave."""

    kept: frozenset[int]
    """Places of the clips."""
    dropped: dict[int, Capped]
    """Of the others, which cap leaves them out."""
    applied: tuple[bool, bool]
    """Whether the caps on actions and on sources hold; one does not that fewer groups than 1 / cap cannot keep."""


def balance(cells: Sequence[Cell], caps: tuple[float, float]) -> Balanced:
    """The most of some clips, best first, of which no action and no source is more than its cap.

    Of the clips of one action and source the best are kept; where an action can only be kept by a source that lacks
    room, clips of another action make it.
    """
    shares = [Fraction(str(cap)) for cap in caps]
    groups = [len({cell[place] for cell in cells}) for place in (0, 1)]
    applied = [share < 1 and groups[place] >= math.ceil(1 / share) for place, share in enumerate(shares)]
    # A cap that is not applied is one of 1, which allows any.
    shares = [share if holds else Fraction(1) for share, holds in zip(shares, applied, strict=True)]
    there, total = Counter(cells), len(cells)
    while True:
        limits = math.floor(shares[0] * total), math.floor(shares[1] * total)
        taken = fill(cells, there, limits)
        found = taken.total()
        if found == total:
            break
        total = found
    left, kept, dropped = Counter(taken), set(), dict[int, Capped]()
    actions = sums(taken, 0)
    for place, cell in enumerate(cells):
        if left[cell]:
            left[cell] -= 1
            kept.add(place)
        else:
            full = applied[0] and actions[cell[0]] >= limits[0]
            dropped[place] = "balance" if full else "source"
    return Balanced(kept=frozenset(kept), dropped=dropped, applied=(applied[0], applied[1]))


def sums(taken: Counter[Cell], place: int) -> Counter[str]:
    """How many clips an action has (0), or a source (1)."""
    found: Counter[str] = Counter()
    for cell, count in taken.items():
        found[cell[place]] += count
    return found


def fill(order: Sequence[Cell], there: Counter[Cell], limits: tuple[int, int]) -> Counter[Cell]:
    """How many clips of each cell there are at most within the limits: best first, then by paths that make room."""
    taken: Counter[Cell] = Counter()
    counts: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for cell in order:
        if counts[0][cell[0]] < limits[0] and counts[1][cell[1]] < limits[1]:
            taken[cell] += 1
            counts[0][cell[0]] += 1
            counts[1][cell[1]] += 1
    beside: tuple[dict[str, list[Cell]], dict[str, list[Cell]]] = ({}, {})
    for cell in there:
        beside[0].setdefault(cell[0], []).append(cell)
        beside[1].setdefault(cell[1], []).append(cell)
    while path := augmenting(there, taken, counts, limits, beside):
        for step, cell in enumerate(path):
            taken[cell] += -1 if step % 2 else 1
        counts[0][path[0][0]] += 1
        counts[1][path[-1][1]] += 1
    return +taken


def augmenting(
    there: Counter[Cell],
    taken: Counter[Cell],
    counts: tuple[Counter[str], Counter[str]],
    limits: tuple[int, int],
    beside: tuple[dict[str, list[Cell]], dict[str, list[Cell]]],
) -> list[Cell]:
    """The shortest way to one clip more (Edmonds & Karp 1972): one in, one out, one in, ...; empty where none is.

    It leads from an action with room through a clip to a source; where that is full, one of its clips goes, whose
    action looks for another source.
    """
    came: dict[tuple[int, str], tuple[int, str, Cell] | None] = {}
    waiting: deque[tuple[int, str]] = deque()
    if not any(counts[1][source] < limits[1] for source in beside[1]):
        return []
    for action in beside[0]:
        if counts[0][action] < limits[0]:
            came[0, action] = None
            waiting.append((0, action))
    while waiting:
        side, name = waiting.popleft()
        if side == 1 and counts[1][name] < limits[1]:
            return walked(came, (side, name))
        for cell in beside[side][name]:
            other = (1 - side, cell[1 - side])
            free = taken[cell] < there[cell] if side == 0 else taken[cell] > 0
            if free and other not in came:
                came[other] = (side, name, cell)
                waiting.append(other)
    return []


def walked(came: dict[tuple[int, str], tuple[int, str, Cell] | None], end: tuple[int, str]) -> list[Cell]:
    """The cells on the way to an end, in order."""
    path: list[Cell] = []
    at = end
    while (step := came[at]) is not None:
        path.append(step[2])
        at = step[0], step[1]
    return path[::-1]
