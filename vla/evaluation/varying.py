"""Which dimensions a picture shows where there are more than anybody looks at."""

from collections.abc import Sequence

MOST_PANELS = 12
"""More dimensions than these stand in tables alone."""


def most_varying(spreads: Sequence[float], limit: int = MOST_PANELS) -> list[int]:
    """The places of the dimensions that vary most, in order of their places; none that does not vary."""
    varying = [place for place, spread in enumerate(spreads) if spread > 0]
    return sorted(sorted(varying, key=lambda place: -spreads[place])[:limit])


def more(spreads: Sequence[float], limit: int = MOST_PANELS) -> str:
    """How many more vary than are shown, in words; empty where none does."""
    left = sum(spread > 0 for spread in spreads) - limit
    return f"{limit} dimensions that vary most; {left} more vary less" if left > 0 else ""
