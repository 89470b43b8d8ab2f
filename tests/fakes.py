"""Synthetic roots in memory: every value says at which time, and of which episode, it was recorded."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float64, UInt8

from vla.contract import StreamContract
from vla.data.episode import Episode, Layout, Stream
from vla.data.texts import Texts
from vla.settings import DataConfig

SENSOR = "observation.ft"


@dataclass(frozen=True, kw_only=True)
class FakeFrames:
    """Frames whose red and green are the low and high byte of their index."""

    timestamps: Float64[np.ndarray, " N"]
    height: int = 6
    width: int = 8
    broken: tuple[int, ...] = ()

    def read(self, indices: Sequence[int]) -> list[UInt8[np.ndarray, "3 height width"]]:
        if set(indices) & set(self.broken):
            raise ValueError("front.mp4 cannot be decoded")
        images = [np.zeros((3, self.height, self.width), dtype=np.uint8) for _ in indices]
        for image, index in zip(images, indices, strict=True):
            image[0], image[1] = index % 256, index // 256
        return images


@dataclass(frozen=True, kw_only=True)
class FakeReader:
    layout: Layout
    episodes: list[Episode]
    sources: tuple[Path, ...] = ()


def clock(seconds: float, rate_hz: float, start: float = 0.0) -> Float64[np.ndarray, " N"]:
    """Times of a stream in the float32 that data sets store."""
    return (start + np.arange(round(seconds * rate_hz)) / rate_hz).astype(np.float32).astype(np.float64)


def encoded(timestamps: Float64[np.ndarray, " N"], width: int, offset: float = 0.0) -> Stream:
    """A stream whose channel c is its own time in seconds plus c plus an offset."""
    values = timestamps[:, None] + np.arange(width)[None] + offset
    return Stream(timestamps=timestamps, values=values.astype(np.float32))


@dataclass(frozen=True, kw_only=True)
class FakeRoot:
    """How a root is made up."""

    name: str = "root"
    lengths: tuple[int, ...] = (20, 25, 30, 20)
    fps: float = 20.0
    cameras: tuple[str, ...] = ("observation.images.front", "observation.images.wrist")
    state_dim: int = 3
    action_dim: int = 2
    action_periods: tuple[float, ...] = (0.0, 0.0)
    sensor: str | None = SENSOR
    sensor_hz: float = 1000.0
    sensor_channels: int = 2
    sensor_samples: int = 50
    without_sensor: tuple[int, ...] = ()
    without_wrist: tuple[int, ...] = ()
    broken_frames: tuple[int, ...] = ()
    instruction: str = "push the needle"
    indices: tuple[int, ...] = field(default=())

    def open(self) -> FakeReader:
        layout = Layout(
            root=self.name,
            format="fake v1",
            fps=self.fps,
            cameras=self.cameras,
            state_dim=self.state_dim,
            action_dim=self.action_dim,
            state_names=(),
            action_names=tuple(f"a{place}" for place in range(self.action_dim)),
            action_periods=self.action_periods,
            streams={} if self.sensor is None else {self.sensor: self.stream(self.sensor)},
        )
        return FakeReader(layout=layout, episodes=[self.episode(place) for place in range(len(self.lengths))])

    def stream(self, key: str) -> StreamContract:
        return StreamContract(
            key=key, channels=self.sensor_channels, samples=self.sensor_samples, rate_hz=self.sensor_hz
        )

    def episode(self, place: int) -> Episode:
        index = self.indices[place] if self.indices else place
        seconds = self.lengths[place] / self.fps
        times = clock(seconds, self.fps)
        absent = ("observation.images.wrist",) if place in self.without_wrist else ()
        return Episode(
            name=f"{self.name}/episode_{index:06d}",
            index=index,
            timestamps=times,
            instructions=Texts.throughout(self.instruction, len(times)),
            confidence=np.ones(len(times)),
            actions=encoded(times, self.action_dim, 1000.0 * place),
            state=encoded(times, self.state_dim, 1000.0 * place) if self.state_dim else None,
            streams=(
                {self.sensor: encoded(clock(seconds, self.sensor_hz), self.sensor_channels)}
                if self.sensor and place not in self.without_sensor
                else {}
            ),
            cameras={
                camera: FakeFrames(timestamps=times, broken=self.broken_frames)
                for camera in self.cameras
                if camera not in absent
            },
        )


def edited(reader: FakeReader, place: int, **changes: object) -> FakeReader:
    """The reader with one episode changed."""
    episodes = list(reader.episodes)
    episodes[place] = replace(episodes[place], **changes)  # type: ignore[arg-type]
    return replace(reader, episodes=episodes)


@dataclass(frozen=True)
class Opener:
    """Opens roots by name, and picks episodes as a reader does."""

    readers: dict[str, FakeReader]

    def __call__(self, root: Path, config: DataConfig) -> FakeReader:
        reader = self.readers[root.name]
        asked = [episode for episode in reader.episodes if not config.episodes or episode.index in config.episodes]
        chosen = [episode for episode in asked if episode.index not in config.without]
        left_out = tuple(sorted({episode.index for episode in asked} & {*config.without}))
        cameras = config.cameras or reader.layout.cameras
        return replace(reader, episodes=chosen, layout=replace(reader.layout, cameras=cameras, left_out=left_out))


def opener(*roots: FakeRoot | FakeReader) -> Opener:
    """An opener of these roots."""
    readers = [root.open() if isinstance(root, FakeRoot) else root for root in roots]
    return Opener({reader.layout.root: reader for reader in readers})
