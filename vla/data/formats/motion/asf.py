"""Acclaim's skeletons (ASF): bones, each with the frame that it turns in, and which hangs on which."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from vla.data.formats.motion.axes import radians
from vla.errors import CorruptData, ForeignLayout
from vla.motion.rotations import by_axes

ROOT = "root"
INCHES = 0.45
"""The length among an ASF's units that says: what follows is inches times this (CMU's own conversion)."""
MOVES = ("tx", "ty", "tz", "rx", "ry", "rz")


@dataclass(frozen=True, kw_only=True)
class Bone:
    """A bone, or the root."""

    way: Float64[np.ndarray, " 3"]
    """From where it begins to where it ends, at rest, in the file's unit."""
    axes: str
    """In which order angles turn the world's axes to its own."""
    angles: Float64[np.ndarray, " 3"]
    """These, in the file's unit."""
    moves: tuple[str, ...]
    """What a frame says of it, in the frame's order: rx, ry, rz, and of the root tx, ty, tz."""

    def frame(self, *, degrees: bool) -> Tensor:
        """Its own axes, (3, 3)."""
        return turned_in_world(self.axes, self.angles, degrees=degrees)


@dataclass(frozen=True, kw_only=True)
class Acclaim:
    """A skeleton."""

    bones: Mapping[str, Bone]
    """By name, the root first."""
    parents: Mapping[str, str]
    """The bone that each but the root hangs on."""
    length: float
    """What lengths have been multiplied by; `INCHES` says their unit, too."""
    degrees: bool | None
    """Whether angles are degrees; None where it does not say it."""

    @property
    def last(self) -> list[str]:
        """The bones that have an end and none that hangs on it."""
        return [name for name, bone in self.bones.items() if name not in self.parents.values() and bone.way.any()]


def turned_in_world(axes: str, angles: Float64[np.ndarray, "*T N"], *, degrees: bool) -> Tensor:
    """The rotation about axes of the world, one after another: (*T 3 3)."""
    values = radians(np.asarray(angles, dtype=np.float64), degrees=degrees)
    return by_axes(axes[::-1], torch.from_numpy(values).flip(-1))


def read_asf(file: Path) -> Acclaim:
    """The skeleton of a file.

    Raises:
        CorruptData: it is damaged.
        ForeignLayout: bones get longer, or the root does not begin in the origin.
    """
    try:
        parts = read_parts(file.read_text(encoding="utf-8", errors="replace"))
        units = {words[0].lower(): words[1] for words in parts["units"]}
        root = {words[0].lower(): words[1:] for words in parts["root"]}
        bones = {ROOT: bone_of(root, root["order"], [*root["orientation"], *root["axis"]])}
        for described in blocks(parts["bonedata"]):
            bones[described["name"][0]] = bone_of(described, described.get("dof", ()), described["axis"])
        parents = {child: words[0] for words in parts["hierarchy"] for child in words[1:]}
        check_hierarchy(bones, parents)
        length = float(units.get("length", 1.0))
    except (ValueError, KeyError, IndexError) as error:
        raise CorruptData(f"{file} cannot be read ({error}): restore it") from error
    if longer := [name for name, bone in bones.items() if not {*bone.moves} <= {*MOVES[3 * (name != ROOT) :]}]:
        raise ForeignLayout(f"{file} has a bone {longer[0]} that gets longer or moves along, which is not read")
    if any(map(float, root.get("position", ()))):
        raise ForeignLayout(f"{file} has a root that does not begin in the origin, which is not read")
    return Acclaim(
        bones=bones,
        parents=parents,
        length=length,
        degrees={"deg": True, "rad": False}.get(units.get("angle", "").lower()),
    )


def check_hierarchy(bones: Mapping[str, Bone], parents: Mapping[str, str]) -> None:
    """Refuse a hierarchy of other bones than those that are described (ValueError)."""
    if alone := sorted({ROOT, *parents, *parents.values()} ^ bones.keys()):
        raise ValueError(f"bone {alone[0]} is in its bonedata or its hierarchy alone")


def read_parts(text: str) -> dict[str, list[list[str]]]:
    """The lines of words of each part, by the part's name: `:units` and so on."""
    parts: dict[str, list[list[str]]] = {}
    lines: list[list[str]] = []
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if words and words[0].startswith(":"):
            lines = parts.setdefault(words[0][1:].lower(), [])
        elif words and words[0] not in ("begin", "end"):
            lines.append(words)
        elif words:
            lines.append([])  # between the blocks of bonedata; nothing elsewhere
    return {name: lines if name == "bonedata" else [words for words in lines if words] for name, lines in parts.items()}


def blocks(lines: Sequence[Sequence[str]]) -> list[dict[str, Sequence[str]]]:
    """What stands between begin and end: words behind a key, for each block."""
    found: list[dict[str, Sequence[str]]] = [{}]
    for words in lines:
        if words:
            found[-1][words[0].lower()] = words[1:]
        elif found[-1]:
            found.append({})
    return [block for block in found if block]


def bone_of(described: Mapping[str, Sequence[str]], moves: Sequence[str], axis: Sequence[str]) -> Bone:
    """A bone; the root has no direction."""
    *angles, axes = axis
    way = np.array([float(number) for number in described.get("direction", (0, 0, 0))])
    if sorted(axes.lower()) != ["x", "y", "z"] or len(angles) != 3 or len(way) != 3:
        raise ValueError(f"{' '.join(axis)} is no frame of a bone")
    return Bone(
        way=way * float(described.get("length", ["0"])[0]),
        axes=axes.lower(),
        angles=np.array([float(angle) for angle in angles]),
        moves=tuple(move.lower() for move in moves),
    )
