"""Names the rank that holds the others up."""

from collections import deque
from collections.abc import Sequence
from statistics import median, median_low

NOISE_FLOOR_S = 0.005
SPREADS = 4.0
"""How many median absolute deviations of a step's time a slow rank lies above the others."""
REPEAT_STEPS = 100
"""A rank that stays slow, or becomes slow again, is named again after this many steps at the earliest."""


class Stragglers:
    """Watches each rank's seconds of own work a step: data and forward, without waiting for the other ranks.

    The time of a whole step says nothing, because in synchronous training every rank takes as long as the slowest.
    """

    def __init__(self, hosts: Sequence[str], window: int = 20, factor: float = 1.5) -> None:
        """Watch one rank a host name; slow is whoever takes `factor` times as long, in the median of `window` steps."""
        self.hosts, self.window, self.factor = tuple(hosts), window, factor
        self._seconds: deque[Sequence[float]] = deque(maxlen=window)
        self._step = 0
        self._named_at: dict[int, int] = {}

    def add(self, busy_s: Sequence[float]) -> str | None:
        """A step's seconds of each rank; returns the sentence that names slow ranks when there is one to say."""
        assert len(busy_s) == len(self.hosts), "one value a rank"
        self._step += 1
        self._seconds.append(tuple(busy_s))
        if len(self._seconds) < self.window or len(self.hosts) < 2:
            return None
        ranks = list(zip(*self._seconds, strict=True))
        medians = [median(seconds) for seconds in ranks]
        # The low median: of two ranks, the faster one is what the slower one should be like.
        usual_s = median_low(medians)
        spread_s = median_low(
            [median(abs(s - own) for s in seconds) for seconds, own in zip(ranks, medians, strict=True)]
        )
        least_s = max(self.factor * usual_s, usual_s + NOISE_FLOOR_S, usual_s + SPREADS * spread_s)
        slow = [rank for rank, own in enumerate(medians) if own > least_s]
        due = [rank for rank in slow if rank not in self._named_at or self._step - self._named_at[rank] >= REPEAT_STEPS]
        if not due:
            return None
        self._named_at.update(dict.fromkeys(due, self._step))
        named = " and ".join(f"{self._name(rank)} is slow: {medians[rank]:.2g} s" for rank in due)
        return f"{named} of its own work a step, the others {usual_s:.2g} s (median of {self.window} steps)"

    def _name(self, rank: int) -> str:
        """The rank, with its host where there are several."""
        return f"rank {rank}" + (f" ({self.hosts[rank]})" if len(set(self.hosts)) > 1 else "")
