"""Episodes on a regular clock: what a format of fixed frame rate can hold of streams with clocks of their own.

Each frame stands for the row nearest to it and sees what a policy would at that row's own time: the newest frame and
state that are not in the future, the nearest action. Where there is no action within half a period, no state or no
frame yet, the episode is cut into pieces.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from vla.contract import StreamContract
from vla.data.clocks import nearest, newest
from vla.data.episode import ACTION, FRAME_TOLERANCE_S, STATE, Episode, Layout, Stream


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A stretch of an episode on the regular clock, and what stands at each of its frames."""

    episode: Episode
    times: Float64[np.ndarray, " N"]
    """Of the regular clock."""
    looked: Float64[np.ndarray, " N"]
    """What each frame stands for, on the episode's clock: the time of its row, or its own where no row is near."""
    frames: Int64[np.ndarray, " N"]
    """Of the episode's own frame clock, for its columns."""
    actions: Int64[np.ndarray, " N"]
    state: Int64[np.ndarray, " N"] | None
    cameras: Mapping[str, Int64[np.ndarray, " N"]]

    def __len__(self) -> int:
        return len(self.times)

    def seen(self, camera: str) -> Bool[np.ndarray, " N"]:
        """Whether a camera has a picture at each frame."""
        if camera not in self.cameras:
            return np.zeros(len(self), np.bool_)
        flags = self.episode.seen.get(camera)
        return np.ones(len(self), np.bool_) if flags is None else flags[self.frames]


@dataclass(frozen=True, kw_only=True)
class SensorFormat:
    """How a sensor stream is stored."""

    stream: StreamContract
    samples: int
    """Samples a frame."""
    own_times: bool
    """Whether the time of every sample is stored."""

    @property
    def columns(self) -> list[str]:
        """The columns that it is stored in."""
        key = self.stream.key
        return [key, f"{key}_valid", *([f"{key}_timestamp"] if self.own_times else [])]


def cut_pieces(episode: Episode, layout: Layout, fps: int) -> list[Piece]:
    """The stretches of an episode in which every frame has an action, a state and an image of each of its cameras."""
    first, last = float(episode.timestamps[0]), float(episode.timestamps[-1])
    times = first + np.arange(int(np.floor((last - first) * fps + 0.5)) + 1) / fps
    rows = episode.timestamps[nearest(episode.timestamps, times)]
    looked = np.where(np.abs(rows - times) <= 0.5 / fps, rows, times)
    actions = nearest(episode.actions.timestamps, looked)
    usable = np.abs(episode.actions.timestamps[actions] - looked) <= 0.5 / fps
    state = None
    if layout.state_dim and episode.state is not None:
        state = newest(episode.state.timestamps, looked + 1e-6)
        usable &= state >= 0
    tolerance_s = min(FRAME_TOLERANCE_S, 0.25 / fps)
    cameras = {key: newest(frames.timestamps, looked + tolerance_s) for key, frames in episode.cameras.items()}
    for places in cameras.values():
        usable &= places >= 0
    frames = newest(episode.timestamps, looked + 1e-6)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], usable, [False]])))
    return [
        Piece(
            episode=episode,
            times=times[start:stop],
            looked=looked[start:stop],
            frames=frames[start:stop],
            actions=actions[start:stop],
            state=None if state is None else state[start:stop],
            cameras={key: places[start:stop] for key, places in cameras.items()},
        )
        for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    ]


def remarks_on(episodes: Sequence[Episode], pieces: Sequence[Piece], fps: float, written_fps: int) -> list[str]:
    """What the regular clock changes, in sentences."""
    said = [] if fps == written_fps else [f"{fps:g} frames a second are written as {written_fps}"]
    of_episode: dict[int, list[Piece]] = {}
    for piece in pieces:
        of_episode.setdefault(id(piece.episode), []).append(piece)
    cut = [own for own in of_episode.values() if len(own) > 1]
    if cut:
        said.append(
            f"{len(cut)} of {len(episodes)} episodes are cut into {sum(map(len, cut))}: where a row, an action, a "
            "state or a picture is missing for a frame, another episode begins"
        )
    if missing := len(episodes) - len(of_episode):
        said.append(f"{missing} of {len(episodes)} episodes left out: no frame has an action, a state and a picture")
    if partial := sorted({key for episode in episodes for key in episode.columns} - common_columns(episodes).keys()):
        said.append(f"columns that not all episodes have are left out: {', '.join(partial)}")
    kept = [len(np.unique(np.concatenate([piece.frames for piece in own]))) for own in of_episode.values()]
    lost = sum(len(episode.timestamps) for episode in episodes) - sum(kept)
    again = sum(map(len, pieces)) - sum(kept)
    if lost or again:
        said.append(f"{lost} rows left out and {again} repeated: a copy has one row every 1/{written_fps} s")
    return said


def common_columns(episodes: Sequence[Episode]) -> dict[str, int]:
    """The columns that all episodes have, and their widths; ValueError where an episode's is of another width."""
    first, *others = episodes
    widths = {key: values.shape[1] for key, values in first.columns.items()}
    for episode in others:
        widths = {key: width for key, width in widths.items() if key in episode.columns}
        for key, width in widths.items():
            if episode.columns[key].shape[1] != width:
                raise ValueError(
                    f"{episode.name} has {episode.columns[key].shape[1]} values in column {key}, {first.name} has "
                    f"{width}: record one of them again, or write them apart"
                )
    return widths


def double_features(episodes: Sequence[Episode]) -> set[str]:
    """The features of a copy of which an episode has float64 numbers."""
    found: set[str] = set()
    for episode in episodes:
        values = {key: stream.values for key, stream in episode.streams.items()} | dict(episode.columns)
        values |= {} if episode.state is None else {STATE: episode.state.values}
        values |= {ACTION: episode.actions.values}
        found |= {key for key, rows in values.items() if rows.dtype == np.float64}
    return found


def rows_of(stream: Stream, places: Int64[np.ndarray, " N"]) -> Float[np.ndarray, "N C"]:
    """Rows of a stream."""
    return np.asarray(stream.values[places])


def assign(piece: Piece, key: str, fps: int) -> tuple[Int64[np.ndarray, " N"], Int64[np.ndarray, " N"]]:
    """For each frame the samples of a sensor stream since the frame before: first, and one past the last."""
    edges = np.concatenate([[piece.looked[0] - 1 / fps], piece.looked])
    places = np.searchsorted(piece.episode.streams[key].timestamps, edges + 1e-9, side="right")
    return places[:-1].astype(np.int64), places[1:].astype(np.int64)


def moved(piece: Piece, stamps: Float64[np.ndarray, " M"]) -> Float64[np.ndarray, " M"]:
    """Times of samples on the regular clock: a sample stays before or after the frames that it lies between."""
    far_s = 1.0 + max(0.0, piece.looked[0] - stamps.min(initial=np.inf), stamps.max(initial=-np.inf) - piece.looked[-1])
    there = np.concatenate([[piece.looked[0] - far_s], piece.looked, [piece.looked[-1] + far_s]])
    here = np.concatenate([[piece.times[0] - far_s], piece.times, [piece.times[-1] + far_s]])
    return np.asarray(stamps + np.interp(stamps, there, here - there))


def choose_sensor_format(pieces: Sequence[Piece], stream: StreamContract, fps: int) -> SensorFormat:
    """As many samples a frame as the fullest frame has; their times only where the rate does not give them."""
    key, samples, regular = stream.key, max(1, round(stream.rate_hz / fps)), True
    for piece in pieces:
        if key not in piece.episode.streams:
            continue
        stamps = moved(piece, piece.episode.streams[key].timestamps)
        starts, stops = assign(piece, key, fps)
        samples = max(samples, int((stops - starts).max()))
        for time, start, stop in zip(piece.times, starts, stops, strict=True):
            expected = time - np.arange(stop - start - 1, -1, -1) / stream.rate_hz
            regular &= bool(np.abs(stamps[start:stop] - expected).max(initial=0) < 1e-6)
    return SensorFormat(stream=stream, samples=samples, own_times=not regular)


def sensor_columns(piece: Piece, sensor: SensorFormat, fps: int) -> dict[str, np.ndarray]:
    """The windows of each frame, filled from their ends."""
    count, key = len(piece), sensor.stream.key
    stream = piece.episode.streams.get(key)
    kind = np.float32 if stream is None else stream.values.dtype
    windows = np.zeros((count, sensor.samples, sensor.stream.channels), dtype=kind)
    valid = np.zeros((count, sensor.samples), dtype=np.bool_)
    times = np.repeat((piece.times - piece.times[0])[:, None], sensor.samples, axis=1)
    if stream is not None:
        stamps = moved(piece, stream.timestamps)
        for frame, (start, stop) in enumerate(zip(*assign(piece, key, fps), strict=True)):
            kept = slice(max(start, stop - sensor.samples), stop)
            filled = slice(sensor.samples - (kept.stop - kept.start), sensor.samples)
            windows[frame, filled] = stream.values[kept]
            valid[frame, filled] = True
            times[frame, filled] = stamps[kept] - piece.times[0]
    columns = {key: windows, f"{key}_valid": valid}
    return columns | ({f"{key}_timestamp": times} if sensor.own_times else {})
