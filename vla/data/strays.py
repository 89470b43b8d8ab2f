"""What is said of values that count for no scale."""

from collections.abc import Mapping

import numpy as np

from vla.contract import DataContract
from vla.statistics import Statistics

MOST_LINES = 8


def stray_remarks(statistics: Mapping[str, Statistics], contract: DataContract) -> list[str]:
    """A sentence for each of the first few dimensions with stray values, and how many more there are."""
    names = {"actions": contract.action_names, "state": contract.state_names}
    names |= {name: stream.names for name, stream in contract.streams.items()}
    lines = [
        f"{stream}[{place}]{f' {names[stream][place]}' if names[stream] else ''}: {stray_values(found, place)}"
        for stream, found in statistics.items()
        for place in np.flatnonzero(found.strays).tolist()
    ]
    more = len(lines) - MOST_LINES
    return lines[:MOST_LINES] + ([f"... and {more} more dimensions with stray values: vla doctor"] if more > 0 else [])


def stray_values(found: Statistics, place: int) -> str:
    """How many stray values a dimension has, and where they and the others lie, in the data's units."""
    ends = np.array([found.minimum, found.maximum, found.inner_minimum, found.inner_maximum])[:, place]
    least, most, low, high = ends * np.abs(ends) if found.companded[place] else ends
    count = f"{found.strays[place]} stray value{'' if found.strays[place] == 1 else 's'}"
    return f"{count} between {least:.4g} and {most:.4g} (the others: {low:.4g} to {high:.4g}), which no scale counts"
