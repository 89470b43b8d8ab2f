"""A clip as the rows of numbers that a policy learns: one body, one rate, one representation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32

from vla.motion import bodies, resampling
from vla.motion.body import LENGTH, Body, Kind
from vla.motion.clip import Clip, Coordinates, Points, Poses
from vla.motion.joints import BODY
from vla.motion.representation import (
    contacts_of,
    encode_coordinates,
    encode_positions,
    encode_rotations,
    feet_of,
)
from vla.motion.rotations import matrices

TURN = 2 * np.pi
VALUES_AT_ONCE = 2**15
"""Of a drawing that are filtered together."""


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
        raise ValueError("there is no frame of a body in it; take it out of the folder, or of the list that holds it")
    valid = np.ones(len(body), np.bool_) if clip.valid is None else clip.valid
    if not valid.any():
        raise ValueError("no frame of it was measured; leave it out with --data.without")
    kept = resampling.measured(valid, clip.rate_hz, rate_hz)
    if isinstance(body, Coordinates):
        if kind is not None:
            raise ValueError(f"it holds coordinates of a model, so no {kind}: leave out --data.motion.representation")
        return _of_coordinates(body, valid, kept, clip.rate_hz, rate_hz)
    if isinstance(body, Points):
        if kind == "rotations":
            raise ValueError("it has no skeleton, so no rotations: give --data.motion.representation positions")
        return _of_points(body, valid, kept, rate_hz=clip.rate_hz, target_hz=rate_hz, given=given)
    reduced = bodies.own(filled(body, valid), given) if keep_all else bodies.common(filled(body, valid), given)
    moved = resampling.poses(reduced.poses, clip.rate_hz, rate_hz)
    skeleton, positions = moved.skeleton, torch.from_numpy(moved.positions())
    if kind == "positions":
        told, seen = without_aiming(skeleton.names, skeleton.parents)
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


def without_aiming(names: Sequence[str], parents: Sequence[int]) -> tuple[Body, list[int]]:
    """A skeleton's joints as places, those left out that only aim at another; and where the others stand in it."""
    seen = [joint for joint, name in enumerate(names) if name not in BODY or not BODY[name].aims]
    carried = []
    for joint in seen:
        parent = parents[joint]
        while parent >= 0 and parent not in seen:
            parent = parents[parent]
        carried.append(seen.index(parent) if parent >= 0 else -1)
    return Body(kind="positions", joints=tuple(names[joint] for joint in seen), parents=tuple(carried)), seen


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
    known = resampling.nearest(points.values, valid)
    if known.shape[2] == 2:
        told = Body(kind="plane", joints=points.names, parents=points.parents)
        rows = np.empty((len(kept), len(told.names)), np.float32)
        # A few at a time: the clip may be mapped from a file, and is not to be in memory three times over.
        flat, step = known.reshape(len(known), -1), max(1, VALUES_AT_ONCE // len(known))
        for start in range(0, flat.shape[1], step):
            part = slice(start, start + step)
            rows[:, part] = resampling.numbers(flat[:, part], rate_hz, target_hz)
    else:
        told = Body(kind="positions", joints=points.names, parents=points.parents)
        values = torch.from_numpy(resampling.numbers(known, rate_hz, target_hz))
        rows = encode_positions(told.joints, values, target_hz, given).numpy().astype(np.float32)
    return Rows(
        body=told,
        values=rows,
        valid=kept,
        offsets=np.zeros(0, np.float32),
        left_out=(),
        moved_m=0.0,
    )


def _of_coordinates(
    coordinates: Coordinates,
    valid: Bool[np.ndarray, " T"],
    kept: Bool[np.ndarray, " N"],
    rate_hz: float,
    target_hz: float,
) -> Rows:
    """Rows of a model's coordinates, the root's first and the others by the alphabet: files have them in any order."""
    names = tuple(sorted(coordinates.names, key=lambda name: (not name.startswith("pelvis_"), name)))
    values = resampling.nearest(coordinates.values, valid)[:, [coordinates.names.index(name) for name in names]]
    angles = [place for place, name in enumerate(names) if not LENGTH.search(name)]
    values[:, angles] = np.unwrap(values[:, angles], axis=0)
    values[:, angles] -= TURN * np.rint(np.median(values[:, angles], axis=0) / TURN)  # of clips alike the same angles
    told = Body(kind="coordinates", joints=names, parents=())
    rows = encode_coordinates(told, torch.from_numpy(resampling.numbers(values, rate_hz, target_hz)), target_hz)
    return Rows(
        body=told,
        values=rows.numpy().astype(np.float32),
        valid=kept,
        offsets=np.zeros(0, np.float32),
        left_out=(),
        moved_m=0.0,
    )


def columns_of(clip: Clip, rate_hz: float) -> dict[str, Float32[np.ndarray, "N _"]]:
    """The further values of a clip at a rate, by what each is called: `force.left.vy` where they have names."""
    found: dict[str, Float32[np.ndarray, "N _"]] = {}
    for key, values in clip.columns.items():
        moved = resampling.column(values, clip.rate_hz, rate_hz).astype(np.float32)
        names = clip.column_names.get(key)
        found |= {f"{key}.{name}": moved[:, [place]] for place, name in enumerate(names)} if names else {key: moved}
    return found


def filled(poses: Poses, valid: Bool[np.ndarray, " T"]) -> Poses:
    """Poses with a measured frame in the place of each that was not, so that a filter has something to go on."""
    if valid.all():
        return poses
    root, turns = (resampling.nearest(values, valid) for values in (poses.root, poses.turns))
    return Poses(skeleton=poses.skeleton, root=root, turns=turns)
