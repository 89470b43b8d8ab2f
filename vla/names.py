"""Names: what long ones are called where space is short, what a user may call them, and numbers drawn together."""

import difflib
import re
from collections.abc import Sequence


def endings(name: str) -> list[str]:
    """The last part of a name, behind `.` or `/`, its last two parts, and so on up to the whole name."""
    return [name[found.end() :] for found in reversed([*re.finditer(r"[./]", name)])] + [name]


def labels(names: Sequence[str]) -> dict[str, str]:
    """Each name's shortest ending that no other of them has: `wrench`, but `left.force` beside `right.force`."""
    ends = {name: endings(name) for name in names}
    return {
        name: next((end for end in own if not any(end in ends[other] for other in names if other != name)), name)
        for name, own in ends.items()
    }


def by_word(names: Sequence[str]) -> dict[str, str]:
    """The names by what a user may call them: their labels and themselves."""
    return {label: name for name, label in labels(names).items()} | {name: name for name in names}


def hint(word: str, names: Sequence[str]) -> str:
    """What a word may mean that calls none of the names: those that end so, else the nearest; else what there is."""
    if alike := [name for name in names if word in endings(name)]:
        return f"it may be {' or '.join(alike)}"
    if near := difflib.get_close_matches(word, by_word(names), 1):
        return f"did you mean {near[0]}?"
    return f"there is {', '.join(names) or 'none'}"


def ranges(numbers: Sequence[int]) -> str:
    """`0-4, 9`: sorted numbers, with runs drawn together."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs) or "none"
