"""The real clips of the folder `shared` with their skeletons, to be judged as they are and corrupted."""

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tests.corruptions import Corrupt
from vla.data.formats.motion.files import KINDS, kind_of
from vla.errors import CorruptData
from vla.motion.clip import Clip, Poses
from vla.motion.conversion import rows_of
from vla.motion.moves import Moves
from vla.motion_settings import MotionConfig
from vla.randomness import derive

NODES = {
    "pelvis": 0, "left_hip": 2, "left_knee": 3, "left_ankle": 4, "right_hip": 8, "right_knee": 9, "right_ankle": 10,
    "chest": 15, "neck": 17, "left_shoulder": 21, "left_elbow": 22, "left_wrist": 23, "right_shoulder": 30,
    "right_elbow": 31, "right_wrist": 32,
}  # fmt: skip
"""Which nodes of cmu_actions are joints of the common body, as its SOURCE.md says."""
FOLDERS: Mapping[str, tuple[str, dict[str, str]]] = {
    "cmu_walks": ("*.npz", {}),
    "cmu_actions": ("*.npz", {joint: f"j{node}" for joint, node in NODES.items()}),
    "deepmimic_motions": ("humanoid3d_*.txt", {}),
    "amp_cmu_motions": ("*.npz", {}),
}
"""By name, their files, and the joints that have no names."""


@functools.cache
def clips(shared: Path, folder: str) -> tuple[Clip, ...]:
    """The clips of a folder that have a body; none where the folder was not copied."""
    pattern, given = FOLDERS[folder]
    found = []
    for file in sorted((shared / "data" / folder).glob(pattern)):
        kind = kind_of(file)
        try:
            if kind is not None:
                found += KINDS[kind].read(file, MotionConfig(up="y") if given else MotionConfig())
        except CorruptData:
            assert "character" in file.name, "a description of a character is the only file that is no clip"
    return tuple(clip for clip in found if isinstance(clip.body, Poses))


def motion_of(clip: Clip, folder: str, corrupt: Corrupt | None = None, seed: int = 0) -> Moves:
    """A clip as training reads it, at 20 Hz on the common body; corrupted before, at its own rate."""
    poses = clip.body
    assert isinstance(poses, Poses)
    if corrupt is not None:
        poses = corrupt(poses, clip.rate_hz, derive(seed, f"corruption/{corrupt.__name__}/{clip.name}"))
    made = Clip(name=clip.name, rate_hz=clip.rate_hz, body=poses)
    rows = rows_of(made, rate_hz=20.0, kind=None, keep_all=False, given=FOLDERS[folder][1])
    offsets = np.concatenate([np.zeros((1, 3), np.float32), rows.offsets.reshape(-1, 3)])
    return Moves(rows=rows.values, body=rows.body, offsets=offsets, rate_hz=20.0, text=" ".join(clip.texts[:1]))
