"""The contract between data and policy: which inputs and actions there are, how wide, at which rates."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vla.motion.body import Body
from vla.motion_settings import StyleName
from vla.units import disagreeing, told

SENSOR = "sensor"
"""What a policy calls its sensor stream where it has one; where it has several, each has a name after this and `/`."""
TIMES = "_times_s"
"""What follows the name of a stream in that of its times, where its samples are kept for people to look at."""
CLASSED = frozenset({"action"})
"""Labels that number a class; all others are quantities."""
DECISIVE = {
    "cameras": "the cameras",
    "state_dim": "the width of the state",
    "action_dim": "the width of the actions",
    "horizon": "the steps of a chunk",
    "fps": "the frame rate",
    "instructed": "being instructed",
}
"""What two contracts must share to be of one policy, in words, beside the streams; periods only describe it."""
NAMED = {"state_names": "the state", "action_names": "the actions"}
"""What must stand in one order where both contracts name it."""


@dataclass(frozen=True, kw_only=True)
class StreamContract:
    """A sensor stream, with a rate and a width of its own."""

    key: str
    """Its feature key in the data."""
    channels: int
    samples: int
    """Of a window; the last one stands at now."""
    rate_hz: float
    """Of the samples of a window."""
    names: tuple[str, ...] = ()
    """One name a channel; empty when the data names none."""
    units: tuple[str, ...] = ()
    """One unit a channel, empty where it is not known; empty when none is."""

    def __str__(self) -> str:
        return f"the last {self.samples} samples of {self.channels} channels at {self.rate_hz:g} Hz"


@dataclass(frozen=True, kw_only=True)
class DepthRange:
    """Which distances the pictures of a depth camera tell apart (vla/depth.py)."""

    near_m: float
    """Above 0."""
    far_m: float
    """Above near."""

    def __str__(self) -> str:
        return f"{self.near_m:g} to {self.far_m:g} m"

    def flag(self, camera: str) -> str:
        """What --data.depth says of a camera."""
        return f"{camera}={self.near_m!r}:{self.far_m!r}"


@dataclass(frozen=True, kw_only=True)
class DataContract:
    """What the data gives and a policy expects."""

    cameras: tuple[str, ...]
    """Camera keys, in the order in which a sample holds their frames."""
    state_dim: int
    """Width of the state; 0 without one."""
    action_dim: int
    horizon: int
    """Action steps of a chunk, on the frame clock."""
    fps: float
    """Steps of the frame clock per second."""
    streams: Mapping[str, StreamContract]
    """The sensor streams by name (`name_streams`); empty without a sensor."""
    state_names: tuple[str, ...]
    """One name a dimension; empty when the data names none."""
    action_names: tuple[str, ...]
    action_periods: tuple[float, ...]
    """Per action dimension: the period of an angle that wraps (2*pi or 360), 0 for everything else."""
    instructed: bool = True
    """Whether the policy reads the instruction; otherwise it reads the same sentence always."""
    state_key: str = "observation.state"
    """What the state is called in the data of the training."""
    action_key: str = "action"
    """What the actions are called there."""
    dims: tuple[str, ...] = ()
    """Which dimensions of them it reads and answers, as they were chosen: `action=0,1,gripper`; none: all."""
    state_units: tuple[str, ...] = ()
    """One unit a dimension (vla/units.py), empty where it is not known; empty when none is."""
    action_units: tuple[str, ...] = ()
    depth: Mapping[str, DepthRange] = field(default_factory=dict)
    """Of the cameras whose pictures are depth, the distances that they show."""
    body: Body | None = None
    """What the actions mean where they are the motion of a body; its skeleton is the state."""
    style: tuple[StyleName, ...] = ()
    """What a policy hears of the style of a motion, each where it is known."""
    labels: Mapping[str, int] = field(default_factory=dict)
    """What is predicted of each frame, and never an input: how many classes there are, or values a quantity has."""

    @property
    def quantities(self) -> dict[str, int]:
        """The labels that are no classes, and how many values each has."""
        return {name: width for name, width in self.labels.items() if name not in CLASSED}

    @property
    def normalized(self) -> dict[str, int]:
        """What a policy normalises, by name, and how wide it is."""
        widths = {"actions": self.action_dim, "state": self.state_dim}
        widths |= {name: stream.channels for name, stream in self.streams.items()} | self.quantities
        return {kind: width for kind, width in widths.items() if width}

    def differences(self, given: "DataContract") -> list[str]:
        """What of this contract another one does not keep, in words: `the frame rate to be 10.0, not 30.0`."""
        pairs = [(words, getattr(self, key), getattr(given, key)) for key, words in DECISIVE.items()]
        for key, what in NAMED.items():
            own, other = getattr(self, key), getattr(given, key)
            if own and other and len(own) == len(other):
                pairs.append((what, " ".join(own), " ".join(other)))
        pairs += [
            (f"the depth of {camera}", self.depth.get(camera, "none"), given.depth.get(camera, "none"))
            for camera in self.cameras
        ]
        pairs.append(("the body", told_body(self.body), told_body(given.body)))
        pairs.append(("the style", " ".join(self.style) or "none", " ".join(given.style) or "none"))
        shared = [name for name in self.streams if name in given.streams]
        for name in shared:
            own, other = self.streams[name], given.streams[name]
            pairs.append((f"the window of {name}", str(own), str(other)))
            if own.names and other.names and own.channels == other.channels:
                pairs.append((f"the channels of {name}", " ".join(own.names), " ".join(other.names)))
        if list(self.streams) != list(given.streams):
            ours, theirs = (
                " ".join(stream.key for stream in contract.streams.values()) or "none" for contract in (self, given)
            )
            pairs.append(("the sensor streams", ours, theirs))
        found = [f"{words} to be {own}, not {other}" for words, own, other in pairs if own != other]
        return found + self.unit_differences(given)

    def unit_differences(self, given: "DataContract") -> list[str]:
        """Where both contracts say a unit, and not the same one: `the unit of the actions to be deg, not rad`."""
        pairs = [
            ("the state", self.state_units, given.state_units),
            ("the actions", self.action_units, given.action_units),
        ]
        pairs += [
            (f"the channels of {name}", stream.units, given.streams[name].units)
            for name, stream in self.streams.items()
            if name in given.streams
        ]
        return [
            f"the unit of {what} to be {told(own, places)}, not {told(other, places)}"
            for what, own, other in pairs
            if (places := disagreeing(own, other))
        ]


def told_body(body: Body | None) -> str:
    """A body in words: `rotations of 15 joints`."""
    if body is None:
        return "none"
    if body.kind == "coordinates":
        forces = f" and {' '.join(body.forces)}" if body.forces else ""
        return f"{len(body.joints)} coordinates{forces}"
    return f"{body.kind} of {len(body.joints)} joints"


def name_streams(keys: Sequence[str]) -> dict[str, str]:
    """The keys of some sensor streams by what a policy calls them.

    A single one is `sensor`; of several each is `sensor/` and its key without the leading `observation.`, where
    anything but letters and digits is an underscore: `sensor/wrench`, `sensor/left_tactile`.

    Raises:
        ValueError: two streams would have one name, or names that differ in case alone, which some systems give one
            file; or one that of the other's times.
    """
    if len(keys) == 1:
        return {SENSOR: keys[0]}
    named, taken = dict[str, str](), dict[str, str]()
    for key in keys:
        name = f"{SENSOR}/{re.sub('[^0-9A-Za-z]+', '_', key.removeprefix('observation.') or key)}"
        for word in (name.lower(), f"{name.lower()}{TIMES}"):
            if word in taken:
                raise ValueError(
                    f"the sensor streams {taken[word]} and {key} would have one name, {word}: "
                    "give one of them another key, or leave it out of --data.sensor"
                )
            taken[word] = key
        named[name] = key
    return named
