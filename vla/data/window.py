"""Episode -> Sample: what a policy may look at now, and the actions that follow.

sensor     . . . . . . . . . . x|          the last S samples, held; nothing after now is read
state      .       .       x    |
frames     .               x    |
actions                         |x   x   x   x      H steps of the frame clock, from now on
time   ------------------------now---------------->
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, UInt8

from vla.batch import Reading, Sample
from vla.contract import DataContract, StreamContract
from vla.data.cameras import pictures
from vla.data.clocks import nearest, newest
from vla.data.episode import Episode, Frames, Stream
from vla.data.labels import columns_of
from vla.data.shelf import Pictures, Shelf, Shown
from vla.data.style import style_of
from vla.data.video import read_frames
from vla.errors import CorruptData
from vla.frames import Look, Picture

STALE_PERIODS = 1.5
"""A sensor sample stands for this many of its periods; a window's place with nothing younger is not valid."""

RASTER_TOLERANCE = 0.01
"""Periods by which a past place of a sensor window may lie before the sample it shows.

Both clocks are multiples of the same period, written with rounding errors: without it, neighbours would be doubled or
skipped at random. It never reaches past now: the newest sample of a window has a timestamp <= now without tolerance.
"""


@dataclass(frozen=True, kw_only=True)
class Window:
    """How the samples of one root are cut."""

    contract: DataContract
    periods_s: Mapping[str, float]
    """Seconds between two samples of a sensor stream, by its key in the root; those that the root has."""
    sensor_weight: float
    """Weight of a sample with a valid reading of any sensor, against 1."""
    frame_sizes: Mapping[str, tuple[int, int]]
    """(height, width) of the black frame, of each camera that is missing or void somewhere."""
    shelf: Shelf | None = None
    """What is kept of the samples, so that it is read instead of being computed; None: nothing."""

    def cut(self, episode: Episode, index: int, position: int) -> Sample:
        """The sample at a frame of an episode, for a position of the stream.

        Raises:
            CorruptData: its content is damaged; names the episode, camera, frame and file.
            StorageFault: the storage does not give it; names the file.
        """
        now = float(episode.timestamps[index])
        actions, action_valid = self._chunk(episode.actions, now)
        streams = {name: self._reading(episode, stream, now) for name, stream in self.contract.streams.items()}
        felt = any(reading.valid.any() for reading in streams.values())
        images, image_valid = self._images(episode, index)
        return Sample(
            images=images,
            image_valid=image_valid,
            prefix=None if self.shelf is None else self.shelf.prefix(episode, index),
            instruction=episode.instructions[index],
            state=self._state(episode.state, now),
            streams=streams,
            actions=actions,
            action_valid=action_valid,
            weight=float(episode.confidence[index]) * (self.sensor_weight if felt else 1.0),
            position=position,
            style=style_of(episode, self.contract.style),
            labels={name: self._label(episode, name, now) for name in self.contract.labels},
            action_known=self._known(episode, now),
        )

    def void(self, episode: Episode, index: int, position: int) -> Sample:
        """A sample that holds nothing and weighs nothing, in the place of one that cannot be read."""
        contract = self.contract
        actions = np.zeros((contract.horizon, contract.action_dim), dtype=np.float32)
        black = tuple(np.zeros((3, *self.frame_sizes[camera]), dtype=np.uint8) for camera in contract.cameras)
        return Sample(
            images=black if self.shelf is None else self.shelf.images(contract.cameras, black, None),
            prefix=None if self.shelf is None else self.shelf.nothing(),
            image_valid=np.zeros(len(contract.cameras), dtype=np.bool_),
            instruction=episode.instructions[index],
            state=np.zeros(contract.state_dim, dtype=np.float32),
            streams={name: nothing(stream) for name, stream in contract.streams.items()},
            actions=actions,
            action_valid=np.zeros(contract.horizon, dtype=np.bool_),
            weight=0.0,
            position=position,
            style=np.zeros((len(contract.style), 2), np.float32),
            labels={name: nothing_said(contract, name) for name in contract.labels},
            action_known=None if episode.known is None else np.zeros(actions.shape, np.bool_),
        )

    def frames(self, episode: Episode) -> range | Int64[np.ndarray, " N"]:
        """The frames a sample can stand at: those with an action of their own and a state that is not in the future."""
        usable = _steps(episode.actions, episode.timestamps, self.contract.fps)[1]
        if episode.state is not None:
            usable &= episode.timestamps >= episode.state.timestamps[0]
        return range(len(usable)) if usable.all() else np.flatnonzero(usable)

    def action_before(self, episode: Episode, index: int) -> Float[np.ndarray, " A"]:
        """The action one frame period before a frame; NaN where there is none."""
        times = episode.timestamps[index : index + 1] - 1 / self.contract.fps
        places, valid = _steps(episode.actions, times, self.contract.fps)
        return np.where(valid[0], _rows(episode.actions, places)[0], np.nan)

    def _chunk(self, stream: Stream, now: float) -> tuple[Float[np.ndarray, "H _"], Bool[np.ndarray, " H"]]:
        """The rows of actions or labels on the frame clock; where none is near, the nearest stands and is not valid."""
        places, valid = _steps(stream, now + np.arange(self.contract.horizon) / self.contract.fps, self.contract.fps)
        return _rows(stream, places), valid

    def _known(self, episode: Episode, now: float) -> Bool[np.ndarray, "H A"] | None:
        """Which numbers of a chunk were measured; None: all."""
        if episode.known is None:
            return None
        measured = Stream(timestamps=episode.actions.timestamps, values=episode.known.astype(np.float32))
        return self._chunk(measured, now)[0] > 0

    def _label(self, episode: Episode, name: str, now: float) -> Float[np.ndarray, "H _"]:
        """A label of the steps of a chunk."""
        columns = [Stream(timestamps=episode.timestamps, values=column) for column in columns_of(episode, name)]
        return np.concatenate([self._chunk(column, now)[0] for column in columns], axis=1)

    def _reading(self, episode: Episode, stream: StreamContract, now: float) -> Reading:
        """The window of a sensor stream; nothing in it is valid where the episode lacks it."""
        if stream.key not in episode.streams:
            return nothing(stream)
        measured, period_s = episode.streams[stream.key], self.periods_s[stream.key]
        values, valid = hold(measured, now, samples=stream.samples, rate_hz=stream.rate_hz, period_s=period_s)
        return Reading(values=values, valid=valid)

    def _state(self, state: Stream | None, now: float) -> Float[np.ndarray, " P"]:
        """The newest state."""
        if state is None:
            return np.zeros(0, dtype=np.float32)
        place = int(newest(state.timestamps, np.array([now]))[0])
        assert place >= 0, "frames() leaves out what comes before the first state"
        return np.array(state.values[place])

    def _images(
        self, episode: Episode, index: int
    ) -> tuple[tuple[Picture | Mapping[Look, Shown], ...], Bool[np.ndarray, " V"]]:
        """What each camera shows, and whether it does: the newest frame, or what is kept of it."""
        cameras, row, shelf = self.contract.cameras, slice(index, index + 1), self.shelf
        places = [int(pictures(episode, camera, self.contract.fps, row)[0]) for camera in cameras]
        valid = np.array([place >= 0 for place in places], dtype=np.bool_)
        if shelf is None:
            return self.frames_at(episode, places), valid
        whole = self.frames_at(episode, places) if shelf.sizes else ()
        records = None
        if isinstance(shelf.kind, Pictures):
            records = [shelf.record(episode, camera, place) for camera, place in zip(cameras, places, strict=True)]
        return shelf.images(cameras, whole, records), valid

    def frames_of(self, episode: Episode, camera: str, places: Sequence[int]) -> list[Picture]:
        """The frames of one camera at some places; a black one where it is -1. Errors as `cut`."""
        seen = [place for place in places if place >= 0]
        decoded = iter(_Located(episode, camera).read(seen) if seen else [])
        return [
            next(decoded) if place >= 0 else np.zeros((3, *self.frame_sizes[camera]), dtype=np.uint8)
            for place in places
        ]

    def frames_at(self, episode: Episode, places: Sequence[int]) -> tuple[Picture, ...]:
        """The frame of each camera at a place, all decoded at once; a black one of the usual size where it is -1."""
        requests: list[tuple[Frames, Sequence[int]]] = []
        for camera, place in zip(self.contract.cameras, places, strict=True):
            if place >= 0:
                requests.append((_Located(episode, camera), (place,)))
        decoded = iter(read_frames(requests))
        return tuple(
            next(decoded)[0] if place >= 0 else np.zeros((3, *self.frame_sizes[camera]), dtype=np.uint8)
            for camera, place in zip(self.contract.cameras, places, strict=True)
        )


def nothing_said(contract: DataContract, name: str) -> Float[np.ndarray, "H _"]:
    """A label of a chunk of which nothing is known."""
    return np.zeros((contract.horizon, contract.quantities.get(name, 1)), dtype=np.float32)


def nothing(stream: StreamContract) -> Reading:
    """A window in which nothing was measured."""
    return Reading(
        values=np.zeros((stream.samples, stream.channels), np.float32), valid=np.zeros(stream.samples, np.bool_)
    )


def hold(
    sensor: Stream, now: float, *, samples: int, rate_hz: float, period_s: float
) -> tuple[Float[np.ndarray, "S C"], Bool[np.ndarray, " S"]]:
    """A window up to now, and which of it was measured, by zero-order hold; none is averaged, whatever the rates.

    `period_s` lies between two samples of the sensor.
    """
    window = np.zeros((samples, sensor.values.shape[1]), dtype=sensor.values.dtype)
    valid = np.zeros(samples, dtype=np.bool_)
    if not len(sensor.timestamps):
        return window, valid
    times = now - np.arange(samples - 1, -1, -1) / rate_hz
    last = newest(sensor.timestamps, np.array([now]))[0]
    places = np.minimum(newest(sensor.timestamps, times + RASTER_TOLERANCE * period_s), last)
    valid = (places >= 0) & (times - sensor.timestamps[places] <= STALE_PERIODS * period_s)
    if valid.any():
        window[valid] = _rows(sensor, places[valid])
    return window, valid


class _Located:
    """The frames of a camera; an error says which camera of which episode it was."""

    def __init__(self, episode: Episode, camera: str) -> None:
        self.episode, self.camera = episode, camera

    @property
    def timestamps(self) -> Float64[np.ndarray, " N"]:
        """Those of the camera."""
        return self.episode.cameras[self.camera].timestamps

    def read(self, indices: Sequence[int]) -> list[UInt8[np.ndarray, "3 height width"]]:
        """The frames of the camera."""
        where = f"{self.episode.name}, {self.camera}, frame {indices[0]}"
        try:
            images = self.episode.cameras[self.camera].read(indices)
        except ValueError as error:
            raise CorruptData(f"{where}: {error}") from error
        for image in images:
            if image.dtype != np.uint8 or image.ndim != 3 or len(image) != 3:
                raise CorruptData(f"{where}: holds {image.dtype} of shape {image.shape}; record it again")
        return images


def _steps(
    actions: Stream, times: Float64[np.ndarray, " M"], fps: float
) -> tuple[Int64[np.ndarray, " M"], Bool[np.ndarray, " M"]]:
    """Index of the action nearest to each time, and whether it is within half a period of the frame clock."""
    places = nearest(actions.timestamps, times)
    return places, np.abs(actions.timestamps[places] - times) <= 0.5 / fps


def _rows(stream: Stream, places: Int64[np.ndarray, " M"]) -> Float[np.ndarray, "M C"]:
    """Rows of a stream, through one contiguous read: a memory map need not support more."""
    first, last = int(places.min()), int(places.max())
    rows: Float[np.ndarray, "M C"] = np.asarray(stream.values[first : last + 1])[places - first]
    return rows
