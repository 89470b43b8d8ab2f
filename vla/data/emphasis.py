"""Frames to be seen more often: a condition on one value of a frame, as one writes it."""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from vla.data.clocks import nearest, newest
from vla.data.episode import ACTION, STATE, Episode
from vla.data.writing.pieces import rows_of

COMPARISONS: dict[str, Callable[[np.ndarray, np.floating], np.ndarray]] = {
    "==": np.equal,
    "!=": np.not_equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}
SENTENCE = re.compile(
    r"\s*(?P<magnitude>abs\(\s*)?(?P<column>[^\s\[\]()<>=!]+)(?:\[(?P<dimension>\d+)\])?(?(magnitude)\s*\))"
    r"\s*(?P<comparison>==|!=|<=|>=|<|>)\s*(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*"
)


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A condition on one value of a frame."""

    sentence: str
    column: str
    """Feature key of the values; those of the action and the state are on clocks of their own."""
    dimension: int | None
    """Of the column; None where it has but one."""
    magnitude: bool
    """Whether the sign of the value is dropped."""
    comparison: str
    number: float

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns a reader is to give for it; every episode has its action and state anyhow."""
        return () if self.column in (ACTION, STATE) else (self.column,)

    def values(self, episode: Episode) -> Float[np.ndarray, " N"]:
        """What is compared, at each frame. ValueError where the episode has no such value."""
        rows = rows_at_frames(episode, self.column)
        width = rows.shape[1]
        dimension = 0 if self.dimension is None and width == 1 else self.dimension
        if dimension is None or dimension >= width:
            raise ValueError(
                f"--data.emphasis names {self.column}{'' if dimension is None else f'[{dimension}]'}, but "
                f"{episode.name} has {width} such values: name one of {self.column}[0] to {self.column}[{width - 1}]"
            )
        return np.abs(rows[:, dimension]) if self.magnitude else rows[:, dimension]

    def holds(self, episode: Episode) -> Bool[np.ndarray, " N"]:
        """Whether it holds, at each frame; nothing holds of a value that is not a number."""
        values = self.values(episode)
        number = values.dtype.type(self.number)  # 0.1 is another number in float32
        return np.asarray(COMPARISONS[self.comparison](values, number) & ~np.isnan(values))


def parse_condition(sentence: str) -> Condition:
    """The condition that a sentence such as `phase == 1` or `abs(observation.force[2]) > 2` states.

    ValueError where it states none.
    """
    found = SENTENCE.fullmatch(sentence)
    if found is None:
        raise ValueError(
            f"--data.emphasis is {sentence!r}, expected COLUMN, COLUMN[2] or abs(COLUMN[2]), one of "
            f"{' '.join(COMPARISONS)}, and a number, such as 'phase == 1' or 'abs(observation.force[2]) > 2'"
        )
    return Condition(
        sentence=sentence.strip(),
        column=found["column"],
        dimension=None if found["dimension"] is None else int(found["dimension"]),
        magnitude=found["magnitude"] is not None,
        comparison=found["comparison"],
        number=float(found["number"]),
    )


def rows_at_frames(episode: Episode, column: str) -> Float[np.ndarray, "N C"]:
    """The rows of a column on the frame clock: the nearest action, the newest state. ValueError where it has none."""
    if column == ACTION:
        return rows_of(episode.actions, nearest(episode.actions.timestamps, episode.timestamps))
    if column == STATE and episode.state is not None:
        places = newest(episode.state.timestamps, episode.timestamps)
        return rows_of(episode.state, places.clip(min=0))  # no sample stands before the first state
    if column not in episode.columns:
        known = [ACTION, *([STATE] if episode.state is not None else []), *episode.columns]
        near = difflib.get_close_matches(column, known, 1)
        hint = f" (nearest: {near[0]})" if near else ""
        raise ValueError(f"{episode.name} has no {column}{hint}: let --data.emphasis name one of {', '.join(known)}")
    return np.asarray(episode.columns[column])
