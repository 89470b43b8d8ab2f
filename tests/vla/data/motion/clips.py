"""What tests of formats of motion share: clips read, skeletons made, and kinematics by scipy, joint by joint."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vla.data.formats.motion.files import KINDS, kind_of
from vla.motion.clip import Clip, Points, Poses
from vla.motion.conversion import rows_of
from vla.motion.skeleton import Skeleton
from vla.motion_settings import MotionConfig


def read(file: Path, **asked: Any) -> Clip:
    """The one clip of a file, whatever its kind."""
    kind = kind_of(file)
    assert kind is not None
    (clip,) = KINDS[kind].read(file, MotionConfig(**asked))
    return clip


def poses(file: Path, **asked: Any) -> Poses:
    body = read(file, **asked).body
    assert isinstance(body, Poses)
    return body


def points(file: Path, **asked: Any) -> Points:
    body = read(file, **asked).body
    assert isinstance(body, Points)
    return body


def placed(skeleton: Skeleton, root: np.ndarray, turns: dict[str, Rotation]) -> dict[str, np.ndarray]:
    """Where scipy's rotations put the joints, by name."""
    places, turned = {}, {}
    for name, parent, offset in zip(skeleton.names, skeleton.parents, skeleton.offsets, strict=True):
        above = skeleton.names[parent]
        turned[name] = turns[name] if parent < 0 else turned[above] * turns[name]
        places[name] = root if parent < 0 else places[above] + turned[above].apply(offset)
    return places


def by_name(body: Poses) -> dict[str, np.ndarray]:
    """Where our own kinematics put the joints."""
    return dict(zip(body.skeleton.names, body.positions().transpose(1, 0, 2), strict=True))


def angle_deg(first: Poses, second: Poses) -> float:
    """The largest angle between turns of two, joint by joint of the same name."""
    order = [second.skeleton.names.index(name) for name in first.skeleton.names]
    own, other = Rotation.from_quat(first.turns.reshape(-1, 4)), second.turns[:, order].reshape(-1, 4)
    return float(np.degrees((own.inv() * Rotation.from_quat(other)).magnitude().max()))


def course_deg(clip: Clip, **asked: Any) -> float:
    """The mean angle from where a body faces to where it goes, while it goes."""
    rows = rows_of(clip, rate_hz=20.0, kind=None, keep_all=False, given=asked).values
    first = 1 if isinstance(clip.body, Poses) else 0
    across, ahead = rows[:, first], rows[:, first + 1]
    goes = np.hypot(across, ahead) > 0.3
    assert goes.mean() > 0.5
    return float(np.degrees(np.arctan2(across[goes].mean(), ahead[goes].mean())))


def tree(names: list[str], parents: list[int], offsets: Any) -> Skeleton:
    return Skeleton(names=tuple(names), parents=tuple(parents), offsets=np.array(offsets, dtype=np.float64))


def body_of_sticks() -> Skeleton:
    """A body that stands with its arms stretched out, 1.7 m high, facing along z."""
    limbs = {
        "pelvis": (-1, (0, 0, 0)), "chest": (0, (0, 0.3, 0)), "neck": (1, (0, 0.25, 0)),
        "left_hip": (0, (0.1, 0, 0)), "left_knee": (3, (0, -0.4, 0)), "left_ankle": (4, (0, -0.45, 0)),
        "left_shoulder": (1, (0.2, 0.2, 0)), "left_elbow": (6, (0.3, 0, 0)), "left_wrist": (7, (0.25, 0, 0)),
        "right_hip": (0, (-0.1, 0, 0)), "right_knee": (9, (0, -0.4, 0)), "right_ankle": (10, (0, -0.45, 0)),
        "right_shoulder": (1, (-0.2, 0.2, 0)), "right_elbow": (12, (-0.3, 0, 0)), "right_wrist": (13, (-0.25, 0, 0)),
    }  # fmt: skip
    return tree([*limbs], [parent for parent, _ in limbs.values()], [offset for _, offset in limbs.values()])


def some_motion(skeleton: Skeleton, frames: int = 7, seed: int = 0) -> Poses:
    """Any turns and places."""
    rng = np.random.default_rng(seed)
    turns = Rotation.random(frames * len(skeleton), rng=rng).as_quat().reshape(frames, len(skeleton), 4)
    return Poses(skeleton=skeleton, root=rng.normal(size=(frames, 3)), turns=turns)


def files_of(shared: Path, folder: str, ending: str) -> list[Path]:
    """The clips of a folder of real data, which may not have been copied."""
    found = sorted(path for path in (shared / "data" / folder).glob(f"*{ending}") if "character" not in path.name)
    if not found:
        pytest.skip(f"needs real data: no clips in ../shared/data/{folder}")
    return found
