"""Labels: what the data say of each frame that a policy predicts beside the motion, and never sees."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from vla.contract import CLASSED
from vla.data.episode import Episode, Layout, Stream
from vla.motion_settings import LabelName

COLUMNS: Mapping[str, tuple[str, ...]] = {"action": ("action", "actions"), "physics": ("physics",)}
"""What the column of a label is called; the first one that an episode has is taken."""
CHUNK_ROWS = 2**20
"""Rows of a column that are looked at together."""


def check_labels(layouts: Sequence[Layout], labels: Sequence[LabelName]) -> None:
    """Refuse labels of what is no motion, and a label twice (ValueError)."""
    if strange := [layout.root for layout in layouts if labels and layout.body is None]:
        raise ValueError(f"--data.labels are of human motion, which {strange[0]} does not hold: leave it out")
    if twice := [name for name in labels if labels.count(name) > 1]:
        raise ValueError(f"--data.labels names {twice[0]} twice: name it once")


def columns_of(episode: Episode, name: str) -> list[Float[np.ndarray, "N _"]]:
    """The columns that are a label side by side: one, or one a number where these have names, such as `physics.vx`.

    Raises:
        ValueError: the episode does not have it.
    """
    for called in COLUMNS[name]:
        if called in episode.columns:
            return [episode.columns[called]]
        if parts := [column for key, column in episode.columns.items() if key.startswith(f"{called}.")]:
            return parts
    raise ValueError(
        f"{episode.name} has no column {' or '.join(COLUMNS[name])} but {', '.join(episode.columns) or 'none'}: "
        f"leave {name} out of --data.labels, or the episode out with `--data.without {episode.index}`"
    )


def label_of(episode: Episode, name: str) -> Stream:
    """A label as a whole, on the frame clock. Errors as `columns_of`."""
    columns = columns_of(episode, name)
    values = columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)
    return Stream(timestamps=episode.timestamps, values=values)


def sizes_of_labels(episodes: Sequence[Episode], labels: Sequence[LabelName]) -> dict[str, int]:
    """By name, how many classes there are in all of the episodes, or how many values a quantity has.

    Raises:
        ValueError: an episode lacks a label, or has another width of it than the first one, or what is no class.
    """
    return {name: (num_classes if name in CLASSED else num_values)(episodes, name) for name in labels}


def num_classes(episodes: Sequence[Episode], name: str) -> int:
    """The largest number of a class, and one more for class 0."""
    largest = 0
    for episode in episodes:
        values = label_of(episode, name).values
        if values.ndim != 2 or values.shape[1] != 1:
            raise ValueError(f"{episode.name} has {name} of shape {values.shape}, expected one number a frame")
        for start in range(0, len(values), CHUNK_ROWS):
            largest = max(largest, largest_class(np.asarray(values[start : start + CHUNK_ROWS, 0]), episode, name))
    return largest + 1


def largest_class(values: Float[np.ndarray, " N"], episode: Episode, name: str) -> int:
    """The largest of some numbers of classes. ValueError where one is none."""
    wrong = np.flatnonzero(~((values >= 0) & (values < np.inf) & (np.floor(values) == values)))
    if len(wrong):
        raise ValueError(
            f"{episode.name} has {name} {values[wrong[0]]:g}, expected whole numbers from 0 on: number its classes, or "
            f"leave it out with `--data.without {episode.index}`"
        )
    return int(values.max(initial=0))


def num_values(episodes: Sequence[Episode], name: str) -> int:
    """How many values a quantity has at each frame."""
    widths: dict[int, Episode] = {
        sum(column.shape[1] for column in columns_of(episode, name)): episode for episode in episodes
    }
    if len(widths) > 1:
        (one, first), (other, second), *_ = widths.items()
        raise ValueError(
            f"{first.name} has {one} values of {name} and {second.name} has {other}: leave one of them out with "
            f"`--data.without`, or {name} out of --data.labels"
        )
    return next(iter(widths))
