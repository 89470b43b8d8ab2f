"""Phases: the frames of an episode told apart by a column of the data set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla.data.episode import ACTION
from vla.data.formats import open_folder
from vla.data.named import distinguish
from vla.data.selection import Selection

MOST_PHASES = 12


@dataclass(frozen=True, kw_only=True)
class PhaseError:
    """The error within one phase of the task; a mean over the dimensions."""

    phase: str
    samples: int
    mae: float
    first_mae: float
    constant_mae: float
    """Of always answering the mean recorded action of all phases."""


@dataclass(frozen=True, kw_only=True)
class Phases:
    """The phase of every frame of some episodes."""

    names: tuple[str, ...]
    """In order."""
    by_episode: Mapping[str, tuple[str, ...]]

    def of(self, episodes: Sequence[str], frames: Sequence[int]) -> list[str]:
        """The phases of some frames."""
        return [self.by_episode[name][frame] for name, frame in zip(episodes, frames, strict=True)]


def read_phases(
    roots: Sequence[str],
    column: str,
    names: Sequence[str] = (),
    episodes: tuple[int, ...] = (),
    action_key: str = ACTION,
    *,
    without: tuple[int, ...] = (),
) -> Phases:
    """The phases that a column of numbers tells apart, from the smallest; `names` gives them words in that order.

    Raises:
        ValueError: there is no such column, it is no phase, or the names do not fit.
    """
    selection = Selection(
        episodes=episodes,
        without=without,
        sensor=("none",),
        columns=(column,),
        action_key=action_key,
        pairing="time",  # no frame is looked at
        withhold_state=True,
        keep_damaged=True,
    )
    readers = [open_folder(Path(root), selection) for root in roots]
    values: dict[str, np.ndarray] = {
        episode.name: episode.columns[column] for reader in distinguish(roots, readers) for episode in reader.episodes
    }
    widths = {found.shape[1] for found in values.values()}
    if widths != {1}:
        raise ValueError(f"column {column} has {max(widths)} values a frame, a phase is one; choose another --phase")
    distinct = np.unique(np.concatenate([np.unique(found) for found in values.values()]))
    if len(distinct) > MOST_PHASES:
        raise ValueError(
            f"column {column} has {len(distinct):,} different values, phases are at most {MOST_PHASES}; "
            "choose another --phase"
        )
    if names and len(names) != len(distinct):
        raise ValueError(f"{len(names)} names were given for the {len(distinct)} phases of {column}; give one each")
    words = tuple(names) or tuple(f"{column} {value:g}" for value in distinct)
    return Phases(
        names=words,
        by_episode={
            name: tuple(words[place] for place in np.searchsorted(distinct, found[:, 0]))
            for name, found in values.items()
        },
    )
