"""What there is to say of sound data, a sentence each."""

from collections.abc import Mapping, Sequence

import numpy as np

from vla.contract import DataContract, name_streams
from vla.data.clocks import nearest
from vla.data.episode import Episode, Layout
from vla.statistics import Statistics
from vla.units import told, units_of

MOST_LINES = 8
"""Dimensions with stray values that are named."""


def on_units(layout: Layout) -> str:
    """Which units the root says its numbers have, and of which nothing can be compared with other data."""
    units = {"action": units_of(layout.action_names, layout.action_units)}
    if layout.state_dim:
        units["state"] = units_of(layout.state_names, layout.state_units)
    for name, key in name_streams(list(layout.streams)).items():
        units[name] = units_of(layout.streams[key].names, layout.streams[key].units)
    known = [f"{kind} {told(given)}" for kind, given in units.items() if any(given)]
    unsaid = [kind for kind, given in units.items() if not given or not all(given)]
    sentences = ["units: " + "; ".join(known)] if known else []
    if unsaid:
        sentences.append(
            f"units of {' and '.join(unsaid)} that are not said are not compared with those of other data or a policy"
        )
    return "; ".join(sentences)


def on_episodes(episodes: Sequence[Episode], horizon: int = 1, *, motion: bool = False) -> list[str]:
    """Whether instructions change within them, or captions of a motion, and how many are shorter than a chunk."""
    changing = sum(len(episode.instructions.different) > 1 for episode in episodes)
    short = sum(len(episode.timestamps) < horizon for episode in episodes)
    found = [f"the instruction changes within {changing} of {len(episodes)} episodes"] if changing else []
    if changing and motion:
        found = [f"several captions, which take turns: {changing} of {len(episodes)} clips"]
    if short:
        found.append(
            f"shorter than a chunk of {horizon} steps: {short} of {len(episodes)} episodes; what would lie past their "
            "ends is masked"
        )
    return found


def on_strays(statistics: Mapping[str, Statistics], contract: DataContract) -> list[str]:
    """A sentence for each of the first few dimensions with stray values, and how many more there are.

    The numbers of a motion are computed from its joints: one that is far from the others is a leap, and no glitch.
    """
    if contract.body is not None:
        return []
    names = {"actions": contract.action_names, "state": contract.state_names}
    names |= {name: stream.names for name, stream in contract.streams.items()}
    lines = [
        f"{stream}[{place}]{f' {names[stream][place]}' if names[stream] else ''}: {stray_values(found, place)}"
        for stream, found in statistics.items()
        for place in np.flatnonzero(found.strays + found.stray_angles).tolist()
    ]
    more = len(lines) - MOST_LINES
    return lines[:MOST_LINES] + ([f"... and {more} more dimensions with stray values: vla doctor"] if more > 0 else [])


def stray_values(found: Statistics, place: int) -> str:
    """How many stray values a dimension has, and where they and the others lie, in the data's units."""
    ends = np.array([found.minimum, found.maximum, found.inner_minimum, found.inner_maximum])[:, place]
    least, most, low, high = ends * np.abs(ends) if found.companded[place] else ends
    number = int(found.strays[place] or found.stray_angles[place])
    count = f"{number} stray value{'' if number == 1 else 's'}"
    if not found.strays[place]:
        return f"{count} beyond a turn of the others ({low:.4g} to {high:.4g}), taken for the angle within it"
    return f"{count} between {least:.4g} and {most:.4g} (the others: {low:.4g} to {high:.4g}), which no scale counts"


def on_chunks(episodes: Sequence[Episode], fps: float, horizon: int) -> list[str]:
    """Whether chunks of `horizon` steps at `fps` are other than rows one after the other."""
    uneven = sum(uneven_chunks(episode, fps, horizon) for episode in episodes)
    chunks = sum(len(episode.timestamps) for episode in episodes)
    sentence = (
        f"{uneven:,} of {chunks:,} chunks skip or repeat a row: rows stand off the clock of {fps:g} Hz that chunks "
        "have, each step of which takes the row nearest to it"
    )
    return [sentence] if uneven else []


def uneven_chunks(episode: Episode, fps: float, horizon: int) -> int:
    """How many of the chunks that begin at the frames of an episode are not rows one after the other; gaps are none."""
    rows, frames = episode.actions.timestamps, episode.timestamps
    on_clock = rows - rows[0] - np.arange(len(rows)) / fps
    if np.abs(on_clock).max() < 0.25 / fps:  # then no two rows are half a period from where they should stand
        return 0
    uneven = np.zeros(len(frames), dtype=np.bool_)
    last = nearest(rows, frames)
    for step in range(1, horizon):
        times = frames + step / fps
        places = nearest(rows, times)
        there = np.abs(rows[places] - times) <= 0.5 / fps
        uneven |= there & (places != last + 1)
        last = np.where(there, places, last)
    return int(uneven.sum())
