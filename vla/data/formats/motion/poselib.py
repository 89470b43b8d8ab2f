"""Motions of poselib (npy), as SkeletonMotion.to_file writes them: AMP's, ASE's and those converted for them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from vla.data.formats.motion.arrays_only import is_objects, read_objects
from vla.data.formats.motion.poses import clip_of_poses
from vla.errors import CorruptData, ForeignLayout
from vla.motion.clip import Clip
from vla.motion.rotations import matrices, quaternions
from vla.motion_settings import MotionConfig

MOTION = "SkeletonMotion"


def is_poselib(file: Path) -> bool:
    """Whether a file is of this kind: an array of objects."""
    return file.suffix == ".npy" and is_objects(file)


def read_poselib(file: Path, asked: MotionConfig) -> Iterator[Clip]:
    """The one clip of a file.

    Raises:
        CorruptData: it is damaged, or lacks something.
        ForeignLayout: it holds something else, or would have something called.
    """
    content = read_objects(file)
    kind = content.get("__name__") if isinstance(content, dict) else type(content).__name__
    if kind != MOTION:
        raise ForeignLayout(f"{file} holds {kind or 'objects'}, expected poselib's {MOTION}; leave it out")
    try:
        tree, is_local, rate_hz = content["skeleton_tree"], bool(content["is_local"]), float(content["fps"])
        names = [str(name) for name in tree["node_names"]]
        parents, offsets = array(tree["parent_indices"]).astype(int).tolist(), array(tree["local_translation"])
        turns, root = array(content["rotation"]), array(content["root_translation"])
        turns = turns if is_local else against_parents(turns, parents)
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise CorruptData(f"{file} is not as poselib writes it ({error}): write it again") from error
    yield clip_of_poses(
        file, asked, names=names, parents=parents, offsets=offsets, root=root, turns=turns, clock=rate_hz
    )


def array(held: Any) -> np.ndarray:
    """The numbers of a tensor, as poselib keeps one."""
    return np.asarray(held["arr"])


def against_parents(turns: np.ndarray, parents: Sequence[int]) -> Float64[np.ndarray, "T J 4"]:
    """Turns of each joint against its parent, of those against the world."""
    world = matrices(torch.from_numpy(np.asarray(turns, dtype=np.float64)))
    above = [max(parent, 0) for parent in parents]
    local = world[:, above].transpose(-1, -2) @ world
    roots = [joint for joint, parent in enumerate(parents) if parent < 0]
    local[:, roots] = world[:, roots]
    return quaternions(local).numpy()
