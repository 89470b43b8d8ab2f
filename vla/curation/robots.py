"""What an episode of a robot says of itself: steps, streams that stand still, sensors at their end, cameras, success.

Pure functions of an episode, a bounded part of its numbers at a time; whether something is wrong, the settings say.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

from vla.data.episode import Episode, Layout, Stream

VALUES_AT_ONCE = 2**22
"""Of a stream that are looked at together."""
MOVING = 0.5
"""Share of the steps in a stretch in which another stream has to move, for one that stands still to be frozen."""


def blocks(stream: Stream, overlap: int = 0) -> Iterator[Float[np.ndarray, "_ C"]]:
    """The rows of a stream, a bounded part at a time, each with the last rows of the one before."""
    step = max(1, VALUES_AT_ONCE // max(1, stream.values.shape[1]))
    for start in range(0, len(stream.values), step):
        yield np.asarray(stream.values[max(0, start - overlap) : start + step])


def streams_of(episode: Episode) -> dict[str, Stream]:
    """Actions, sensors, and the state where there is any."""
    state = {} if episode.state is None or not episode.state.values.shape[1] else {"state": episode.state}
    return {"action": episode.actions, **episode.streams, **state}


def not_finite(episode: Episode) -> str:
    """The first stream with a value that is no number, and its row; empty where all are."""
    for name, stream in streams_of(episode).items():
        row = 0
        for rows in blocks(stream):
            wrong = ~np.isfinite(rows).all(axis=1)
            if wrong.any():
                return f"{name} is not finite in row {row + int(np.argmax(wrong))}"
            row += len(rows)
    return ""


def largest_steps(episode: Episode, layout: Layout) -> dict[str, float]:
    """Of each dimension of the actions, the largest change from one row to the next; angles go the short way.

    The state is not looked at: a velocity jumps at every contact, and nothing is wrong.
    """
    width = episode.actions.values.shape[1]
    around = np.array(layout.action_periods or (0.0,) * width)
    largest = np.zeros(width)
    for rows in blocks(episode.actions, overlap=1):
        steps = np.abs(np.diff(rows.astype(np.float64), axis=0))
        turns = np.rint(steps / np.where(around > 0, around, np.inf))
        largest = np.maximum(largest, np.abs(steps - around * turns).max(axis=0, initial=0.0))
    names = layout.action_names or tuple(map(str, range(width)))
    return {f"action {name}": step for name, step in zip(names, largest.tolist(), strict=True)}


def usual_steps(episodes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each dimension, the median over episodes of their largest steps, of those in which it moves.

    A quantile of all steps would take a glitch for usual where there are few of them; half of the episodes would have
    to have one for this to.
    """
    moving: dict[str, list[float]] = {}
    for steps in episodes:
        for name, step in steps.items():
            if step > 0:
                moving.setdefault(name, []).append(step)
    return {name: float(np.median(found)) for name, found in moving.items()}


def changes(stream: Stream) -> Bool[np.ndarray, " N"]:
    """Whether any value of a stream differs from that of the row before, from its second row on."""
    found = [(rows[1:] != rows[:-1]).any(axis=1) for rows in blocks(stream, overlap=1) if len(rows) > 1]
    return np.concatenate(found) if found else np.zeros(0, np.bool_)


def longest_still(moves: Bool[np.ndarray, " N"]) -> tuple[int, int]:
    """Where the longest stretch of steps without a change begins and ends."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], moves, [True]]).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    if not len(starts):
        return 0, 0
    place = int(np.argmax(ends - starts))
    return int(starts[place]), int(ends[place])


def frozen(episode: Episode) -> dict[str, float]:
    """Of the state and each sensor, the share of the episode in which it stands still at a stretch while another moves.

    What rests while all else rests is no fault: then the share is 0.
    """
    streams = streams_of(episode)
    moves = {name: changes(stream) for name, stream in streams.items()}
    found = {}
    for name in streams.keys() - {"action"}:
        clock = streams[name].timestamps
        start, end = longest_still(moves[name])
        from_s, to_s = float(clock[start]), float(clock[min(end, len(clock) - 1)])
        others = [within(streams[other].timestamps, moves[other], from_s, to_s) for other in streams.keys() - {name}]
        length_s = float(clock[-1] - clock[0])
        found[name] = (to_s - from_s) / length_s if length_s > 0 and max(others, default=0.0) >= MOVING else 0.0
    return dict(sorted(found.items()))


def within(clock: Float[np.ndarray, " N"], moves: Bool[np.ndarray, " M"], from_s: float, to_s: float) -> float:
    """The share of a stream's steps between two times that change it."""
    inside = (clock[1:] > from_s) & (clock[1:] <= to_s)
    return float(moves[inside].mean()) if inside.any() else 0.0


def clipped(episode: Episode) -> dict[str, float]:
    """Of each sensor, the share of the samples in which a channel is at its end: its value that is farthest from 0.

    The worst channel counts. One of two values, such as a switch, has no end, and neither has one that never changes.
    """
    found = {}
    for key, stream in sorted(episode.streams.items()):
        low, high = np.inf, -np.inf
        for rows in blocks(stream):
            low, high = np.minimum(low, rows.min(axis=0)), np.maximum(high, rows.max(axis=0))
        end = np.where(np.abs(high) >= np.abs(low), high, low)
        there, between = np.zeros(stream.values.shape[1], np.int64), np.zeros(stream.values.shape[1], np.int64)
        for rows in blocks(stream):
            there += (rows == end).sum(axis=0)
            between += ((rows > low) & (rows < high)).sum(axis=0)
        shares = np.where(between > 0, there / len(stream.values), 0.0)
        # One sample alone is always at the end.
        found[key] = float(shares[there > 1].max(initial=0.0))
    return found


def seen(episode: Episode, layout: Layout) -> dict[str, float]:
    """Of each camera, the share of the frames in which it shows something; 0 of one that is missing."""
    return {
        camera: 0.0
        if camera not in episode.cameras
        else float(episode.seen[camera].mean())
        if camera in episode.seen
        else 1.0
        for camera in layout.cameras
    }


def succeeded(episode: Episode) -> bool | None:
    """Whether an episode says that it reached its end; None where it says nothing (`success`, `next.success`)."""
    for key in ("success", "next.success"):
        if key in episode.facts:
            return bool(episode.facts[key])
        if key in episode.columns:
            return bool((episode.columns[key] > 0).any())
        if key in episode.carried:
            return any(bool(value) for value in episode.carried[key].to_pylist() if not isinstance(value, list))
    return None
