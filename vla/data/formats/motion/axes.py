"""Clips with another axis up, or in other units, as this package has them: y up, m, rad."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from vla.motion.bodies import facing_of
from vla.motion.clip import Poses
from vla.motion.joints import FEET, SHOULDER_MARKERS, parse_joints, words_of
from vla.motion_settings import Axis, MotionConfig

TO_Y: dict[Axis, Float64[np.ndarray, "3 3"]] = {
    "x": np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
    "y": np.eye(3),
    "z": np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]),
}
"""The quarter turn that takes an axis to y."""
HIGH = {
    *SHOULDER_MARKERS,
    "shoulder",
    "clavicle",
    "acromion",
    "acromium",
    "neck",
    "head",
    "headtop",
    "tophead",
    "temple",
}
LOW = {*FEET, "heel", "calcaneus", "mt1", "mt5"}
"""What is far above and far below the pelvis of somebody upright, side left out."""
STEEP = 0.9
"""Cosine from which on the way from one to the other is taken for an axis."""
METRES = {"m": 1.0, "dm": 0.1, "cm": 0.01, "mm": 0.001, "in": 0.0254, "ft": 0.3048}


def upright(poses: Poses, asked: MotionConfig) -> tuple[Poses, str]:
    """Poses with y up, also at rest, and a remark where the skeleton told the axis: its chest is above its pelvis.

    ValueError where neither the skeleton nor the user says which axis is up.
    """
    axis = asked.up or axis_at_rest(poses, asked)
    if axis is None:
        raise ValueError("no joint says which axis is up: give `--data.motion.up y`, or x or z")
    if axis == "y":
        return poses, ""
    remark = "" if asked.up else f"{axis} is up, as the skeleton at rest says"
    turns = np.concatenate([with_y_up(poses.turns[..., :3], axis), poses.turns[..., 3:]], axis=-1)
    skeleton = replace(poses.skeleton, offsets=with_y_up(poses.skeleton.offsets, axis))
    return Poses(skeleton=skeleton, root=with_y_up(poses.root, axis), turns=turns), remark


def with_y_up(values: Float64[np.ndarray, "*shape 3"], axis: Axis) -> Float64[np.ndarray, "*shape 3"]:
    """Places with y up, of those with another axis up."""
    return np.asarray(values @ TO_Y[axis].T)


def axis_at_rest(poses: Poses, asked: MotionConfig) -> Axis | None:
    """The axis along which a skeleton at rest stands; None where no joints by name say it, or it stands askew."""
    facing = facing_of(poses.skeleton, parse_joints(asked.joints)[1])
    axes: tuple[Axis, ...] = ("x", "y", "z")
    if facing is None:
        return None
    return next((axis for axis, share in zip(axes, facing[:, 1], strict=True) if share == 1.0), None)


def upright_points(
    names: Sequence[str], values: Float64[np.ndarray, "T J 3"], asked: MotionConfig
) -> tuple[Float64[np.ndarray, "T J 3"], str]:
    """Places with y up, and a remark where the axis was told by what is high and what is low.

    ValueError where neither they nor the user say which axis is up.
    """
    axis = asked.up or axis_of_points(names, values)
    if axis is None:
        raise ValueError("no names of points high and low say which axis is up: give `--data.motion.up y`, or x or z")
    return with_y_up(values, axis), "" if asked.up else f"{axis} is up, as shoulders and feet say"


def axis_of_points(names: Sequence[str], values: Float64[np.ndarray, "T J 3"]) -> Axis | None:
    """The axis along which shoulders or the head are above the feet most of the time; None where there is none such."""
    high, low = ([place for place, name in enumerate(names) if words_of(name)[1] in words] for words in (HIGH, LOW))
    if not high or not low:
        return None
    way = np.nanmedian(np.nanmedian(values[:, high], axis=1) - np.nanmedian(values[:, low], axis=1), axis=0)
    axes: tuple[Axis, ...] = ("x", "y", "z")
    return next((axis for axis, part in zip(axes, way, strict=True) if part > STEEP * np.linalg.norm(way)), None)


def metres(unit: str, asked: MotionConfig) -> float:
    """What 1 of a unit of lengths is, m. ValueError where neither the file nor the user says one that is known."""
    if (said := unit.lower() or asked.unit or "") not in METRES:
        what = f"says {unit!r} for" if unit else "does not say"
        raise ValueError(f"it {what} the unit of its lengths: give `--data.motion.unit mm`, or {' '.join(METRES)}")
    return METRES[said]


def radians(values: Float64[np.ndarray, "*shape"], *, degrees: bool) -> Float64[np.ndarray, "*shape"]:
    """Angles in rad."""
    return values * (math.pi / 180) if degrees else values
