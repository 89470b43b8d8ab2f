"""A clip: what every format of human motion gives, before it becomes the numbers of a policy."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Shaped

from vla.motion.rotations import matrices
from vla.motion.skeleton import Skeleton, place


@dataclass(frozen=True, kw_only=True)
class Poses:
    """A skeleton that moves, y up, in m. At rest it need not face along z, nor stand as others do (bodies.py)."""

    skeleton: Skeleton
    root: Float64[np.ndarray, "T 3"]
    """Where the root is."""
    turns: Float64[np.ndarray, "T J 4"]
    """How each joint is turned against its parent, the root against the world: unit quaternions, x y z w."""

    def __post_init__(self) -> None:
        expected = (len(self.root), len(self.skeleton), 4)
        if self.turns.shape != expected:
            raise ValueError(f"the turns of the joints have shape {self.turns.shape}, expected {expected}")

    def __len__(self) -> int:
        return len(self.root)

    def positions(self) -> Float64[np.ndarray, "T J 3"]:
        """Where the joints are."""
        local = matrices(torch.from_numpy(self.turns))
        offsets = torch.from_numpy(self.skeleton.offsets)
        return place(self.skeleton.parents, offsets, torch.from_numpy(self.root), local)[0].numpy()


@dataclass(frozen=True, kw_only=True)
class Points:
    """Joints of which only the places are known, in space (y up, m) or in a plane."""

    names: tuple[str, ...]
    """One a joint."""
    values: Float[np.ndarray, "T J D"]
    """D is 3 in space and 2 in a plane; in the source's own units where `unit` is empty."""
    parents: tuple[int, ...] = ()
    """Index of the parent, -1 for a root; empty where they are not known."""
    unit: str = "m"
    """Of the values; empty where it is not known."""

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, kw_only=True)
class Coordinates:
    """The coordinates of a model that is not at hand, as a laboratory measures them: y up, m and rad."""

    names: tuple[str, ...]
    """One a coordinate, all different: `pelvis_tx`, `hip_flexion_r`, ... (body.LENGTH tells lengths from angles)"""
    values: Float64[np.ndarray, "T C"]

    def __post_init__(self) -> None:
        if self.values.shape[1] != len(self.names):
            raise ValueError(f"there are {len(self.names)} names for {self.values.shape[1]} coordinates; give one each")
        if twice := sorted({name for name in self.names if self.names.count(name) > 1}):
            raise ValueError(f"two coordinates are called {twice[0]}; give each its own name")

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Which clip of a list it is, where lists number scenes and those who act in them."""

    sample: int
    """Its place in the list."""
    actor: int
    """Its place in the sample."""
    frames: int
    """Of the clip, as the list has it."""
    rate_hz: float


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One motion of one body, on one clock."""

    name: str
    """Unique in its root, and readable: the file below it, and the actor of several."""
    rate_hz: float
    """Frames a second."""
    body: Poses | Points | Coordinates | None
    """None where a clip holds further values alone, such as the forces of a trial."""
    texts: tuple[str, ...] = ()
    """Captions; each says what the whole clip shows."""
    valid: Bool[np.ndarray, " T"] | None = None
    """Frames whose body was measured; None: all."""
    columns: Mapping[str, Shaped[np.ndarray, "T _"]] = field(default_factory=dict)
    """Further values a frame, SI: `actions`, `physics`, `camera`, `force.left`, ... Floats are a quantity, NaN where it
    was not measured; integers number something, and a flag holds between two frames of which it holds."""
    column_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of a column's numbers, where they have names: `vx`, ..."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the source says of the whole clip, as JSON: action, split, subject, height_m, weight_kg, ..."""
    remarks: tuple[str, ...] = ()
    """What was chosen by itself and what is not read, a sentence each."""
    scene: Scene | None = None
    """None where it is of no list."""
