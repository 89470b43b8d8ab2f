"""Episode: what every reader yields, whatever the format on disk."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Float64, UInt8

from vla.contract import DepthRange, StreamContract
from vla.data.texts import Texts
from vla.motion.body import Body

ACTION, STATE = "action", "observation.state"
"""Feature keys that the actions and the state have unless the user names others."""
FRAME_TOLERANCE_S = 1e-3
"""How much later than now a frame may be stamped and still be now's own, where that is below a quarter frame period.

A table's float32 clock and a video's whole ticks write the same instant up to 0.5 ms apart (a time base of 1/1000 s;
float32 after two hours). The next frame is a whole period later, so it is never taken for this one.
"""


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Values with a clock of their own.

    `values` may be a memory map or any lazy array: index it, do not copy it whole.
    """

    timestamps: Float64[np.ndarray, " N"]
    """Seconds since the start of the episode, strictly increasing."""
    values: Float[np.ndarray, "N C"]
    """float32, or float64 where those are not enough."""


@runtime_checkable
class Frames(Protocol):
    """The frames of one camera in one episode, decoded on demand."""

    @property
    def timestamps(self) -> Float64[np.ndarray, " N"]:
        """Seconds since the start of the episode, strictly increasing."""
        ...

    def read(self, indices: Sequence[int]) -> list[UInt8[np.ndarray, "3 height width"]]:
        """Decode the frames at these indices, RGB. CorruptData names the file that cannot be decoded."""
        ...


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One demonstration. Streams share one clock and keep their own rates; units are SI or the data's named ones."""

    name: str
    """Unique among the roots given, and readable: `<root folder>/episode_000012`; errors use it."""
    index: int
    """The episode's index in its root."""
    timestamps: Float64[np.ndarray, " N"]
    """The frame clock: one training sample stands at each of these times."""
    instructions: Texts
    """What the robot is asked to do at each frame."""
    confidence: Float64[np.ndarray, " N"]
    """Weight of each sample, 1.0 unless the data says otherwise."""
    actions: Stream
    """`actions.values[i]` is the action commanded at `actions.timestamps[i]`."""
    state: Stream | None
    streams: Mapping[str, Stream] = field(default_factory=dict)
    """Sensors by feature key, each at its native rate; one that is missing in this episode is absent.

    A window read at `now` uses samples with timestamp <= now only.
    """
    cameras: Mapping[str, Frames]
    """By camera key, e.g. `observation.images.front`; a camera missing in this episode is absent."""
    seen: Mapping[str, Bool[np.ndarray, " N"]] = field(default_factory=dict)
    """Whether a camera has a picture at each frame, at one at least; a camera that always has is absent."""
    columns: Mapping[str, Float[np.ndarray, "N _"]] = field(default_factory=dict)
    """Further values a frame, on the frame clock, by feature key: phase, contact force, ..."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What is known of the whole episode, as JSON: action, subject, ..."""
    carried: Mapping[str, pa.ChunkedArray] = field(default_factory=dict)
    """Columns that nobody looks at, a row a frame, as they are stored; for a copy alone."""
    known: Bool[np.ndarray, "N A"] | None = None
    """Which numbers of the actions were measured, a row an action; None: all. Others are finite, and not learned."""


def name_of(episode: Episode) -> str:
    """Its own name, wherever its root lies and whatever that is called."""
    return episode.name.rpartition("/")[2]


def mark_of(episode: Episode) -> str:
    """What an episode is known by wherever its root lies and whatever that is called: its own name and its actions."""
    actions = np.asarray(episode.actions.values, dtype="<f4").tobytes()
    return f"{name_of(episode)} {hashlib.sha256(actions).hexdigest()[:16]}"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a root offers, read from its metadata, before any frame is decoded."""

    root: str
    format: str
    """`lerobot v3.0`, `lerobot v2.1`, `insertion recorder (windows)`, ..."""
    fps: float
    cameras: tuple[str, ...]
    state_dim: int
    action_dim: int
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    """One name a dimension; empty when the data names none."""
    action_periods: tuple[float, ...]
    """Per action dimension: 2*pi or 360 where names or metadata say it is an angle that wraps, else 0."""
    streams: Mapping[str, StreamContract] = field(default_factory=dict)
    """The sensor streams that are read, by feature key; a window is as long as the data store it a frame, or one second
    where they store a plain stream."""
    state_key: str = STATE
    """The feature that is the state."""
    action_key: str = ACTION
    state_units: tuple[str, ...] = ()
    """One unit a dimension as the metadata say (vla/units.py), empty where they say none; empty when they say none."""
    action_units: tuple[str, ...] = ()
    state_places: tuple[int, ...] = ()
    """Indices of the dimensions that are given, in the feature; empty: all of them, in order."""
    action_places: tuple[int, ...] = ()
    depth: Mapping[str, DepthRange] = field(default_factory=dict)
    """Of the cameras that are read as depth, what their pictures show."""
    body: Body | None = None
    """What the actions mean where they are the motion of a body."""
    remarks: tuple[str, ...] = ()
    """What was chosen by itself and what is not read, a sentence each."""
    carried: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The columns that episodes carry, described as LeRobot does: dtype, shape, names."""
    tasks: tuple[str, ...] = ()
    """Those that a copy lists first, in this order; further ones follow as they occur."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What a copy says of the recordings beside its features, as JSON: `robot_type`, ..."""
    left_out: tuple[int, ...] = ()
    """Indices of the episodes that were left out by request."""
    files: tuple[str, ...] = ()
    """Tables below the root that belong to carried columns."""


@runtime_checkable
class Reader(Protocol):
    """One opened root. Cheap to open; validates metadata against files at once (ValueError).

    A reader pickles as what it was opened with and opens again where it is unpickled, so that a spawned worker maps
    the same files instead of receiving their contents.
    """

    @property
    def layout(self) -> Layout:
        """What the root offers."""
        ...

    @property
    def episodes(self) -> Sequence[Episode]:
        """The episodes that were asked for, in order of their indices."""
        ...

    @property
    def sources(self) -> Sequence[Path]:
        """The files that hold the numbers of the episodes; none where they are not of files."""
        ...
