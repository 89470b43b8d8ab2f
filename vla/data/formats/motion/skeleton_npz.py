"""Poses of a skeleton in an npz file: quaternions a joint, the root's place, offsets, parents, names and the rate."""

import zipfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from vla.data.formats.motion.poses import clip_of_poses
from vla.errors import CorruptData
from vla.motion.clip import Clip, Points
from vla.motion_settings import Axis, MotionConfig

KEYS = {"rotation_xyzw", "root_translation", "local_translation", "parent_indices", "node_names"}
"""What such a file holds, with `fps`, and `up` (x, y or z) where it says its axis; other scalars are facts."""
POINTS = {"positions", "parent_indices", "node_names"}
"""What such a file of places of joints holds, with `fps`."""
FPS = "fps"


def is_skeleton_npz(file: Path) -> bool:
    """Whether a file is of this kind, or an archive too damaged to tell."""
    is_whole = file.suffix != ".npz" or zipfile.is_zipfile(file)
    return not is_whole or {f"{key}.npy" for key in KEYS} <= set(entries(file))


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


def read_points_npz(file: Path, asked: MotionConfig) -> Iterator[Clip]:
    """The one clip of a file: y up, in m."""
    content = read_arrays(file)
    values = np.asarray(content["positions"], dtype=np.float64)
    names = tuple(map(str, content["node_names"]))
    if values.ndim != 3 or values.shape[1] != len(names) or values.shape[2] not in (2, 3):
        raise CorruptData(f"{file} has positions of shape {values.shape} for {len(names)} names; write (T, J, 2 or 3)")
    points = Points(names=names, parents=tuple(content["parent_indices"].tolist()), values=values)
    texts, facts = told(content, POINTS | {FPS})
    valid = np.asarray(np.isfinite(values).all(axis=(1, 2)))
    yield Clip(
        name=file.stem, rate_hz=rate_of(file, asked, content), body=points, texts=texts, valid=valid, facts=facts
    )


def read_skeleton_npz(file: Path, asked: MotionConfig) -> Iterator[Clip]:
    """The one clip of a file."""
    content = read_arrays(file)
    if "is_local" in content and not bool(content["is_local"]):
        raise ValueError(f"{file} holds turns against the world (is_local is false); write those against the parents")
    texts, facts = told(content, KEYS | {FPS, "is_local", "up"})
    yield clip_of_poses(
        file,
        with_axis(asked, content),
        names=[str(name) for name in content["node_names"]],
        parents=content["parent_indices"].tolist(),
        offsets=content["local_translation"],
        root=content["root_translation"],
        turns=content["rotation_xyzw"],
        clock=rate_of(file, asked, content),
        texts=texts,
        facts=facts,
    )


def told(content: Mapping[str, np.ndarray], known: Collection[str]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The captions and facts of a clip: all scalars that are not otherwise known."""
    facts = {key: value.item() for key, value in sorted(content.items()) if value.ndim == 0 and key not in known}
    return (str(facts.pop("text")),) if "text" in facts else (), facts


def rate_of(file: Path, asked: MotionConfig, content: Mapping[str, np.ndarray]) -> float:
    """Frames a second, as the file says or as it is told. ValueError where neither is."""
    if FPS in content:
        return float(content[FPS])
    if asked.source_rate_hz is None:
        raise ValueError(
            f"{file} has no `{FPS}`, its frames a second: give --data.motion.source-rate-hz 30, or write it into it"
        )
    return asked.source_rate_hz


def with_axis(asked: MotionConfig, content: Mapping[str, np.ndarray]) -> MotionConfig:
    """What was asked, with the axis that a file says points up. ValueError where both say one, and not the same."""
    said = str(content["up"]) if "up" in content else None
    if said not in (None, *get_args(Axis)):
        raise ValueError(f"its `up` is {said}, which is no axis: write x, y or z, or leave it out")
    if said is not None and asked.up not in (None, said):
        raise ValueError(f"its `up` is {said}, --data.motion.up is {asked.up}: leave that out")
    axis = next((axis for axis in get_args(Axis) if axis == said), asked.up)
    return replace(asked, up=axis)


def read_arrays(file: Path) -> Mapping[str, np.ndarray]:
    """All arrays of an npz file, none of which may need unpickling. CorruptData where it cannot be read."""
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as content:
            return {key: content[key] for key in content.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CorruptData(f"{file} cannot be read ({error}): copy it again") from error
