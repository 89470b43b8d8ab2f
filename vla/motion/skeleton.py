"""Skeletons: joints in a tree, how far each lies from its parent, and where turning them puts them.

In this package y is up, lengths are in metres, and a skeleton at rest faces along z, its left along x.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Skeleton:
    """A tree of joints, parents before children; the first joint is the root."""

    names: tuple[str, ...]
    """One a joint, all different."""
    parents: tuple[int, ...]
    """Index of the parent; -1 for the root."""
    offsets: Float64[np.ndarray, "J 3"]
    """From the parent, in the parent's frame, m; zeros for the root."""

    def __post_init__(self) -> None:
        if len(self.names) != len(self.parents) or self.offsets.shape != (len(self.names), 3):
            raise ValueError(
                f"the skeleton has {len(self.names)} names, {len(self.parents)} parents and offsets of shape "
                f"{self.offsets.shape}; give one of each a joint"
            )
        if twice := sorted({name for name in self.names if self.names.count(name) > 1}):
            raise ValueError(f"the skeleton has two joints of the name {twice[0]}; give each its own")
        if not self.names or self.parents[0] != -1:
            raise ValueError("the skeleton does not begin with its root, the joint whose parent is -1")
        for joint, parent in enumerate(self.parents[1:], start=1):
            if not 0 <= parent < joint:
                raise ValueError(
                    f"joint {self.names[joint]} has parent {parent}; parents come before their children, and there is "
                    "one root"
                )
        if not np.isfinite(self.offsets).all():
            raise ValueError("the skeleton has an offset that is not finite")

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Skeleton)
            and (self.names, self.parents) == (other.names, other.parents)
            and np.array_equal(self.offsets, other.offsets)
        )

    def __hash__(self) -> int:
        return hash((self.names, self.parents, self.offsets.tobytes()))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def lengths(self) -> Float64[np.ndarray, " J"]:
        """From each joint to its parent, m; 0 for the root."""
        lengths: Float64[np.ndarray, " J"] = np.linalg.norm(self.offsets, axis=1)
        return lengths

    @property
    def rest(self) -> Float64[np.ndarray, "J 3"]:
        """Where the joints are when none is turned, from the root, m."""
        places = np.zeros_like(self.offsets)
        for joint, parent in enumerate(self.parents[1:], start=1):
            places[joint] = places[parent] + self.offsets[joint]
        return places


def sorted_joints(
    names: Sequence[str], parents: Sequence[int], offsets: Float[np.ndarray, "J 3"]
) -> tuple[Skeleton, list[int]]:
    """A skeleton whose parents come first, and where each of its joints stood before.

    Raises:
        ValueError: the parents are no tree.
    """
    order: list[int] = []
    waiting = list(range(len(parents)))
    while ready := [joint for joint in waiting if parents[joint] < 0 or parents[joint] in order]:
        order += ready
        waiting = [joint for joint in waiting if joint not in ready]
    if waiting:
        raise ValueError(f"joint {names[waiting[0]]} hangs on no root: parents are indices of joints, the root's is -1")
    place = {joint: at for at, joint in enumerate(order)}
    placed = np.asarray(offsets, dtype=np.float64)[order]
    placed[0] = 0.0
    skeleton = Skeleton(
        names=tuple(names[joint] for joint in order),
        parents=tuple(-1 if parents[joint] < 0 else place[parents[joint]] for joint in order),
        offsets=placed,
    )
    return skeleton, order


def reach(parents: Sequence[int], bones: Float[np.ndarray, " J"], joint: int) -> float:
    """How long the way is from the root to a joint; `bones` are the distances of the joints from their parents."""
    length = 0.0
    while joint > 0:
        length, joint = length + float(bones[joint]), parents[joint]
    return length


def levels(parents: Sequence[int]) -> list[list[int]]:
    """The joints by how many others lie between them and the root, the root left out: each level is placed at once."""
    depth = [0]
    for parent in parents[1:]:
        depth.append(depth[parent] + 1)
    return [[joint for joint, own in enumerate(depth) if own == level] for level in range(1, max(depth) + 1)]


@lru_cache(maxsize=1024)
def index_of(places: tuple[int, ...], device: torch.device) -> Int64[Tensor, " N"]:
    """Places as an index on a device, copied there once: a list is copied at each use, which waits for the device."""
    return torch.tensor(places).to(device)


def place(
    parents: Sequence[int],
    offsets: Float[Tensor, "*#batch J 3"],
    root: Float[Tensor, "*batch 3"],
    local: Float[Tensor, "*batch J 3 3"],
) -> tuple[Float[Tensor, "*batch J 3"], Float[Tensor, "*batch J 3 3"]]:
    """Forward kinematics: where the joints are, m, and how each is turned, in the frame of the root's position.

    `local` turns each joint against its parent, the root against the frame.
    """
    places: list[Tensor] = [root] * len(parents)
    turned: list[Tensor] = [local[..., 0, :, :]] * len(parents)
    for level in levels(parents):
        above = [parents[joint] for joint in level]
        frames = torch.stack([turned[joint] for joint in above], dim=-3)
        shifts = (frames @ offsets.index_select(-2, index_of(tuple(level), offsets.device))[..., None])[..., 0]
        turns = frames @ local.index_select(-3, index_of(tuple(level), local.device))
        for at, joint in enumerate(level):
            places[joint] = places[above[at]] + shifts[..., at, :]
            turned[joint] = turns[..., at, :, :]
    return torch.stack(places, dim=-2), torch.stack(turned, dim=-3)
