"""Some dimensions of the actions or the state of a root, in an order of one's own."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from vla.data.episode import Episode, Layout, Reader, Stream

Kind = Literal["action", "state"]
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


@dataclass(frozen=True)
class WithDimensions:
    """A reader of whose actions and state only some dimensions are given."""

    reader: Reader
    places: Mapping[Kind, tuple[int, ...]]

    @cached_property
    def layout(self) -> Layout:
        """That of the root, with the widths, names and periods of what is taken."""
        whole = self.reader.layout
        changes: dict[str, object] = {}
        for kind, places in self.places.items():
            names = whole.action_names if kind == "action" else whole.state_names
            changes |= {
                f"{kind}_dim": len(places),
                f"{kind}_names": tuple(names[place] for place in places) if names else (),
                f"{kind}_places": places,
            }
            if kind == "action":
                changes["action_periods"] = tuple(whole.action_periods[place] for place in places)
        return replace(whole, **changes)  # type: ignore[arg-type]

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
