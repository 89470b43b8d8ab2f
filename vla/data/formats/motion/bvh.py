"""BVH: a tree of joints with the channels of each, then a row of numbers a frame.

Channels come in any number and order: positions of a joint take the place of its offset, rotations follow one another
as they are listed, each about an axis of the frame that the ones before have turned. pybvh only writes here: it reads
three rotations a joint and positions of the root alone, and so none of the files that give positions of every joint.
The end of a bone, an "End Site", is a joint that turns nothing, unless it lies on its joint.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from jaxtyping import Float64

from vla.data.formats.motion.axes import METRES
from vla.data.formats.motion.poses import END, clip_of_poses
from vla.errors import CorruptData, MissingPackage
from vla.motion import resampling
from vla.motion.clip import Clip, Poses
from vla.motion.rotations import by_axes, by_zyx, matrices, quaternions
from vla.motion.skeleton import Skeleton
from vla.motion_settings import MotionConfig

CHANNELS: dict[str, tuple[str, str]] = {
    f"{axis}{kind}": (kind, axis) for axis in "xyz" for kind in ("position", "rotation")
}
"""What a channel sets, and about or along which axis; spelled in any case."""
STRETCH_M = 1e-3
"""How far positions of a joint may move along its bone before that is said: bones keep their length here."""
WRITTEN = "cm"
"""Unit of lengths in files that are written, as in most; none of them says it."""


@dataclass(kw_only=True)
class Node:
    """A joint as the file has it, or the end of a bone."""

    name: str
    parent: int
    offset: tuple[float, ...] = ()
    channels: list[tuple[str, str]] = field(default_factory=list)
    is_end: bool = False


def is_bvh(file: Path) -> bool:
    """Whether a file is of this kind, by its name."""
    return file.suffix.lower() == ".bvh"


def read_bvh(file: Path, asked: MotionConfig) -> Iterator[Clip]:
    """The one clip of a file.

    Raises:
        CorruptData: it is damaged.
        ValueError: nothing says the unit of its lengths, or which axis is up.
    """
    try:
        with file.open(encoding="utf-8", errors="replace") as opened:
            nodes = read_nodes(words_before(opened, "MOTION"))
            frames, period_s = read_clock(opened)
            rows = read_rows(opened, frames, sum(len(node.channels) for node in nodes))
        rate_hz = resampling.rate_of(period_s)
    except (ValueError, IndexError) as error:
        raise CorruptData(f"{file} cannot be read ({error}): restore it") from error
    if asked.unit is None:
        height = np.ptp(positions_at_rest(nodes), axis=0).max()
        raise ValueError(
            f"{file} does not say the unit of its lengths, of which its skeleton at rest measures {height:.4g}: give "
            "--data.motion.unit cm, or another"
        )
    metres = METRES[asked.unit]
    offsets, root, turns, stretched = poses_of(nodes, rows)
    yield clip_of_poses(
        file,
        asked,
        names=[node.name for node in nodes],
        parents=[node.parent for node in nodes],
        offsets=metres * offsets,
        root=metres * root,
        turns=turns,
        clock=rate_hz,
        remarks=remarks_on(metres * stretched),
    )


def remarks_on(stretched_m: float) -> tuple[str, ...]:
    """What is said of joints that move along their bones, by the power of ten, so that many files say the same."""
    if stretched_m < STRETCH_M:
        return ()
    least_cm = 10.0 ** math.floor(math.log10(100 * stretched_m))
    return (f"joints move along bones by {least_cm:g} cm and more: bones keep their median length",)


def words_before(opened: TextIO, last: str) -> list[str]:
    """The words of a file up to one that stands alone on its line, which is read, too."""
    words: list[str] = []
    for line in opened:
        if line.strip().upper() == last:
            return words
        words += line.replace("{", " { ").replace("}", " } ").split()
    raise ValueError(f"it ends before {last}")


def read_nodes(words: Sequence[str]) -> list[Node]:
    """The joints of a hierarchy, and the ends of bones that do not lie on their joint."""
    nodes: list[Node] = []
    opened: list[int] = []
    place = 0
    while place < len(words):
        word = words[place].upper()
        if word in ("ROOT", "JOINT", "END"):
            brace = words.index("{", place)
            if (word == "ROOT") == bool(opened):
                raise ValueError(f"a {word} stands {'within' if opened else 'outside of'} a joint")
            parent = opened[-1] if opened else -1
            name = " ".join(words[place + 1 : brace]) if word != "END" else end_name(nodes, parent)
            opened.append(len(nodes))
            nodes.append(Node(name=name, parent=parent, is_end=word == "END"))
            place = brace + 1
        elif word == "OFFSET":
            nodes[opened[-1]].offset = tuple(float(number) for number in words[place + 1 : place + 4])
            place += 4
        elif word == "CHANNELS":
            count = int(words[place + 1])
            listed = words[place + 2 : place + 2 + count]
            if unknown := [channel for channel in listed if channel.lower() not in CHANNELS]:
                raise ValueError(f"there is no channel {unknown[0]}")
            nodes[opened[-1]].channels = [CHANNELS[channel.lower()] for channel in listed]
            place += 2 + count
        elif word == "}":
            closed = nodes[opened.pop()]
            if closed.is_end and closed is nodes[-1] and not any(closed.offset):
                nodes.pop()
            place += 1
        elif word == "HIERARCHY":
            place += 1
        else:
            raise ValueError(f"there is a word {words[place][:40]} where a joint is expected")
    if opened or not nodes or not all(len(node.offset) == 3 for node in nodes):
        raise ValueError("its hierarchy is not complete")
    return nodes


def end_name(nodes: Sequence[Node], parent: int) -> str:
    """What the end of a joint's bone is called: it has no name of its own."""
    name, before = f"{nodes[parent].name}{END}", sum(node.parent == parent for node in nodes)
    return name if name not in {node.name for node in nodes} else f"{name}{before}"


def read_clock(opened: TextIO) -> tuple[int, float]:
    """The number of frames, and what one lasts, s."""
    found: dict[str, str] = {}
    while len(found) < 2 and (line := opened.readline()):
        key, _, value = line.partition(":")
        if key.strip():
            found[key.strip().lower()] = value
    if found.keys() != {"frames", "frame time"}:
        raise ValueError("it does not say its frames and frame time")
    return int(found["frames"]), float(found["frame time"])


def read_rows(opened: TextIO, frames: int, width: int) -> Float64[np.ndarray, "T N"]:
    """The numbers of all frames."""
    lines = [line for line in opened if line.strip()]
    if len(lines) != frames:
        raise ValueError(f"it announces {frames} frames and has {len(lines)}")
    rows = np.loadtxt(lines, ndmin=2) if lines else np.zeros((0, width))
    if rows.shape[1] != width:
        raise ValueError(f"its frames have {rows.shape[1]} numbers, and its joints {width} channels")
    return rows


def positions_at_rest(nodes: Sequence[Node]) -> Float64[np.ndarray, "J 3"]:
    """Where the nodes are when none is turned, from the root, in the file's unit."""
    places = np.zeros((len(nodes), 3))
    for place, node in enumerate(nodes[1:], start=1):
        places[place] = places[node.parent] + node.offset
    return places


def poses_of(
    nodes: Sequence[Node], rows: Float64[np.ndarray, "T N"]
) -> tuple[Float64[np.ndarray, "J 3"], Float64[np.ndarray, "T 3"], Float64[np.ndarray, "T J 4"], float]:
    """Offsets, the root's places, turns, and how far a joint leaves its offset at most, in the file's unit."""
    offsets = np.array([node.offset for node in nodes])
    turns = np.zeros((len(rows), len(nodes), 4))
    root, stretched, start = np.tile(offsets[0], (len(rows), 1)), 0.0, 0
    for place, node in enumerate(nodes):
        own = rows[:, start : start + len(node.channels)]
        start += len(node.channels)
        rotations = [number for number, (kind, _) in enumerate(node.channels) if kind == "rotation"]
        axes = [node.channels[number][1] for number in rotations]
        angles = torch.from_numpy(np.radians(own[:, rotations]))
        turns[:, place] = quaternions(by_axes(axes, angles)).numpy()
        for number in set(range(len(node.channels))) - set(rotations):
            axis, moved = "xyz".index(node.channels[number][1]), own[:, number]
            measured = moved[np.isfinite(moved)]
            if place == 0:
                root[:, axis] = moved
            elif len(measured):
                offsets[place, axis] = np.median(measured)
                stretched = max(stretched, float(np.abs(measured - offsets[place, axis]).max()))
    return offsets, root, turns, stretched


def write_bvh(file: Path, poses: Poses, rate_hz: float) -> None:
    """Write poses as BVH, in cm, z before y before x. Ends of bones become such again.

    Raises:
        MissingPackage: pybvh is not installed.
        ValueError: a joint's name or a frame cannot be written.
    """
    try:
        import pybvh
    except ModuleNotFoundError as missing:
        raise MissingPackage(
            f"BVH is written by {missing.name}, which is not installed; give `pip install 'touchstone-vla[motion]'`"
        ) from missing
    if spaced := [name for name in poses.skeleton.names if name.split() != [name]]:
        raise ValueError(f"{file} cannot have a joint {spaced[0]!r}: BVH ends names at spaces; give it another name")
    if not (np.isfinite(poses.root).all() and np.isfinite(poses.turns).all()):
        raise ValueError(f"{file} cannot have frames that were not measured; leave them out, or fill them")
    order = depth_first(poses.skeleton)
    ends = ends_of(poses)
    turned = [joint for joint in order if joint not in ends]
    angles = by_zyx(matrices(torch.from_numpy(poses.turns[:, turned]))).numpy()
    motion = pybvh.Bvh(
        nodes=nodes_of(poses.skeleton, order, ends),
        root_pos=poses.root / METRES[WRITTEN],
        joint_angles=np.unwrap(angles, axis=0),
        frame_time=1 / rate_hz,
        world_up="+y",
    )
    pybvh.write_bvh_file(motion, file)


def depth_first(skeleton: Skeleton) -> list[int]:
    """The joints in the order in which a hierarchy tells them."""
    order: list[int] = []
    waiting = [0]
    while waiting:
        joint = waiting.pop()
        order.append(joint)
        waiting += [child for child, parent in reversed([*enumerate(skeleton.parents)]) if parent == joint]
    return order


def ends_of(poses: Poses) -> set[int]:
    """The joints that are the end of their parent's bone, as `read_bvh` has them: by name, and they turn nothing."""
    skeleton = poses.skeleton
    still = (poses.turns == [0.0, 0.0, 0.0, 1.0]).all(axis=(0, 2))
    return {
        joint
        for joint, (name, parent) in enumerate(zip(skeleton.names, skeleton.parents, strict=True))
        if still[joint] and joint not in skeleton.parents and parent >= 0 and name == f"{skeleton.names[parent]}{END}"
    }


def nodes_of(skeleton: Skeleton, order: Sequence[int], ends: Collection[int]) -> list[Any]:
    """A hierarchy for pybvh, which wants an end behind every last joint."""
    from pybvh.bvhnode import BvhEndSite, BvhJoint, BvhRoot

    made: dict[int, Any] = {}
    nodes = []
    for joint in order:
        name, offset = skeleton.names[joint], skeleton.offsets[joint] / METRES[WRITTEN]
        parent = made.get(skeleton.parents[joint])
        if joint in ends:
            made[joint] = BvhEndSite(name, offset, parent)
        elif parent is None:
            made[joint] = BvhRoot(name, offset, "XYZ", "ZYX", [], None)
        else:
            made[joint] = BvhJoint(name, offset, "ZYX", [], parent)
        nodes.append(made[joint])
        if parent is not None:
            parent.children = [*parent.children, made[joint]]
        if joint not in ends and joint not in skeleton.parents:
            nodes.append(BvhEndSite(f"{name}{END}", [0.0, 0.0, 0.0], made[joint]))
            made[joint].children = [nodes[-1]]
    return nodes
