"""Some dimensions of the actions or the state of a root, in an order of one's own."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar, get_args

import numpy as np

from vla.data.bodies import MOTION_BODY
from vla.data.episode import Episode, Layout, Reader, Stream

Kind = Literal["action", "state"]
Fact = TypeVar("Fact")
KINDS: tuple[Kind, ...] = get_args(Kind)


def parse_dimensions(words: Sequence[str]) -> dict[Kind, tuple[str, ...]]:
    """What `action=0,1,gripper state=joint_1` names, by kind. ValueError where it is written otherwise."""
    chosen: dict[Kind, tuple[str, ...]] = {}
    for word in words:
        kind = next((kind for kind in KINDS if word.startswith(f"{kind}=")), None)
        named = tuple(word.partition("=")[2].split(","))
        if kind is None or "" in named or kind in chosen:
            raise ValueError(
                f"--data.dims has {word!r}, expected action= or state=, each once, and dimensions by index or name, "
                "such as action=0,1,gripper state=joint_1,joint_2"
            )
        chosen[kind] = named
    return chosen


def places_of(
    kind: Kind, asked: Sequence[str], width: int, names: Sequence[str], root: str, *, flag: str = "--data.dims"
) -> tuple[int, ...]:
    """The indices of some dimensions. ValueError names one that is not there, with the nearest, or stands there twice.

    Digits are an index, whatever the dimensions are called.
    """
    found: list[int] = []
    for dimension in asked:
        place = int(dimension) if dimension.isdecimal() else names.index(dimension) if dimension in names else width
        if place >= width:
            near = difflib.get_close_matches(dimension, names, 1)
            hint = f" (nearest: {near[0]})" if near else f": {', '.join(names)}" if names else ", without names"
            raise ValueError(
                f"{root} has no {kind} dimension {dimension}; it has 0 to {width - 1}{hint}: correct {flag}"
                if width
                else f"{root} has no {kind} to take dimension {dimension} of: leave {kind}= out of --data.dims"
            )
        if place in found:
            raise ValueError(f"{flag} names {kind} dimension {dimension} of {root} twice: name each once")
        found.append(place)
    return tuple(found)


def taken(stream: Stream, places: Sequence[int]) -> Stream:
    """The stream with these dimensions alone: a view where they stand at even distances, else a copy."""
    steps = set(np.diff(places).tolist()) or {1}
    if len(steps) == 1 and (step := steps.pop()) > 0:
        return replace(stream, values=stream.values[:, places[0] : places[-1] + 1 : step])
    return replace(stream, values=stream.values[:, list(places)])


def some(facts: Sequence[Fact], places: Sequence[int]) -> tuple[Fact, ...]:
    """The facts of these dimensions; none where there are none."""
    return tuple(facts[place] for place in places) if facts else ()


@dataclass(frozen=True)
class WithDimensions:
    """A reader of whose actions and state only some dimensions are given."""

    reader: Reader
    places: Mapping[Kind, tuple[int, ...]]

    @cached_property
    def layout(self) -> Layout:
        """That of the root, with the widths, names and periods of what is taken; a part of a body is none."""
        layout = self.reader.layout
        if (places := self.places.get("action")) is not None:
            layout = replace(
                layout,
                action_dim=len(places),
                action_names=some(layout.action_names, places),
                action_periods=some(layout.action_periods, places),
                action_units=some(layout.action_units, places),
                action_places=places,
                body=None,
                facts={key: fact for key, fact in layout.facts.items() if key != MOTION_BODY},
            )
        if (places := self.places.get("state")) is not None:
            layout = replace(
                layout,
                state_dim=len(places),
                state_names=some(layout.state_names, places),
                state_units=some(layout.state_units, places),
                state_places=places,
            )
        return layout

    @property
    def sources(self) -> Sequence[Path]:
        """Those of the root."""
        return self.reader.sources

    @cached_property
    def episodes(self) -> Sequence[Episode]:
        """Those of the root."""
        return tuple(map(self._taken, self.reader.episodes))

    def _taken(self, episode: Episode) -> Episode:
        actions, state = self.places.get("action"), self.places.get("state")
        return replace(
            episode,
            actions=episode.actions if actions is None else taken(episode.actions, actions),
            state=episode.state if state is None or episode.state is None else taken(episode.state, state),
        )

    def __reduce__(self) -> tuple[type["WithDimensions"], tuple[Reader, Mapping[Kind, tuple[int, ...]]]]:
        """As the reader within, which opens again where it is unpickled."""
        return WithDimensions, (self.reader, self.places)


def with_dimensions(reader: Reader, words: Sequence[str]) -> Reader:
    """The reader, giving only what --data.dims names. ValueError where that is not there."""
    if not words:
        return reader
    layout = reader.layout
    ways = {"action": (layout.action_dim, layout.action_names), "state": (layout.state_dim, layout.state_names)}
    return WithDimensions(
        reader,
        {kind: places_of(kind, asked, *ways[kind], layout.root) for kind, asked in parse_dimensions(words).items()},
    )
