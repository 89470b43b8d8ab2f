"""Which joints of a skeleton are what."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Float64

from vla.names import hint

Pair = tuple[int, int]
"""A joint of the left, and its like of the right."""


@dataclass(frozen=True, kw_only=True)
class Landmarks:
    """The joints by which a motion is judged, as places among all joints."""

    names: tuple[str, ...]
    parents: tuple[int, ...]
    """Of each joint the one that carries it, which comes before it; -1 of the root."""
    pelvis: int
    shoulders: Pair
    hips: Pair
    knees: Pair
    ankles: Pair
    toes: Pair | None = None
    """Without them the ankles stand for the feet."""

    def __post_init__(self) -> None:
        if len(self.names) != len(self.parents):
            raise ValueError(f"{len(self.names)} names were given for {len(self.parents)} joints; give one each")
        if late := [name for place, name in enumerate(self.names) if self.parents[place] >= place]:
            raise ValueError(f"joint {late[0]} comes before the joint that carries it; sort joints from the root on")

    @staticmethod
    def named(
        names: Sequence[str],
        parents: Sequence[int],
        *,
        pelvis: str,
        shoulders: tuple[str, str],
        hips: tuple[str, str],
        knees: tuple[str, str],
        ankles: tuple[str, str],
        toes: tuple[str, str] | None = None,
    ) -> "Landmarks":
        """A body whose joints are given by name, the left one of a pair first.

        Raises:
            ValueError: there is no joint of such a name.
        """

        def place(name: str) -> int:
            if name not in names:
                raise ValueError(f"the skeleton has no joint {name}; {hint(name, names)}")
            return names.index(name)

        def pair(joints: tuple[str, str]) -> Pair:
            return place(joints[0]), place(joints[1])

        return Landmarks(
            names=tuple(names),
            parents=tuple(parents),
            pelvis=place(pelvis),
            shoulders=pair(shoulders),
            hips=pair(hips),
            knees=pair(knees),
            ankles=pair(ankles),
            toes=None if toes is None else pair(toes),
        )

    @property
    def tips(self) -> Pair:
        """The joint of each foot that is nearest to the ground: the toes, or the ankles."""
        return self.ankles if self.toes is None else self.toes

    @property
    def feet(self) -> tuple[Pair, Pair]:
        """The joints of the left foot, and of the right one; the ankle twice where that is all."""
        (left, right), (left_tip, right_tip) = self.ankles, self.tips
        return (left, left_tip), (right, right_tip)

    @cached_property
    def legs(self) -> tuple[int, ...]:
        """Both knees, and whatever they carry."""
        below = set(self.knees)
        for place, parent in enumerate(self.parents):
            if parent in below:
                below.add(place)
        return tuple(sorted(below))

    @cached_property
    def mirrored(self) -> tuple[int, ...]:
        """Of each joint its like of the other side; one in the middle is its own.

        Known are the pairs above, what carries them as far as each has a carrier of its own, and what they carry, in
        order; joints of which one side has more than the other are their own.
        """
        like = {place: place for place in range(len(self.names))}
        known = [pair for pair in (self.shoulders, self.hips, self.knees, self.ankles, self.toes) if pair is not None]
        while known:
            left, right = known.pop()
            if left == right or like[left] == right:
                continue
            like[left], like[right] = right, left
            carried = [[joint for joint, parent in enumerate(self.parents) if parent == side] for side in (left, right)]
            if len(carried[0]) == len(carried[1]):
                known += zip(*carried, strict=True)
            if min(carriers := (self.parents[left], self.parents[right])) >= 0:
                known.append(carriers)
        return tuple(like.values())

    def bones(self, positions: Float[np.ndarray, "T J 3"]) -> Float64[np.ndarray, "T bones"]:
        """The distance of each joint from the one that carries it, in metres; the root has none."""
        carried = [place for place, parent in enumerate(self.parents) if parent >= 0]
        carriers = [self.parents[place] for place in carried]
        apart = positions[:, carried].astype(np.float64) - positions[:, carriers]
        lengths: Float64[np.ndarray, "T bones"] = np.linalg.norm(apart, axis=-1)
        return lengths
