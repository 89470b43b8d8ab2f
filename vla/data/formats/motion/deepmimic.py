"""Motions of DeepMimic's humanoid3d (JSON): what each frame lasts, the root, and how the joints of one body turn.

The body faces along x and stands along y. Knees and elbows are hinges about z, which points to its right: a knee's
angle is negative and takes the shin back, an elbow's is positive and takes the hand forward.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from vla.data.formats.motion.poses import UNIT, clip_of_poses
from vla.errors import CorruptData
from vla.motion.clip import Clip
from vla.motion_settings import MotionConfig

BALL, HINGE, FIXED = 4, 1, 0
"""Kinds of joints, by the numbers that a frame has of one: a quaternion (w x y z), an angle (rad), none."""


@dataclass(frozen=True, kw_only=True)
class Joint:
    """A joint of humanoid3d."""

    parent: int
    offset: tuple[float, float, float]
    """From the parent, m."""
    numbers: int
    """Of a frame."""


JOINTS: dict[str, Joint] = {
    "root": Joint(parent=-1, offset=(0.0, 0.0, 0.0), numbers=BALL),
    "chest": Joint(parent=0, offset=(0.0, 0.236151, 0.0), numbers=BALL),
    "neck": Joint(parent=1, offset=(0.0, 0.223894, 0.0), numbers=BALL),
    "right_hip": Joint(parent=0, offset=(0.0, 0.0, 0.084887), numbers=BALL),
    "right_knee": Joint(parent=3, offset=(0.0, -0.421546, 0.0), numbers=HINGE),
    "right_ankle": Joint(parent=4, offset=(0.0, -0.40987, 0.0), numbers=BALL),
    "right_shoulder": Joint(parent=1, offset=(-0.02405, 0.2435, 0.18311), numbers=BALL),
    "right_elbow": Joint(parent=6, offset=(0.0, -0.274788, 0.0), numbers=HINGE),
    "right_wrist": Joint(parent=7, offset=(0.0, -0.258947, 0.0), numbers=FIXED),
    "left_hip": Joint(parent=0, offset=(0.0, 0.0, -0.084887), numbers=BALL),
    "left_knee": Joint(parent=9, offset=(0.0, -0.421546, 0.0), numbers=HINGE),
    "left_ankle": Joint(parent=10, offset=(0.0, -0.40987, 0.0), numbers=BALL),
    "left_shoulder": Joint(parent=1, offset=(-0.02405, 0.2435, -0.18311), numbers=BALL),
    "left_elbow": Joint(parent=12, offset=(0.0, -0.274788, 0.0), numbers=HINGE),
    "left_wrist": Joint(parent=13, offset=(0.0, -0.258947, 0.0), numbers=FIXED),
}
"""The body of all such files (humanoid3d.txt of xbpeng/DeepMimic), in the order of a frame's numbers."""
WIDTH = 1 + 3 + sum(joint.numbers for joint in JOINTS.values())
HEAD_BYTES = 4096
SHORT = 0.1
"""Length below which a quaternion says nothing of a turn; blends in the original clips have lengths down to 0.58."""
SCALED = "quaternions are scaled to length 1, as DeepMimic does"


def is_deepmimic(file: Path) -> bool:
    """Whether a file is of this kind: it begins with an object, whose frames begin soon."""
    if file.suffix not in (".txt", ".json"):
        return False
    with file.open("rb") as opened:
        head = opened.read(HEAD_BYTES).lstrip()
    return head.startswith(b"{") and b'"Frames"' in head


def read_deepmimic(file: Path, asked: MotionConfig) -> Iterator[Clip]:
    """The one clip of a file. CorruptData where its frames are no motion of this body."""
    try:
        content = json.loads(file.read_bytes())
        rows = np.array(content["Frames"], dtype=np.float64)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CorruptData(f"{file} cannot be read ({error}): copy it again") from error
    if rows.ndim != 2 or rows.shape[1] != WIDTH or len(rows) < 2:
        raise CorruptData(f"{file} has frames of shape {rows.shape}, expected two or more of {WIDTH} numbers")
    turns = turns_of(rows[:, 4:])
    lengths = np.linalg.norm(turns, axis=-1, keepdims=True)
    if (lengths < SHORT).any():
        raise CorruptData(f"{file} has a quaternion of length {lengths.min():.2g}, which turns nothing: restore it")
    yield clip_of_poses(
        file,
        asked,
        names=list(JOINTS),
        parents=[joint.parent for joint in JOINTS.values()],
        offsets=np.array([joint.offset for joint in JOINTS.values()]),
        root=rows[:, 1:4],
        turns=turns / lengths,
        clock=rows[:-1, 0],  # whatever the last frame lasts, none comes after it
        facts={"loop": str(content["Loop"])} if "Loop" in content else {},
        remarks=(SCALED,) if (np.abs(lengths - 1) > UNIT).any() else (),
    )


def turns_of(numbers: Float64[np.ndarray, "T N"]) -> Float64[np.ndarray, "T J 4"]:
    """The quaternions (x y z w) of all joints, as long as the file has them."""
    turns = np.zeros((len(numbers), len(JOINTS), 4))
    turns[..., 3] = 1.0
    start = 0
    for place, joint in enumerate(JOINTS.values()):
        own = numbers[:, start : start + joint.numbers]
        start += joint.numbers
        if joint.numbers == BALL:
            turns[:, place] = np.roll(own, -1, axis=1)
        elif joint.numbers == HINGE:
            turns[:, place, 2], turns[:, place, 3] = np.sin(own[:, 0] / 2), np.cos(own[:, 0] / 2)
    return turns
