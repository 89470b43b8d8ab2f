"""The critic of a robot's actions: limits of speed, step and force, as its demonstrations keep them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float64

from vla.critic.verdict import Check, Issue
from vla.critic_settings import CriticConfig
from vla.documents import from_json, to_bytes

TINY = 1e-12
"""Divides in the place of a limit of 0."""
STRAY = 10.0
"""Times the 90 % quantile of all episodes' extremes: one above is a glitch of the recording, and no limit."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a robot does in its demonstrations at most, in the units of its data; edit the file to say otherwise."""

    fps: float
    """Actions a second."""
    step: tuple[float, ...]
    """Of each dimension of the actions, the change from the action before that a chunk begins with."""
    speed: tuple[float, ...]
    """The change within a chunk, by the second."""
    force: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """By sensor stream, the magnitude of each of its channels."""
    periods: tuple[float, ...] = ()
    """Of the dimensions that are angles which wrap, their period; 0 of all others."""
    names: tuple[str, ...] = ()
    """Of the dimensions; empty where they have none."""

    def save(self, file: Path) -> None:
        """Write them as JSON."""
        file.write_bytes(to_bytes(self))

    @staticmethod
    def load(file: str | Path) -> "Limits":
        """Limits of a file.

        Raises:
            CorruptData: it holds none.
            ValueError: a key is unknown, or a number can be no limit.
        """
        limits = from_json(Limits, Path(file).read_bytes(), file, exact=True)
        limits.check(f"{file}")
        return limits

    def check(self, place: str) -> None:
        """Refuse numbers that can be no limits; `place` is where they stand. ValueError."""
        width = len(self.step)
        if len(self.speed) != width or len(self.periods) not in (0, width) or len(self.names) not in (0, width):
            raise ValueError(
                f"{place} has {width} steps, {len(self.speed)} speeds, {len(self.periods)} periods and "
                f"{len(self.names)} names: give one of each for each dimension of the actions"
            )
        if not 0 < self.fps < np.inf:
            raise ValueError(f"{place} has fps {self.fps:g}; give the actions a second")
        given = {"step": self.step, "speed": self.speed, "periods": self.periods}
        given |= {f"force.{name}": values for name, values in self.force.items()}
        for name, values in given.items():
            if wrong := [value for value in values if not 0 <= value < np.inf]:
                raise ValueError(f"{place} has {wrong[0]:g} in {name}; give numbers of 0 or more")


def learn(
    actions: Sequence[Float[np.ndarray, "_ A"]],
    streams: Mapping[str, Sequence[Float[np.ndarray, "_ _"]]],
    *,
    fps: float,
    periods: Sequence[float] = (),
    names: Sequence[str] = (),
    remark: Callable[[str], object] = lambda _: None,
) -> Limits:
    """The limits that demonstrations keep: `actions` and `streams` hold an array an episode. `remark` hears of strays.

    Raises:
        ValueError: no episode has two actions.
    """
    changes = [np.abs(differences(np.asarray(rows, dtype=np.float64), periods)) for rows in actions if len(rows) > 1]
    if not changes:
        raise ValueError("no demonstration has two actions, so there is no step to learn a limit from; give others")
    step = usual([change.max(axis=0) for change in changes], "actions", remark)
    force = {
        name: tuple(usual([extremes(rows) for rows in episodes if len(rows)], name, remark).tolist())
        for name, episodes in streams.items()
    }
    return Limits(
        fps=fps,
        step=tuple(step.tolist()),
        speed=tuple((step * fps).tolist()),
        force=force,
        periods=tuple(periods),
        names=tuple(names),
    )


def extremes(rows: Float[np.ndarray, "N C"]) -> Float64[np.ndarray, " C"]:
    """The largest magnitude of each channel; what is no number was not measured."""
    values = np.abs(np.asarray(rows, dtype=np.float64))
    found: Float64[np.ndarray, C] = np.where(np.isfinite(values), values, 0.0).max(axis=0)
    return found


def usual(
    maxima: Sequence[Float64[np.ndarray, " D"]], what: str, remark: Callable[[str], object]
) -> Float64[np.ndarray, " D"]:
    """The largest of each dimension over all episodes, strays left out, of which `remark` hears."""
    table = np.stack(maxima)
    high = np.quantile(table, 0.9, axis=0)
    stray = (table > STRAY * high) & (high > 0)
    if stray.any():
        remark(
            f"{int(stray.any(axis=1).sum())} of {len(table)} demonstrations have {what} more than {STRAY:g} times as "
            "large as nine in ten have at most, which is taken for a glitch and sets no limit"
        )
    found: Float64[np.ndarray, D] = np.where(stray, 0.0, table).max(axis=0)
    return found


def differences(values: Float[np.ndarray, "T A"], periods: Sequence[float]) -> Float64[np.ndarray, "N A"]:
    """From one to the next, the short way round where they are angles."""
    changes = np.diff(values, axis=0)
    around = np.asarray(periods or np.zeros(values.shape[1]))
    turns = np.where(around > 0, np.rint(changes / np.where(around > 0, around, 1.0)), 0.0)
    found: Float64[np.ndarray, "N A"] = changes - turns * around
    return found


def issues_of(
    actions: Float[np.ndarray, "H A"],
    limits: Limits,
    config: CriticConfig,
    *,
    last: Float[np.ndarray, " A"] | None,
    streams: Mapping[str, tuple[Float[np.ndarray, "S C"], Bool[np.ndarray, " S"]]],
) -> Iterator[Issue]:
    """What is wrong with a chunk that follows the action `last`, and with what the sensors felt before it."""
    if not np.isfinite(actions).all():
        yield Issue(check="step", value=np.inf, limit=0.0, detail="an action is not finite")
        return
    called = limits.names or tuple(f"dimension {place}" for place in range(actions.shape[1]))
    if last is not None:
        change = np.abs(differences(np.stack([last, actions[0]]), limits.periods))
        if worst := furthest(change, config.step * np.array(limits.step)):
            yield worst.issue("step", f"{called[worst.place]} changes by {worst}")
    if len(actions) > 1:
        pace = np.abs(differences(actions, limits.periods)) * limits.fps
        if worst := furthest(pace, config.step * np.array(limits.speed)):
            yield worst.issue("speed", f"{called[worst.place]} changes a second by {worst}")
    for name, (values, valid) in streams.items():
        if name in limits.force and valid.any():
            felt = np.abs(np.asarray(values, dtype=np.float64)[valid])
            if worst := furthest(felt, config.force * np.array(limits.force[name])):
                yield worst.issue("force", f"channel {worst.place} of {name} feels {worst}")


@dataclass(frozen=True, kw_only=True)
class Excess:
    """The value that is the furthest above its limit."""

    place: int
    """Its dimension, or its channel."""
    value: float
    limit: float

    def __str__(self) -> str:
        return f"{self.value:.4g}, and at most {self.limit:.4g} may be"

    def issue(self, check: Check, detail: str) -> Issue:
        """It as an issue."""
        return Issue(check=check, value=self.value, limit=self.limit, detail=detail)


def furthest(values: Float64[np.ndarray, "N D"], allowed: Float64[np.ndarray, " D"]) -> Excess | None:
    """The dimension that is above its limit by most of it; None where none is."""
    if not (values > allowed).any():
        return None
    row, place = np.unravel_index(np.argmax((values - allowed) / np.maximum(allowed, TINY)), values.shape)
    return Excess(place=int(place), value=float(values[row, place]), limit=float(allowed[place]))
