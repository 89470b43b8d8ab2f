"""Poses of a skeleton as files have them, checked: parents first, unit quaternions, y up, and what was not measured."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from vla.data.formats.motion.axes import upright
from vla.errors import CorruptData
from vla.motion import resampling
from vla.motion.clip import Clip, Poses
from vla.motion.joints import FEET, words_of
from vla.motion.skeleton import reach, sorted_joints
from vla.motion_settings import MotionConfig

UNIT = 1e-3
"""How far the length of a quaternion may be from 1 before it is none."""
ROUNDING = 1e-12
"""How far it may be to count as 1: what was of length 1 stays the same to the last bit."""
UNEVEN = 1e-3
"""Share by which frames may last longer or shorter than most before the clock counts as uneven."""
PAUSE = 10.0
"""How many times as long as most a frame may last: what moved meanwhile, nobody knows."""
LEGS_M = (0.3, 2.0)
"""Between which lengths legs are of a person, from the root to a foot."""
LYING = 0.4
"""Share of its legs' length by which the hips of a body that lies or sits are above its feet at most."""
END = "_end"
"""What is put behind a joint's name for the end of its bone, which turns nothing: a toe's or finger's tip."""


def clip_of_poses(
    file: Path,
    asked: MotionConfig,
    *,
    names: Sequence[str],
    parents: Sequence[int],
    offsets: np.ndarray,
    root: np.ndarray,
    turns: np.ndarray,
    clock: float | Float64[np.ndarray, " S"],
    texts: tuple[str, ...] = (),
    facts: Mapping[str, Any] | None = None,
    remarks: tuple[str, ...] = (),
) -> Clip:
    """The clip of a file that holds one: a root's places (T 3) and turns against the parents (T J 4), in m, x y z w.

    `clock` is the frames a second, or how long each frame lasts until the next, s: an uneven clock is made even.

    Raises:
        CorruptData: the numbers are no moving skeleton.
        ValueError: nothing says which axis is up.
    """
    shapes = (len(parents), len(names), *np.shape(offsets)), np.shape(root), np.shape(turns)
    expected = (len(names), len(names), len(names), 3), (len(turns), 3), (len(turns), len(names), 4)
    if shapes != expected:
        raise CorruptData(
            f"{file} has {len(names)} joints by name, {len(parents)} parents, offsets of shape {np.shape(offsets)}, "
            f"places of the root of shape {np.shape(root)} and turns of shape {np.shape(turns)}, which do not fit"
        )
    try:
        skeleton, order = sorted_joints(names, parents, offsets)
        turns = unit_quaternions(turns)[:, order]
        poses = Poses(skeleton=skeleton, root=np.asarray(root, dtype=np.float64), turns=turns)
        poses, rate_hz, uneven = (poses, clock, "") if isinstance(clock, float) else evened(poses, clock)
    except ValueError as error:
        raise CorruptData(f"{file}: {error}") from error
    if not 0 < rate_hz < math.inf:
        raise CorruptData(f"{file} has {rate_hz:g} frames a second: correct its rate")
    poses, turned = upright(poses, asked)
    return Clip(
        name=file.stem,
        rate_hz=rate_hz,
        body=poses,
        valid=np.isfinite(poses.root).all(axis=1) & np.isfinite(poses.turns).all(axis=(1, 2)),
        texts=texts,
        facts=facts or {},
        remarks=tuple(remark for remark in (*remarks, uneven, turned, *posture(poses)) if remark),
    )


def posture(poses: Poses) -> list[str]:
    """What is odd of a body that is y up and in metres: legs of a length that nobody has, or hips at its feet.

    Nothing of a skeleton whose feet no rule finds by name.
    """
    feet = [joint for joint, name in enumerate(poses.skeleton.names) if words_of(name)[0] and words_of(name)[1] in FEET]
    if not feet or not len(poses):
        return []
    bones = np.linalg.norm(poses.skeleton.offsets, axis=1)
    legs_m = float(np.mean([reach(poses.skeleton.parents, bones, foot) for foot in feet]))
    heights = poses.positions()[..., 1]
    above_m = float(np.nanmedian(heights[:, 0] - heights[:, feet].min(axis=1)))
    remarks = []
    if not LEGS_M[0] < legs_m < LEGS_M[1]:
        remarks.append(f"its legs are {legs_m:.3g} m long: is that the unit of its lengths?")
    if above_m < LYING * legs_m:
        remarks.append(
            "its hips are hardly above its feet in most frames: unless it lies or sits, give --data.motion.up"
        )
    return remarks


def evened(poses: Poses, spans_s: Float64[np.ndarray, " S"]) -> tuple[Poses, float, str]:
    """Poses on an even clock, its rate in Hz, and a remark where it was uneven.

    ValueError where time does not run on, or stops for long.
    """
    period_s = float(np.nanmedian(spans_s))
    if bad := [frame for frame, span in enumerate(spans_s) if not 0 < span < PAUSE * period_s]:
        raise ValueError(
            f"frame {bad[0]} lasts {spans_s[bad[0]]:g} s and most last {period_s:g} s, so that its time is unknown"
        )
    rate_hz = resampling.rate_of(period_s)
    if (np.abs(spans_s - period_s) < UNEVEN * period_s).all():
        return poses, rate_hz, ""
    even = resampling.evened(poses, np.concatenate([[0.0], spans_s.cumsum()]), rate_hz)
    return even, rate_hz, "frames do not all last equally long, and were resampled to the rate of most"


def unit_quaternions(values: np.ndarray) -> Float64[np.ndarray, "T J 4"]:
    """Quaternions of length 1; what is not finite stays so. ValueError where the lengths are others."""
    quaternions = np.asarray(values, dtype=np.float64)
    lengths = np.linalg.norm(quaternions, axis=-1, keepdims=True)
    if (np.abs(lengths - 1) > UNIT).any():
        frame = int(np.argwhere(np.abs(lengths - 1) > UNIT)[0, 0])
        raise ValueError(f"frame {frame} has a quaternion that is not of length 1; write unit quaternions, x y z w")
    return np.asarray(quaternions / np.where(np.abs(lengths - 1) > ROUNDING, lengths, 1.0))
