"""A clip as the rows of numbers that a policy learns: one body, one rate, one representation."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64

from vla.motion import bodies, resampling
from vla.motion.body import Body, Kind
from vla.motion.clip import Clip, Points, Poses
from vla.motion.joints import BODY
from vla.motion.representation import contacts_of, encode_positions, encode_rotations, feet_of
from vla.motion.rotations import matrices
from vla.motion.skeleton import Skeleton


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What becomes of a clip."""

    body: Body
    values: Float32[np.ndarray, "T A"]
    valid: Bool[np.ndarray, " T"]
    """Rows of frames that were measured."""
    offsets: Float32[np.ndarray, " P"]
    """Of the skeleton's joints but the root, m; of width 0 where the body is positions."""
    left_out: tuple[str, ...]
    """Joints that are not part of the body."""
    moved_m: float
    """How far a joint is at most from where it was, since others were left out."""


def rows_of(clip: Clip, *, rate_hz: float, kind: Kind | None, keep_all: bool, given: Mapping[str, str]) -> Rows:
    """The rows of a clip at a rate; `kind` None: rotations where it has a skeleton, else positions.

    `keep_all` keeps its own joints; otherwise they are those of the common body, of which `given` names some.

    Raises:
        ValueError: the clip has no body, or none that can be told so.
    """
    body = clip.body
    if body is None or len(body) == 0:
        raise ValueError("there is no frame of a body in it; leave it out with --data.without")
    valid = np.ones(len(body), np.bool_) if clip.valid is None else clip.valid
    if not valid.any():
        raise ValueError("no frame of it was measured; leave it out with --data.without")
    kept = resampling.measured(valid, clip.rate_hz, rate_hz)
    if isinstance(body, Points):
        if kind == "rotations":
            raise ValueError("it has no skeleton, so no rotations: give --data.motion.representation positions")
        return _of_points(body, valid, kept, rate_hz=clip.rate_hz, target_hz=rate_hz, given=given)
    reduced = bodies.own(filled(body, valid), given) if keep_all else bodies.common(filled(body, valid), given)
    moved = resampling.poses(reduced.poses, clip.rate_hz, rate_hz)
    skeleton, positions = moved.skeleton, torch.from_numpy(moved.positions())
    if kind == "positions":
        told, seen = without_aiming(skeleton)
        values = encode_positions(told.joints, positions[:, seen], rate_hz, given if keep_all else None)
    else:
        told = Body(kind="rotations", joints=skeleton.names, parents=skeleton.parents, feet=feet_of(skeleton.names))
        feet = positions[:, [skeleton.names.index(foot) for foot in told.feet]]
        turns = matrices(torch.from_numpy(moved.turns))
        values = encode_rotations(torch.from_numpy(moved.root), turns, contacts_of(feet, rate_hz), rate_hz)
    offsets = skeleton.offsets[1:].ravel() if told.kind == "rotations" else np.zeros(0)
    return Rows(
        body=told,
        values=values.numpy().astype(np.float32),
        valid=kept,
        offsets=offsets.astype(np.float32),
        left_out=reduced.left_out,
        moved_m=reduced.moved_m,
    )


def without_aiming(skeleton: Skeleton) -> tuple[Body, list[int]]:
    """A skeleton's joints as places, those left out that only aim at another; and where the others stand in it."""
    seen = [joint for joint, name in enumerate(skeleton.names) if name not in BODY or not BODY[name].aims]
    parents = []
    for joint in seen:
        parent = skeleton.parents[joint]
        while parent >= 0 and parent not in seen:
            parent = skeleton.parents[parent]
        parents.append(seen.index(parent) if parent >= 0 else -1)
    names = tuple(skeleton.names[joint] for joint in seen)
    return Body(kind="positions", joints=names, parents=tuple(parents)), seen


def _of_points(
    points: Points,
    valid: Bool[np.ndarray, " T"],
    kept: Bool[np.ndarray, " N"],
    *,
    rate_hz: float,
    target_hz: float,
    given: Mapping[str, str],
) -> Rows:
    """Rows of joints of which only the places are known."""
    values = resampling.numbers(_nearest(points.values, valid), rate_hz, target_hz)
    if values.shape[2] == 2:
        told = Body(kind="plane", joints=points.names, parents=points.parents)
        rows = torch.from_numpy(values).flatten(1)
    else:
        told = Body(kind="positions", joints=points.names, parents=points.parents)
        rows = encode_positions(told.joints, torch.from_numpy(values), target_hz, given)
    return Rows(
        body=told,
        values=rows.numpy().astype(np.float32),
        valid=kept,
        offsets=np.zeros(0, np.float32),
        left_out=(),
        moved_m=0.0,
    )


def filled(poses: Poses, valid: Bool[np.ndarray, " T"]) -> Poses:
    """Poses with a measured frame in the place of each that was not, so that a filter has something to go on."""
    if valid.all():
        return poses
    return Poses(skeleton=poses.skeleton, root=_nearest(poses.root, valid), turns=_nearest(poses.turns, valid))


def _nearest(values: Float64[np.ndarray, "T *D"], valid: Bool[np.ndarray, " T"]) -> Float64[np.ndarray, "T *D"]:
    """Each frame as the measured one nearest to it."""
    known = np.flatnonzero(valid)
    after = np.searchsorted(known, np.arange(len(values))).clip(max=len(known) - 1)
    before = np.maximum(after - 1, 0)
    frames = np.arange(len(values))
    nearer = np.abs(known[before] - frames) < np.abs(known[after] - frames)
    return np.asarray(values[np.where(nearer, known[before], known[after])])
