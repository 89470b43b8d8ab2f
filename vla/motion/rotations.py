"""Rotations as matrices, unit quaternions (x y z w), vectors of axis times angle (rad), and two columns.

roma is imported where it is needed: it loads torch's compiler, a second of CPU in every process.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def matrices(quaternions: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Of unit quaternions."""
    import roma

    found: Tensor = roma.unitquat_to_rotmat(quaternions)
    return found


def quaternions(matrices: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """Of rotation matrices; q and -q are one rotation, either may come."""
    import roma

    found: Tensor = roma.rotmat_to_unitquat(matrices)
    return found


def turned_by(vectors: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The rotation about each vector by its length, rad."""
    import roma

    found: Tensor = roma.rotvec_to_rotmat(vectors)
    return found


def between(
    start: Float[Tensor, "*batch 4"], end: Float[Tensor, "*batch 4"], share: Float[Tensor, "*#batch 1"]
) -> Float[Tensor, "*batch 4"]:
    """Unit quaternions a share of the shortest way from one to another, at constant speed (slerp)."""
    import roma

    way = roma.unitquat_to_rotvec(roma.quat_product(roma.quat_conjugation(start), end))
    found: Tensor = roma.quat_product(start, roma.rotvec_to_unitquat(way * share))
    return found


def by_axes(axes: Sequence[str], angles: Float[Tensor, "*batch N"]) -> Float[Tensor, "*batch 3 3"]:
    """The rotation about several axes (x, y, z) by an angle each, rad: about the first, then the turned second, ..."""
    turned = torch.eye(3, dtype=angles.dtype).expand(*angles.shape[:-1], 3, 3)
    for axis, angle in zip(axes, angles.unbind(dim=-1), strict=True):
        direction = torch.tensor([float(axis == other) for other in "xyz"], dtype=angles.dtype)
        turned = turned @ turned_by(angle[..., None] * direction)
    return turned


def by_zyx(turns: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """The angles about z, the turned y and the turned x, rad, that make a rotation, exact beside the poles of y too.

    Where y is a quarter turn, z is any angle: what is left of the rotation once z is undone decides y and x.
    """
    z = torch.atan2(turns[..., 1, 0], turns[..., 0, 0])
    cosine, sine = z.cos(), z.sin()
    first = cosine[..., None] * turns[..., 0, :] + sine[..., None] * turns[..., 1, :]
    second = cosine[..., None] * turns[..., 1, :] - sine[..., None] * turns[..., 0, :]
    y, x = torch.atan2(-turns[..., 2, 0], first[..., 0]), torch.atan2(-second[..., 2], second[..., 1])
    return torch.stack([z, y, x], dim=-1)


def about_y(angle: Float[Tensor, " *batch"]) -> Float[Tensor, "*batch 3 3"]:
    """The rotation about the vertical by an angle, rad."""
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    rows = (cosine, zero, sine, zero, zero + 1, zero, -sine, zero, cosine)
    found: Tensor = torch.stack(rows, dim=-1).unflatten(-1, (3, 3))
    return found


def heading(turns: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, " *batch"]:
    """The turn about y in a rotation, rad, by swing and twist: undefined only of a body on its head."""
    quaternion = quaternions(turns)
    return 2 * torch.atan2(quaternion[..., 1], quaternion[..., 3])


def columns(turns: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 6"]:
    """The first two columns of rotations, one after the other (Zhou et al. 2019)."""
    return turns[..., :2].transpose(-1, -2).flatten(-2)


def from_columns(six: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 3 3"]:
    """The rotations of two columns each, made orthonormal by Gram-Schmidt."""
    import roma

    # What a network says may vanish: then it is no rotation, but its gradient stays finite.
    found: Tensor = roma.special_gramschmidt(six.unflatten(-1, (2, 3)).transpose(-1, -2), epsilon=1e-6)
    return found


def wrapped(angle: Float[Tensor, " *batch"]) -> Float[Tensor, " *batch"]:
    """Angles as they lie within half a turn of 0, rad."""
    turned: Tensor = (angle + math.pi).remainder(2 * math.pi)
    return turned - math.pi
