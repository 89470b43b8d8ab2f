"""Poses of a skeleton in an npz file: quaternions a joint, the root's place, offsets, parents, names and the rate."""

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
from jaxtyping import Float64

from vla.data.formats.motion.axes import upright
from vla.errors import CorruptData
from vla.motion.clip import Clip, Points, Poses
from vla.motion.skeleton import sorted_joints
from vla.settings import Axis, MotionConfig

KEYS = {"rotation_xyzw", "root_translation", "local_translation", "parent_indices", "node_names", "fps"}
"""What such a file holds, `up` (x, y or z) where it says its axis; further scalars, such as `action`, are facts."""
POINTS = {"positions", "parent_indices", "node_names", "fps"}
"""What such a file of places of joints holds."""
UNIT = 1e-3
"""How far the length of a quaternion may be from 1 before it is none."""


def is_skeleton_npz(file: Path) -> bool:
    """Whether a file is of this kind."""
    return file.suffix == ".npz" and {f"{key}.npy" for key in KEYS} <= set(entries(file))


def entries(file: Path) -> list[str]:
    """The names of what an archive holds; none of what is no archive."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return []


def is_points_npz(file: Path) -> bool:
    """Whether a file holds places of joints, as `vla sample` writes them of a policy that makes places."""
    return file.suffix == ".npz" and {f"{key}.npy" for key in POINTS} <= set(entries(file))


def read_points_npz(file: Path, _: MotionConfig) -> Iterator[Clip]:
    """The one clip of a file: y up, in m."""
    content = read_arrays(file)
    values = np.asarray(content["positions"], dtype=np.float64)
    names = tuple(map(str, content["node_names"]))
    if values.ndim != 3 or values.shape[1] != len(names) or values.shape[2] not in (2, 3):
        raise CorruptData(f"{file} has positions of shape {values.shape} for {len(names)} names; write (T, J, 2 or 3)")
    points = Points(names=names, parents=tuple(content["parent_indices"].tolist()), values=values)
    texts = (str(content["text"]),) if "text" in content else ()
    valid = np.asarray(np.isfinite(values).all(axis=(1, 2)))
    yield Clip(name=file.stem, rate_hz=float(content["fps"]), body=points, texts=texts, valid=valid)


def read_skeleton_npz(file: Path, asked: MotionConfig) -> Iterator[Clip]:
    """The one clip of a file."""
    content = read_arrays(file)
    if "is_local" in content and not bool(content["is_local"]):
        raise ValueError(f"{file} holds turns against the world (is_local is false); write those against the parents")
    names = tuple(map(str, content["node_names"]))
    try:
        skeleton, order = sorted_joints(names, content["parent_indices"].tolist(), content["local_translation"])
        turns = unit_quaternions(content["rotation_xyzw"][:, order])
        root = content["root_translation"].astype(np.float64)
        poses, remark = upright(Poses(skeleton=skeleton, root=root, turns=turns), with_axis(asked, content))
    except (ValueError, IndexError) as error:
        raise CorruptData(f"{file}: {error}") from error
    told = content.keys() - KEYS - {"is_local", "up"}
    facts = {key: content[key].item() for key in sorted(told) if content[key].ndim == 0}
    yield Clip(
        name=file.stem,
        rate_hz=float(content["fps"]),
        body=poses,
        valid=np.isfinite(root).all(axis=1) & np.isfinite(turns).all(axis=(1, 2)),
        texts=(str(facts.pop("text")),) if "text" in facts else (),
        facts=facts,
        remarks=(remark,) if remark else (),
    )


def with_axis(asked: MotionConfig, content: Mapping[str, np.ndarray]) -> MotionConfig:
    """What was asked, with the axis that a file says points up. ValueError where both say one, and not the same."""
    said = str(content["up"]) if "up" in content else None
    if said is not None and asked.up not in (None, said):
        raise ValueError(f"its `up` is {said}, --data.motion.up is {asked.up}: leave that out")
    axis = next((axis for axis in get_args(Axis) if axis == said), asked.up)
    return replace(asked, up=axis)


def read_arrays(file: Path) -> Mapping[str, np.ndarray]:
    """All arrays of an npz file, none of which may need unpickling. CorruptData where it cannot be read."""
    try:
        with np.load(file, allow_pickle=False) as content:
            return {key: content[key] for key in content.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CorruptData(f"{file} cannot be read ({error}): copy it again") from error


def unit_quaternions(values: np.ndarray) -> Float64[np.ndarray, "T J 4"]:
    """Quaternions of length 1; what is not finite stays so. ValueError where the lengths are others."""
    quaternions = np.asarray(values, dtype=np.float64)
    lengths = np.linalg.norm(quaternions, axis=-1, keepdims=True)
    if (np.abs(lengths - 1) > UNIT).any():
        frame = int(np.argwhere(np.abs(lengths - 1) > UNIT)[0, 0])
        raise ValueError(f"frame {frame} has a quaternion that is not of length 1; write unit quaternions, x y z w")
    return np.asarray(quaternions / lengths)
