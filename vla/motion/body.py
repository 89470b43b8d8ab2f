"""What the numbers of a motion mean; nothing heavy is loaded for it."""

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["rotations", "positions", "plane", "coordinates"]
AXES = ("x", "y", "z")
PLACES_M, MOVES_MPS, TURNS, FORCES_N = 1e-3, 1e-2, 1e-2, 1.0
"""What motion capture tells apart: places; velocities; turns, as rad/s and as numbers of a rotation; what plates do."""
ROOT_PLACE = {"pelvis_tx": "root.velocity.x", "pelvis_ty": "root.height", "pelvis_tz": "root.velocity.z"}
"""The coordinates of where the root stands, and what a row says of each."""
LENGTH = re.compile(r"_t[xyz](_[lr])?$")
"""How the name of a coordinate ends that is a length; all others are angles: the model that knows is not at hand."""


@dataclass(frozen=True, kw_only=True)
class Body:
    """What the numbers of a motion mean: part of what data give and a policy expects."""

    kind: Kind
    joints: tuple[str, ...]
    """Of coordinates, these: `hip_flexion_r`, `pelvis_tx`, ..."""
    parents: tuple[int, ...]
    """Index of the parent, -1 for the root; none of coordinates."""
    feet: tuple[str, ...] = ()
    """Joints whose contact with the ground is among the numbers."""
    forces: tuple[str, ...] = ()
    """Of coordinates, components of what carries the body, N, that stand behind them: `force.vx`, ..."""

    @property
    def names(self) -> tuple[str, ...]:
        """One a number of a row."""
        moving = ("root.velocity.x", "root.velocity.z", "root.turning")
        if self.kind == "coordinates":
            return (*(ROOT_PLACE.get(coordinate, coordinate) for coordinate in self.joints), *self.forces)
        if self.kind == "plane":
            return tuple(f"{joint}.{axis}" for joint in self.joints for axis in AXES[:2])
        if self.kind == "positions":
            return (*moving, *(f"{joint}.{axis}" for joint in self.joints for axis in AXES))
        turns = tuple(f"{joint}.turn.{number}" for joint in self.joints for number in range(6))
        return ("root.height", *moving, *turns, *(f"{foot}.contact" for foot in self.feet))

    @property
    def units(self) -> tuple[str, ...]:
        """One a number of a row, as vla/units.py spells them."""
        moving = ("mps", "mps", "radps")
        if self.kind == "coordinates":
            speeds = {"root.velocity.x": "mps", "root.velocity.z": "mps", "root.height": "m"}
            own = tuple(speeds.get(name, "m" if LENGTH.search(name) else "rad") for name in self.names)
            return (*own[: len(self.joints)], *("N",) * len(self.forces))
        if self.kind == "plane":
            return ("",) * (2 * len(self.joints))
        if self.kind == "positions":
            return (*moving, *("m",) * (3 * len(self.joints)))
        return ("m", *moving, *("",) * (6 * len(self.joints) + len(self.feet)))

    @property
    def finest(self) -> tuple[float, ...]:
        """One a number of a row, in its unit: what varies by less is noise of capture or of rounding, and no motion."""
        if self.kind == "plane":
            return (0.0,) * len(self.names)
        if self.kind == "coordinates":
            finest = {"m": PLACES_M, "mps": MOVES_MPS, "rad": TURNS, "N": FORCES_N}
            return tuple(finest[unit] for unit in self.units)
        moving = (MOVES_MPS, MOVES_MPS, TURNS)
        if self.kind == "positions":
            return (*moving, *(PLACES_M,) * (3 * len(self.joints)))
        return (PLACES_M, *moving, *(TURNS,) * (6 * len(self.joints)), *(TURNS,) * len(self.feet))

    @property
    def offset_names(self) -> tuple[str, ...]:
        """One a number of a skeleton, which a policy sees as its state: offsets of all joints but the root, m."""
        if self.kind != "rotations":
            return ()
        return tuple(f"{joint}.offset.{axis}" for joint in self.joints[1:] for axis in AXES)
