"""What travels from the data to the policy: Sample, Observation, Batch.

Axis letters, used in every signature of the package:
    B batch            H action steps of a chunk     A action dimensions
    V cameras          S sensor samples of a window  C sensor channels
    P state dimensions L context tokens              D model width
    N tokens of one part of the context
Quantities are in the data's own units, float32 or, where those are not enough, float64, and images are uint8: the
policy normalises, on its device.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32, Int64, UInt8
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vla.frames import Frame, Image, Look, Picture, Size, change_image, in_size, in_sizes, resize
from vla.moving import moved, within
from vla.packed import Packing
from vla.randomness import derive

Stream = Literal["noise", "validation"]
"""Streams of samples whose draws differ: that of training, and that of held-out or other samples in order."""
Losses = dict[str, Float[Tensor, " B"]]
"""The loss of each sample, by part. The loop weighs them; their sum is what is trained."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The window of a sensor stream, up to now."""

    values: Float[np.ndarray, "S C"]
    """Oldest first; zeros where not valid."""
    valid: Bool[np.ndarray, " S"]


@dataclass(frozen=True, kw_only=True)
class Readings:
    """The windows of a sensor stream in a batch."""

    values: Float[Tensor, "B S C"]
    valid: Bool[Tensor, "B S"]

    def map(self, change: Callable[[Tensor], Tensor]) -> "Readings":
        """The same windows with every tensor changed, always in this order."""
        return Readings(values=change(self.values), valid=change(self.valid))


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """What a backbone made of an observation up to a door, kept from before, a row a token."""

    rows: UInt8[np.ndarray, "L _"]
    """Packed."""
    visible: Bool[np.ndarray, " L"]
    positions: Int32[np.ndarray, "L 3"]
    """Rotary ones; 0 where the door is the last."""
    packing: Packing
    layer: int | None
    """The layer that reads the rows; None: they are the context."""


@dataclass(frozen=True, kw_only=True)
class Prefixes:
    """Those of a batch; shorter ones are followed by rows that are not visible."""

    rows: UInt8[Tensor, "B L _"]
    visible: Bool[Tensor, "B L"]
    """On the host, whatever device the rest is on."""
    positions: Int32[Tensor, "B L 3"]
    packing: Packing
    layer: int | None

    @staticmethod
    def of(samples: Sequence[Prefix]) -> "Prefixes":
        """Those of some samples, of one door."""

        def pad(arrays: Sequence[np.ndarray]) -> Tensor:
            return pad_sequence([torch.from_numpy(array) for array in arrays], batch_first=True)

        first = samples[0]
        assert all((own.packing, own.layer) == (first.packing, first.layer) for own in samples), "of one door"
        return Prefixes(
            rows=pad([own.rows for own in samples]),
            visible=pad([own.visible for own in samples]),
            positions=pad([own.positions for own in samples]),
            packing=first.packing,
            layer=first.layer,
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> "Prefixes":
        """The same with every tensor changed, always in this order."""
        return replace(self, rows=change(self.rows), visible=change(self.visible), positions=change(self.positions))


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One training example, before it is stacked. Absent parts have width 0, never None."""

    images: tuple[Picture | Mapping[Look, UInt8[np.ndarray, "..."]], ...]
    """One a camera, in the order of the contract; a missing camera is a black frame."""
    image_valid: Bool[np.ndarray, " V"]
    instruction: str
    state: Float[np.ndarray, " P"]
    streams: Mapping[str, Reading]
    """One a sensor stream, by the names of the contract and in their order."""
    actions: Float[np.ndarray, "H A"]
    """The chunk of H future actions; steps past the end of the episode repeat its last action."""
    action_valid: Bool[np.ndarray, " H"]
    weight: float
    """Confidence times the sensor weight, where any sensor has measured something."""
    position: int
    """Place in the endless sample stream (or index of the validation sample)."""
    style: Float[np.ndarray, "K 2"] = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    """What is known of its style: a value and 1, or twice 0 where it is not known."""
    labels: Mapping[str, Float[np.ndarray, "H _"]] = field(default_factory=dict)
    """What is said of each step, by name: the number of a class, or the values of a quantity; a target, no input."""
    preserved: bool = False
    """Whether nothing is learned of it: a policy that is adapted stays there as it is."""
    action_known: Bool[np.ndarray, "H A"] | None = None
    """Which numbers of the actions were measured; None: all of them."""
    prefix: Prefix | None = None
    """What the backbone made of it; None: that is to be computed."""

    def resized(self, sizes: Sequence[Size]) -> "Sample":
        """The same sample with its frames, which are whole, in these sizes."""
        whole = [torch.from_numpy(picture) for picture in self.images]
        return replace(self, images=tuple({size: resize(frame, size).numpy() for size in sizes} for frame in whole))


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What the policy may look at: nothing in it is later than now."""

    images: tuple[tuple[Image, ...], ...]
    """B rows of V; their frames may differ in size."""
    image_valid: Bool[Tensor, "B V"]
    """On the host, whatever device the rest is on: what is hidden decides what is computed."""
    instructions: tuple[str, ...]
    state: Float[Tensor, "B P"]
    streams: Mapping[str, Readings]
    """By the names of the contract and in their order."""
    style: Float[Tensor, "B K 2"] | None = None
    """As of `Sample`; None: nothing is known of it, or a policy hears none."""
    prefix: Prefixes | None = None
    """As of `Sample`."""

    def map(self, change: Callable[[Tensor], Tensor]) -> "Observation":
        """The same observation with every tensor changed, always in this order."""
        return replace(
            self,
            images=tuple(tuple(change_image(image, change) for image in row) for row in self.images),
            image_valid=change(self.image_valid),
            state=change(self.state),
            streams={name: readings.map(change) for name, readings in self.streams.items()},
            style=None if self.style is None else change(self.style),
            prefix=None if self.prefix is None else self.prefix.map(change),
        )

    @property
    def staying(self) -> tuple[Tensor, ...]:
        """The tensors that stay on the host: what is hidden decides what is computed."""
        return (self.image_valid,) if self.prefix is None else (self.image_valid, self.prefix.visible)

    def frames(self, size: Size) -> tuple[tuple[Frame, ...], ...]:
        """The frames in a size that a part looks at: as they came in it, or resized from whole ones."""
        return tuple(tuple(in_size(image, size) for image in row) for row in self.images)

    def resized(self, sizes: Sequence[Size]) -> "Observation":
        """The same observation with its frames in these sizes: what is worth moving to a device."""
        return replace(self, images=tuple(tuple(in_sizes(image, sizes) for image in row) for row in self.images))

    def to(self, device: torch.device) -> "Observation":
        """The same observation on a device; what is visible stays on the host."""
        return self.map(but(self.staying, lambda tensor: tensor.to(device, non_blocking=True)))

    def rows(self, rows: Sequence[int]) -> "Observation":
        """Some of its rows, in this order."""
        wanted = torch.tensor(rows)
        (chosen,) = moved((wanted,), self.state.device)
        return replace(
            self,
            images=tuple(self.images[row] for row in rows),
            image_valid=self.image_valid[wanted],
            instructions=tuple(self.instructions[row] for row in rows),
            state=self.state[chosen],
            streams={name: readings.map(lambda tensor: tensor[chosen]) for name, readings in self.streams.items()},
            style=None if self.style is None else self.style[chosen],
            prefix=self.prefix
            and self.prefix.map(lambda tensor: tensor[wanted if tensor.device.type == "cpu" else chosen]),
        )


@dataclass(frozen=True, kw_only=True)
class Draws:
    """The randomness of the diffusion loss, a row for each sample."""

    time: Float[Tensor, " B"]
    """Diffusion times in [0, 1), uniform."""
    noise: Float[Tensor, "B H A"]
    """Standard normal."""
    coin: Float[Tensor, " B"]
    """Uniform in [0, 1): a sample goes without its instruction where this lies below the share of those that do.

    1 in the validation stream, whose samples all see it: the losses that are reported are with the instruction."""
    shown: Float[Tensor, " B"]
    """Uniform in [0, 1): a sample of motion and forces shows its motion as it is where this lies below their share."""

    @staticmethod
    def of(seed: int, stream: Stream, positions: Sequence[int], shape: tuple[int, int]) -> "Draws":
        """Those of some positions of a stream of samples, each from (seed, stream, position) alone.

        `shape` is that of a chunk: horizon, action dimensions.
        """
        sources = [derive(seed, stream, position) for position in positions]
        # float32, because a time drawn in float64 can round up to 1.
        times = [float(source.random(dtype=np.float32)) for source in sources]
        noise = [source.standard_normal(shape, dtype=np.float32) for source in sources]
        coin = [float(source.random(dtype=np.float32)) if stream == "noise" else 1.0 for source in sources]
        shown = [float(source.random(dtype=np.float32)) for source in sources]
        return Draws(
            time=torch.tensor(times, dtype=torch.float32),
            noise=torch.from_numpy(np.stack(noise)),
            coin=torch.tensor(coin, dtype=torch.float32),
            shown=torch.tensor(shown, dtype=torch.float32),
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> "Draws":
        """The same draws with every tensor changed, always in this order."""
        return Draws(time=change(self.time), noise=change(self.noise), coin=change(self.coin), shown=change(self.shown))


@dataclass(frozen=True, kw_only=True)
class Batch:
    """An observation, the actions that followed it, and the randomness the diffusion loss uses."""

    observation: Observation
    actions: Float[Tensor, "B H A"]
    action_valid: Bool[Tensor, "B H"]
    weight: Float[Tensor, " B"]
    draws: Draws
    positions: Int64[Tensor, " B"]
    labels: Mapping[str, Float[Tensor, "B H _"]] = field(default_factory=dict)
    """As of `Sample`, valid where the actions are."""
    preserved: Bool[Tensor, " B"] | None = None
    """As of `Sample`, on the host, whatever device the rest is on; None: of none of them."""
    action_known: Bool[Tensor, "B H A"] | None = None
    """As of `Sample`."""
    buffer: UInt8[Tensor, " _"] | None = None
    """What the tensors are views of, where they are; it goes to a device in one copy."""

    def __len__(self) -> int:
        return len(self.positions)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The same batch with every tensor changed, always in this order."""
        return replace(
            self,
            observation=self.observation.map(change),
            actions=change(self.actions),
            action_valid=change(self.action_valid),
            weight=change(self.weight),
            draws=self.draws.map(change),
            positions=change(self.positions),
            labels={name: change(rows) for name, rows in self.labels.items()},
            preserved=None if self.preserved is None else change(self.preserved),
            action_known=None if self.action_known is None else change(self.action_known),
        )

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device; positions, what is visible and what is preserved stay on the host."""
        stay = self.positions, *self.observation.staying, *(() if self.preserved is None else (self.preserved,))
        if (buffer := self.buffer) is None or device.type == "cpu":
            return self.map(but(stay, lambda tensor: tensor.to(device, non_blocking=True)))
        far = buffer.to(device, non_blocking=True)
        return replace(self.map(but(stay, lambda tensor: within(far, buffer, tensor))), buffer=None)


def but(stay: Sequence[Tensor], change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A change of all tensors but those that stay as they are."""
    return lambda tensor: tensor if any(tensor is own for own in stay) else change(tensor)


def collate(samples: Sequence[Sample], seed: int, stream: Stream) -> Batch:
    """Stack samples into a batch, with the draws of their positions; the frames keep their sizes."""
    positions = [sample.position for sample in samples]
    known = [sample.action_known for sample in samples if sample.action_known is not None]

    def stack(arrays: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(arrays))

    def image(picture: Picture | Mapping[Look, UInt8[np.ndarray, "..."]]) -> Image:
        if isinstance(picture, np.ndarray):
            return torch.from_numpy(picture)
        return {look: torch.from_numpy(shown) for look, shown in picture.items()}

    return Batch(
        observation=Observation(
            images=tuple(tuple(image(picture) for picture in sample.images) for sample in samples),
            image_valid=stack([sample.image_valid for sample in samples]),
            instructions=tuple(sample.instruction for sample in samples),
            state=stack([sample.state for sample in samples]),
            streams={
                name: Readings(
                    values=stack([sample.streams[name].values for sample in samples]),
                    valid=stack([sample.streams[name].valid for sample in samples]),
                )
                for name in samples[0].streams
            },
            style=stack([sample.style for sample in samples]) if len(samples[0].style) else None,
            prefix=Prefixes.of(kept) if (kept := [s.prefix for s in samples if s.prefix is not None]) else None,
        ),
        actions=stack([sample.actions for sample in samples]),
        action_valid=stack([sample.action_valid for sample in samples]),
        weight=torch.tensor([sample.weight for sample in samples], dtype=torch.float32),
        draws=Draws.of(seed, stream, positions, samples[0].actions.shape),
        positions=torch.tensor(positions, dtype=torch.int64),
        labels={name: stack([sample.labels[name] for sample in samples]) for name in samples[0].labels},
        preserved=torch.tensor(spared) if any(spared := [sample.preserved for sample in samples]) else None,
        action_known=stack(known) if known else None,
    )
