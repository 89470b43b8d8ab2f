"""One body out of many skeletons: the same joints by name, the same frames at rest, each with its own lengths.

Skeletons differ in the pose that they take when nothing is turned, and in the axes of it. A change of frames at every
joint, constant over time, makes them one: at rest all face along z with their arms stretched out sideways. It moves
no joint. What does move them is leaving out joints in between, which is said.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from vla.motion.clip import Poses
from vla.motion.joints import BODY, ROOT, known, match
from vla.motion.rotations import matrices, quaternions, turned_by
from vla.motion.skeleton import Skeleton, place

SMALL = 1e-9
"""Sine of an angle below which two directions are one, or opposite."""
EXACT_M = 1e-9
"""Lengths below this are rounding errors of turning an offset."""
UPRIGHT = 0.9
"""Cosine from which on the way from the pelvis to the chest is taken for the axis it is nearest to."""


@dataclass(frozen=True, kw_only=True)
class Reduced:
    """Poses of the joints that are kept."""

    poses: Poses
    left_out: tuple[str, ...]
    """Joints that are not."""
    moved_m: float
    """How far a kept joint is at most from where it was, since joints in between do not turn any more."""


def common(poses: Poses, given: Mapping[str, str] | None = None) -> Reduced:
    """The common body's joints of a skeleton; `given` names joints of it that no rule finds.

    Raises:
        ValueError: a joint has no counterpart.
    """
    skeleton, names = poses.skeleton, tuple(BODY)
    found = match(skeleton.names, given or {})
    parents = tuple(names.index(row.parent) if row.parent else -1 for row in BODY.values())
    kept: list[int] = []
    for name, parent in zip(names, parents, strict=True):
        kept.append(kept[parent] if BODY[name].aims else skeleton.names.index(found[name]))
    rest = skeleton.rest[kept]
    frames = rest_frames(names, parents, rest)
    offsets = np.zeros_like(rest)
    for joint, parent in enumerate(parents[1:], start=1):
        offsets[joint] = frames[parent].T @ (rest[joint] - rest[parent])
    offsets[np.abs(offsets) < EXACT_M] = 0.0
    aims = {names.index(name): names.index(row.child) for name, row in BODY.items() if row.aims}
    return _in_frames(poses, kept, Skeleton(names=names, parents=parents, offsets=offsets), frames, aims)


def own(poses: Poses, given: Mapping[str, str] | None = None) -> Reduced:
    """All joints of a skeleton, in frames that face along z at rest where that is known; nothing moves."""
    skeleton = poses.skeleton
    facing = facing_of(skeleton, given or {})
    facing = np.eye(3) if facing is None else facing
    turned = Skeleton(names=skeleton.names, parents=skeleton.parents, offsets=skeleton.offsets @ facing)
    return _in_frames(poses, list(range(len(skeleton))), turned, np.stack([facing] * len(skeleton)), {})


def _in_frames(
    poses: Poses,
    kept: list[int],
    skeleton: Skeleton,
    frames: Float64[np.ndarray, "J 3 3"],
    aims: Mapping[int, int],
) -> Reduced:
    """Poses with the kept joints turned in new frames, given in the old ones, or aiming at a child."""
    local = matrices(torch.from_numpy(poses.turns))
    root = torch.from_numpy(poses.root)
    places, turned = place(poses.skeleton.parents, torch.from_numpy(poses.skeleton.offsets), root, local)
    places, turned = places[:, kept], turned[:, kept] @ torch.from_numpy(frames)
    for joint, child in aims.items():
        before = turned[:, skeleton.parents[joint]]
        rest = (before @ torch.from_numpy(skeleton.offsets[child])[:, None])[..., 0]
        turned[:, joint] = shortest_turn(rest, places[:, child] - places[:, joint]) @ before
    above = [max(parent, 0) for parent in skeleton.parents]
    own_turns = turned[:, above].transpose(-1, -2) @ turned
    own_turns[:, 0] = turned[:, 0]
    changed = Poses(skeleton=skeleton, root=poses.root, turns=quaternions(own_turns).numpy())
    moved = np.linalg.norm(changed.positions() - places.numpy(), axis=-1)
    left_out = tuple(name for joint, name in enumerate(poses.skeleton.names) if joint not in set(kept))
    return Reduced(poses=changed, left_out=left_out, moved_m=float(np.nanmax(moved, initial=0.0)))


def facing_of(skeleton: Skeleton, given: Mapping[str, str]) -> Float64[np.ndarray, "3 3"] | None:
    """The frame in which a skeleton at rest faces along z and stands along y: its axes as columns.

    The way to the left hip is left; the way up to the chest is up, along an axis where it nearly is. `given` names
    joints of the common body; None of a skeleton without those joints.
    """
    found = known(skeleton.names, given)
    if not {"left_hip", "right_hip", "chest"} <= found.keys():
        return None
    places = {joint: skeleton.rest[skeleton.names.index(name)] for joint, name in found.items()}
    across, up = places["left_hip"] - places["right_hip"], places["chest"] - skeleton.rest[0]
    return _facing(across, up) if np.any(across) and np.any(up) else None


def _facing(left: Float64[np.ndarray, " 3"], up: Float64[np.ndarray, " 3"]) -> Float64[np.ndarray, "3 3"]:
    up = up / np.linalg.norm(up)
    axis = np.zeros(3)
    axis[np.abs(up).argmax()] = np.sign(up[np.abs(up).argmax()])
    up = axis if up @ axis > UPRIGHT else up
    left = left - (left @ up) * up
    left = left / np.linalg.norm(left)
    return np.stack([left, up, np.cross(left, up)], axis=1)


def rest_frames(
    names: tuple[str, ...], parents: tuple[int, ...], rest: Float64[np.ndarray, "J 3"]
) -> Float64[np.ndarray, "J 3 3"]:
    """Of each joint of the common body, the frame in which it is at rest as the body's table says, in the old axes."""
    at = dict(zip(names, rest, strict=True))
    facing = _facing(at["left_hip"] - at["right_hip"], at["chest"] - at[ROOT])
    frames: list[Float64[np.ndarray, "3 3"]] = []
    for name, parent in zip(names, parents, strict=True):
        row = BODY[name]
        if row.aims or name.endswith("wrist"):
            frames.append(frames[parent])  # a hand goes on where its forearm points
        elif row.child:
            start, end = facing @ np.array(row.rest), at[row.child] - at[name]
            frames.append(shortest_turn(torch.from_numpy(start), torch.from_numpy(end)).numpy() @ facing)
        else:
            frames.append(facing)
    return np.stack(frames)


def shortest_turn(start: Float[Tensor, "*batch 3"], end: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The rotation by the smallest angle that takes one direction to another; of opposite ones, any such."""
    start, end = (way / torch.linalg.vector_norm(way, dim=-1, keepdim=True) for way in (start, end))
    axis, cosine = torch.linalg.cross(start, end), (start * end).sum(dim=-1, keepdim=True)
    sine = torch.linalg.vector_norm(axis, dim=-1, keepdim=True)
    # Something across, where the cross product says nothing: of the axis that the direction has least of.
    least = torch.nn.functional.one_hot(start.abs().argmin(dim=-1), 3).to(start.dtype)
    axis = torch.where(sine > SMALL, axis, torch.linalg.cross(start, least))
    axis = axis / torch.linalg.vector_norm(axis, dim=-1, keepdim=True)
    return turned_by(axis * torch.atan2(sine, cosine))
