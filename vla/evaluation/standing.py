"""Where a policy stands beside answers that need no policy, in one sentence."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Rival = Literal["the mean action", "repeating the last action"]
Place = Literal["no better than", "not shown to be better than", "better than"]
PLACES: tuple[Place, ...] = ("no better than", "not shown to be better than", "better than")


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The error of a policy against that of a rival, in the same frames; shares of the error of the mean action."""

    rival: Rival
    phase: str | None
    """None: all frames."""
    error: float
    rival_error: float
    low: float
    """Of the interval of the policy's error less the rival's."""
    high: float
    episodes: int
    needed: int
    """Episodes from which on such an interval decides."""

    @property
    def place(self) -> Place:
        """Better where the interval lies below 0, no better where the error is not smaller."""
        if self.error >= self.rival_error:
            return "no better than"
        return "better than" if self.high < 0 and self.episodes >= self.needed else "not shown to be better than"

    @property
    def undecided(self) -> bool:
        """Whether more episodes might show what these do not."""
        return self.place == "not shown to be better than" and self.episodes < self.needed

    def share(self) -> str:
        """The error as a share of the rival's."""
        return f"{self.error / self.rival_error:.2f}" if self.rival_error else "its own is 0"


def sentence(standings: Sequence[Standing]) -> str:
    """In which frames a policy is no better than its rivals, and in which it is; the worst first."""
    phased = any(entry.phase is not None for entry in standings)
    clauses = []
    for place in PLACES:
        found = []
        for rival in dict.fromkeys(entry.rival for entry in standings):
            there = [entry for entry in standings if (entry.rival, entry.place) == (rival, place)]
            where = "; ".join(f"{entry.phase or 'all frames'} {entry.share()}" for entry in there)
            if there:
                found.append(f"{rival} ({where if phased else there[0].share()})")
        if found:
            clauses.append(f"{place} {' or '.join(found) if place != 'better than' else ' and '.join(found)}")
    if not clauses:
        return "Nothing is said of other answers: no recorded action varies."
    short = min((entry for entry in standings if entry.undecided), key=lambda entry: entry.episodes, default=None)
    reason = "" if short is None else f" (too few episodes: {short.episodes} of {short.needed})"
    return f"The policy is {', but '.join(clauses)}; in brackets its error as a share of theirs{reason}."
